"""What the header of a DICOM file says of its image, in our words; its pixels are not read."""

import io
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from medmim.data.sources import dicom
from medmim.data.sources.source import BadImage
from medmim.errors import require

MODALITIES: Mapping[str, str] = {  # DICOM's codes, PS3.3 C.7.3.1.1.1
    "CR": "X-ray", "DX": "X-ray", "RG": "X-ray", "CT": "CT", "MR": "MRI", "MG": "mammography", "US": "ultrasound",
    "OP": "fundus", "GM": "photograph", "XC": "photograph", "DMS": "dermoscopy", "SM": "histology", "PT": "PET",
}  # fmt: skip
SIDES: Mapping[str, str] = {"L": "left", "R": "right"}
_TAGS = ("SpecificCharacterSet", "Modality", "ViewPosition", "ImageLaterality", "Laterality", "StudyDate",
         "AcquisitionDate", "PatientID", "PatientAge", "StudyInstanceUID")  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do; not where it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def frames(data: bytes) -> int:
    """Number of images in a DICOM file; none in a report, a presentation state, ...

    Raises:
        BadImage: As of `read`.
        UserError: As of `read`.
    """
    file = _header(data, ["Rows", "NumberOfFrames"])
    try:
        return max(1, int(file.get("NumberOfFrames") or 1)) if file.get("Rows") else 0
    except Exception as error:  # a value that its type does not allow
        raise _unreadable(error) from None


def read(data: bytes) -> dict[str, str]:
    """Our column -> its value, for the tags that the file has and that we understand.

    Columns: `patient`, `modality`, `view`, `laterality`, `date` (YYYY-MM-DD), `age` (years), `exam`.

    Raises:
        BadImage: It is no DICOM file, or a deflated one that grows beyond all bounds.
        UserError: pydicom is not installed.
    """
    file = _header(data, _TAGS)
    try:
        said = {name: str(file.get(name) or "").strip() for name in _TAGS}
    except Exception as error:  # a value that its type does not allow
        raise _unreadable(error) from None
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


def _header(data: bytes, tags: Iterable[str]) -> Any:
    pydicom: Any = require("pydicom", "data")
    dicom.refuse_bomb(data)
    try:
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(tags))
    except Exception as error:  # pydicom raises anything on hostile bytes
        raise _unreadable(error) from None


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
