"""Tasks: which questions of a data set are asked, and in which groups and clusters they are scored.

A task is a small YAML file, shipped in medmim/shipped/tasks or a reader's own:

    description: chest X-rays with two films, of all domains    what it is for
    domain: held_in                   or held_out; by default both
    abilities: [temporal, reasoning]  of sample.ABILITIES; by default all
    sources: [MS_CXR_T, "ms-cxr-*"]   data sets, with * and ?; by default all
    families: [change]                kinds of question within the abilities, likewise
    answers: closed                   with options, or open; by default both
    images: [2, 8]                    fewest and most images of a question
    form: strict                      worded as the recipe key data.form: strict words them
    clean: true                       those that the audit of the data set lists as clean
    items: clean.json                 those of a list, a file beside this one or ids (`item_lists`)
    split: dev                        by default that of bench.split
    clusters: image                   what shares chance in intervals; by default patient

All that is given must hold. Several tasks ask what belongs to any of them, each question once.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medmim import hints, shards, sniff
from medmim.bench import item_lists
from medmim.data import people
from medmim.data.wordings import words
from medmim.errors import UserError
from medmim.recipe.keys import Ability, Section, checked
from medmim.recipe.schema import Recipe
from medmim.recipe.yaml_text import parse_yaml
from medmim.sample import ABILITIES, SPLITS, Sample
from medmim.store.paths import existing

DOMAINS = ("held_in", "held_out")
NAMES = (*DOMAINS, *ABILITIES)
"""Tasks whose questions are groups of every benchmark; their names alone are in the keys of answers."""

_ENDINGS, _ROWS = (".yaml", ".yml"), ".jsonl"
_WANTED = "a task in YAML"
_LONGEST = 100_000  # characters of a task in a recipe


Text = Annotated[str, Field(min_length=1)]


class Task(Section):
    """Which questions belong to a task, and what they are clustered by."""

    description: Text
    domain: Literal["held_in", "held_out"] | None = None
    abilities: tuple[Ability, ...] = ()
    sources: tuple[Text, ...] = ()
    families: tuple[Text, ...] = ()
    answers: Literal["closed", "open"] | None = None
    images: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    form: Literal["strict"] | None = None
    clean: bool = False
    items: Text | tuple[item_lists.Id, ...] | None = None
    split: Literal["test", "dev"] | None = None
    clusters: Literal["patient", "image"] = "patient"

    @field_validator("images")
    @classmethod
    def _fewest_comes_first(cls, images: tuple[int, int] | None) -> tuple[int, int] | None:
        if images and images[0] > images[1]:
            raise ValueError("the fewest images come first, then the most")
        return images

    @field_validator("items")
    @classmethod
    def _each_once_in_one_order(cls, items: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return tuple(sorted(set(items))) if isinstance(items, tuple) else items

    @model_validator(mode="after")
    def _one_list_says_what_is_asked(self) -> "Task":
        if self.clean and self.items is not None:
            raise ValueError("clean and items are both a list of questions: give one")
        if self.clean and self.split == "dev":
            raise ValueError("clean is a list of test questions, and split: dev asks others")
        return self

    @property
    def content(self) -> dict[str, Any]:
        """What decides the questions and their intervals; a key that is not given is not in it."""
        return self.model_dump(mode="json", exclude={"description"}, exclude_defaults=True)

    @property
    def digest(self) -> str:
        """Of what the task means: neither its name, nor its description, nor how its file is written."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def listed(self) -> frozenset[str] | None:
        """Ids of the questions that it names; None where it names none."""
        return None if self.items is None else frozenset(self.items)

    def takes(self, sample: Sample) -> bool:
        """Whether a question belongs to it, but for `split`; `clean` is a list by then, of `clean.resolved`."""
        return (
            self.domain in (None, DOMAINS[sample.held_out])
            and (not self.abilities or sample.ability in self.abilities)
            and _matches(sample.source, self.sources)
            and _matches(sample.family, self.families)
            and (self.answers is None or (self.answers == "closed") == bool(sample.options))
            and (self.images is None or self.images[0] <= len(sample.images) <= self.images[1])
            and (self.form is None or words.is_strict(sample))
            and (self.listed is None or not self.listed.isdisjoint(item_lists.ids_of(sample)))
        )


