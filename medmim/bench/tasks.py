"""Tasks: which questions of a data set are asked, and in which groups they are scored."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim import hints, shards
from medmim.data import people
from medmim.errors import UserError
from medmim.sample import ABILITIES, Sample

DOMAINS = ("held_in", "held_out")
NAMES = (*DOMAINS, *ABILITIES)


@dataclass(frozen=True)
class Items:
    """The questions of a benchmark, each once, in the order of the data.

    Attributes:
        samples: The questions.
        repeated: Number of rows left out as duplicates: the same images, question and options.
        limited: Whether test questions are missing, or it is another split, so that the result is not comparable.
    """

    samples: tuple[Sample, ...]
    repeated: int
    limited: bool


def check(tasks: Iterable[str]) -> None:
    """Refuse names of unknown tasks.

    Raises:
        UserError: Every unknown name at once.
    """
    wrong = [task for task in tasks if task not in NAMES]
    if wrong:
        raise UserError(
            f"no such task: {', '.join(wrong)}",
            fix=f"tasks are {', '.join(NAMES)}, or the URI of a data set",
        )


def select(folder: Path, tasks: Sequence[str], limit: int | None = None, split: str = "test") -> Items:
    """The questions of a split that belong to the tasks.

    Args:
        folder: A data set as `medmim.shards` writes it.
        tasks: Names of `NAMES`; a question that belongs to one of them is asked.
        limit: Only the first `limit` questions.
        split: `test`, or `dev` for choices that must not use the test patients.

    Raises:
        UserError: An unknown task, or nothing to ask.
    """
    check(tasks)
    chosen: dict[str, Sample] = {}
    repeated = 0
    for sample in shards.read_samples(folder, split):
        if not {sample.ability, DOMAINS[sample.held_out]} & set(tasks):
            continue
        repeated += sample.id in chosen
        chosen.setdefault(sample.id, sample)
    if not chosen:
        raise UserError(
            f"{folder} has no {split} question for {', '.join(tasks)}",
            fix=f"`{hints.command('data', 'show', 'URI')}` counts the questions by split and ability",
        )
    samples = tuple(chosen.values())
    return Items(samples[:limit], repeated, split != "test" or (limit is not None and limit < len(samples)))


def groups(sample: Sample) -> tuple[str, ...]:
    """The groups in which a question is scored.

    Groups by ability contain only questions of domains that are in training; held-out questions count in `held_out`
    and in their source only.
    """
    own = (DOMAINS[sample.held_out], f"source:{sample.source}")
    return own if sample.held_out else (*own, f"ability:{sample.ability}")


def patient_keys(sample: Sample) -> tuple[str, ...]:
    """Its patients as `POPULATION/PATIENT`, those of all data sets of one population alike (`data.people`)."""
    return tuple(dict.fromkeys(people.key(sample.source, patient) for patient in sample.patients))
