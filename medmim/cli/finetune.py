"""medmim finetune: train a base on a data set -> a tuned model."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from medmim import store
from medmim.cli.options import Home, Json, RecipeRef, Sets
from medmim.errors import UserError
from medmim.recipe import loading, schema
from medmim.run.stage import Outcome
from medmim.run.workspace import Workspace, workspace


def finetune(
    recipe: RecipeRef,
    data: Annotated[
        str | None, typer.Option("--data", help="URI of a data set. [default: the recipe's, built if need be]")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Shipped base, folder, store URI, models:/NAME@ALIAS or imported:FAMILY."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, train nothing.")] = False,
    sets: Sets = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a base on the train split of a data set.

    With --json: uri, digest, cached, steps, samples, tokens, loss, quarantined, workers, seconds, tokens_per_s, mfu,
    data_wait, losses, kept_step, dev_loss, dev_accuracy, dev_items, dev_quarantined and validation.
    With --dry-run: samples, quarantined, tokens, trained_tokens, longest, limit, limited_by, steps, rows, filled,
    parameters, trainable, memory_gib, host_gib, device, workers, checkpoint_gib, model_gib and memory: for each way to
    train its zero, lora, ours, device_gib, host_gib and parts.
    """
    from medmim.cluster import dispatch
    from medmim.finetune import run
    from medmim.finetune.plan import plan
    from medmim.lvlm import checkpoint
    from medmim.registry import lookup

    parsed = loading.load_to_train(recipe, [*(sets or ()), *([f"finetune.base={base}"] if base else [])])
    ws = workspace(home, parsed)
    ref = lookup.resolve(parsed.finetune.base, ws)
    uri = data or _built(parsed, ws)
    digests = f"data {store.get(uri).digest}, base {checkpoint.digest(checkpoint.locate(ref))}"
    sys.stderr.write(f"recipe {parsed.name}, {digests}, home {ws.home}, store {ws.store}\n")
    if dry_run:
        facts = asdict(plan(parsed, ws, uri, ref))
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            _print_plan(facts)
        return
    if dispatch.is_remote(parsed):
        uploaded = checkpoint.upload_if_local(ref, ws)
        made = store.get(dispatch.run(parsed, ws, "finetune", {"data": uri, "base": uploaded}))
        outcome = Outcome("finetune", uri=made.uri, digest=made.digest, facts=dict(made.counts))
    else:
        outcome = run.run(parsed, ws, uri, ref)
    if as_json:
        typer.echo(
            json.dumps({"uri": outcome.uri, "digest": outcome.digest, "cached": outcome.cached, **outcome.facts})
        )
        return
    facts = outcome.facts
    found = "found" if outcome.cached else f"made in {facts['seconds']:,} s at {facts['tokens_per_s']:,} tokens/s"
    typer.echo(f"model {outcome.uri}\n{found}: {facts['steps']:,} steps, loss {facts['loss']:.4g}")


def _print_plan(facts: dict[str, Any]) -> None:
    """The plan: its facts, then memory, a column for each way to train."""
    from rich.console import Console
    from rich.table import Table

    ways = facts.pop("memory")
    for key, value in facts.items():
        typer.echo(f"{key.replace('_', ' '):<15} {value if isinstance(value, str) else f'{value:,}':>14}")
    gpu = facts["device"] == "gpu"
    heads = [f"{'* ' if way['ours'] else ''}zero {way['zero']}{' lora' if way['lora'] else ''}" for way in ways]
    table = Table("GiB of a worker", *heads, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    names = dict.fromkeys((part["name"], part["passing"]) for way in ways for part in way["parts"])
    for name, passing in names:
        cells = []
        for way in ways:
            part = next((part for part in way["parts"] if part["name"] == name), None)
            sizes = [] if part is None else [part["device_gib"], part["host_gib"]]
            cells.append(" + ".join(f"{s:.2f}{' host' if gpu and i else ''}" for i, s in enumerate(sizes) if s) or "-")
        table.add_row(f"{name}{' (for a moment)' if passing else ''}", *cells)
    table.add_section()
    table.add_row("most on the GPU" if gpu else "most at once", *(f"{way['device_gib']:.2f}" for way in ways))
    if gpu:
        table.add_row("most in host memory", *(f"{way['host_gib']:.2f}" for way in ways))
    console = Console(highlight=False, width=max(120, Console().width))
    console.print()
    console.print(table)
    console.print("* the recipe's. Of what is held for a moment, only the largest counts: it is not held at once.")
    if gpu:
        console.print("CUDA's own context and the gaps between allocations are not in it.")


def _built(recipe: schema.Recipe, ws: Workspace) -> str:
    """The data set of the recipe, built now if it was not."""
    from medmim.cluster import dispatch

    uri = dispatch.data_set(recipe, ws).uri
    if not uri:
        raise UserError("the recipe's data set has no address", fix="give one with --data")
    return uri