@dataclass(frozen=True)
class Items:
    """The questions of a benchmark, each once, in the order of the data.

    Attributes:
        samples: The questions.
        repeated: Number of rows left out as duplicates: the same images, question and options.
        limited: Whether test questions are missing, or it is another split, so that the result is not comparable.
        groups: In which groups each question is scored: those of its first row, and every task that takes a row of it.
        clusters: Of each question, what it shares with others by chance: its patients, for all but a task that says
            otherwise.
    """

    samples: tuple[Sample, ...]
    repeated: int
    limited: bool
    groups: tuple[tuple[str, ...], ...] = ()
    clusters: tuple[tuple[str, ...], ...] = ()


def shipped() -> tuple[str, ...]:
    """Names of the shipped tasks: the groups of every benchmark, then the others."""
    files = (entry.name for entry in resources.files("medmim.shipped.tasks").iterdir())
    found = sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))
    return (*NAMES, *(name for name in found if name not in NAMES))


def is_file(ref: str) -> bool:
    """Whether a reference is meant as the file of a task."""
    return ref.lower().endswith(_ENDINGS)


def is_list(ref: str) -> bool:
    """Whether a reference is meant as a list of questions: a task of these alone."""
    return ref.lower().endswith(item_lists.ENDING)


def is_rows(ref: str) -> bool:
    """Whether a reference is meant as a file of questions, which is a data set and no task."""
    return ref.lower().endswith(_ROWS)


def load(ref: str) -> tuple[str, Task]:
    """The name of a task and what it says.

    Args:
        ref: A shipped name, the path of a file, or what `resolved` made of one.

    Raises:
        UserError: No such task, or every problem that its file has.
    """
    if ref.startswith("{"):
        return _inline(ref)
    if ref in shipped():
        return ref, _shipped(ref)
    path = existing(ref) if is_file(ref) or is_list(ref) else None
    if path is None:
        raise _unknown([ref])
    if path.stem in shipped():
        raise UserError(
            f"{ref} is named as the shipped task {path.stem}",
            reason="scores of both would have one name",
            fix=f"give the file another name, or take --task {path.stem}",
        )
    if is_list(ref):
        return path.stem, Task(description=f"the questions that {path.name} lists", items=item_lists.read(path))
    task = _checked(parse_yaml(sniff.read_text(path, _WANTED), str(path)), str(path))
    if isinstance(task.items, str):
        task = task.model_copy(update={"items": item_lists.read(path.parent / task.items)})
    return path.stem, task


def check(tasks: Iterable[str]) -> None:
    """Refuse tasks that do not exist, whose files have problems, or that cannot be asked together.

    Raises:
        UserError: Every unknown name at once; or the problems of a file.
    """
    refs = list(tasks)
    if rows := [ref for ref in refs if is_rows(ref)]:
        raise UserError(
            f"{', '.join(rows)} is a data set, not a task",
            reason="a recipe asks its own data set",
            fix="bench it with --task of `bench run`, or name it in data.sources of the recipe: "
            "{name: questions, root: FOLDER, file: FILE}",
        )
    unknown = [ref for ref in refs if not ref.startswith("{") and ref not in shipped() and not _there(ref)]
    if unknown:
        raise _unknown(unknown)
    found = [load(ref) for ref in refs]
    names = [name for name, _ in found]
    for name, task in found:
        if any(name == other and task != one for other, one in found):
            raise UserError(
                f"two tasks are named {name}",
                reason="their scores would have one name",
                fix="give one of the files another name",
            )
    kinds = {task.clusters for _, task in found}
    if len(kinds) > 1:
        raise UserError(
            f"{', '.join(names)} cannot be asked together",
            reason="their intervals are clustered by different things: "
            + ", ".join(f"{name} by {task.clusters}" for name, task in found),
            fix="ask them in a run each",
        )


