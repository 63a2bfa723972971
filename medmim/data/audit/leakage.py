"""Finds leakage between the splits of a data set: shared patients, image sets and images, within an ability and across.

Both counts are always given: the benchmark as it is, and its clean part, the rows with no patient and no image that
any training file contains; images of equal pixels, and look-alikes where the recipe limits them, are told by who calls
(`pictures`). This is the only definition of clean: the task of a benchmark asks the list that the audit writes. A model
that was trained on a patient can answer from memory, whatever ability the image was used for.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from medmim.data import people
from medmim.data.audit.check import Check, Row
from medmim.data.sources.published_rows import file_of
from medmim.sample import SPLITS, Sample

MEASURES = ("patients", "image_sets", "images")


@dataclass(frozen=True)
class Part:
    """The rows of one published file, or of one split and ability of a data set of our own.

    Attributes:
        name: `train/comparison`, `test/temporal`, `test/held-out/ODIR/composed`.
        file: The published file, or split and ability.
        split: `train`, `dev` or `test`.
        ability: One of `sample.ABILITIES`.
        samples: Its rows.
        patients: Identities of its rows, (population, patient).
        image_sets: Images that are asked about together, in any order.
        images: Image ids.
    """

    name: str
    file: str
    split: str
    ability: str
    samples: list[Sample] = field(default_factory=list)
    patients: set[tuple[str, str]] = field(default_factory=set)
    image_sets: set[frozenset[str]] = field(default_factory=set)
    images: set[str] = field(default_factory=set)

    def add(self, sample: Sample) -> None:
        """Add a row."""
        self.samples.append(sample)
        self.patients.update(people.of_sample(sample))
        self.image_sets.add(frozenset(sample.images))
        self.images.update(sample.images)


def examine(samples: Iterable[Sample], leaked: Collection[str] = frozenset()) -> tuple[dict[str, Any], list[Sample]]:
    """Compare all splits of a data set.

    Args:
        samples: Of all splits.
        leaked: Ids of images that count as trained on though no training row has them: `pictures.Twins.leaked`.

    Returns:
        The report (`pairs`, `parts`, `benchmark`, `shared`), and the clean benchmark rows.
    """
    parts = _parts(samples)
    by_split = {split: [part for part in parts if part.split == split] for split in SPLITS}
    pairs = [
        _pair(first, second)
        for earlier, later in (("train", "dev"), ("train", "test"), ("dev", "test"))
        for first, second in product(by_split[earlier], by_split[later])
    ]
    is_clean = _unlike_training(by_split["train"], leaked)
    benchmark = [sample for part in by_split["test"] for sample in part.samples]
    clean = [sample for sample in benchmark if is_clean(sample)]
    report = {
        "pairs": pairs,
        "parts": [_describe(part, is_clean) for part in parts],
        "benchmark": _rows_and_patients(benchmark, clean),
        "shared": {measure: len(_in_several_splits(by_split, measure)) for measure in MEASURES},
    }
    return report, clean


def checks(report: Mapping[str, Any], samples: Iterable[Sample]) -> list[Check]:
    """The checks of a report of `examine`.

    Args:
        report: Of these samples.
        samples: Of all splits; empty where they are not at hand, as of a report of an earlier version.
    """
    keys = {"patients": "max_shared_patients", "image_sets": "", "images": "max_shared_images"}
    found = {measure: list[Row]() for measure in MEASURES}
    held = {measure: defaultdict[Any, set[str]](set) for measure in MEASURES}
    kept = list(samples)
    for sample in kept:
        for measure in MEASURES:
            for one in _of_row(sample, measure):
                held[measure][one].add(sample.split)
    for sample in kept:
        for measure in MEASURES:
            splits = set[str]().union(*(held[measure][one] for one in _of_row(sample, measure))) - {sample.split}
            if splits:
                told = f"in {sample.split}, shares {measure.replace('_', ' ')} with {' and '.join(sorted(splits))}"
                found[measure].append(Row(sample.id, file_of(sample), told))
    return [
        Check(
            measure,
            f"{measure.replace('_', ' ')} in several splits",
            report["shared"][measure],
            key=keys[measure],
            rows=found[measure],
        )
        for measure in MEASURES
    ]


def _of_row(sample: Sample, measure: str) -> Iterable[Any]:
    if measure == "patients":
        return people.of_sample(sample)
    return (frozenset(sample.images),) if measure == "image_sets" and sample.images else sample.images


def _unlike_training(trained: Sequence[Part], leaked: Collection[str] = frozenset()) -> Callable[[Sample], bool]:
    """What tells whether a row has no patient and no image of these parts, and none of these images."""
    patients = _union(part.patients for part in trained)
    images = _union([*(part.images for part in trained), set(leaked)])

    def is_clean(sample: Sample) -> bool:
        return patients.isdisjoint(people.of_sample(sample)) and images.isdisjoint(sample.images)

    return is_clean


def _parts(samples: Iterable[Sample]) -> list[Part]:
    parts: dict[str, Part] = {}
    for sample in samples:
        name = f"{sample.split}/{sample.ability}"
        if sample.held_out:
            name = f"{sample.split}/held-out/{sample.source}/{sample.ability}"
        if name not in parts:
            parts[name] = Part(name, file_of(sample), sample.split, sample.ability)
        parts[name].add(sample)
    return [parts[name] for name in sorted(parts, key=lambda name: (SPLITS.index(parts[name].split), name))]


def _pair(first: Part, second: Part) -> dict[str, Any]:
    """What two parts share: each count with both totals, in all and for each source that both parts have."""
    found: dict[str, Any] = {
        "first": {"file": first.file, "split": first.split, "ability": first.ability},
        "second": {"file": second.file, "split": second.split, "ability": second.ability},
        "within_ability": first.ability == second.ability,
    }
    for measure in MEASURES:
        found[measure] = _overlap(getattr(first, measure), getattr(second, measure))
    in_first, in_second = _by_source(first.samples), _by_source(second.samples)
    found["patients_by_source"] = {
        source: _overlap(in_first[source], in_second[source]) for source in sorted(in_first.keys() & in_second.keys())
    }
    return found


def _overlap(first: set[Any], second: set[Any]) -> dict[str, int]:
    return {"shared": len(first & second), "first": len(first), "second": len(second)}


def _describe(part: Part, is_clean: Callable[[Sample], bool]) -> dict[str, Any]:
    clean = [sample for sample in part.samples if is_clean(sample)] if part.split == "test" else part.samples
    sources = sorted({sample.source for sample in part.samples})
    return {
        "name": part.name,
        "file": part.file,
        "split": part.split,
        "ability": part.ability,
        **_rows_and_patients(part.samples, clean),
        "images": len(part.images),
        "image_sets": len(part.image_sets),
        "sources": {
            source: _rows_and_patients(
                [sample for sample in part.samples if sample.source == source],
                [sample for sample in clean if sample.source == source],
            )
            for source in sources
        },
    }


def _rows_and_patients(rows: Sequence[Sample], clean: Sequence[Sample]) -> dict[str, int]:
    return {
        "rows": len(rows),
        "patients": len({patient for sample in rows for patient in people.of_sample(sample)}),
        "clean_rows": len(clean),
        "clean_patients": len({patient for sample in clean for patient in people.of_sample(sample)}),
    }


def _by_source(samples: Iterable[Sample]) -> dict[str, set[people.Identity]]:
    """Data set, the source up to its first dash -> its patients."""
    found: dict[str, set[people.Identity]] = defaultdict(set)
    for sample in samples:
        found[sample.source.split("-")[0]].update(people.of_sample(sample))
    return found


def _in_several_splits(by_split: dict[str, list[Part]], measure: str) -> set[Any]:
    train, dev, test = (_union(getattr(part, measure) for part in by_split[split]) for split in SPLITS)
    return (train & dev) | (train & test) | (dev & test)


def _union(sets: Iterable[set[Any]]) -> set[Any]:
    return set().union(*sets)
