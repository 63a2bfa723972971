"""The stage `audit`: makes the checks of a data set, refuses what crosses a limit, and lists the clean rows."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medmim import progress, shards, store
from medmim.data.audit import (
    balance,
    burned_in,
    fingerprints,
    identifiers,
    known_names,
    leakage,
    pictures,
    questions,
    text_only,
    types,
)
from medmim.data.audit.check import judged, line, tells
from medmim.data.build import FLAGGED
from medmim.data.sources.published_rows import file_of
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Audit, Recipe
from medmim.run.cache import cached_step, made_before, step_key
from medmim.run.provenance import provenance_of, terms_of
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import Sample, to_published
from medmim.store import Artifact

REVISION = 7
REPORT, ROWS, CLEAN = "audit.json", "rows.jsonl", "clean.jsonl"
_RAISE = "raise the limits (in the recipe, or by --set audit.KEY=VALUE)"
MOST_KNOWN = 100  # rows of a report that hold a name of the list; all are counted
_KNOWN = "known_names"
_LISTED = 8  # rows of a check in the message that refuses


def run(recipe: Recipe, ws: Workspace, data: str) -> Outcome:
    """Audit a data set, and refuse it if it crosses a limit of the recipe.

    Args:
        recipe: Its section `audit` holds the limits.
        ws: The workspace.
        data: URI of the data artifact.

    Raises:
        Refused: A limit is crossed; the message gives the number of clean rows.
    """
    with stage(ws, "audit") as outcome:
        artifact, cached = audit_artifact(ws, data, recipe)
        report = read(artifact)
        outcome.of(artifact, cached)
        add_names(ws, data, report, recipe.audit)
        outcome.facts = report
        for text in [*summary(report), *told(report, recipe.audit)]:
            progress.say(text)
        check_limits(report, recipe.audit, artifact)
    return outcome


def audit_artifact(
    ws: Workspace, data: str, recipe: Recipe | None = None, allowed: Audit | None = None
) -> tuple[Artifact, bool]:
    """The audit artifact of a data artifact, and whether it was cached.

    It holds `audit.json`, `rows.jsonl` (the rows that its checks have found), `clean.jsonl` (ids of the clean benchmark
    rows) and, where rows leak, the clean rows of each benchmark file in the published layout below `clean/`.

    Args:
        ws: The workspace.
        data: URI of the data artifact.
        recipe: Of the run that asks; its section `audit` says what is measured.
        allowed: The section, where no run asks; without either, that of the recipe which made the data set.

    Raises:
        UserError: `data` is not the URI of a data set.
    """
    source = store.get(data)
    if source.kind != "data":
        raise UserError(f"{data} is an artifact of kind '{source.kind}', not 'data'", fix="give the URI of a data set")

    allowed = recipe.audit if recipe else allowed or limits_of(source)

    def make(folder: Path) -> dict[str, Any]:
        samples = shards.read_samples(store.fetch(source, ws.cache, [shards.SAMPLES]), None)
        prints = fingerprints.of(ws, source)
        twins = pictures.twins(samples, prints, allowed.look_alike_distance) if prints else None
        report, clean = leakage.examine(samples, twins.leaked(allowed) if twins else ())
        by_type = types.by_type(samples)
        checks = [
            *leakage.checks(report, samples),
            *pictures.checks(samples, twins, allowed.look_alike_distance),
            *questions.checks(samples, prints.pixels_of() if prints else {}),
            *text_only.checks(by_type),
            *balance.checks(by_type),
            *identifiers.checks(samples),
            *identifiers.of_headers(samples, _flagged(source), source.counts.get("headers", 0)),
        ]
        if allowed.read_images:
            readings = burned_in.of(ws, source, allowed.read_images)
            checks += burned_in.checks(samples, readings, len(prints.places) if prints else 0)
        report["checks"] = [check.as_dict() for check in checks]
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        with (folder / ROWS).open("w", encoding="utf-8") as file:
            for check in checks:
                file.writelines(json.dumps({"check": check.name, **row.__dict__}) + "\n" for row in check.rows)
        with (folder / CLEAN).open("w", encoding="utf-8") as file:
            for sample in clean:
                file.write(json.dumps({"id": sample.id, "file": file_of(sample)}) + "\n")
        if report["benchmark"]["clean_rows"] < report["benchmark"]["rows"]:
            _write_published(folder / "clean", clean)
        return {**report["benchmark"], "shared": report["shared"]}

    parents, terms = {"data": source.digest}, terms_of(source)
    return cached_step(ws, "audit", REVISION, _settings(allowed), parents, make, recipe=recipe, terms=terms)


def _flagged(source: Artifact) -> list[dict[str, str]]:
    if FLAGGED not in source.files:
        return []
    return [json.loads(line) for line in store.read_file(source, FLAGGED).splitlines()]


def _settings(allowed: Audit) -> dict[str, Any] | None:
    """What of a recipe's section decides the content; None where all is as by default."""

    def chosen(section: Audit) -> dict[str, Any]:
        return {
            "look_alikes": section.max_look_alikes is not None,
            "distance": section.look_alike_distance,
            **({"read_images": section.read_images} if section.read_images else {}),
        }

    return chosen(allowed) if chosen(allowed) != chosen(Audit()) else None


