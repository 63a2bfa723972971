"""Reads the sources of a recipe, one or several at once.

Of several, each has its own folder in the data set's paths (`embed/images/...`), named like the source, so that no two
files of different sources have one name. Questions never mix the images of two sources.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from medmim import terms
from medmim.data.sources import headers
from medmim.data.sources.files import one_line
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.schema import Data
from medmim.recipe.sources import BUILT_IN, ENTRY_POINTS
from medmim.sample import Change, Sample, Study
from medmim.terms import Terms

T = TypeVar("T")
_PLACES = {"root", "link_roots", "annotations"}  # where the files lie, which is no content


@dataclass(frozen=True)
class Reading:
    """The sources of a recipe, found but not yet read.

    Attributes:
        parts: The folder of each in the data set's paths (empty for the only one), its module and what to ask of it.
    """

    parts: tuple[tuple[str, ModuleType, Entry[Any]], ...]

    @property
    def terms(self) -> Terms:
        """What the terms of all sources allow."""
        return terms.combine(self.terms_of_each)

    @property
    def terms_of_each(self) -> list[Terms]:
        """The terms of each source, in the order of the recipe."""
        return [_terms(module, entry) for _, module, entry in self.parts]

    @property
    def names(self) -> list[str]:
        """The name of each source."""
        return [getattr(entry.own, "source", entry.own.name) for _, _, entry in self.parts]

    @property
    def options(self) -> list[dict[str, Any]]:
        """What decides the content beside the files: the settings of each, and the version of another's code."""
        named = [entry.own for _, _, entry in self.parts]
        return [own.model_dump(mode="json", exclude=_PLACES) | _version(own.name) for own in named]

    def root_of(self, path: str) -> str:
        """The root of the source of a path, as the recipe has it; empty where the source has none."""
        start = path.split("/")[0]
        found = next((entry.own for folder, _, entry in self.parts if folder in ("", start)), None)
        return getattr(found, "root", None) or ""

    def inputs(self) -> dict[str, str]:
        """Name -> digest of what is read.

        Raises:
            UserError: What each source says that cannot be read, together.
        """
        found = self._of_each("inputs")
        return {
            f"{folder}/{name}".lstrip("/"): digest
            for (folder, _, _), inputs in zip(self.parts, found, strict=True)
            for name, digest in inputs.items()
        }

    def load(self, with_headers: bool = True) -> list[Source]:
        """The sources, in the order of the recipe, their paths below their folders.

        Args:
            with_headers: Look at the DICOM headers of all images (`sources.headers`), not of those alone whose tags a
                source needs.

        Raises:
            UserError: What each source says that cannot be read, together.
        """
        found = self._of_each("load")
        looked_at = [headers.looked_at(source) for source in found] if with_headers else found
        return [below(folder, source) for (folder, _, _), source in zip(self.parts, looked_at, strict=True)]

    def _of_each(self, function: str) -> list[Any]:
        """What a function of each module gives, or the errors of all that fail."""
        done, failed = [], []
        for _, module, entry in self.parts:
            try:
                done.append(getattr(module, function)(entry))
            except UserError as error:
                failed.append((entry, error))
        if len(failed) == 1:
            raise failed[0][1]
        if failed:
            raise UserError(
                f"{len(failed)} of {len(self.parts)} sources cannot be read",
                problems=[f"{entry.own.name} ({entry.key}): {error.fact}; fix: {error.fix}" for entry, error in failed],
                fix="correct each as it says",
            )
        return done


def of(data: Data) -> Reading:
    """The sources of a recipe."""
    sections = data.read_from
    names = [getattr(own, "source", own.name) for own in sections]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"data.sources names {', '.join(twice)} twice",
            reason="images and patients of a source are told apart by its name",
            fix="give both folders below one root, or, for name: studies, another `source`",
        )
    parts = []
    for number, (own, name) in enumerate(zip(sections, names, strict=True)):
        key = "data" if data.source else f"data.sources.{number}"
        parts.append((name if len(sections) > 1 else "", _module(own.name), Entry(own, key, data.seed)))
    return Reading(tuple(parts))


