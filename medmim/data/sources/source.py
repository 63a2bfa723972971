"""The interface of a data source: what `load` of every module in this folder returns.

A source is a module of this folder with two functions and its terms of use. Its options are a section of
`recipe.sources`; a source of another distribution (entry point `medmim.sources`) gets `recipe.sources.Other`.

    TERMS: terms.Terms                        what may be done with its images and what is made from them
    inputs(entry: Entry) -> dict[str, str]    name -> digest of what it reads; parents of the data step
    load(entry: Entry) -> Source              the records themselves

A source whose terms are in a file has `terms(entry: Entry) -> Terms` in place of TERMS.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from medmim.recipe.sources import Named
from medmim.sample import BadRow, Sample, Study

Own = TypeVar("Own", bound=Named, covariant=True)


class BadImage(Exception):
    """An image that cannot be used; the message is the reason under which it is quarantined."""


@dataclass(frozen=True)
class Entry(Generic[Own]):
    """What a source is asked to read.

    Attributes:
        own: Its section of the recipe.
        key: Where that section is, for messages: `data`, or `data.sources.2`.
        seed: `data.seed`, for a source that draws.
    """

    own: Own
    key: str = "data"
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """A data set as its module read it.

    Attributes:
        read: Path as in `Study.image` or `Sample.paths` -> the original bytes.
            Raises FileNotFoundError where the file is absent, BadImage where it must not be read. Several threads call
            it, and the nodes of a Ray cluster copies of it: it holds addresses, and no open files.
        studies: Records to make questions from, or None.
        samples: Ready questions with their split, or None. `images` holds source paths; the build turns them into ids.
        families: The question families that the images of this source can answer (see `abilities`).
        bad: Rows that were quarantined while reading.
        missing: Image paths that the annotations name and that do not exist.
        facts: Further statistics of the raw files (duplicates, counts per file); plain JSON, which the build puts under
            `source` in the artifact's counts and in its outcome.
        identity: Path of a file -> its place, size and time of change as one text, by which the next build knows it
            again; empty where that is not known, so that the file is read.
        start: Of one of several sources, the folder that all its paths begin with (see `reading`).
        fix_for: Paths of images that are missing or cannot be used -> what would help; empty where nothing is known.
        flagged: Images whose file says who a person is, in words that repeat nothing of it; they stay, and an audit
            refuses them.
        headers: Images whose DICOM header was read for that. Of all that a module does not name here, `headers` reads
            it (images that have the ending of another format are no DICOM files).
        head: As `read`, of no more than the header of a DICOM file; where a module has none, whole files are read.
    """

    read: Callable[[str], bytes]
    studies: list[Study] | None = None
    samples: list[Sample] | None = None
    families: tuple[str, ...] = ()
    bad: list[BadRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    identity: Callable[[str], str] = lambda _: ""
    start: str = ""
    fix_for: Callable[[Iterable[str]], str] = lambda _: ""
    flagged: list[BadRow] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    head: Callable[[str], bytes] | None = None
