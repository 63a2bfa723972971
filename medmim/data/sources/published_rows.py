"""Parses a row of the published Med-MIM JSON into a Sample, or lists the reasons for which it is quarantined.

The layout, as found in the files (github.com/Xikai97/Med-MIM):
`{"id", "images": [paths], "conversation": [{"role", "content"} x 2], "source"}`; all `<image>` placeholders precede the
question, options are lines `A: ...`, the gold is `B: text`. `id` is not unique and is ignored.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from medmim.data.sources.files import escapes
from medmim.data.sources.names import nfc
from medmim.sample import ABILITIES, IMAGE, LETTERS, Sample, escaped, is_utf8, split_options

MAX_IMAGES = 8
Problem = tuple[str, str]  # key, reason


@dataclass(frozen=True, slots=True)
class FileKind:
    """What the name of a published file says about its rows."""

    split: str
    ability: str
    held_out: bool


_FILE = re.compile(
    r"Med_MIM_(?:train(?:_inherent)?_(?P<train>\w+)|benchmark_Held_(?P<held>in|out)_(?P<test>\w+))\.json"
)

# The patient in an image path, by source. VQA-RAD and PMC do not name patients, so each image counts as one: intervals
# over those two cluster by image.
_PATIENT_IN_PATH = {
    "MS_CXR_T": r"(?:^|/)p\d\d/(p\d{8})/",  # p10/p10268877/s53452091/....png
    "EMBED": r"(?:^|/)cohort_\d+/(\d+)/",  # cohort_1/14581551/....png
    "LUMIERE": r"(?:^|/)(Patient-\d+)/",  # ct1_.../Patient-008/slice_111/week_000.png
    "ODIR": r"(?:^|/)(\d+)_(?:left|right)\.\w+$",  # Training Images/0_left.jpg
    "VQA_RAD": r"^(.+)$",
    "PMC": r"^(.+)$",
}
_SOURCE = re.compile(r"^(?P<name>MS_CXR_T|EMBED|LUMIERE|PMC|(?:VQA_)?ODIR|(?:VQA_)?RAD)(?![A-Za-z])_?(?P<family>.*)$")
_TAIL = re.compile(r"_VQA(_.*)?$|(_\d{4,8})(_\d{1,2})*$")  # generator settings and the day it ran
_GOLD = re.compile(r"^([A-Z])\s*[:.)]\s*(.*)$", re.DOTALL)
_LETTERED = re.compile(r"^[A-Z]\s*[:.)](?:\s|$)")


def kind_of(file: str) -> FileKind | None:
    """The kind of a file, by its name; None for a name that is not of Med-MIM.

    The held-out files are named after their data set. Their questions were composed from single-image data, like those
    of PMC, so their ability is `composed`.
    """
    match = _FILE.fullmatch(file)
    if match is None:
        return None
    if match["held"] == "out":
        return FileKind("test", "composed", held_out=True)
    ability = (match["train"] or match["test"]).lower().replace("_", "")
    if ability not in ABILITIES:
        return None
    return FileKind("train" if match["train"] else "test", ability, held_out=False)


def file_of(sample: Sample) -> str:
    """The published file that a row belongs to; for a data set of our own, split and ability instead."""
    if sample.source not in _PATIENT_IN_PATH:
        domain = f"held-out/{sample.source}/" if sample.held_out else ""
        return f"{sample.split}/{domain}{sample.ability}"
    return published_file(sample)


def published_file(sample: Sample) -> str:
    """The name of the file in the published layout that a row of any source belongs to."""
    if sample.held_out:
        return f"Med_MIM_benchmark_Held_out_{_published_name(sample.source).removeprefix('VQA_')}.json"
    kind = "benchmark_Held_in" if sample.split != "train" else "train"
    inherent = "_inherent" if sample.split == "train" and sample.ability != "composed" else ""
    return f"Med_MIM_{kind}{inherent}_{sample.ability.capitalize()}.json"


def published_source(sample: Sample) -> str:
    """The field `source` of a row in the published layout, such as `EMBED_typeA`: `source_of` reads it."""
    return f"{_published_name(sample.source)}_{sample.family}"


def _published_name(source: str) -> str:
    """A data set as the published files call it; another by its own name, in letters that a file's name can have."""
    name = re.sub(r"\W+", "_", source)
    return name.upper() if name.upper() in _PATIENT_IN_PATH else name


def source_of(text: str) -> tuple[str, str] | None:
    """Data set and family of a `source` field: `MS_CXR_T_vqa_edema` -> (`MS_CXR_T`, `vqa_edema`); None if unknown."""
    match = _SOURCE.match(text)
    if match is None:
        return None
    name = {"RAD": "VQA_RAD", "VQA_ODIR": "ODIR"}.get(match["name"], match["name"])
    family = _TAIL.sub("", match["family"].removeprefix("instruction_"))
    return name, family or "any"


def patient_of(source: str, path: str) -> str | None:
    """The patient of an image, by its path; None where the path has another form."""
    match = re.search(_PATIENT_IN_PATH[source], path)
    return match[1] if match else None


