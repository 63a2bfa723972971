"""What the header of a DICOM file says of its image, in our words; its pixels are not read."""

import io
import re
from collections.abc import Mapping
from datetime import datetime
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


def read(data: bytes) -> dict[str, str]:
    """Our column -> its value, for the tags that the file has and that we understand.

    Columns: `patient`, `modality`, `view`, `laterality`, `date` (YYYY-MM-DD), `age` (years), `exam`.

    Raises:
        BadImage: It is no DICOM file, or a deflated one that grows beyond all bounds.
        UserError: pydicom is not installed.
    """
    pydicom: Any = require("pydicom", "data")
    dicom.refuse_bomb(data)
    try:
        file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(_TAGS))
        said = {name: str(file.get(name) or "").strip() for name in _TAGS}
    except Exception as error:  # pydicom raises anything on hostile bytes
        raise BadImage(f"no DICOM file that can be read ({type(error).__name__})") from None
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
