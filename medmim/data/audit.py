"""The stage `audit`: refuses a data set whose splits share patients or images, and lists the clean benchmark rows.

What is compared, and how, is in `leakage`; the limits are the recipe's section `audit`.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medmim import progress, shards, store
from medmim.data.leakage import MEASURES, examine
from medmim.data.sources.published_rows import file_of
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Audit, Recipe
from medmim.run.cache import cached_step, made_before, step_key
from medmim.run.provenance import terms_of
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import Sample, to_published
from medmim.store import Artifact

REVISION = 1
REPORT = "audit.json"
CLEAN = "clean.jsonl"


def run(recipe: Recipe, ws: Workspace, data: str) -> Outcome:
    """Audit a data set, and refuse it if its splits share more than the recipe allows.

    Args:
        recipe: Its section `audit` holds the limits.
        ws: The workspace.
        data: URI of the data artifact.

    Raises:
        Refused: Splits share patients or images above the limits; the message gives the number of clean rows.
    """
    with stage(ws, "audit") as outcome:
        artifact, cached = audit_artifact(ws, data, recipe)
        report = read(ws, artifact)
        outcome.of(artifact, cached)
        outcome.facts = report
        for line in summary(report):
            progress.say(line)
        check_limits(report, recipe.audit, artifact.uri)
    return outcome


def audit_artifact(ws: Workspace, data: str, recipe: Recipe | None = None) -> tuple[Artifact, bool]:
    """The audit artifact of a data artifact, and whether it was cached.

    It holds `audit.json`, `clean.jsonl` (ids of the clean benchmark rows) and, where rows leak, the clean rows of each
    benchmark file in the published layout below `clean/`.

    Raises:
        UserError: `data` is not the URI of a data set.
    """
    source = store.get(data)
    if source.kind != "data":
        raise UserError(f"{data} is an artifact of kind '{source.kind}', not 'data'", fix="give the URI of a data set")

    def make(folder: Path) -> dict[str, Any]:
        samples = shards.read_samples(store.fetch(source, ws.cache, [shards.SAMPLES]), None)
        report, clean = examine(samples)
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        with (folder / CLEAN).open("w", encoding="utf-8") as file:
            for sample in clean:
                file.write(json.dumps({"id": sample.id, "file": file_of(sample)}) + "\n")
        if report["benchmark"]["clean_rows"] < report["benchmark"]["rows"]:
            _write_published(folder / "clean", clean)
        return {**report["benchmark"], "shared": report["shared"]}

    parents, terms = {"data": source.digest}, terms_of(source)
    return cached_step(ws, "audit", REVISION, None, parents, make, recipe=recipe, terms=terms)


def find(ws: Workspace, data: str) -> Artifact | None:
    """The audit of a data set; None where none has been made.

    Args:
        ws: The workspace.
        data: Digest of the data set.
    """
    return made_before(ws, "audit", step_key("audit", REVISION, None, {"data": data}))


def leaking(audit: Artifact, folder: Path, begin: int, count: int) -> list[Sample]:
    """Some of the benchmark rows that share a patient or an image with the training rows, in the order of the data set.

    Args:
        audit: Of the data set.
        folder: With the data set's samples.
        begin: Number of the first row, from 0.
        count: How many.
    """
    lines = store.read_file(audit, CLEAN).splitlines()
    clean = {str(json.loads(line)["id"]) for line in lines}
    rows = (sample for sample in shards.Samples(folder, "test") if sample.id not in clean)
    return list(islice(rows, begin, begin + count))


def read(ws: Workspace, artifact: Artifact) -> dict[str, Any]:
    """The report of an audit artifact."""
    report: dict[str, Any] = json.loads(store.read_file(artifact, REPORT))
    return report


def summary(report: dict[str, Any]) -> list[str]:
    """An audit in a few lines: that nothing is shared, or a line for each benchmark part and each leak."""
    if not any(report["shared"].values()):
        rows, patients = report["benchmark"]["rows"], report["benchmark"]["patients"]
        return [f"no two splits share a patient or an image; {rows:,} rows of {patients:,} patients to test on"]
    lines = []
    for part in report["parts"]:
        if part["split"] == "test":
            total = "as published" if part["file"].endswith(".json") else "in all"
            lines.append(
                f"{part['file']} ({part['ability']}): {total} {part['rows']:,} rows of {part['patients']:,} "
                f"patients, clean {part['clean_rows']:,} rows of {part['clean_patients']:,} patients"
            )
    return lines + leaks(report)


def leaks(report: dict[str, Any]) -> list[str]:
    """A line for each pair of parts that share anything."""
    lines = []
    for pair in report["pairs"]:
        first, second = pair["first"], pair["second"]
        shared = [
            f"{pair[measure]['shared']:,} of {pair[measure]['second']:,} {measure.replace('_', ' ')}"
            for measure in MEASURES
            if pair[measure]["shared"]
        ]
        if shared:
            lines.append(f"{' and '.join(shared)} of {second['file']} are also in {first['file']}")
    return lines


def check_limits(report: dict[str, Any], allowed: Audit, uri: str) -> None:
    """Refuse a data set whose splits share more than is allowed.

    Args:
        report: From `read`.
        allowed: The limits.
        uri: Address of the audit artifact, for the message.

    Raises:
        Refused: With the leaks, and the number of benchmark rows that are clean.
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
        "(audit.max_shared_patients, audit.max_shared_images): a model would be asked about what it was trained on",
        fix=f"use only the clean rows, {uri}/{CLEAN}, or raise the limits to go on with the data as they are",
        problems=leaks(report),
    )


def _write_published(folder: Path, clean: Sequence[Sample]) -> None:
    folder.mkdir(exist_ok=True)
    files: dict[str, list[Sample]] = defaultdict(list)
    for sample in clean:
        files[file_of(sample)].append(sample)
    for name, samples in files.items():
        rows = [to_published(sample) for sample in samples]
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{Path(name).stem}.json").write_text(text, encoding="utf-8")