def resolved(tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks without paths, which other machines do not have: each file as its content in JSON.

    Raises:
        UserError: As `check`.
    """
    check(tasks)
    return tuple(as_text(*load(ref)) if is_file(ref) or is_list(ref) else ref for ref in tasks)


def in_recipe(recipe: Recipe) -> Recipe:
    """A recipe whose tasks are checked before anything is trained, and need no file of this machine.

    Raises:
        UserError: As `check`.
    """
    tasks = resolved(recipe.bench.tasks)
    for name, text in zip(names_of(tasks), tasks, strict=True):
        if len(text) > _LONGEST:
            raise UserError(
                f"the list of the task {name} is too long to go with a recipe",
                reason=f"a pod is given the recipe as one argument, of which Linux takes 128 KiB; this list has "
                f"{len(text) // 1000:,} kB",
                fix="bench it with --task of `bench run`",
            )
    return recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"tasks": tasks})})


def asked(refs: Sequence[str], data: str | None = None) -> tuple[tuple[str, ...], str | None]:
    """The tasks and the data set of a command line, where a task may be a data set: its address, or its questions.

    Args:
        refs: What `--task` gave, each time.
        data: What `--data` gave.

    Returns:
        The tasks, `held_in` and `held_out` where only a data set is named; the data set as `data_sets.of` takes it,
        None where none is.

    Raises:
        UserError: As `check`, or more than one data set.
    """
    places = [ref for ref in refs if is_rows(ref) or ("/" in ref and not is_file(ref) and not is_list(ref))]
    tasks = tuple(dict.fromkeys(ref for ref in refs if ref not in places))
    check(tasks)
    given = list(dict.fromkeys([*places, *([data] if data else [])]))
    if len(given) > 1:
        raise UserError(
            "more than one data set is given",
            reason=f"{' and '.join(given)}: a file of questions in JSONL is one, too",
            fix="give one, with --data or as the only one of --task",
        )
    return tasks or DOMAINS, given[0] if given else None


def names_of(tasks: Iterable[str]) -> list[str]:
    """The names of tasks."""
    return [load(ref)[0] for ref in tasks]


def identities(tasks: Iterable[str]) -> list[str]:
    """What stands for tasks in the keys of answers: today's groups by name, others by the digest of what they say."""
    return [ref if ref in NAMES else load(ref)[1].digest for ref in tasks]


def digests(tasks: Iterable[str]) -> dict[str, str]:
    """Name -> digest of what a task says; not of the groups of every benchmark, whose questions never change."""
    return {name: task.digest for name, task in map(load, tasks) if name not in NAMES}


def lists(tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> `items`, how many questions its list names, and `digest` of the list; of tasks that have one."""
    found = ((name, task.listed) for name, task in map(load, tasks))
    return {name: {"items": len(ids), "digest": item_lists.digest(ids)} for name, ids in found if ids is not None}


def clustered_by(tasks: Iterable[str]) -> str:
    """What shares chance in the intervals of tasks that are asked together: `patient`, or `image`."""
    return next(load(ref)[1].clusters for ref in tasks)


def described(tasks: Iterable[str]) -> list[str]:
    """What stands for tasks in the keys of scores, which have their names: `identities` with them, in their order."""
    return [name if name in NAMES else f"{name} {task.digest}" for name, task in map(load, tasks)]


def select(folder: Path, tasks: Sequence[str], limit: int | None = None, split: str = "test") -> Items:
    """The questions of a split that belong to the tasks.

    Args:
        folder: A data set as `medmim.shards` writes it.
        tasks: References as `load` takes them; a question that belongs to one of them is asked.
        limit: Only the first `limit` questions.
        split: `test`, or `dev` for choices that must not use the test patients; a task may say another.

    Raises:
        UserError: An unknown task, nothing to ask, or a list of another data set.
    """
    check(tasks)
    wanted = dict(load(ref) for ref in tasks)
    _refuse_unresolved(wanted)
    splits = {task.split or split for task in wanted.values()}
    for name, task in wanted.items():
        if task.listed is not None:
            among = task.split or split
            item_lists.refuse_others(name, task.listed, shards.read_samples(folder, among), among)
    chosen: dict[str, Sample] = {}
    belongs: dict[str, set[str]] = {}
    repeated = 0
    for sample, own in _assigned(folder, wanted, split):
        repeated += sample.id in chosen
        chosen.setdefault(sample.id, sample)
        belongs.setdefault(sample.id, set()).update(own)
    if not chosen:
        raise UserError(
            f"{folder} has no {' or '.join(sorted(splits))} question for {', '.join(wanted)}",
            fix=f"`{hints.command('bench', 'tasks', '--data', 'URI')}` counts the questions of each task",
        )
    samples = tuple(chosen.values())
    missing = limit is not None and limit < len(samples)
    samples = samples[:limit]
    cluster = _CLUSTERS[next(iter(wanted.values())).clusters]
    scored = [name for name in wanted if name not in NAMES]
    return Items(
        samples,
        repeated,
        splits != {"test"} or missing,
        tuple((*groups(one), *(f"task:{name}" for name in scored if name in belongs[one.id])) for one in samples),
        tuple(map(cluster, samples)),
    )


def count(folder: Path, tasks: Sequence[str], split: str = "test") -> dict[str, int]:
    """How many questions of a data set belong to each of some tasks, each alone.

    Args:
        folder: As for `select`; only the files of its samples are read.
        tasks: References as `load` takes them.
        split: As for `select`.

    Returns:
        Name -> questions; without tasks that the data set alone does not tell: `clean` before `clean.resolved`.
    """
    wanted = {name: task for name, task in map(load, tasks) if not task.clean}
    found: dict[str, set[str]] = {name: set() for name in wanted}
    for sample, own in _assigned(folder, wanted, split):
        for name in own:
            found[name].add(sample.id)
    return {name: len(ids) for name, ids in found.items()}


def _assigned(folder: Path, wanted: Mapping[str, Task], split: str) -> Iterator[tuple[Sample, list[str]]]:
    """The rows of a data set that belong to any of these tasks, with the names of those."""
    for name in sorted({task.split or split for task in wanted.values()}, key=SPLITS.index):
        asked = {title: task for title, task in wanted.items() if (task.split or split) == name}
        for sample in shards.read_samples(folder, name):
            own = [title for title, task in asked.items() if task.takes(sample)]
            if own:
                yield sample, own


def groups(sample: Sample) -> tuple[str, ...]:
    """The groups in which a question is scored, whatever the task.

    Groups by ability contain only questions of domains that are in training; held-out questions count in `held_out`
    and in their source only.
    """
    own = (DOMAINS[sample.held_out], f"source:{sample.source}")
    return own if sample.held_out else (*own, f"ability:{sample.ability}")


def patient_keys(sample: Sample) -> tuple[str, ...]:
    """Its patients as `POPULATION/PATIENT`, those of all data sets of one population alike (`data.people`).

    Of a question that names none, its images stand for them, as for VQA-RAD and PMC: questions on one image are not
    independent. Of one without images, the question itself does.
    """
    named = dict.fromkeys(people.key(sample.source, patient) for patient in sample.patients)
    return tuple(named) or image_keys(sample)


def image_keys(sample: Sample) -> tuple[str, ...]:
    """Its images as `image/ID`; of a question without images, itself."""
    return tuple(dict.fromkeys(f"image/{name}" for name in sample.images)) or (f"question/{sample.id}",)


_CLUSTERS: Mapping[str, Callable[[Sample], tuple[str, ...]]] = {"patient": patient_keys, "image": image_keys}


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def _refuse_unresolved(wanted: Mapping[str, Task]) -> None:
    if left := [name for name, task in wanted.items() if task.clean]:
        raise ValueError(f"{', '.join(left)}: `clean` needs the audit of the data set, `clean.resolved`")


@cache
def _shipped(name: str) -> Task:
    text = (resources.files("medmim.shipped.tasks") / f"{name}.yaml").read_text("utf-8")
    return _checked(parse_yaml(text, f"task {name}"), f"task {name}")


def as_text(name: str, task: Task) -> str:
    """A task as `load` takes it on any machine."""
    return json.dumps({name: task.model_dump(mode="json", exclude_defaults=True)}, sort_keys=True)


@cache
def _inline(text: str) -> tuple[str, Task]:
    try:
        ((name, values),) = json.loads(text).items()
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"no such task: {text[:80]}", reason=str(error), fix=_offered()) from None
    task = _checked(values, f"task {name}")
    if isinstance(task.items, str):
        raise UserError(
            f"the task {name} is incomplete",
            reason=f"items: {task.items} is a file of another machine",
            fix="give the file of the task itself",
        )
    return str(name), task


def _checked(values: Any, where: str) -> Task:
    return checked(Task, values, where, f"keys are {', '.join(Task.model_fields)}; docs/tasks.md explains them")


def _there(ref: str) -> bool:
    return (is_file(ref) or is_list(ref)) and existing(ref) is not None


def _unknown(refs: Sequence[str]) -> UserError:
    near = {ref: difflib.get_close_matches(ref, shipped(), 1) for ref in refs}
    meant = [f"'{found[0]}' for '{ref}'" for ref, found in near.items() if found]
    files = [ref for ref in refs if is_file(ref) or is_list(ref)]
    return UserError(
        f"no such task: {', '.join(refs)}",
        reason=f"there is no file {', '.join(files)}" if files else "",
        fix=(f"did you mean {', '.join(meant)}? " if meant else "") + _offered(),
    )


def _offered() -> str:
    own = "your own in YAML, a list in JSON, questions in JSONL, or the URI of a data set"
    return f"tasks are {', '.join(shipped())}, {own}"
