"""What train and benchmark share: patients, sets of images, images, within an ability and across.

Both counts are always given: the benchmark as it is, and its clean part, the rows with no patient and no image that
any training file shows. A model that has seen the patient can answer from memory, whatever ability the image taught.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from medmim import progress, shards, store
from medmim.data.sources.published_rows import file_of
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Audit, Recipe
from medmim.run.cache import cached_step
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import SPLITS, Sample, to_published
from medmim.store import Artifact

REVISION = 1
REPORT = "audit.json"
CLEAN = "clean.jsonl"
MEASURES = ("patients", "image_sets", "images")


@dataclass(frozen=True)
class Part:
    """The rows of one published file, or of one split and ability of a data set of our own.

    Attributes:
        name: `train/comparison`, `test/temporal`, `test/held-out/ODIR/composed`.
        patients: (data set, patient) of its rows.
        image_sets: Images asked about together, whatever their order.
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
        """Count a row in."""
        self.samples.append(sample)
        self.patients.update(patients(sample))
        self.image_sets.add(frozenset(sample.images))
        self.images.update(sample.images)


def run(recipe: Recipe, ws: Workspace, data: str) -> Outcome:
    """Audit a data set, and refuse it where its splits share more than the recipe allows.

    Args:
        recipe: Its section `audit` holds the limits.
        ws: The workspace.
        data: URI of the data artifact.

    Raises:
        Refused: Splits share patients or images above the limits; the message says how many rows are clean.
    """
    with stage(ws, "audit") as outcome:
        artifact, cached = audit_artifact(ws, data, recipe)
        report = read(ws, artifact)
        outcome.of(artifact, cached)
        outcome.facts = report
        for line in lines(report):
            progress.say(line)
        check_limits(report, recipe.audit, artifact.uri)
    return outcome


def audit_artifact(ws: Workspace, data: str, recipe: Recipe | None = None) -> tuple[Artifact, bool]:
    """The audit artifact of a data artifact, made now or found.

    It holds `audit.json`, `clean.jsonl` (ids of the clean benchmark rows) and, where rows leak, the clean rows of each
    benchmark file in the published layout below `clean/`.
    """
    source = store.get(data)
    if source.kind != "data":
        raise UserError(f"{data} is an artifact of kind '{source.kind}', not 'data'", fix="give the URI of a data set")

    def make(folder: Path) -> dict[str, Any]:
        samples = shards.read_samples(store.fetch(source, ws.cache), None)
        report, clean = examine(samples)
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        with (folder / CLEAN).open("w") as file:
            for sample in clean:
                file.write(json.dumps({"id": sample.id, "file": file_of(sample)}) + "\n")
        if report["benchmark"]["clean_rows"] < report["benchmark"]["rows"]:
            _write_published(folder / "clean", clean)
        return {**report["benchmark"], "shared": report["shared"]}

    return cached_step(ws, "audit", REVISION, None, {"data": source.digest}, make, recipe=recipe)


def read(ws: Workspace, artifact: Artifact) -> dict[str, Any]:
    """The report of an audit artifact."""
    report: dict[str, Any] = json.loads((store.fetch(artifact, ws.cache) / REPORT).read_text())
    return report


