"""MS-CXR-T: how five findings changed between two chest X-rays of a patient; the images are MIMIC-CXR-JPG's.

    ROOT/MS_CXR_T_temporal_image_classification_v1.0.0.csv     one row a pair of studies
    ROOT/mimic-cxr-2.0.0-metadata.csv.gz                       views and dates of all images; also unpacked
    ROOT/files/p10/p10268877/s53452091/DICOM_ID.jpg

`dicom_id` and `previous_dicom_id` are paths without `files/` and `.jpg`. A pair is taken as the table names it: which
study is the previous one is never inferred, and what does not fit together (patient, study, folder, date) is
quarantined. The labels belong to the current image, as `Study.changes`. Not the tables themselves were seen but code
that reads them, and the published questions that were made of them.
"""

import gzip
import re
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from medmim.data.sources import cells, roots, table
from medmim.data.sources.files import one_line
from medmim.data.sources.roots import Root
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import MsCxrT
from medmim.sample import BadRow, Change, Study
from medmim.terms import Terms

TERMS = Terms(
    text=(
        "MS-CXR-T and MIMIC-CXR-JPG: PhysioNet Credentialed Health Data License and data use agreement: for those who "
        "signed them alone; nothing of it may be shared, nor sent to the service of somebody else",
    )
)

SOURCE = "ms-cxr-t"
FINDINGS = ("consolidation", "edema", "pleural effusion", "pneumonia", "pneumothorax")
STATES = {"improving": "improved", "stable": "stable", "worsening": "worse"}  # the table's word -> Change.state
FAMILIES = ("progression",)

_PAIR = ("subjectid", "studyid", "previousstudyid", "dicomid", "previousdicomid")
_PROGRESSION = {name: f"{name.replace(' ', '')}progression" for name in FINDINGS}
_QUALITY = {name: f"{name.replace(' ', '')}labelquality" for name in FINDINGS}
_METADATA = ("dicomid", "subjectid", "studyid", "viewposition", "studydate")
_ID = r"(?P<id>[0-9a-f]{8}(-[0-9a-f]{8}){4})"
_PATH = re.compile(
    rf"(files/)?(?P<folder>p\d\d)/p(?P<patient>\d{{8}})/s(?P<study>\d{{8}})/{_ID}(\.\w{{1,5}})?", re.ASCII
)
_VIEWS = {"pa": "PA", "ap": "AP", "ll": "L", "lateral": "L"}
_UNPACKED = 1 << 30  # bytes; the real table has 56 million
_DAY = 86_400  # seconds

Problem = tuple[str, str]  # column, reason


@dataclass(frozen=True, slots=True)
class Label:
    """One label of the table.

    Attributes:
        id: As the published questions name it: `ms-cxr-t-edema-17` is the 18th label of edema in the file's order.
        row: Number of the row, as a spreadsheet counts.
        image: Path of the current image.
        change: What became of the finding since the previous image.
        quality: How the experts agreed, as the table says; empty where it does not.
    """

    id: str
    row: int
    image: str
    change: Change
    quality: str


@dataclass(frozen=True, slots=True)
class _Image:
    """An image as its path and MIMIC's table say it. `day` is an ordinal, `second` that of the day."""

    path: str
    patient: str
    study: str
    id: str
    view: str | None = None
    day: int | None = None
    second: float | None = None


@dataclass
class _Table:
    """What the table of pairs says: the images in its order, its labels, and what is wrong with its other rows."""

    images: dict[str, _Image]
    labels: list[Label]
    bad: list[BadRow]
    skipped: Counter[str]
    quality: Counter[str]
    rows: int = 0


def inputs(entry: Entry[MsCxrT]) -> dict[str, str]:
    """The digests of the tables, and one over sizes and times of change of the images."""
    root = roots.opened(entry)
    metadata = _metadata_path(root, entry.own)
    tables = [entry.own.table, *([metadata] if metadata else [])]
    return roots.digest(root, tables, _pairs(root, entry.own).images)


def labels(entry: Entry[MsCxrT]) -> list[Label]:
    """The usable labels, in the order of the file, with the ids of the published questions."""
    root = roots.opened(entry)
    return _read(root, entry.own).labels


def load(entry: Entry[MsCxrT]) -> Source:
    """Read the pairs, their views and dates; what cannot be used is quarantined.

    Raises:
        UserError: No folder, no table of pairs, or a table that is something else, lacks columns or has no rows.
    """
    root = roots.opened(entry)
    found = _read(root, entry.own)
    if not found.rows:
        raise UserError(f"{entry.own.table} has no rows", fix=f"copy it again to {root}")
    used = {path for label in found.labels for path in (label.image, label.change.since)}
    missing = [path for path in found.images if path in used and not root.has(path)]
    absent = set(missing)
    changes: dict[str, dict[Change, None]] = defaultdict(dict)
    kept = [label for label in found.labels if label.image not in absent and label.change.since not in absent]
    for label in kept:
        changes[label.image][label.change] = None
    studies = [
        replace(study, changes=tuple(changes[study.image]))
        for study in _studies(image for path, image in found.images.items() if path in used)
        if study.image not in absent
    ]
    counts: dict[str, Counter[str]] = {name: Counter() for name in FINDINGS}
    for label in found.labels:
        counts[label.change.finding][label.change.state] += 1
    return Source(
        root.read,
        studies=studies,
        families=FAMILIES,
        bad=found.bad,
        missing=missing,
        facts={
            "rows": found.rows,
            "images": len(studies),
            "labels": {name: dict(sorted(states.items())) for name, states in counts.items()},
            "label_quality": dict(sorted(found.quality.items())),
            "labels_without_an_image": len(found.labels) - len(kept),
            "missing_images": len(missing),
            "without_date": sum(study.time is None for study in studies),
            "skipped": dict(sorted(found.skipped.items())),
        },
        identity=root.identity,
        fix_for=root.fix_for,
    )


