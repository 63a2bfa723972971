"""Reads text that is burned into pictures, and says where it is more than a marker, or identifies a person.

An artifact of its own, `burned_in`, since it takes about half a second a picture on one core: of as many pictures as
the recipe says (`audit.read_images`), drawn at random. What was read is never stored, only how many regions of text
there are, and the shape of what identifies. RapidOCR finds and reads the regions (PP-OCR, whose models its wheel
holds); benchmarks/identifiers.py measures it on real radiographs in which another generator writes.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medmim import store
from medmim.data.audit import decoded, identifiers
from medmim.data.audit.check import Check, Row
from medmim.data.sources.published_rows import file_of
from medmim.errors import require
from medmim.redact import shape
from medmim.run.cache import cached_step
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim.store import Artifact

REVISION = 3
FILE = "burned_in.parquet"
TEXT_LIMIT = "max_images_with_text"
_EXTRA = "ocr"
_SHORTEST = 4  # letters and digits; fewer are the marks of sides, views and panels
_MARKS = frozenset(
    (
        "left", "right", "port", "portable", "supine", "erect", "upright", "semi", "sitting", "standing", "prone",
        "lateral", "axial", "coronal", "sagittal", "mobile", "expiration", "inspiration", "rcc", "lcc", "rmlo", "lmlo",
        "mlo", "cc", "flair", "panel", "fig", "figure", "ap", "pa", "lat", "hu", "mm", "cm", "kv", "mas", "view",
    )
)  # fmt: skip
# Words of the lines in capitals that scanners and viewers burn in: a line with one of them is no name.
_SAYS = _MARKS | frozenset(
    (
        "abdomen", "ankle", "arm", "bed", "bedside", "brain", "breast", "cervical", "chest", "clinic", "contrast",
        "control", "copy", "department", "dept", "digital", "dorsal", "elbow", "emergency", "exam", "film", "filter",
        "foot", "gain", "general", "hand", "head", "health", "hip", "hospital", "icu", "image", "imaging",
        "inspiratory", "kidney", "knee", "liver", "lumbar", "lung", "medical", "medicine", "name", "neck", "only",
        "oblique", "pacs", "patient", "pelvis", "post", "pre", "quality", "radiology", "room", "scan", "series",
        "shoulder", "sinus", "skull", "slice", "spine", "study", "supine", "system", "technique", "test", "thorax",
        "time", "unit", "university", "upper", "view", "ward", "window", "without", "with", "wrist", "xray", "ray",
        "center", "centre", "city", "college", "institute", "national", "of", "the", "and", "for", "not", "no", "day",
        "days", "hours", "date", "age", "sex", "male", "female", "follow", "up", "before", "after", "normal", "case",
        "type", "lower", "middle", "lobe", "decubitus", "inspired", "non", "diagnostic", "courtesy", "by", "from",
        "in", "on", "at", "to", "is",
    )
)  # fmt: skip
_CAPITALS = re.compile(r"^[A-Z][A-Z'-]{2,} [A-Z][A-Z'-]+(?: [A-Z]\.?)?$", re.ASCII | re.MULTILINE)
_MARK_DIGITS = 3
# In a picture a text has no sentence around it: names stand in capitals, numbers alone.
_NAMES = re.compile(
    r"\b[A-Z][A-Za-z'-]+\s?[,^]\s?[A-Z](?:[A-Za-z'-]+|\b)|\b(?i:name|pat(?:ient)?|dr)\b\s?[.:\s]\s*[A-Z]\w+", re.ASCII
)
# Read from pixels, a separator may be another one, or be followed by a gap.
_DATES = re.compile(
    r"(?<!\d)(?:\d{1,2} ?[./,-] ?\d{1,2} ?[./,-] ?(?:19|20)\d\d|(?:19|20)\d\d ?[./,-] ?\d\d ?[./,-] ?\d\d)(?!\d)"
)
_NUMBERS = re.compile(
    r"(?<![\d.,:])(?:[A-Z]{0,3}\d{6,}|\d{3,}-\d{3,})(?![\d.,:]\d)"
    r"|\b(?:ID|MRN|Acc)\W{0,3}(?P<value>[A-Z]{0,3}\d(?: ?\d){4,})"
)
_BIRTH = re.compile(r"\b(?:dob|d\.o\.b|born|birth|geb)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What is written in a picture.

    Attributes:
        image: Its id.
        texts: Regions of text that are more than markers.
        found: Identifiers, each by kind and shape: `date 99.99.9999`.
    """

    image: str
    texts: int
    found: tuple[str, ...]