def made(ws: Workspace, data: Artifact, allowed: Audit | None = None) -> Artifact | None:
    """The audit of a data set by this version, as `audit_artifact` would find it; None where it would be made.

    Args:
        ws: The workspace.
        data: The data set.
        allowed: As for `audit_artifact`.
    """
    settings = _settings(allowed or limits_of(data))
    return made_before(ws, "audit", step_key("audit", REVISION, settings, {"data": data.digest}))


def find(ws: Workspace, data: str) -> Artifact | None:
    """The audit of a data set, also one of an earlier version; None where none has been made.

    Args:
        ws: The workspace.
        data: Digest of the data set.
    """
    asked = dict.fromkeys([_asked(ws, data), None])
    tried = [(number, settings) for number in range(REVISION, 0, -1) for settings in asked]
    keys = (step_key("audit", number, settings and json.loads(settings), {"data": data}) for number, settings in tried)
    return next((found for key in keys if (found := made_before(ws, "audit", key)) is not None), None)


def _asked(ws: Workspace, data: str) -> str | None:
    """The settings, as JSON, of the recipe that made a data set; None where they are as by default, or not known."""
    made = store.find(f"{ws.store}/data/{data}")
    settings = _settings(limits_of(made)) if made else None
    return json.dumps(settings) if settings else None


def limits_of(data: Artifact) -> Audit:
    """The section `audit` of the recipe that made a data set; as by default where none is recorded, or none is known.

    Args:
        data: The data set.
    """
    return section_of(provenance_of(data).get("recipe") or {})


def section_of(recipe: Mapping[str, Any]) -> Audit:
    """The section `audit` of a recorded recipe; as by default where it has none, or one of another version."""
    return _section(recipe)[0]


def whose_limits(data: Artifact) -> str:
    """Whose limits `limits_of` gives, in words for people: the recipe's, or the default ones and why."""
    recipe = provenance_of(data).get("recipe")
    if not recipe:
        return "the default ones: no recipe of the data set is recorded"
    return "those of the recipe that made the data set" if _section(recipe)[1] else _OTHER_VERSION


_OTHER_VERSION = "the default ones: the recipe that made the data set is of another version"


def _section(recipe: Mapping[str, Any]) -> tuple[Audit, bool]:
    """The section of a recorded recipe, and whether this version can read it."""
    try:
        return Audit.model_validate_json(json.dumps(recipe.get("audit") or {})), True
    except ValidationError:
        return Audit(), False


