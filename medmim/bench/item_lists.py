"""Lists of questions, as files: which test questions of a data set are asked, and no other.

    {"about": "...", "version": 2, "files": {"Med_MIM_benchmark_Held_out_ODIR.json": {"clean": [[1, "9f..", "0c.."]]}}}

It is what `benchmarks/published.py --clean` writes: of each row its number, the digest of the row, and the id of the
question. An id is `Sample.id`, or what that is where source paths stand for images that are not there. So one list
serves a data set that was built with its images, and one without.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from medmim import sniff
from medmim.errors import UserError
from medmim.sample import Sample

VERSION = 2
ENDING = ".json"
_WANTED = "a list of questions in JSON"
_SHOWN = 5

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]  # of a question


class _File(BaseModel):
    clean: tuple[tuple[int, str, Id], ...] = ()


class _List(BaseModel):
    version: Literal[2]
    files: dict[str, _File]


def read(path: Path) -> tuple[str, ...]:
    """The ids of a list, sorted, each once.

    Raises:
        UserError: It cannot be read, is no list, is of another version, or names no question.
    """
    try:
        found = _List.model_validate_json(sniff.read_text(path, _WANTED))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(
            f"{path} is no list of questions of version {VERSION}",
            reason=f"{where}: {first['msg']}",
            fix="write it again with benchmarks/published.py of this version; docs/tasks.md shows its form",
        ) from None
    ids = sorted({name for file in found.files.values() for *_, name in file.clean})
    if not ids:
        raise UserError(f"{path} lists no question", fix="write it again with benchmarks/published.py")
    return tuple(ids)


def ids_of(sample: Sample) -> tuple[str, str]:
    """The ids by which a list may name a question: its own, and that by its source paths."""
    return sample.id, by_paths(sample)


def by_paths(sample: Sample) -> str:
    """The id of a question where source paths stand for its images."""
    return replace(sample, images=sample.paths).id


def digest(ids: Iterable[str]) -> str:
    """SHA-256 of what a list names, whatever the layout of its file: the sorted ids, a line each."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(ids)).encode()).hexdigest()


def refuse_others(name: str, ids: Iterable[str], samples: Iterable[Sample], split: str) -> None:
    """Refuse a list that names a question which a data set does not have: scores of the rest would not be comparable.

    Args:
        name: Of the task.
        ids: Of the list.
        samples: Of the split that is asked.
        split: Its name.

    Raises:
        UserError: With the number of those that are missing.
    """
    wanted = set(ids)
    missing = wanted.difference(*(ids_of(sample) for sample in samples))
    if missing:
        raise UserError(
            f"the list of the task {name} is of another data set, or of another version of it",
            reason=f"{len(missing):,} of its {len(wanted):,} questions are no {split} questions of this one, "
            f"such as {', '.join(sorted(missing)[:_SHOWN])}",
            fix="bench a data set built from all the files and images that the list was written for, "
            "or write the list again for these",
        )