def examine(samples: Iterable[Sample]) -> tuple[dict[str, Any], list[Sample]]:
    """Compare all splits of a data set.

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
    seen_patients = _union(part.patients for part in by_split["train"])
    seen_images = _union(part.images for part in by_split["train"])

    def is_clean(sample: Sample) -> bool:
        return seen_patients.isdisjoint(patients(sample)) and seen_images.isdisjoint(sample.images)

    clean = [sample for part in by_split["test"] for sample in part.samples if is_clean(sample)]
    rows = [sample for part in by_split["test"] for sample in part.samples]
    report = {
        "pairs": pairs,
        "parts": [_describe(part, is_clean) for part in parts],
        "benchmark": _rows_and_patients(rows, clean),
        "shared": {measure: len(_in_several(by_split, measure)) for measure in MEASURES},
    }
    return report, clean


def patients(sample: Sample) -> list[tuple[str, str]]:
    """The patients of a row, told apart across data sets, whose numbers repeat.

    A data set is the source up to its first dash: `phantom-mixed` asks about patients of `phantom-chest`.
    """
    return [(sample.source.split("-")[0], patient) for patient in sample.patients]


def lines(report: dict[str, Any]) -> list[str]:
    """What people want to know of an audit: that all is well, or a line for each benchmark part and each leak."""
    if not any(report["shared"].values()):
        rows, people = report["benchmark"]["rows"], report["benchmark"]["patients"]
        return [f"no two splits share a patient or an image; {rows:,} rows of {people:,} patients to test on"]
    told = []
    for part in report["parts"]:
        if part["split"] == "test":
            whole = "as published" if part["file"].endswith(".json") else "in all"
            told.append(
                f"{part['file']} ({part['ability']}): {whole} {part['rows']:,} rows of {part['patients']:,} "
                f"patients, clean {part['clean_rows']:,} rows of {part['clean_patients']:,} patients"
            )
    return told + leaks(report)


def leaks(report: dict[str, Any]) -> list[str]:
    """A line for each pair of parts that share anything."""
    told = []
    for pair in report["pairs"]:
        first, second = pair["first"], pair["second"]
        shared = [
            f"{pair[measure]['shared']:,} of {pair[measure]['second']:,} {measure.replace('_', ' ')}"
            for measure in MEASURES
            if pair[measure]["shared"]
        ]
        if shared:
            told.append(f"{' and '.join(shared)} of {second['file']} are also in {first['file']}")
    return told


def check_limits(report: dict[str, Any], allowed: Audit, uri: str) -> None:
    """Say no where splits share more than is allowed.

    Raises:
        Refused: With the leaks, and how many rows of the benchmark are clean.
    """
    limits = {"patients": allowed.max_shared_patients, "images": allowed.max_shared_images}
    shared = {name: report["shared"][name] for name in limits}
    if all(shared[name] <= limits[name] for name in limits):
        return
    benchmark = report["benchmark"]
    raise Refused(
        f"the splits share {shared['patients']:,} patients and {shared['images']:,} images: of {benchmark['rows']:,} "
        f"benchmark rows, {benchmark['clean_rows']:,} of {benchmark['clean_patients']:,} patients are clean",
        reason=f"at most {limits['patients']} patients and {limits['images']} images may be shared "
        "(audit.max_shared_patients, audit.max_shared_images): a model would be asked about what it was taught",
        fix=f"keep to the clean rows, {uri}/{CLEAN}, or raise the limits to go on with the data as they are",
        problems=leaks(report),
    )


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
    """What two parts share, each number with both totals, and once more for each source they have in common."""
    found: dict[str, Any] = {
        "first": {"file": first.file, "split": first.split, "ability": first.ability},
        "second": {"file": second.file, "split": second.split, "ability": second.ability},
        "within_ability": first.ability == second.ability,
    }
    for measure in MEASURES:
        a, b = getattr(first, measure), getattr(second, measure)
        found[measure] = {"shared": len(a & b), "first": len(a), "second": len(b)}
    ours, theirs = _by_source(first.patients), _by_source(second.patients)
    found["patients_by_source"] = {
        source: {"shared": len(a & b), "first": len(a), "second": len(b)}
        for source, a, b in ((name, ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys()))
    }
    return found


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
                [s for s in part.samples if s.source == source], [s for s in clean if s.source == source]
            )
            for source in sources
        },
    }


def _rows_and_patients(rows: Sequence[Sample], clean: Sequence[Sample]) -> dict[str, int]:
    return {
        "rows": len(rows),
        "patients": len({patient for sample in rows for patient in patients(sample)}),
        "clean_rows": len(clean),
        "clean_patients": len({patient for sample in clean for patient in patients(sample)}),
    }


def _by_source(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for source, patient in pairs:
        found[source].add(patient)
    return found


def _in_several(by_split: dict[str, list[Part]], measure: str) -> set[Any]:
    """What stands in more than one split."""
    whole = [_union(getattr(part, measure) for part in parts) for parts in by_split.values()]
    return (whole[0] & whole[1]) | (whole[0] & whole[2]) | (whole[1] & whole[2])


def _union(sets: Iterable[set[Any]]) -> set[Any]:
    return set().union(*sets)


def _write_published(folder: Path, clean: Sequence[Sample]) -> None:
    folder.mkdir(exist_ok=True)
    files: dict[str, list[Sample]] = defaultdict(list)
    for sample in clean:
        files[file_of(sample)].append(sample)
    for name, samples in files.items():
        rows = [to_published(sample) for sample in samples]
        (folder / f"{Path(name).stem}.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