def sample_of(row: Any, kind: FileKind) -> tuple[Sample | None, list[Problem]]:
    """Parse a row, or list everything that is wrong with it.

    Args:
        row: One element of the file's list, of any type.
        kind: What the file name says.

    Returns:
        A Sample with source paths as image ids and no problems, or None and at least one problem.
    """
    if not isinstance(row, dict):
        return None, [("", f"the row is a {type(row).__name__}, not an object")]
    problems = [*_text_problems(row), *_type_problems(row)]
    if problems:
        return None, problems
    images = [nfc(path) for path in row["images"]]
    asked, answered = (turn["content"] for turn in row["conversation"])
    problems += _image_problems(images, asked)
    question, options = split_options(asked.replace(IMAGE, ""))
    if not question:
        problems.append(("conversation.0.content", "the question is empty"))
    source = source_of(row["source"])
    patients: dict[str, None] = {}
    if source is None:
        problems.append(("source", f"unknown data set in '{row['source']}'; known: {', '.join(_PATIENT_IN_PATH)}"))
    else:
        found = [patient_of(source[0], path) for path in images]
        patients = {patient: None for patient in found if patient}
        problems += [
            ("images", f"no patient in the path '{path}', unlike {source[0]}")
            for path, patient in zip(images, found, strict=True)
            if patient is None
        ]
    gold, answer, gold_problems = _gold(row["source"], asked.replace(IMAGE, ""), options, answered)
    problems += gold_problems
    if problems or source is None:
        return None, problems
    paths = tuple(images)
    sample = Sample(
        ability=kind.ability,
        family=source[1],
        source=source[0],
        split=kind.split,
        held_out=kind.held_out,
        patients=tuple(patients),
        images=paths,
        paths=paths,
        question=question,
        options=options,
        answer=answer,
        gold=gold,
    )
    return sample, []


def _text_problems(row: dict[str, Any]) -> Iterator[Problem]:
    """Texts that JSON can hold, half a surrogate pair among them, and a file in UTF-8 cannot."""
    left: list[tuple[str, Any]] = [("", row)]
    while left:
        key, value = left.pop()
        if isinstance(value, str):
            if not is_utf8(value):
                yield key, "holds half a surrogate pair (\\ud800 to \\udfff), which is no character"
        elif isinstance(value, dict | list):
            named = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(escaped(f"{key}.{name}" if key else str(name)), inner) for name, inner in named]


def _type_problems(row: dict[str, Any]) -> Iterator[Problem]:
    for key, wanted in (("id", (str, int)), ("images", list), ("conversation", list), ("source", str)):
        if key not in row:
            yield key, "missing"
        elif not isinstance(row[key], wanted) or isinstance(row[key], bool):
            yield key, f"is of type {type(row[key]).__name__}"
    images, turns = row.get("images"), row.get("conversation")
    if isinstance(images, list):
        if not images:
            yield "images", "no image at all"
        if len(images) > MAX_IMAGES:
            yield "images", f"{len(images)} images are more than {MAX_IMAGES}"
        if any(not isinstance(path, str) for path in images):
            yield "images", "not every path is text"
    if isinstance(turns, list):
        if len(turns) != 2:
            yield "conversation", f"{len(turns)} turns where one question and one answer are expected"
        for number, (turn, role) in enumerate(zip(turns, ("user", "assistant"), strict=False)):
            if not isinstance(turn, dict):
                yield f"conversation.{number}", f"is of type {type(turn).__name__}"
                continue
            if turn.get("role") != role:
                yield f"conversation.{number}.role", f"is {turn.get('role')!r}, not '{role}'"
            if not isinstance(turn.get("content"), str):
                yield f"conversation.{number}.content", "missing or not text"


def _image_problems(images: list[str], asked: str) -> Iterator[Problem]:
    placeholders = asked.count(IMAGE)
    if placeholders != len(images):
        yield "conversation.0.content", f"{placeholders} {IMAGE} placeholders for {len(images)} images"
    elif not asked.lstrip().startswith(IMAGE * placeholders):
        yield "conversation.0.content", f"{IMAGE} placeholders stand inside the question, not before it"
    for path in images:
        if not path.strip():
            yield "images", "an image path is empty"
        elif escapes(path):
            yield "images", f"the path '{path}' leaves the image root"


def _gold(
    source: str, asked: str, options: tuple[str, ...], answered: str
) -> tuple[tuple[int, ...], str, list[Problem]]:
    """Indices of the right options (the published letter first), gold text, problems."""
    where = "conversation.1.content"
    answer = answered.strip()
    if not answer:
        return (), "", [(where, "the answer is empty")]
    if not options:
        closed = "multichoice" in source or "_vqa_" in source
        missing = [("conversation.0.content", "a multiple-choice question without options")] if closed else []
        return (), answer, missing
    match = _GOLD.match(answer)
    if match is None:
        return (), "", [(where, "the answer names no option letter")]
    last = LETTERS[len(options) - 1]
    at = LETTERS.find(match[1])
    if not 0 <= at < len(options):
        return (), "", [(where, f"option letter {match[1]} does not exist: the options are A to {last}")]
    problems = []
    if any(not text for text in options):
        problems.append(("conversation.0.content", "an option is empty"))
    lettered = [line for line in asked.split("\n") if _LETTERED.match(line)]
    if len(lettered) > len(options):
        problems.append(("conversation.0.content", f"option lines after {last} are not lettered in order"))
    text = match[2].strip()
    if text != options[at]:
        problems.append((where, f"the gold text is not that of option {match[1]}"))
    same = tuple(i for i, option in enumerate(options) if option == text and i != at)
    return (at, *same), text, problems
