"""medmim bench run | show | compare | tasks | export: score models, show their answers, compare two runs."""

import json
import re
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from medmim import hints, store
from medmim.cli import bench_export, bench_tasks
from medmim.cli.options import Home, Json
from medmim.errors import UserError, wrap_os_errors
from medmim.recipe.schema import Bench
from medmim.run.stage import stage
from medmim.run.workspace import Workspace, workspace
from medmim.sample import LETTERS
from medmim.store.paths import existing


class Protocol(StrEnum):
    """The values of `bench.protocol`."""

    GENERATE = "generate"
    LIKELIHOOD = "likelihood"
    BOTH = "both"


class Engine(StrEnum):
    """The values of `bench.engine`."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


app = typer.Typer(no_args_is_help=True, help="Score models, show their answers, compare them.")
_COMPARED = 120  # columns that the table of `compare` needs
_OFFERED = 10  # runs that an error names

RunModel = Annotated[str, typer.Argument(metavar="RUN[#MODEL]", help="As RUN; its first model, or the one named.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or the URI of its scores.")]


app.command("tasks")(bench_tasks.tasks)
app.command("export")(bench_export.export)


@app.command()
def run(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="[NAME=]REF",
            help="Shipped base, folder, store URI, models:/NAME@ALIAS, zoo:NAME or openai:URL#NAME; NAME= gives "
            "it a name. Repeatable: the first is compared with each of the others.",
        ),
    ],
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            help="A name of `bench tasks`, your own YAML, a list in JSON, questions in JSONL, or a data set's URI.",
        ),
    ],
    data: Annotated[str | None, typer.Option("--data", help="Data set. [default: the newest one of the store]")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N questions: not comparable.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Longest answer: a thinking model needs more. [default: 32]"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Questions asked at once. [default: 32]")
    ] = None,
    max_bad_fraction: Annotated[
        float | None,
        typer.Option("--max-bad-fraction", min=0, max=1, help="Share of questions that may fail. [default: 0.02]"),
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            "--protocol", help="Read what is generated, or compare likelihoods of options. [default: generate]"
        ),
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            "--engine",
            help="What runs a checkpoint: vllm serves it for as long as it is asked. [default: transformers]",
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Bench models: with the images, without them, and with them in another order.

    Of several, the first is compared with each of the others, question by question: differences are the first minus
    another. A model without NAME= is named after what its reference ends in; one alone is called `model`.

    With --json: run, uri, digest, and all of scores.json: comparable, protocol, data, tasks, items, models, answers,
    likelihoods, leaderboard, differences, text_only, reading, max_new_tokens; lists (task -> items, digest), where a
    task asks the questions of a list, as `clean` does; failures, where questions ended in an error; page (path, uri),
    where several models were asked.
    """
    from medmim.bench import data_sets, engines, roles, tasks
    from medmim.bench.page import leaderboard
    from medmim.bench.run import bench, facts, scores
    from medmim.registry import lookup

    names, place = tasks.asked(task, data)
    name = f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    ws = workspace(home, run=name)
    uri = data_sets.of(ws, place)

    def find(ref: str) -> tuple[str, str]:
        resolved = lookup.resolve(ref, ws)
        return resolved, engines.engine(resolved, ws, by=engine or "").digest

    found = lookup.each(roles.named(model), find, "--model")
    models = {role: ref for role, (ref, _) in found.items()}
    digests = {role: digest for role, (_, digest) in found.items()}
    roles.refuse_equal(digests)
    asked = ", ".join(f"{'' if role == roles.ALONE else 'model '}{role} {digest}" for role, digest in digests.items())
    _say(f"run {name}, data {store.get(uri).digest}, {asked}, home {ws.home}, store {ws.store}")
    given: dict[str, Any] = {"limit": limit, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    given |= {"max_bad_fraction": max_bad_fraction, "protocol": protocol and protocol.value}
    given |= {"engine": engine and engine.value}
    settings = Bench.model_validate(
        {"tasks": names, **{key: value for key, value in given.items() if value is not None}}
    )
    with stage(ws, "bench") as outcome:
        artifact, cached = bench(ws, uri, models, settings)
        outcome.of(artifact, cached)
        outcome.facts = facts(scores(ws, artifact.uri))
        if len(models) > 1:
            target = leaderboard.path(ws, name)
            outcome.facts["page"] = {"path": str(target), "uri": leaderboard.write(ws, artifact.uri, target).uri}
    _show(outcome.facts, artifact.uri, artifact.digest, as_json, name)


@app.command()
def show(
    run: Run,
    wrong: Annotated[bool, typer.Option("--wrong", help="List the questions that the model got wrong.")] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write the leaderboard: a row for each model, group and metric."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the scores of a run, or the questions it got wrong with every answer.

    With --json: uri, digest and all of scores.json; with --wrong a list of items: id, ability, family, source, images,
    question, options, answer, gold, swapped, answers (role -> probe -> text, choice, status, scores, likelihood).
    """
    from medmim.bench.page import tables
    from medmim.bench.run import facts, predictions, scores

    ws = workspace(home)
    uri = _uri(ws, run)
    digest = store.get(uri).digest
    _say(f"bench {digest}, home {ws.home}, store {ws.store}")
    found = facts(scores(ws, uri))
    if csv is not None:
        with wrap_os_errors(f"writing {csv}"):
            csv.parent.mkdir(parents=True, exist_ok=True)
            csv.write_text(tables.leaderboard(found), encoding="utf-8", newline="")
    if not wrong:
        _show(found, uri, digest, as_json)
        return
    role = next(iter(found["models"]))
    rows = [row for row in predictions(ws, uri) if _is_wrong(row["answers"][role]["none"]["scores"])]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"\n{row['ability']}, {row['family']}, {row['source']}, {row['id']}")
        typer.echo(f"  {' '.join(row['paths'])}\n  {row['question']}")
        for i, option in enumerate(row["options"]):
            after = "   (right when the images move on)" if i in row.get("swapped", ()) else ""
            typer.echo(f"    {'*' if i in row['gold'] else ' '} {LETTERS[i]}: {option}{after}")
        if not row["options"]:
            typer.echo(f"    * {row['answer']}")
        for name, given in row["answers"].items():
            answer = given["none"]
            typer.echo(f"  {name}: {_text(answer)}")
            if swap := given.get("swap"):
                typer.echo(f"  {name}, images moved on: {_text(swap)}")
    typer.echo(f"\n{len(rows):,} of {found['items']:,} questions wrong")


@app.command()
def page(
    run: Run,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to. [default: HOME/reports/RUN.html]")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the page of a run: all its models beside each other, one HTML file that needs nothing else.

    With --json: path, uri and digest of the page.
    """
    from medmim.bench.page import leaderboard

    ws = workspace(home)
    uri = _uri(ws, run)
    target = out or leaderboard.path(ws, run if uri != run else f"bench-{store.get(uri).digest[:12]}")
    made = leaderboard.write(ws, uri, target)
    if as_json:
        typer.echo(json.dumps({"path": str(target), "uri": made.uri, "digest": made.digest}))
    else:
        typer.echo(target)


@app.command()
def compare(first: RunModel, second: RunModel, home: Home = None, as_json: Json = False) -> None:
    """Compare two runs on the questions that both asked: paired differences, first minus second.

    Of a run with several models, RUN#MODEL picks one; the same run may be given twice, with two models. What else
    decides the answers and is not equal (weights, data set, chat template, dtype, longest answer, ...) is printed.

    With --json: models, items, comparable, differs (what, first, second), differences (group, metric, value, low, high,
    p, p_holm, n, patients, unread, opponent_unread).
    """
    from medmim.bench import compare

    ws = workspace(home)
    (one, ours), (other, theirs) = _run_and_model(first), _run_and_model(second)
    uris = _uri(ws, one), _uri(ws, other)
    _say(", ".join(f"bench {store.get(uri).digest}" for uri in uris) + f", home {ws.home}, store {ws.store}")
    found = compare.compare(ws, *uris, ours, theirs)
    if as_json:
        typer.echo(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    from medmim.run import screen

    table = Table("group", "metric", "difference", "95% interval", "p", "p (Holm)", "unread", "n", "patients", box=None)
    for row in found["differences"]:
        known = row["low"] is not None
        interval = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}" if known else "too few patients"
        p, holm = (f"{row[key]:.4f}" if known else "-" for key in ("p", "p_holm"))
        value = f"{100 * row['value']:+.1f}"
        counts = f"{row['n']:,}", f"{row['patients']:,}"
        table.add_row(row["group"], row["metric"], value, interval, p, holm, screen.unread(row), *counts)
    console = Console()
    console.width = max(console.width, _COMPARED)  # a narrow terminal breaks lines, and cuts no name and no number
    console.print(table)
    for row in found["differs"]:
        values = " and ".join(_short(row[side]) for side in ("first", "second"))
        console.print(f"{row['what']}: {values}", markup=False, highlight=False, soft_wrap=True)
    if not found["comparable"]:
        _say(f"not comparable: only the {found['items']:,} questions that both asked")


def _show(facts: dict[str, Any], uri: str, digest: str, as_json: bool, name: str = "") -> None:
    if as_json:
        typer.echo(json.dumps({**({"run": name} if name else {}), "uri": uri, "digest": digest, **facts}))
        return
    from rich.console import Console

    from medmim.bench import failures, reading
    from medmim.run import screen

    console = Console(highlight=False)
    for table in screen.tables(facts):
        console.print(table)
    given_away = sorted({row["group"] for row in facts["text_only"] if row["above"]})
    if given_away:
        console.print(f"text alone answers more than chance allows in: {', '.join(given_away)}")
    for warning in [*failures.warnings(facts), *reading.warnings(facts)]:
        console.print(warning, soft_wrap=True, markup=False)
    if not facts["comparable"]:
        asked = f"{facts['items']:,} {facts.get('split', 'test')} questions"
        console.print(f"not comparable: {asked}, not the whole test split")
    if "page" in facts:
        _say(f"page {facts['page']['path']}")
    _say(f"scores {uri}\nnext: {hints.command('bench', 'show', name or uri, '--wrong')}")


def _text(answer: dict[str, Any]) -> str:
    notes = [answer["status"]] * (answer["status"] != "parsed") + ["cut"] * bool(answer.get("cut"))
    note = f" ({', '.join(notes)})" if notes else ""
    compared = answer.get("likelihood")
    likeliest = f"likeliest {LETTERS[compared['choice']]}" if compared and compared["letters"] else ""
    said = "" if compared and "accuracy" not in answer["scores"] else f"{answer['text'].strip()!r}{note}"
    return ", ".join(filter(None, (said, likeliest))) or answer["status"]


def _is_wrong(scores: dict[str, float]) -> bool:
    return scores.get("accuracy", scores.get("likelihood", scores.get("token_f1", 1.0))) < 1.0


def _run_and_model(text: str) -> tuple[str, str]:
    """What `RUN#MODEL` names; a path may hold a `#`, and a name of a model cannot."""
    run, mark, model = text.rpartition("#")
    return (run, model) if mark and existing(text) is None else (text, "")


def _short(value: str) -> str:
    """A digest as people tell it from another."""
    return value[:12] if re.fullmatch(r"[0-9a-f]{64}", value) else value


def _uri(ws: Workspace, run: str) -> str:
    """A URI as it is; a run's name as the URI of its scores."""
    if not run:
        raise UserError("no run is named", fix=f"give its name, as `{hints.command('bench', 'run')}` prints it")
    path = existing(run)
    if "/" in run or (path is not None and path.is_dir()):
        if store.get(run).kind != "bench":
            raise UserError(
                f"{run} holds no scores", fix="give the URI of an artifact of kind 'bench', or a run's name"
            )
        return run
    try:
        record = json.loads(store.open_store(ws.store).read(f"runs/{run}/bench.json"))
    except FileNotFoundError:
        known = list(islice(_scored(ws), _OFFERED))
        raise UserError(
            f"no run '{run}' with scores in {ws.store}",
            fix=f"runs: {', '.join(known)}" if known else f"bench a model first: {hints.command('bench', 'run')}",
        ) from None
    if not record["uri"]:
        raise UserError(f"the bench of run '{run}' did not finish", reason=record["message"])
    return str(record["uri"])


def _scored(ws: Workspace) -> Iterator[str]:
    """Names of the runs with scores, the last one first."""
    where = store.open_store(ws.store)
    for key in sorted((key for key in where.list("runs/") if key.endswith("/bench.json")), reverse=True):
        if json.loads(where.read(key))["uri"]:
            yield key.split("/")[1]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
