"""The source `questions`: ready questions in a file of JSON Lines, with images beside it; a benchmark of one's own.

    {"question": "Which image shows the larger mass?", "images": ["a/1.png", "a/2.png"],
     "options": ["image 1", "image 2"], "answer": "image 2", "patients": ["P17"]}

    question   the text, without options and without placeholders of images                required
    images     one to eight, in their order, below the folder of the file; `FILE#frame=3` is a part of a file, see
               `fragments`                                                                 required
    answer     the text of an option, or its letter; of an open question, what is right    required
    options    two to eight; without them the question is open
    patients   whose images they are. Without them an interval is clustered by image
    ability    of `sample.ABILITIES`; by default reasoning, of one image single
    source     name of the data set in scores; by default questions
    family     kind of question, for tasks that choose by it; by default own
    held_out   false where training shows this domain; by default true
    id         is not read, nor any key whose name is not like one of these

Every row is asked as a test question. Rows that cannot be used are quarantined, all of them, with line and key.
"""

import difflib
import json
import reprlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from medmim import sniff
from medmim.data.sources import cells, dicom_tags, roots
from medmim.data.sources.files import escapes
from medmim.data.sources.fragments import parse
from medmim.data.sources.names import nfc
from medmim.data.sources.published_rows import MAX_IMAGES
from medmim.data.sources.roots import Root
from medmim.data.sources.source import BadImage, Entry, Source
from medmim.errors import UserError
from medmim.recipe.keys import Ability
from medmim.recipe.sources import Questions
from medmim.sample import IMAGE, LETTERS, BadRow, Sample
from medmim.terms import Terms

SOURCE, FAMILY = "questions", "own"
_WANTED = "questions in JSON Lines"
_UNREADABLE = (
    "is empty, too large, no regular file, or a link out of the folder, for which a recipe has data.link_roots"
)
Problem = tuple[str, str]  # key, reason


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Row(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(strict=True, extra="allow")

    question: Text
    images: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=MAX_IMAGES)
    answer: Text
    options: list[Text] | None = Field(None, min_length=2, max_length=len(LETTERS))
    patients: list[str] | None = None
    ability: Ability | None = None
    source: Text | None = None
    family: Text | None = None
    held_out: bool | None = None


KEYS = (*_Row.model_fields, "id")


def terms(entry: Entry[Questions]) -> Terms:
    """The terms that stand in a file of their own; without it, nothing is allowed.

    Raises:
        UserError: The file is no record of terms, or allows something in nobody's name.
    """
    return roots.written_terms(entry, entry.own.file, entry.own.terms)


def inputs(entry: Entry[Questions]) -> dict[str, str]:
    """The digests of the files, and one over the images that the questions name."""
    root = roots.opened(entry)
    samples, _, _ = _read(root, entry.own.file)
    files = [entry.own.file, *([entry.own.terms] if entry.own.terms else [])]
    return roots.digest(root, files, (path for sample in samples for path in sample.paths))


def load(entry: Entry[Questions]) -> Source:
    """Read the questions.

    Raises:
        UserError: No such file, one that is something else, of another encoding, or without any question.
    """
    root = roots.opened(entry)
    samples, bad, facts = _read(root, entry.own.file)
    return Source(
        partial(_image, root), samples=samples, bad=bad, facts=facts, identity=root.identity, fix_for=root.fix_for,
        head=partial(dicom_tags.head, root),
    )  # fmt: skip


def _image(root: Root, path: str) -> bytes:
    """The `Source.read`."""
    return root.read(path)


def _read(root: Root, name: str) -> tuple[list[Sample], list[BadRow], dict[str, Any]]:
    """Samples, quarantined rows, and counts. Lines are numbered from 1."""
    path = root.table(name)
    samples: list[Sample] = []
    bad: list[BadRow] = []
    first: dict[str, int] = {}
    ignored: Counter[str] = Counter()
    rows = 0
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        rows += 1
        sample, problems, others = _row(line, root)
        ignored.update(others)
        if sample is not None and (earlier := first.setdefault(sample.id, number)) != number:
            problems = [("question", f"the question of line {earlier} again: the same images, question and options")]
        bad += [BadRow(name, number, key, reason) for key, reason in problems]
        if sample is not None and not problems:
            samples.append(sample)
    if not rows:
        raise UserError(f"{path} holds no question", reason="it is empty", fix="write one JSON object a line")
    facts: dict[str, Any] = {
        "rows": rows,
        "closed": sum(bool(sample.options) for sample in samples),
        "without_patients": sum(not sample.patients for sample in samples),
    }
    return samples, bad, facts | ({"ignored_keys": dict(sorted(ignored.items()))} if ignored else {})


