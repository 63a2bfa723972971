"""report: what a run did, as one page that needs nothing else; written however the run ended."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from medmim import __version__
from medmim.bench import failures, reading
from medmim.bench import run as bench
from medmim.bench.page import examples, leaderboard
from medmim.errors import UserError, within
from medmim.lvlm.zoo import stored
from medmim.page import figures
from medmim.page.page import label, publish, templates
from medmim.recipe.schema import Recipe
from medmim.run.provenance import provenance
from medmim.run.stage import STAGES, Outcome, outcomes, stage, stages_of
from medmim.run.workspace import Workspace
from medmim.tracking import training_run

REVISION = 1
_PATIENCE = 30.0  # s that an MLflow that does not answer may keep a report waiting
_SERIES = ("tuned", "base", "champion")  # in the order and with the colours of the figure


def run(recipe: Recipe, ws: Workspace) -> Outcome:
    """Write the page of this run from the records of its stages, however many there are.

    Returns:
        Facts: `path` of the page in the home; `models` (path, uri), the page of the benchmark, where the recipe names
        further models.

    Raises:
        UserError: The disk is full, or the store refuses.
    """
    with stage(ws, "report") as outcome:
        before = {name: own for name, own in outcomes(ws).items() if name != "report"}
        page = render(recipe, ws, before)
        target = ws.home / "reports" / f"{ws.run or 'report'}.html"
        publish(ws, page, target, provenance("report", REVISION, {}, recipe), outcome)
        scored = before.get("bench")
        if recipe.bench.models and scored and scored.uri:
            outcome.facts |= leaderboard.beside(ws, scored.uri, target)
        _to_mlflow(recipe, ws, before)
    return outcome


def _to_mlflow(recipe: Recipe, ws: Workspace, found: Mapping[str, Outcome]) -> None:
    """Put page and decision beside the model in MLflow, and end the MLflow run of a training that failed.

    The page goes there without patients' images and answers: whoever erases a patient removes pages of the store.
    """
    facts = [found[name].facts for name in ("register", "finetune") if name in found]
    run = next((str(one[training_run.FACT]) for one in facts if one.get(training_run.FACT)), "")
    if not run:
        return
    name = ws.run or "report"
    files = {f"report/{name}.html": render(recipe, ws, found, shows_examples=False).encode()}
    gate = found.get("gate")
    if gate is not None and gate.facts:
        files[f"decision/{name}.json"] = json.dumps(gate.facts, indent=1, sort_keys=True).encode()
    ended = any(one.status == "failed" for one in found.values())
    with within(_PATIENCE):
        training_run.log_files(ws, run, files, failed=ended)


def render(recipe: Recipe, ws: Workspace, found: Mapping[str, Outcome], shows_examples: bool = True) -> str:
    """The page as HTML.

    Args:
        recipe: What was run.
        ws: The workspace, to read the artifacts.
        found: The stages' records; any may be absent.
        shows_examples: Whether some questions are on it, with images and answers.
    """
    facts: dict[str, dict[str, Any]] = {name: (found[name].facts if name in found else {}) for name in STAGES}
    scores = facts["bench"]
    board = scores.get("leaderboard", [])
    main = "accuracy" if any(row["metric"] == "accuracy" for row in board) else "likelihood"
    closed = [row for row in board if row["metric"] in (main, "likelihood")]
    first = [row for row in closed if not row["group"].startswith("source:")]
    asked = list(scores.get("models", {}))
    drawn = asked if len(asked) <= len(_SERIES) else _SERIES  # the page of the models draws more of them
    losses = facts["finetune"].get("losses", [])
    environment = templates("medmim.bench.page")
    environment.filters |= {"count": _count, "running_mean": figures.running_mean}
    return environment.get_template("report.html.j2").render(
        recipe=recipe,
        run=ws.run,
        time=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        version=__version__,
        verdict=_verdict(recipe, found),
        trains=recipe.pipeline == "train",
        first=next(iter(scores.get("models", {})), ""),
        stages=[(name, found.get(name)) for name in stages_of(recipe) if name != "report"],
        seconds=sum(outcome.seconds for outcome in found.values()),
        scores=scores,
        warnings=[*failures.warnings(scores), *reading.warnings(scores)],
        tiles=_tiles(scores, main),
        intervals=_intervals([row for row in first if row["metric"] == main and row["model"] in drawn], main),
        further=bool(recipe.bench.models),
        headline=first or board,
        others=[row for row in board if row not in first] if first else [],
        curve=figures.curve(losses, [(step, loss) for step, loss, _ in facts["finetune"].get("validation", [])]),
        losses=[loss for _, loss in losses],
        data=facts["data"],
        finetune=facts["finetune"],
        audit=facts["audit"],
        leaks=_leaks(facts["audit"]),
        cards=_cards(recipe, ws, found) if shows_examples else [],
        lineage=_lineage(found),
        settings=json.dumps(recipe.record(), indent=2),
    )


def _verdict(recipe: Recipe, found: Mapping[str, Outcome]) -> dict[str, Any]:
    """The headline: what was decided and why, or where the run stopped."""
    gate, promote = found.get("gate"), found.get("promote")
    decision = (promote and promote.facts.get("decision")) or (gate and gate.facts.get("decision"))
    broken = next((o for o in found.values() if o.status == "failed" or (o.status == "refused" and not decision)), None)
    rules = [(rule["passed"], rule["text"]) for rule in gate.facts.get("rules", [])] if gate else []
    reasons = rules or [(None, text) for text in (gate.facts.get("reasons", []) if gate else [])]
    if broken:
        title = f"{'Refused' if broken.status == 'refused' else 'Stopped'} at {broken.stage}"
        kind = "refused" if broken.status == "refused" else "failed"
        return {"kind": kind, "title": title, "message": broken.message, "reasons": reasons}
    if (bench := found.get("bench")) and gate is None and {"tuned", "base"}.isdisjoint(bench.facts["models"]):
        title = f"Compared: {len(bench.facts['models'])} models"
        noise = [name for name, ref in recipe.bench.models.items() if ref.startswith(stored.PREFIX + stored.STAND_IN)]
        said = [(None, f"stand-ins with random weights, whose answers are noise: {', '.join(noise)}")] if noise else []
        return {"kind": "compared", "title": title, "message": "", "reasons": said}
    champion = (promote and promote.facts.get("champion")) or {}
    name = f"{champion['name']} version {champion['version']}" if champion else "the candidate"
    verdicts = {
        "promoted": ("promoted", f"Promoted: {name} is the champion"),
        "kept": ("kept", f"Kept: {name} stays the champion"),
        "refused": ("refused", "Refused: the champion's place stays as it was"),
        "awaiting approval": ("open", "Passed the gate: the candidate awaits approval"),
    }
    kind, title = verdicts.get(str(decision), ("open", "Undecided"))
    return {"kind": kind, "title": title, "message": "", "reasons": reasons}


def _tiles(scores: Mapping[str, Any], main: str) -> list[dict[str, Any]]:
    """Held-in and held-out in a few numbers each: tuned, base, gain, blind; and the gain by other measures."""
    tiles = []
    for group in ("held_in", "held_out"):
        own = {r["model"]: r for r in scores.get("leaderboard", []) if (r["group"], r["metric"]) == (group, main)}
        gains = {
            row["metric"]: row
            for row in scores.get("differences", [])
            if (row["group"], row["opponent"]) == (group, "base")
        }
        others = [
            (name, gains[metric])
            for metric, name in (("accuracy_if_read", "where both are read"), ("likelihood", "by likelihood"))
            if metric in gains and metric != main
        ]
        if "tuned" in own:
            known = {"metric": main, "group": group, "tuned": own["tuned"], "base": own.get("base")}
            tiles.append({**known, "gain": gains.get(main), "others": others})
    return tiles


def _intervals(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Every model's score by group, beside chance and the main model's score without images; empty without rows."""
    series = [*_SERIES, *sorted({str(row["model"]) for row in rows} - {*_SERIES})]
    ordered = sorted(rows, key=lambda row: series.index(row["model"]))
    main: dict[str, Mapping[str, Any]] = {}
    for row in ordered:
        main.setdefault(label(row["group"]), row)
    points = [
        figures.Point(
            row["model"], label(row["group"]), row["value"], row["low"], row["high"], row["n"], row["patients"]
        )
        for row in rows
    ]
    levels = [
        figures.Point(name, at, row[key])
        for key in ("blind", "chance")
        for at, row in main.items()
        if row[key] is not None
        for name in [f"{row['model']}, images removed" if key == "blind" else key]
    ]
    return figures.intervals(points, levels, series, metric)