def below(folder: str, source: Source) -> Source:
    """A source whose paths start with a folder; the source itself where that is empty."""
    if not folder:
        return source
    start = f"{folder}/"

    def study(one: Study) -> Study:
        changes = tuple(Change(change.finding, change.state, start + change.since) for change in one.changes)
        return replace(one, image=start + one.image, changes=changes)

    def sample(one: Sample) -> Sample:
        paths = tuple(start + path for path in one.paths)
        return replace(one, paths=paths, images=paths)

    return replace(
        source,
        start=start,
        read=_Below(start, source.read),
        identity=_Below(start, source.identity),
        studies=None if source.studies is None else [study(one) for one in source.studies],
        samples=None if source.samples is None else [sample(one) for one in source.samples],
        bad=[replace(row, file=start + row.file) for row in source.bad],
        missing=[start + path for path in source.missing],
        flagged=[replace(row, file=start + row.file) for row in source.flagged],
        headers=[start + path for path in source.headers],
        fix_for=lambda paths: source.fix_for([path.removeprefix(start) for path in paths if path.startswith(start)]),
    )


def above(start: str, studies: Iterable[Study]) -> list[Study]:
    """Studies with the paths that their source gave them: what is drawn from a path must not change with its folder."""

    def study(one: Study) -> Study:
        changes = tuple(replace(change, since=change.since.removeprefix(start)) for change in one.changes)
        return replace(one, image=one.image.removeprefix(start), changes=changes)

    return list(map(study, studies)) if start else list(studies)


def read_any(sources: Sequence[Source]) -> Callable[[str], bytes]:
    """The `Source.read` of all of them."""
    return _any([source.read for source in sources])


def identity_any(sources: Sequence[Source]) -> Callable[[str], str]:
    """The `Source.identity` of all of them."""
    return _any([source.identity for source in sources])


def _any(asked: Sequence[Callable[[str], T]]) -> Callable[[str], T]:
    if len(asked) == 1:
        return asked[0]
    return _Any({one.start: one for one in asked if isinstance(one, _Below)})


def facts(sources: Sequence[Source]) -> dict[str, Any]:
    """The statistics of all sources: counts added up, files together, and each source's own below its folder."""
    if len(sources) == 1:
        return sources[0].facts
    found: dict[str, Any] = {"by_source": {}}
    for one in sources:
        name = one.start.rstrip("/")
        found["by_source"][name] = one.facts
        for key in ("skipped", "erased"):
            if key in one.facts:
                found[key] = dict(Counter(found.get(key, {})) + Counter(one.facts[key]))
        found.setdefault("files", {}).update(
            {f"{name}/{file}": counts for file, counts in one.facts.get("files", {}).items()}
        )
    return found


@dataclass(frozen=True)
class _Below(Generic[T]):
    """A `read` of paths that start with a folder; a class, since another process must be able to have it."""

    start: str
    inner: Callable[[str], T]

    def __call__(self, path: str) -> T:
        return self.inner(path.removeprefix(self.start))


@dataclass(frozen=True)
class _Any(Generic[T]):
    """A `read` that asks the source whose folder a path starts with."""

    asked: Mapping[str, Callable[[str], T]]

    def __call__(self, path: str) -> T:
        return self.asked[path[: path.index("/") + 1]](path)


def _version(name: str) -> dict[str, str]:
    """The version of the distribution that brings a source; our own sources have the step's REVISION."""
    found = None if name in BUILT_IN else _entry_point(name).dist
    return {} if found is None else {"version": found.version}


def _module(name: str) -> ModuleType:
    if name in BUILT_IN:
        return importlib.import_module(f"medmim.data.sources.{name}")
    point = _entry_point(name)
    fix = f"correct {point.value}, or install another version of its distribution (docs/data.md)"
    try:
        module: ModuleType = point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"the source {name} cannot be imported", reason=one_line(error), fix=fix) from error
    lacking = [what for what in ("inputs", "load") if not callable(getattr(module, what, None))]
    if not isinstance(getattr(module, "TERMS", None), Terms) and not callable(getattr(module, "terms", None)):
        lacking.append("TERMS")
    if lacking:
        raise UserError(
            f"the source {name} lacks {', '.join(lacking)}", reason="every source has these (docs/data.md)", fix=fix
        )
    return module


def _entry_point(name: str) -> EntryPoint:
    return next(iter(entry_points(group=ENTRY_POINTS, name=name)))


def _terms(module: ModuleType, entry: Entry[Any]) -> Terms:
    found: Terms = module.TERMS if hasattr(module, "TERMS") else module.terms(entry)
    return found