def _lines(path: Path) -> list[str]:
    """The lines of the file; a newline within a text is escaped in JSON, and U+2028 ends none."""
    text = sniff.read_text(path, _WANTED)
    if text.lstrip().startswith("["):
        raise sniff.Kind("a list in JSON", sniff.in_place("jq -c '.[]'")).error(path, _WANTED)
    return text.split("\n")


def _row(line: str, root: Root) -> tuple[Sample | None, list[Problem], list[str]]:
    """A Sample, or everything that is wrong with the row; and the keys that are not read."""
    problems: list[Problem] = []
    row: _Row | None = None
    try:
        row = _Row.model_validate_json(line)
    except ValidationError as error:
        problems += map(_problem, error.errors())
    problems += [(key, "is given more than once") for key in (_repeated(line) if row else ())]
    others = [key for key in (row.model_extra or () if row else ()) if key not in KEYS]
    near = {key: difflib.get_close_matches(key, KEYS, 1, cutoff=0.8) for key in others}
    problems += [(key, f"unknown key; did you mean '{found[0]}'?") for key, found in near.items() if found]
    if row is None or problems:
        return None, problems, []
    sample, problems = _sample(row, root)
    return sample, problems, others


def _repeated(line: str) -> list[str]:
    """The keys of a row that stand there more than once; of several, pydantic takes the last."""
    pairs: list[tuple[str, Any]] = json.loads(line, object_pairs_hook=list)
    return [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]


def _problem(error: Any) -> Problem:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return key, "missing"
    given = "" if isinstance(error["input"], dict) or not key else f" (got {reprlib.repr(error['input'])})"
    return key, error["msg"].removeprefix("Value error, ") + given


def _sample(row: _Row, root: Root) -> tuple[Sample | None, list[Problem]]:
    images, options = tuple(map(nfc, row.images)), tuple(row.options or ())
    problems = _image_problems(images, root)
    if IMAGE in row.question:
        problems.append(("question", f"holds {IMAGE}: all images come before the question, by themselves"))
    if options and len(set(options)) == 1:
        problems.append(("options", f"all are the same: '{options[0][:80]}'"))
    answer, gold = _gold(row.answer, options)
    if options and not gold:
        problems.append(("answer", f"'{answer[:80]}' is none of the options, nor the letter of one"))
    patients: dict[str, None] = {}
    for number, patient in enumerate(row.patients or ()):
        try:
            patients[cells.identifier(patient)] = None
        except cells.BadCell as error:
            problems.append((f"patients.{number}", str(error)))
    if problems:
        return None, problems
    return Sample(
        ability=row.ability or ("single" if len(images) == 1 else "reasoning"),
        family=row.family or FAMILY,
        source=row.source or SOURCE,
        split="test",
        held_out=True if row.held_out is None else row.held_out,
        patients=tuple(patients),
        images=images,
        paths=images,
        question=row.question,
        options=options,
        answer=answer,
        gold=gold,
    ), []


def _image_problems(images: tuple[str, ...], root: Root) -> list[Problem]:
    problems: list[Problem] = []
    for number, path in enumerate(images):
        try:
            file, _ = parse(path)
            if escapes(path):
                problems.append((f"images.{number}", f"'{path[:200]}' leaves the folder of the file"))
            elif not root.has(file):
                problems.append((f"images.{number}", f"there is no file '{path[:200]}'"))
            elif root.mark(file) == "-":
                problems.append((f"images.{number}", f"'{path[:200]}' {_UNREADABLE}"))
        except BadImage as error:
            problems.append((f"images.{number}", str(error)))
    return problems


def _gold(answer: str, options: tuple[str, ...]) -> tuple[str, tuple[int, ...]]:
    """The text of the right option with its indices, the first one first; no index where the answer names none."""
    if answer not in options:
        letter, _, rest = answer.partition(":")
        at = LETTERS.find(letter) if len(letter) == 1 else -1
        if not 0 <= at < len(options) or rest.strip() not in ("", options[at]):
            return answer, ()
        same = (i for i, text in enumerate(options) if text == options[at] and i != at)
        return options[at], (at, *same)
    return answer, tuple(i for i, text in enumerate(options) if text == answer)