def _read(root: Root, own: MsCxrT) -> _Table:
    """The pairs, checked against MIMIC's table where there is one."""
    found = _pairs(root, own)
    known, bad = _metadata(root, own, found.images)
    found.images |= {path: known.get(image.id, image) for path, image in found.images.items()}
    found.bad += bad
    _leave_out(found, own.table, lambda label: _misdated(found.images[label.image], found.images[label.change.since]))
    states: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for label in found.labels:
        states[label.image, label.change.since, label.change.finding].add(label.change.state)
    _leave_out(found, own.table, lambda label: _contradicted(label, states))
    return found


def _leave_out(found: _Table, file: str, problem_of: Callable[[Label], Problem | None]) -> None:
    """Quarantine the labels that have a problem."""
    kept = []
    for label in found.labels:
        problem = problem_of(label)
        if problem is None:
            kept.append(label)
        else:
            found.bad.append(BadRow(file, label.row, *problem))
    found.labels = kept


def _misdated(current: _Image, previous: _Image) -> Problem | None:
    if current.day is None or previous.day is None or previous.day < current.day:
        return None
    if previous.day > current.day:
        return "previousstudyid", f"the previous study is {previous.day - current.day:,} days after the current one"
    if None not in (previous.second, current.second) and (previous.second or 0) > (current.second or 0):
        return "previousstudyid", "the previous study is later on the day of the current one"
    return None


def _contradicted(label: Label, states: Mapping[tuple[str, str, str], set[str]]) -> Problem | None:
    change = label.change
    if len(states[label.image, change.since, change.finding]) == 1:
        return None
    return _PROGRESSION[change.finding], "another row has another state of this finding between the same two images"


def _pairs(root: Root, own: MsCxrT) -> _Table:
    """The table of pairs by itself."""
    found = _Table({}, [], [], Counter(), Counter())
    numbers = Counter[str]()
    optional = (*_PROGRESSION.values(), *_QUALITY.values())
    path = root.table(own.table)
    for row in table.rows(path, _PAIR, optional):
        if not found.rows and not table.find(there := table.column_names(path), [*_PROGRESSION.values()]):
            raise UserError(
                f"{path.name} lacks columns: {', '.join(_PROGRESSION.values())}, of which it needs one",
                reason=f"its first line has: {', '.join(there)[:300]}",
                fix="take the table as it was published",
            )
        found.rows += 1
        pair, problems = _pair(row, own.images)
        stated = {name: text for name, column in _PROGRESSION.items() if (text := cells.text(row[column]))}
        if not stated:
            found.skipped["no progression"] += 1
            continue
        for name, text in stated.items():
            number = numbers[name]  # rows that are left out count, too: so the published ids do
            numbers[name] += 1
            state, quality = STATES.get(text.lower()), (cells.text(row[_QUALITY[name]]) or "").lower()
            if state is None:
                problems.append((_PROGRESSION[name], f"'{text[:40]}' is none of {', '.join(STATES)}"))
            elif quality == "disagreement" and own.disagreement == "leave_out":
                found.skipped["the experts disagree"] += 1
            elif pair is not None:
                current, previous = pair
                found.images.setdefault(previous.path, previous)
                found.images.setdefault(current.path, current)
                found.quality[quality or "not given"] += 1
                label = f"ms-cxr-t-{name.replace(' ', '_')}-{number}"
                change = Change(name, state, previous.path)
                found.labels.append(Label(label, row.number, current.path, change, quality))
        found.bad += [BadRow(own.table, row.number, *problem) for problem in problems]
    return found


def _pair(row: table.Row, folder: str) -> tuple[tuple[_Image, _Image] | None, list[Problem]]:
    """The current and the previous image of a row, or what is wrong with it."""
    problems = list(row.problems)
    numbers = {}
    for column in () if problems else ("subjectid", "studyid", "previousstudyid"):
        try:
            numbers[column] = cells.identifier(row[column])
        except cells.BadCell as error:
            problems.append((column, str(error)))
            continue
        if not re.fullmatch(r"\d{8}", numbers[column], re.ASCII):
            problems.append((column, "is no number of eight digits"))
    if problems:
        return None, problems
    images = []
    for column, study in (("dicomid", "studyid"), ("previousdicomid", "previousstudyid")):
        image, reason = _image(row[column], numbers["subjectid"], numbers[study], folder)
        if image is None:
            problems.append((column, reason))
        else:
            images.append(image)
    if problems:
        return None, problems
    current, previous = images
    if current.study == previous.study:
        return None, [("previousstudyid", "the previous study is the current one")]
    return (current, previous), []


