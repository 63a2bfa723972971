"""What the header of a DICOM file says of its image, in our words; its pixels are not read."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from medmim.data.sources import dicom
from medmim.data.sources.roots import Root
from medmim.data.sources.source import BadImage
from medmim.errors import UserError, require

MODALITIES: Mapping[str, str] = {  # DICOM's codes, PS3.3 C.7.3.1.1.1
    "CR": "X-ray", "DX": "X-ray", "RG": "X-ray", "CT": "CT", "MR": "MRI", "MG": "mammography", "US": "ultrasound",
    "OP": "fundus", "GM": "photograph", "XC": "photograph", "DMS": "dermoscopy", "SM": "histology", "PT": "PET",
}  # fmt: skip
HEAD = 1 << 16  # bytes; headers have some thousand, those of many frames more
_PIXELS = [  # the tags of pixels: integers, floats, doubles; of little and of big endian
    bytes.fromhex(tag) for tag in ("e07f1000", "e07f0800", "e07f0900", "7fe00010", "7fe00008", "7fe00009")
]
SIDES: Mapping[str, str] = {"L": "left", "R": "right"}
_TAGS = ("SpecificCharacterSet", "Modality", "ViewPosition", "ImageLaterality", "Laterality", "StudyDate",
         "AcquisitionDate", "PatientID", "PatientAge", "StudyInstanceUID")  # fmt: skip

_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "ReferringPhysicianName", "OperatorsName",
          "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "RequestingPhysician")  # fmt: skip
_SHORTEST_NAME = 2  # letters
PARTICLES = frozenset(
    ("van", "von", "de", "der", "den", "di", "da", "del", "la", "al", "el", "bin", "ten", "ter", "zu")
)
# What headers of phantoms, tests and anonymised files have in place of a name: no text with it repeats a name.
_PLACEHOLDERS = frozenset(
    (
        "abdomen", "anonym", "anonymous", "anonymized", "anonymised", "brain", "breast", "chest", "dummy",
        "head", "knee", "lung", "neck", "none", "pelvis", "patient", "phantom", "quality", "removed", "sample", "spine",
        "study", "subject", "test", "thorax", "unknown",
    )
)  # fmt: skip
# Names that are words of radiology or of everyday English: only a capital letter within a sentence makes them names.
WORDS = frozenset(
    (
        "baker", "ball", "bell", "best", "black", "bone", "bright", "brown", "bush", "case", "close", "cook", "cross",
        "day", "early", "fat", "field", "fine", "foot", "frank", "free", "good", "grant", "gray", "green", "grey",
        "gross", "hand", "hill", "hope", "joy", "king", "late", "line", "long", "mark", "mass", "may", "miles", "moody",
        "new", "old", "page", "park", "pin", "porter", "ray", "read", "rich", "ring", "rod", "rose", "short", "small",
        "stent", "stone", "summer", "walker", "wall", "white", "will", "winter", "wise", "wood", "young",
    )
)  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do; not where it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def head(root: Root, path: str) -> bytes:
    """As many of the first bytes of a file as its header needs: a film has 20 MB, and its header some kB.

    Raises:
        FileNotFoundError: There is no such file.
        BadImage: It must not be read.
        UserError: pydicom is not installed.
    """
    start = root.head(path, HEAD)
    if len(start) < HEAD or start[128:132] != b"DICM" or _ends_in(start):
        return start
    return root.read(path)


def _ends_in(start: bytes) -> bool:
    """Whether the header ends within these bytes: pydicom stops before the tag of the pixels."""
    buffer = io.BytesIO(start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _parse(buffer, [])
        except UserError:
            raise
        except Exception:  # pydicom raises anything, also where an element is cut
            return False
    return start[buffer.tell() :][:4] in _PIXELS


def frames(data: bytes) -> int:
    """Number of images in a DICOM file; none in a report, a presentation state, ...

    Raises:
        BadImage: As of `read`.
        UserError: As of `read`.
    """
    values = _values(data, ("Rows", "NumberOfFrames"))
    try:
        return max(1, int(values["NumberOfFrames"] or 1)) if values["Rows"] not in ("", "0") else 0
    except ValueError as error:
        raise _unreadable(error) from None


def read(data: bytes) -> dict[str, str]:
    """Our column -> its value, for the tags that the file has and that we understand.

    Columns: `patient`, `modality`, `view`, `laterality`, `date` (YYYY-MM-DD), `age` (years), `exam`.

    Raises:
        BadImage: It is no DICOM file, or a deflated one that grows beyond all bounds.
        UserError: pydicom is not installed.
    """
    said = _values(data, _TAGS)
    found = {
        "patient": said["PatientID"],
        "modality": MODALITIES.get(said["Modality"].upper(), ""),
        "view": said["ViewPosition"].upper(),
        "laterality": SIDES.get((said["ImageLaterality"] or said["Laterality"]).upper(), ""),
        "date": _day(said["StudyDate"] or said["AcquisitionDate"]),
        "age": _years(said["PatientAge"]),
        "exam": said["StudyInstanceUID"],
    }
    return {name: value for name, value in found.items() if value}


def identifying(data: bytes, texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a header tells of a person who can be recognised: column or tag, and why. It repeats no name.

    A name is repeated where a text has its family and given name one after the other in any case, the family name with
    the initial of the other (`J. Stone`, `Stone, J`), or one of them. One that is also a word counts alone only with a
    capital letter within a sentence: `Stone` is a name, `stone` a finding; one of two letters, too, not in capitals.

    Args:
        data: The file, or its head.
        texts: Column -> what the table says of the image.

    Raises:
        BadImage: As of `read`.
        UserError: As of `read`.
    """
    said = _values(data, (*_NAMES, "BurnedInAnnotation"))
    parts = [part for name in _NAMES for part in _parts(said[name])]
    found = [
        (column, "repeats a name that the DICOM header of its image has")
        for column, text in texts.items()
        if any(_repeats(text, part) for part in parts)
    ]
    if said["BurnedInAnnotation"].upper() == "YES":
        found.append(("BurnedInAnnotation", "is YES: the pixels say whose image it is"))
    return found


