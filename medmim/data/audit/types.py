"""The rows of a data set by type of question: what is measured of answers and options is of one type at a time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from medmim.data import people
from medmim.data.audit.check import Row
from medmim.data.sources.published_rows import file_of
from medmim.sample import Sample
from medmim.stats import MIN_PATIENTS, Clusters

MOST_LABELS = 12  # different answers; with more, they are free texts


@dataclass(frozen=True)
class Type:
    """The rows of one kind of question on the images of one population, of all splits.

    Attributes:
        name: `embed/coreference/multichoice_typeA`, and `... open` for those without options.
        samples: Its rows.
    """

    name: str
    samples: Sequence[Sample]

    @cached_property
    def patients(self) -> list[list[str]]:
        """The patients of each row, with names that are unique over all sources."""
        return [["/".join(one) for one in people.of_sample(sample)] for sample in self.samples]

    @cached_property
    def clusters(self) -> Clusters:
        """The same by number."""
        return Clusters.of(self.patients)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """All its right answers, where they are so few that they are labels, or one; else none."""
        found = {sample.answer for sample in self.samples}
        return tuple(sorted(found)) if len(found) <= MOST_LABELS else ()

    @cached_property
    def is_closed(self) -> bool:
        """Whether its rows have options."""
        return bool(self.samples[0].options)

    @cached_property
    def has_order(self) -> bool:
        """Whether its options are the same in all rows, in the same order: then a letter is a label."""
        return len({sample.options for sample in self.samples}) == 1

    @cached_property
    def is_small(self) -> bool:
        """Whether it has too few patients for an interval."""
        return min(self.clusters.patients, len(self.samples)) < MIN_PATIENTS

    def rows(self, which: Iterable[int], found: str) -> tuple[Row, ...]:
        """Some of its rows, as a check lists them."""
        return tuple(Row(self.samples[i].id, file_of(self.samples[i]), found) for i in which)


def by_type(samples: Iterable[Sample]) -> list[Type]:
    """The types of a data set, by name; rows without a patient count as none."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.patients:
            kind = "" if sample.options else " open"
            found[f"{people.population_of(sample.source)}/{sample.ability}/{sample.family}{kind}"].append(sample)
    return [Type(name, found[name]) for name in sorted(found)]


def unmeasured(name: str, types: Sequence[Type], why: str) -> str:
    """How many types a check leaves out, and why; empty for none."""
    named = ", ".join(one.name for one in types)
    return f"{name} is not measured of {len(types)} types that {why}: {named}" if types else ""