def of(ws: Workspace, data: Artifact, number: int) -> list[Reading] | None:
    """The readings of pictures of a data set, made now where they are not yet; None where it was built without pixels.

    Args:
        ws: The workspace.
        data: The data set.
        number: Of pictures, drawn at random; all where there are fewer.

    Raises:
        UserError: An image cannot be read, or RapidOCR is not installed.
    """
    import pyarrow.parquet as pq

    if not any(name.startswith("images/") for name in data.files):
        return None

    def make(folder: Path) -> dict[str, Any]:
        return {"images": _write(data, folder, number)}

    parents = {"data": data.digest}
    made, _ = cached_step(ws, "burned_in", REVISION, {"images": number}, parents, make, terms=terms_of(data))
    rows = pq.read_table(store.fetch(made, ws.cache) / FILE).to_pylist()
    return [Reading(one["image"], one["texts"], tuple(one["found"])) for one in rows]


def checks(samples: Iterable[Sample], readings: Sequence[Reading] | None, total: int) -> list[Check]:
    """How many pictures hold text, and how many identify somebody; nothing where no picture was to be read.

    Args:
        samples: Of all splits.
        readings: From `of`; None: there are no pictures.
        total: Pictures that the data set has.
    """
    if readings is None:
        return [Check("burned-in", "pictures with text", None, note="the data set was built without pixels")]
    note = "" if len(readings) == total else f"drawn from {total:,}"
    said = {one.image: one for one in readings if one.texts or one.found}
    texts: list[Row] = []
    found: list[Row] = []
    for sample in samples:
        for number, image in enumerate(sample.images, 1):
            one = said.get(image)
            if one and one.found:
                found.append(Row(sample.id, file_of(sample), f"{', '.join(one.found)} in image {number}"))
            elif one:
                texts.append(Row(sample.id, file_of(sample), f"{one.texts} regions of text in image {number}"))
    named = [one for one in said.values() if one.found]
    return [
        Check(
            "burned-in/identifiers", "pictures with burned-in dates, numbers or names", len(named), of=len(readings),
            key=identifiers.LIMIT, rows=tuple(found), note=note,
        ),
        Check(
            "burned-in/text", "pictures with burned-in text that is more than a marker", len(said), of=len(readings),
            key=TEXT_LIMIT, rows=(*found, *texts), note=note,
        ),
    ]  # fmt: skip


def reader() -> Callable[[str, Image.Image], Reading]:
    """What reads a picture, given its id; several threads may call it, each gets its own engine.

    Raises:
        UserError: RapidOCR is not installed.
    """
    rapidocr = require("rapidocr", _EXTRA)
    require("onnxruntime", _EXTRA)
    own = threading.local()
    settings = {
        "Global.log_level": "error",
        "Global.use_cls": False,  # of lines that stand on their heads
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        "EngineConfig.onnxruntime.enable_cpu_mem_arena": False,  # it grows with every size of a picture
    }

    def read(name: str, image: Image.Image) -> Reading:
        import numpy as np

        if not hasattr(own, "engine"):
            own.engine = rapidocr.RapidOCR(params=settings)
        result = own.engine(np.asarray(image.convert("RGB"))[:, :, ::-1])
        return judged(name, result.txts or ())

    return read


def judged(name: str, texts: Sequence[str]) -> Reading:
    """What the regions of a picture say.

    Args:
        name: Id of the picture.
        texts: What was read, a region each, from top to bottom.
    """
    more = [text for text in texts if sum(map(str.isalnum, text)) >= _SHORTEST and not _is_mark(text)]
    together = "\n".join(more)
    parts = [(one.kind, together[one.start : one.end]) for one in identifiers.find(together)]
    parts += [("name", at[0]) for at in _NAMES.finditer(together)]
    parts += [("name", at[0]) for at in _CAPITALS.finditer(together) if _SAYS.isdisjoint(_words(at[0]))]
    parts += [("date", at[0]) for at in _DATES.finditer(together)]
    parts += [("number", at["value"] or at[0]) for at in _NUMBERS.finditer(together)]
    parts += [("date of birth", "") for _ in _BIRTH.finditer(together)]
    return Reading(name, len(more), tuple(dict.fromkeys(f"{kind} {shape(text)}".strip() for kind, text in parts)))


def _is_mark(text: str) -> bool:
    return sum(map(str.isdigit, text)) <= _MARK_DIGITS and _MARKS.issuperset(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]{2,}", text.lower())


def _write(data: Artifact, folder: Path, number: int) -> int:
    import pyarrow as pa

    read = reader()
    schema = pa.schema([("image", pa.string()), ("texts", pa.int32()), ("found", pa.list_(pa.string()))])
    with decoded.pictures(data) as pictures:
        drawn = sorted(pictures.ids(), key=lambda one: hashlib.sha256(one.encode()).digest())[:number]
        return decoded.write(
            pictures,
            folder / FILE,
            schema,
            "reading text in pictures",
            lambda name, image: asdict(read(name, image)),
            frozenset(drawn),
        )
