"""VQA-RAD: questions that clinicians asked on single radiological images; a benchmark.

    ROOT/VQA_RAD Dataset Public.json          a list of 2,248 questions; the workbook (.xlsx) reads the same
    ROOT/VQA_RAD Image Folder/synpic54610.jpg

There are no patients: each image is a case of its own, so paraphrases of a question, which are on one image, are in one
split. The published Med-MIM questions name the combined ones by their places in the list: see `questions`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medmim import terms
from medmim.data.sources import cells, json_records, roots, workbook
from medmim.data.sources.files import escapes
from medmim.data.sources.names import nfc
from medmim.data.sources.roots import Root
from medmim.data.sources.source import Entry, Source
from medmim.data.sources.table import MAX_CELL
from medmim.errors import UserError
from medmim.recipe.sources import VqaRad
from medmim.sample import BadRow, Pair, Study

TERMS = terms.unrestricted("VQA-RAD: CC0 1.0")

SOURCE = "vqa-rad"
FAMILIES = ("joined",)
_COLUMNS = {  # our name -> JSON key, column of the workbook as `table` compares it
    "image": ("image_name", "image"),
    "question": ("question", "question"),
    "answer": ("answer", "answer"),
    "kind": ("answer_type", "atype"),
    "organ": ("image_organ", "imageorgan"),
    "phrase": ("phrase_type", "qidpara"),
    "qid": ("qid", "qidunique"),
    "linked": ("qid_linked_id", "qidlinked"),
}
_NEEDED = ("image", "question", "answer", "kind")
_KINDS = {"open": "open", "closed": "closed"}
_ORGANS = ("ABD", "CHEST", "HEAD")
_PHRASES = ("freeform", "para", "test_freeform", "test_para")
_TABLES = ("VQA_RAD Dataset Public.json", "VQA_RAD Dataset Public.xlsx")
_WANTED = "a list of questions in JSON"


@dataclass(frozen=True, slots=True)
class Question:
    """One usable question: its place in the list from 0, the path of its image and its text."""

    position: int
    image: str
    pair: Pair


def inputs(entry: Entry[VqaRad]) -> dict[str, str]:
    """The digest of the list, and one over sizes and times of change of the images."""
    root = roots.opened(entry)
    name = _table(root, entry.own)
    found, _, _ = _read(root, entry.own, name)
    return roots.digest(root, (name,), (question.image for question in found))


def questions(entry: Entry[VqaRad]) -> list[Question]:
    """All usable questions in the order of the list: `VQA_RAD49-1740-538` combines those at 49, 1740 and 538."""
    root = roots.opened(entry)
    return _read(root, entry.own, _table(root, entry.own))[0]


def load(entry: Entry[VqaRad]) -> Source:
    """Read the questions of each image; those that cannot be used are quarantined, missing images named.

    Raises:
        UserError: No folder, no list, or one that is something else, broken or empty.
    """
    root = roots.opened(entry)
    name = _table(root, entry.own)
    found, bad, counts = _read(root, entry.own, name)
    if not counts["rows"]:
        raise UserError(f"{name} has no questions", fix=f"copy it again to {root}")
    pairs: dict[str, list[Pair]] = defaultdict(list)
    for question in found:
        pairs[question.image].append(question.pair)
    missing = [image for image in pairs if not root.has(image)]
    absent = set(missing)
    studies = [
        Study(
            source=SOURCE,
            patient=image.rsplit("/", 1)[-1],
            image=image,
            modality="",  # the list names an organ, not how it was pictured
            held_out=True,
            pairs=tuple(dict.fromkeys(own)),
        )
        for image, own in pairs.items()
        if image not in absent
    ]
    return Source(
        root.read,
        studies=studies,
        families=FAMILIES,
        bad=bad,
        missing=missing,
        facts={
            "rows": counts.pop("rows"),
            "images": len(studies),
            "missing_images": len(missing),
            "questions_without_an_image": sum(len(pairs[image]) for image in missing),
            "linked_over_images": counts.pop("linked"),
            **_grouped(counts),
        },
        identity=root.identity,
        fix_for=root.fix_for,
    )


def _grouped(counts: Counter[str]) -> dict[str, dict[str, int]]:
    """`organ/HEAD` -> {"by_organ": {"HEAD": n}}, and so on."""
    found: dict[str, dict[str, int]] = {}
    for key, number in sorted(counts.items()):
        group, _, value = key.partition("/")
        found.setdefault(f"by_{group}", {})[value] = number
    return found


def _table(root: Root, own: VqaRad) -> str:
    """The list of the recipe, or else the workbook where only that is there."""
    others = _TABLES if own.table == _TABLES[0] else ()
    return next((name for name in (own.table, *others) if root.has(name)), own.table)


def _records(root: Root, name: str) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
    """Place in the list from 0, number of the row, and the values by our names, or what is wrong."""
    path = root.table(name)
    if not name.lower().endswith(".xlsx"):
        for position, row in enumerate(json_records.records(path, _WANTED)):
            if isinstance(row, dict):
                yield position, position + 1, {ours: row.get(key) for ours, (key, _) in _COLUMNS.items()}
            else:
                yield position, position + 1, f"the record is a {type(row).__name__}, not an object"
        return
    needed = tuple(_COLUMNS[ours][1] for ours in _NEEDED)
    optional = tuple(column for ours, (_, column) in _COLUMNS.items() if ours not in _NEEDED)
    for row in workbook.rows(path, needed, optional):
        problem = "; ".join(f"{column}: {reason}" for column, reason in row.problems)
        values = {ours: row[column] for ours, (_, column) in _COLUMNS.items()}
        yield row.number - 2, row.number, problem or values


def _read(root: Root, own: VqaRad, name: str) -> tuple[list[Question], list[BadRow], Counter[str]]:
    found: list[Question] = []
    bad: list[BadRow] = []
    counts = Counter({"rows": 0})
    linked: dict[str, set[str]] = defaultdict(set)
    for position, number, record in _records(root, name):
        counts["rows"] += 1
        if isinstance(record, str):
            bad.append(BadRow(name, number, "", record))
            continue
        question, problems = _question(position, record, own.images)
        bad += [BadRow(name, number, key, reason) for key, reason in problems]
        if question is None:
            continue
        found.append(question)
        for group, known in (("organ", _ORGANS), ("phrase", _PHRASES)):
            value = _text(record[group])
            counts[f"{group}/{value if value in known else 'other'}"] += 1
        counts[f"kind/{question.pair.kind}"] += 1
        if link := _text(record["linked"]):
            linked[link].add(question.image)
    counts["linked"] = sum(len(images) > 1 for images in linked.values())
    return found, bad, counts


def _question(position: int, record: dict[str, Any], folder: str) -> tuple[Question | None, list[tuple[str, str]]]:
    texts = {ours: _text(record[ours]) for ours in _NEEDED}
    problems = []
    for ours, text in texts.items():
        key = _COLUMNS[ours][0]
        if text is None:
            problems.append((key, f"is of type {type(record[ours]).__name__}"))
        elif not text:
            problems.append((key, "is empty"))
        elif len(text) > MAX_CELL:
            problems.append((key, f"has more than {MAX_CELL:,} characters"))
    if problems:
        return None, problems
    image, kind = nfc(texts["image"] or ""), _KINDS.get((texts["kind"] or "").lower())
    if kind is None:
        problems.append(("answer_type", f"'{(texts['kind'] or '')[:40]}' is neither OPEN nor CLOSED"))
    if escapes(image) or "/" in image or cells.has_controls(image):
        problems.append(("image_name", f"'{image[:80]}' is no name of a file"))
    if problems or kind is None:
        return None, problems
    path = f"{folder.rstrip('/')}/{image}"
    return Question(position, path, Pair(texts["question"] or "", texts["answer"] or "", kind)), []


def _text(value: Any) -> str | None:
    """A value on one line: answers may be integers and hold tabs; empty for none, None for what is no text."""
    if value is None or value == "NULL":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:  # NaN differs from itself
        return None
    return " ".join(str(value).split())