def _image(cell: str, patient: str, study: str, folder: str) -> tuple[_Image | None, str]:
    """The image that a cell names, or why it is none of this patient and study."""
    text = (cells.text(cell) or "").replace("\\", "/").lower()
    if re.fullmatch(_ID, text, re.ASCII):
        text = f"p{patient[:2]}/p{patient}/s{study}/{text}"
    found = _PATH.fullmatch(text)
    if found is None:
        return None, f"'{cell[:80]}' is no path such as p10/p1NNNNNNN/s5NNNNNNN/DICOM_ID"
    if found["patient"] != patient or found["folder"] != f"p{patient[:2]}":
        return None, "the image is of another patient than subject_id"
    if found["study"] != study:
        return None, "the image is of another study than the row names"
    path = f"{folder.rstrip('/')}/{found['folder']}/p{patient}/s{study}/{found['id']}.jpg"
    return _Image(path, patient, study, found["id"]), ""


def _metadata_path(root: Root, own: MsCxrT) -> str | None:
    """MIMIC's table, packed or not; None where there is none."""
    bare = own.metadata.removesuffix(".gz")
    return next((name for name in (own.metadata, bare, f"{bare}.gz") if root.has(name)), None)


def _metadata(root: Root, own: MsCxrT, wanted: Mapping[str, _Image]) -> tuple[dict[str, _Image], list[BadRow]]:
    """The wanted images by their id, with view and date; and rows of MIMIC's table that cannot be used."""
    path = _metadata_path(root, own)
    by_id = {image.id: image for image in wanted.values()}
    bad: list[BadRow] = []
    if path is None:
        return {}, bad
    with _unpacked(root.table(path)) as plain:
        for row in table.rows(plain, _METADATA, ("studytime",)):
            image = by_id.get(row["dicomid"].lower())
            if image is None:
                continue
            problems = list(row.problems)
            owner = tuple(cells.text(row[column]) or "" for column in ("subjectid", "studyid"))
            if owner != (image.patient, image.study):
                problems.append(("dicomid", "another patient or study than the table of pairs says"))
            day = _day(row["studydate"])
            if day is None and cells.text(row["studydate"]):
                problems.append(("studydate", f"'{row['studydate'][:40]}' is no date such as 21800506"))
            view = _VIEWS.get((cells.text(row["viewposition"]) or "").lower())
            if not problems:
                by_id[image.id] = replace(image, view=view, day=day, second=_second(row["studytime"]))
            bad += [BadRow(path, row.number, *problem) for problem in problems]
    return by_id, bad


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The table as a plain file, which is removed after use where it was packed."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
        plain = Path(folder) / path.name.removesuffix(".gz")
        try:
            with gzip.open(path) as source, plain.open("wb") as target:
                while block := source.read(1 << 20):
                    if target.tell() > _UNPACKED:
                        reason = f"over {_UNPACKED:,} bytes unpacked"
                        raise UserError(f"{path.name} is too large", reason=reason, fix="copy MIMIC's own file again")
                    target.write(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(
                f"{path.name} cannot be unpacked", reason=one_line(error), fix="copy it again, completely"
            ) from None
        yield plain


def _day(cell: str) -> int | None:
    """`21800506`, also as a float, as an ordinal; dates are shifted into the 22nd century."""
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d)(\.0*)?", cell, re.ASCII)
    try:
        return date(int(found[1]), int(found[2]), int(found[3])).toordinal() if found else None
    except ValueError:
        return None


def _second(cell: str) -> float | None:
    """`54014.531` is 05:40:14.531."""
    found = re.fullmatch(r"(\d{1,6})(\.\d{1,9})?", cell, re.ASCII)
    if found is None:
        return None
    hour, minute, second = (int(found[1].zfill(6)[at : at + 2]) for at in (0, 2, 4))
    return hour * 3600 + minute * 60 + second + float(found[2] or 0) if hour < 24 and minute < 60 else None


def _studies(images: Iterable[_Image]) -> list[Study]:
    """The images as studies, in their order; time counts from the first date of each patient."""
    own: dict[str, list[_Image]] = defaultdict(list)
    ordered = list(images)
    for image in ordered:
        own[image.patient].append(image)
    times: dict[str, float] = {}
    for of_patient in own.values():
        dated = [(image, image.day) for image in of_patient if image.day is not None]
        exact = all(
            image.second is not None for image, _ in dated
        )  # else two studies of a day would be in a false order
        days = {image.path: day + (image.second or 0) / _DAY * exact for image, day in dated}
        times |= {path: round(day - min(days.values()), 4) for path, day in days.items()}
    return [
        Study(
            source=SOURCE,
            patient=image.patient,
            image=image.path,
            modality="X-ray",
            time=times.get(image.path),
            view=image.view,
            exam=image.study,
        )
        for image in ordered
    ]
