"""medmim nightly: bench the night's models here, or submit that to a cluster."""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from medmim import store, tracking
from medmim.cli.options import Home, Host, Json, Namespace, RecipeRef, Sets
from medmim.errors import UserError
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run import kfp_local
from medmim.run.lock import locked
from medmim.run.screen import Screen, stages
from medmim.run.stage import NIGHTLY, RECIPE, Outcome, outcomes
from medmim.run.workspace import Workspace, workspace
from medmim.sample import digest_of

if TYPE_CHECKING:
    from medmim.cluster.kfp import submit
    from medmim.cluster.kfp.access import Access

_RECORDED = (
    "the night of {date} is recorded already, and a record never changes: this is what it says, and the settings given "
    "now were not used"
)


def nightly(
    recipe: RecipeRef,
    submit: Annotated[bool, typer.Option("--submit", help="On the cluster: one KFP run a night.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="With --submit: once more, after a run of this night without a record.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --submit: follow the night's run, and exit with its result.")
    ] = False,
    sets: Sets = None,
    home: Home = None,
    host: Host = None,
    namespace: Namespace = None,
    image: Annotated[
        str | None, typer.Option("--image", help="With --submit: medmim's image, pinned by digest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bench champion, challengers, base and references again, and compare with the last nights.

    What did not change is answered from the cache; a canary is asked anew. A night that was killed resumes. Exit code
    1 is an alarm: a regression, or an engine that drifted. With --json the last line is one object: night, run, verdict
    (quiet, alarm or null), alarms, notes, scores, canary, differences, page, seconds; with --submit: night, run,
    run_id, link, recipe, pipeline, version, new_version; with --wait also state, steps and exit_code. --wait follows a
    run of this night that was submitted before, if there is one: its pipeline, version and new_version are null.
    """
    from medmim.bench import tasks
    from medmim.nightly import rebench

    parsed = tasks.in_recipe(loading.load_to_train(recipe, sets or ()))
    date = rebench.date_of(parsed)  # of this moment, also for a run that takes until after midnight
    parsed = parsed.model_copy(update={"nightly": parsed.nightly.model_copy(update={"date": date})})
    if (again or wait) and not submit:
        given = "--again" if again else "--wait"
        raise UserError(f"{given} goes with --submit", fix="here the same command resumes a night that was killed")
    if not submit:
        raise typer.Exit(_run(parsed, date, home, as_json))
    from medmim.cluster.kfp.access import resolve

    access = partial(resolve, host, namespace or parsed.platform.pods.namespace)
    raise typer.Exit(_submit(parsed, date, again, wait, access, image, as_json))


def _run(parsed: Recipe, date: str, home: Path | None, as_json: bool) -> int:
    from medmim.nightly import records

    ws = workspace(home, parsed)
    tracking.check(ws)
    suffix = digest_of([platform.node(), str(ws.home)])[:4]  # the next try from here is the same run, and resumes
    ws = replace(ws, run=records.run_name(parsed.name, date, suffix))
    existing = records.find(ws, parsed.name, date)
    if existing is not None and existing.run != ws.run:
        raise records.already_recorded(parsed.name, date, existing.run)
    notes = [_RECORDED.format(date=date)] if existing else []
    log = kfp_local.log_file(ws)
    log.parent.parent.mkdir(parents=True, exist_ok=True)

    def busy(holder: str) -> UserError:
        return UserError(
            f"the night of {date} of recipe {parsed.name} is running in {holder}, as run {ws.run}",
            reason="two at once from one home would be the same run",
            fix=f"wait for it; its log is {log}",
        )

    with locked(log.parent, busy):
        for name in NIGHTLY:  # of a try that was killed
            store.open_store(ws.store).delete(f"runs/{ws.run}/{name}.json")
        screen = Screen(quiet=as_json)
        screen.start(parsed, ws, "nightly")
        code = kfp_local.run_pipeline("nightly", parsed, ws, screen)
        found = outcomes(ws, NIGHTLY)
        _end(screen, found, notes)
        if as_json:
            typer.echo(json.dumps(summary(found, date, ws.run, notes), sort_keys=True))
        return kfp_local.exit_code(found, list(screen.errors.values()), code, ws)


def summary(found: dict[str, Outcome], date: str, run: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """What `--json` prints; its keys are a contract. `notes` are this command's, beside those of the record."""
    watch, trend = found.get("watch"), found.get("trend")
    night = watch.facts if watch else {}
    return {
        "night": date,
        "run": run,
        "verdict": ("alarm" if night["alarms"] else "quiet") if night else None,
        "page": trend.facts.get("path") if trend else None,
        "seconds": {name: outcome.seconds for name, outcome in found.items()},
        **{key: night.get(key, []) for key in ("alarms", "scores", "differences")},
        "notes": [*notes, *night.get("notes", ())],
        "canary": night.get("canary", {}),
    }


def _end(screen: Screen, found: dict[str, Outcome], notes: Sequence[str]) -> None:
    """Print stages, scores, notes, alarms and where the page is."""
    screen.stop()
    out = screen.out
    out.print(stages(found))
    watch, trend = found.get("watch"), found.get("trend")
    if watch and watch.facts:
        out.print(_scores(watch.facts))
        for text in (*notes, *watch.facts["notes"]):
            out.print(f"note: {text}", markup=False, soft_wrap=True)
        verdict = "[red]alarm[/]" if watch.facts["alarms"] else "[green]quiet[/]"
        out.print(f"\n[bold]night {watch.facts['date']}[/]  {verdict}")
        for text in watch.facts["alarms"]:
            out.print(f"  - {text}", markup=False, soft_wrap=True)
    screen.failures(found)
    if trend and trend.facts:
        out.print(f"\ntrend     {trend.facts['path']}", markup=False, soft_wrap=True)


def _scores(night: dict[str, Any]) -> Table:
    """Accuracy held-in and held-out of each model, and its canary."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("model", "held-in", "held-out", "canary: changed", "weights"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("model", "weights") else "right")
    values = {(row["model"], row["group"]): row["value"] for row in night["scores"] if row["metric"] == "accuracy"}
    for role, own in night["models"].items():
        shares = [values.get((role, group)) for group in ("held_in", "held_out")]
        scores = ("-" if one is None else f"{100 * one:.1f}" for one in shares)
        canary = night["canary"][role]
        changed = f"{canary['changed']} of {canary['asked']}" + (", drifted" if canary["drifted"] else "")
        table.add_row(role, *scores, changed, own["weights"][:12])
    return table


def _submit(
    parsed: Recipe, date: str, again: bool, wait: bool, access: Callable[[], "Access"], image: str | None, as_json: bool
) -> int:
    """Submit a night, and wait for its end where that is wanted; the exit code."""
    from rich.console import Console

    from medmim.cluster.kfp import client, runs, submit
    from medmim.nightly import records, roster

    roster.check_reachable(parsed)
    out = Console(stderr=as_json, highlight=False)
    api, existing = None, None
    if wait and not again:  # this command may have been ended, with its pod, while it waited
        api = client.connect(access())
        existing = runs.newest(api, records.run_name(parsed.name, date, ""))
    if api is None or existing is None:
        planned, made = _start(parsed, date, again, access, image)
        for note in planned.notes:
            out.print(f"note: {note}", markup=False, soft_wrap=True)
        api, run, report = planned.api, runs.pending(made), asdict(made)
    else:
        run, report = existing, dict.fromkeys(field.name for field in fields(submit.Submitted))
        report |= {"run": run.name, "run_id": run.run_id, "link": run.link, "recipe": run.uri}
        out.print("note: this night was submitted before: its run is followed", soft_wrap=True)
    link = f"\n          {run.link}" if run.link else ""
    out.print(f"night     {date}\nrun       {run.name}{link}", markup=False, soft_wrap=True)
    code = 0
    if wait:
        from medmim.cli.follow import follow

        run, code = follow(api, run)
        report |= {"state": run.state, "exit_code": code, "steps": [asdict(step) for step in run.steps]}
    if as_json:
        typer.echo(json.dumps({"night": date, **report}))
    return code


def _start(
    parsed: Recipe, date: str, again: bool, access: Callable[[], "Access"], image: str | None
) -> tuple["submit.Plan", "submit.Submitted"]:
    """Claim a night and start its run."""
    from medmim.cluster.kfp import submit
    from medmim.nightly import records

    first = records.run_name(parsed.name, date, "1")
    planned = submit.plan("nightly", parsed, first, access=access, image=image)  # refuses before anything is claimed
    ws = Workspace(Path(), planned.store, "")
    run = records.claim(ws, parsed.name, date, again)
    try:
        return planned, submit.start(replace(planned, run=run))
    except BaseException:
        if not store.open_store(ws.store).exists(f"runs/{run}/{RECIPE}"):  # else the run may have been started
            records.withdraw(ws, parsed.name, date, run)
        raise