def leaking(audit: Artifact, folder: Path, begin: int, count: int) -> list[Sample]:
    """Some of the benchmark rows that are not clean, in the order of the data set.

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


def read(artifact: Artifact) -> dict[str, Any]:
    """The report of an audit artifact; one of an earlier version has the checks that it made."""
    report: dict[str, Any] = json.loads(store.read_file(artifact, REPORT))
    if "checks" not in report:
        report["checks"] = [check.as_dict() for check in leakage.checks(report, ())]
    return report


def add_names(ws: Workspace, data: str, report: dict[str, Any], allowed: Audit) -> None:
    """Add the check of `audit.names` to a report, where the section has a list; its first rows go into `known_names`.

    No audit holds it: the list is this machine's, and may be another tomorrow.

    Raises:
        UserError: The list is not there, or cannot be read.
    """
    if allowed.names is None:
        return
    listed = known_names.read(allowed.names)
    samples = shards.read_samples(store.fetch(store.get(data), ws.cache, [shards.SAMPLES]), None)
    found = known_names.check(samples, listed)
    report["checks"] = [*report["checks"], found.as_dict()]
    report[_KNOWN] = [{"check": found.name, **row.__dict__} for row in found.rows[:MOST_KNOWN]]


def rows(artifact: Artifact, report: Mapping[str, Any] | None = None) -> Iterator[dict[str, str]]:
    """The rows that the checks of an audit have found: check, id, file, found; none of an earlier version.

    Args:
        artifact: The audit.
        report: Of it; with those of `add_names`.
    """
    if ROWS in artifact.files:
        yield from map(json.loads, store.read_file(artifact, ROWS).splitlines())
    yield from (report or {}).get(_KNOWN, ())


def summary(report: dict[str, Any]) -> list[str]:
    """An audit in a few lines: that nothing is shared, or a line for each benchmark part and each leak."""
    benchmark = report["benchmark"]
    if not any(report["shared"].values()) and benchmark["clean_rows"] == benchmark["rows"]:
        rows, patients = benchmark["rows"], benchmark["patients"]
        again = any(one["value"] for one in report.get("checks", ()) if one["name"] in ("pixels", "look-alikes"))
        image = "the bytes of an image" if again else "an image"
        return [f"no two splits share a patient or {image}; {rows:,} rows of {patients:,} patients to test on"]
    lines = []
    for part in report["parts"]:
        if part["split"] == "test":
            total = "as published" if part["file"].endswith(".json") else "in all"
            lines.append(
                f"{part['file']} ({part['ability']}): {total} {part['rows']:,} rows of {part['patients']:,} "
                f"patients, clean {part['clean_rows']:,} rows of {part['clean_patients']:,} patients"
            )
    return lines + leaks(report)


def told(report: dict[str, Any], allowed: Audit) -> list[str]:
    """A line for each check that has crossed its limit, could not be made, or has found something without a limit."""
    return [line(one) for one in judged(report["checks"], allowed) if tells(one)]


def leaks(report: dict[str, Any]) -> list[str]:
    """A line for each pair of parts that share anything."""
    lines = []
    for pair in report["pairs"]:
        first, second = pair["first"], pair["second"]
        shared = [
            f"{pair[measure]['shared']:,} of {pair[measure]['second']:,} {measure.replace('_', ' ')}"
            for measure in leakage.MEASURES
            if pair[measure]["shared"]
        ]
        if shared:
            lines.append(f"{' and '.join(shared)} of {second['file']} are also in {first['file']}")
    return lines


def check_limits(report: dict[str, Any], allowed: Audit, artifact: Artifact) -> None:
    """Refuse a data set that crosses a limit.

    Args:
        report: From `read`.
        allowed: The limits.
        artifact: The audit.

    Raises:
        Refused: With the checks that have crossed theirs, the first rows of each, and the number of clean rows.
    """
    crossed = [one for one in judged(report["checks"], allowed) if one["crossed"]]
    if not crossed:
        return
    names, benchmark = {one["name"] for one in crossed}, report["benchmark"]
    clean = (
        f"of {benchmark['rows']:,} benchmark rows, {benchmark['clean_rows']:,} of {benchmark['clean_patients']:,} "
        "patients are clean"
    )
    fact = f"the data set crosses {len(crossed)} limits of the audit" if len(crossed) > 1 else line(crossed[0])
    reason = "; ".join(sorted({f"audit.{one['key']} is {one['limit']:g}" for one in crossed}))
    fix = f"see the rows in {artifact.uri}/{ROWS}, or {_RAISE} to go on with the data as they are"
    problems = [line(one) for one in crossed]
    if leaked := names & set(leakage.MEASURES):
        shared = report["shared"]
        fact = f"the splits share {shared['patients']:,} patients and {shared['images']:,} images: {clean}"
        reason += ": a model would be asked about what it was trained on"
        fix = f"use only the clean rows, {artifact.uri}/{CLEAN}, or {_RAISE} to go on with the data as they are"
        problems = [*(line(one) for one in crossed if one["name"] not in leaked), *leaks(report)]
    listed: dict[str, int] = defaultdict(int)
    for row in rows(artifact, report):
        if row["check"] in names and listed[row["check"]] < _LISTED:
            listed[row["check"]] += 1
            problems.append(f"{row['check']}: {row['id']} ({row['file']}): {row['found']}")
    raise Refused(fact, reason=reason, fix=fix, problems=problems)


def _write_published(folder: Path, clean: Sequence[Sample]) -> None:
    folder.mkdir(exist_ok=True)
    files: dict[str, list[Sample]] = defaultdict(list)
    for sample in clean:
        files[file_of(sample)].append(sample)
    for name, samples in files.items():
        rows = [to_published(sample) for sample in samples]
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{Path(name).stem}.json").write_text(text, encoding="utf-8")