def _leaks(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs of parts that share something."""
    measures = ("patients", "image_sets", "images")
    return [pair for pair in audit.get("pairs", []) if any(pair[measure]["shared"] for measure in measures)]


def _cards(recipe: Recipe, ws: Workspace, found: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    data, scored = found.get("data"), found.get("bench")
    if data is None or not data.uri or not recipe.report.examples:
        return []
    try:
        folder = ws.fetch(data.uri)
        if scored and scored.uri:
            rows = examples.pick(bench.predictions(ws, scored.uri), recipe.report.examples)
        else:
            rows = list(examples.unanswered(folder, recipe.report.examples))
        return examples.cards(rows, folder)
    except UserError:  # an artifact is gone or damaged: its own stage says so
        return []


def _lineage(found: Mapping[str, Outcome]) -> list[tuple[str, str, str]]:
    """(what, digest or value, address) from the data to the model version."""
    rows = [
        (name, outcome.digest, outcome.uri) for name, outcome in found.items() if outcome.digest and name != "report"
    ]
    register = found.get("register")
    if register and register.facts.get("version"):
        rows.append(("model version", f"{register.facts['name']} version {register.facts['version']}", ""))
    if register:
        rows += [(str(key), str(value), "") for key, value in register.facts.get("lineage", {}).items()]
    return rows


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