def _parts(names: str) -> list[tuple[str, ...]]:
    """Family and given names of one or several persons, `DOE^JANE^M` or `['DOE^JANE', 'ROE^RICHARD']`."""
    people = re.split(r"[,\\\[\]']+|=", names)
    return [
        tuple(
            part
            for part in re.split(r"[\^\s]+", one)
            if len(part) >= _SHORTEST_NAME and part.lower() not in PARTICLES | _PLACEHOLDERS
        )[:2]
        for one in people
        if one
    ]


def _repeats(text: str, name: tuple[str, ...]) -> bool:
    if len(name) == 2:
        first, second = map(re.escape, name)
        if re.search(
            rf"\b(?:{first}\W{{1,3}}{second}|{second}\W{{1,3}}(?:\w\W{{1,2}})?{first})\b", text, re.IGNORECASE
        ):
            return True
        family, initial = f"(?:{re.escape(name[0].capitalize())}|{re.escape(name[0].upper())})", name[1][0].upper()
        if re.search(rf"\b(?:{initial}\. ?{family}|{family}, ?{initial}|{family} {initial}\.)(?!\w|-)", text):
            return True
    return any(_stands_alone(text, part) for part in name)


def _stands_alone(text: str, part: str) -> bool:
    within = r"(?<=[\w,;:(] )"  # not where a sentence begins
    if len(part) == _SHORTEST_NAME:  # in capitals, LI-RADS and the like
        return re.search(rf"{within}{re.escape(part.capitalize())}\b(?!-)", text) is not None
    if part.lower() not in WORDS:
        return re.search(rf"\b{re.escape(part)}\b", text, re.IGNORECASE) is not None
    return any(re.search(rf"{within}{re.escape(way)}\b", text) for way in (part.capitalize(), part.upper()))


def _values(data: bytes, names: Sequence[str]) -> dict[str, str]:
    """Name of a tag -> its value as text; empty where the file lacks it."""
    dicom.refuse_bomb(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that the standard does not allow: those that are used are checked
        try:
            file = _parse(io.BytesIO(data), names)
            return {name: str(file.get(name) or "").strip() for name in names}
        except UserError:
            raise
        except Exception as error:  # pydicom raises anything on hostile bytes
            raise _unreadable(error) from None


def _parse(file: io.BytesIO, tags: Sequence[str]) -> Any:
    pydicom: Any = require("pydicom", "data")
    return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags))


def _unreadable(error: Exception) -> BadImage:
    return BadImage(f"no DICOM file that can be read ({type(error).__name__})")


def _day(text: str) -> str:
    try:
        return datetime.strptime(text, "%Y%m%d").date().isoformat()
    except ValueError:
        return ""


def _years(text: str) -> str:
    """`045Y`, `006M`, `012W` or `010D` in years."""
    found = re.fullmatch(r"(\d{3})([YMWD])", text, re.ASCII)
    per_year = {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}
    return f"{int(found[1]) / per_year[found[2]]:g}" if found else ""
