"""The source `covid_chestxray`: real chest X-rays and CTs in the layout of github.com/ieee8023/covid-chestxray-dataset.

`metadata.csv` lists the images, `images/` holds them (`folder` in newer copies of the list). The list names far more
images than any copy holds, and volumes, which are not images: both are counted, neither is an error.

Time is the column `offset`, days since the first symptom: `date` is only a year for most rows. Rows without an offset
are not used in questions of time. A patient's `finding` is one diagnosis, the last part of `Pneumonia/Viral/COVID-19`.
"""

import csv
import math
from collections import Counter
from functools import partial
from pathlib import Path

from medmim import store
from medmim.data.sources.image_file import escapes, locate, read_bytes
from medmim.data.sources.source import BadImage, Source
from medmim.errors import UserError, from_os_error
from medmim.recipe.schema import Data
from medmim.sample import BadRow, Finding, Study, digest_of
from medmim.terms import Terms

# The list has a column `license` for each image: CC0 to CC BY-NC-SA, and none for many. So only what all allow: nothing.
TERMS = Terms(text=("ieee8023/covid-chestxray-dataset: a licence for each image, some non-commercial, many not given",))

LIST = "metadata.csv"
COLUMNS = ("patientid", "offset", "finding", "view", "modality", "filename")
# `change` and `larger` would need the size of a finding, which this data set does not have.
FAMILIES = (
    "order", "diagnosis", "same_patient", "same_finding", "describe",
    *(f"{kind}_{what}" for what in ("finding", "modality", "view") for kind in ("which", "what")),
)  # fmt: skip
_MODALITIES = {"x-ray": "X-ray", "ct": "CT"}
_VIEWS = {
    "pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "l": "L", "lateral": "L",
    "axial": "axial", "coronal": "coronal",
}  # fmt: skip
_NO_FINDING = ("no finding", "normal")
_FIX = f"--set data.root=FOLDER, with {LIST} and images/ inside"
_UNKNOWN = ("", "unknown", "todo", "nan")


def inputs(data: Data) -> dict[str, str]:
    """SHA-256 of the list, and one digest over the images that it names; parents of the data step."""
    root = _root(data)
    rows = _rows(root)
    parts = []
    for path in sorted({_path(row) for row in rows}):
        try:
            parts.append(f"{path} {store.file_digest(locate(root, path))}")
        except (FileNotFoundError, BadImage):
            parts.append(f"{path} -")
        except OSError as error:
            raise from_os_error(error, "reading the images") from error
    return {LIST: store.file_digest(root / LIST), "images": digest_of(parts)}


def load(data: Data) -> Source:
    """Read the list and check which of its images exist; rows that cannot be used are quarantined.

    Raises:
        UserError: No folder, no list, or a list without the columns that are needed.
    """
    root = _root(data)
    studies: list[Study] = []
    bad: list[BadRow] = []
    missing: list[str] = []
    skipped: Counter[str] = Counter()
    first: dict[str, int] = {}
    rows = _rows(root)
    for number, row in enumerate(rows, 2):  # row 1 is the header
        path = _path(row)
        reason_to_skip = _reason_to_skip(row)
        if reason_to_skip:
            skipped[reason_to_skip] += 1
            continue
        problems = _problems(row, path)
        if path in first:
            problems.append(("filename", f"the image of row {first[path]} again"))
        if problems:
            bad += [BadRow(LIST, number, key, reason) for key, reason in problems]
            continue
        first[path] = number
        if _is_missing(root, path):
            missing.append(path)
        else:
            studies.append(_study(row, path))
    facts = {"rows": len(rows), "images": len(studies), "missing_images": len(missing), "skipped": dict(skipped)}
    return Source(partial(read_bytes, root), studies=studies, families=FAMILIES, bad=bad, missing=missing, facts=facts)


def _root(data: Data) -> Path:
    if data.root is None:
        raise UserError("the recipe names no folder to read", fix=_FIX)
    root = Path(data.root).expanduser()
    if not (root / LIST).is_file():
        raise UserError(
            f"there is no {LIST} in {data.root}",
            reason="the source covid_chestxray reads the layout of github.com/ieee8023/covid-chestxray-dataset",
            fix=_FIX,
        )
    return root


def _rows(root: Path) -> list[dict[str, str]]:
    """Rows as column -> text; column names in lower case and stripped, since copies of the list differ in both."""
    try:
        with (root / LIST).open(newline="", encoding="utf-8-sig") as file:
            table = list(csv.reader(file, strict=True))
    except OSError as error:
        raise from_os_error(error, f"reading {LIST}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{LIST} is not a complete CSV file", reason=str(error), fix="download it again") from None
    header = [name.strip().lower() for name in table[0]] if table else []
    absent = [name for name in COLUMNS if name not in header]
    if absent:
        raise UserError(f"{LIST} lacks columns: {', '.join(absent)}", reason=f"it has {', '.join(header) or 'none'}")
    if len(table) < 2:
        raise UserError(f"{LIST} has no rows")
    return [dict(zip(header, (cell.strip() for cell in cells), strict=False)) for cells in table[1:] if any(cells)]


def _path(row: dict[str, str]) -> str:
    return f"{row.get('folder') or 'images'}/{row.get('filename', '')}"


def _reason_to_skip(row: dict[str, str]) -> str:
    """Why a valid row is not used; empty if it is."""
    if row.get("folder") == "volumes" or row.get("filename", "").endswith((".nii.gz", ".nii")):
        return "a volume, not an image"
    return "finding unknown" if row.get("finding", "?").lower() in _UNKNOWN else ""


def _problems(row: dict[str, str], path: str) -> list[tuple[str, str]]:
    problems = [(name, "the row ends before this column") for name in COLUMNS if name not in row]
    if problems:
        return problems
    if not row["patientid"]:
        problems.append(("patientid", "is empty"))
    if row["modality"].lower() not in _MODALITIES:
        problems.append(("modality", f"'{row['modality']}' is neither X-ray nor CT"))
    if not row["filename"]:
        problems.append(("filename", "is empty"))
    elif escapes(path):
        problems.append(("filename", f"the path '{path}' leaves the image root"))
    try:
        if row["offset"] and not math.isfinite(float(row["offset"])):
            raise ValueError
    except ValueError:
        problems.append(("offset", f"'{row['offset']}' is no number of days"))
    return problems


def _is_missing(root: Path, path: str) -> bool:
    try:
        locate(root, path)
    except FileNotFoundError:
        return True
    except BadImage:  # it exists; the build reads it and reports the problem
        pass
    return False


def _study(row: dict[str, str], path: str) -> Study:
    name = row["finding"].split("/")[-1].strip()
    return Study(
        source="covid-chestxray",
        patient=row["patientid"],
        image=path,
        modality=_MODALITIES[row["modality"].lower()],
        time=float(row["offset"]) if row["offset"] else None,
        view=_VIEWS.get(row["view"].lower()),
        findings=() if name.lower() in _NO_FINDING else (Finding(name),),
    )
