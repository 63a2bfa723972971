"""medmim data init | build | plan | audit | show | peek | export | exports | erase | lookalike | words: data sets."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from medmim import hints, store
from medmim.cli import data_export, data_init, data_words
from medmim.cli.options import Home, Json, RecipeRef, Sets
from medmim.recipe import loading
from medmim.run.workspace import Workspace, workspace

app = typer.Typer(no_args_is_help=True, help="Build a data set, audit it, look at it, export it, erase a patient.")

Uri = Annotated[str, typer.Argument(metavar="URI", help="Address of a data set, as `medmim data build` prints it.")]
Count = Annotated[int, typer.Option("-n", min=1, help="How many rows to show.")]


app.command("init")(data_init.init)
app.add_typer(data_words.app, name="words")


@app.command()
def build(
    recipe: RecipeRef,
    rows_only: Annotated[bool, typer.Option("--rows-only", help="Do all that needs no pixels.")] = False,
    sets: Sets = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Build the data set of a recipe, or find it in the store.

    With --json: uri, digest, rows, by_ability, quarantined (reason -> count), missing_images, the other counts of the
    manifest, and what the raw files hold (`source`).
    """
    from medmim.cluster import dispatch

    parsed = loading.load(recipe, [*(sets or ()), *(["data.rows_only=true"] if rows_only else [])])
    ws = workspace(home, parsed)
    _print_resolved(ws, recipe=parsed.name, source=parsed.data.source, root=parsed.data.root)
    outcome = dispatch.data_set(parsed, ws)
    facts = outcome.facts
    if as_json:
        typer.echo(json.dumps({"uri": outcome.uri, "digest": outcome.digest, **facts}))
        return
    from medmim.cli import data_tables

    data_tables.built(facts, outcome.cached)
    sys.stderr.write(f"data set {outcome.uri}\nnext: {hints.command('data', 'audit', outcome.uri)}\n")


@app.command()
def plan(recipe: RecipeRef, sets: Sets = None, home: Home = None, as_json: Json = False) -> None:
    """Show what the data set of a recipe will hold, by source, type and split, before any picture is opened.

    Reads the tables of the sources only. With --json: rows, by_split, by_ability, quotas, total, form, terms, `stops`
    (empty, or why the build would make no data set: fact, reason, fix), and `sources`: name, terms, studies, patients,
    images, missing_images, quarantined and skipped (reason -> rows), `types` (ability, family, train, dev, test,
    patients, images, balanced, unworded, over_quota). `words` is null, or what approved wordings do:
    approved, questions, written, wordings, kept (reason -> questions).
    """
    from medmim.cli import data_tables
    from medmim.data import plan

    parsed = loading.load(recipe, sets or ())
    ws = workspace(home, parsed)
    _print_resolved(ws, recipe=parsed.name, source=parsed.data.source, root=parsed.data.root)
    planned = plan.of(parsed, ws)
    if as_json:
        typer.echo(json.dumps(planned))
        return
    data_tables.planned(planned)
    if not planned["stops"]:
        given = [word for one in sets or () for word in ("--set", one)]
        sys.stderr.write(f"next: {hints.command('data', 'build', recipe, *given)}\n")


@app.command()
def audit(
    uri: Uri,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="The recipe, or file, whose section `audit` to judge by. [default: the one that made the data set]",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="audit.KEY=VALUE", help="Override a key of the section; may be given again."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what the splits of a data set share, what its other checks find, and which benchmark rows are clean.

    Exit code 1 if a limit of the section `audit` is crossed. With --json: `checks` (name, about, value, share, of, low,
    high, key, limit, crossed, rows, note), `pairs`, each pair of split and ability with its overlaps of patients,
    image_sets and images and both totals; `parts`; `benchmark`, as it is and clean; `shared`; `page`;
    `known_names`, the first 100 rows that hold a name of the list `audit.names`, where there is one.
    """
    from medmim.data.audit import check, page
    from medmim.data.audit import run as audit

    parsed = loading.load(recipe) if recipe else None
    ws = workspace(home, parsed)
    found = store.get(uri)
    section = parsed.audit if parsed else audit.limits_of(found)
    allowed = loading.audit_section(section.model_dump(mode="json"), sets or ())
    _print_resolved(ws, data=found.digest, limits=recipe or audit.whose_limits(found))
    artifact, _ = audit.audit_artifact(ws, uri, allowed=allowed)
    report = audit.read(artifact)
    audit.add_names(ws, uri, report, allowed)
    target = page.write(ws, artifact, report, allowed)
    checks = check.judged(report["checks"], allowed)
    if as_json:
        facts = {**report, "checks": checks, "page": str(target)}
        typer.echo(json.dumps({"uri": artifact.uri, "digest": artifact.digest, **facts}))
    else:
        from medmim.cli import data_tables

        data_tables.audited(report, checks)
        sys.stderr.write(f"clean rows: {artifact.uri}/{audit.CLEAN}\npage: {target}\n")
    audit.check_limits(report, allowed, artifact)


@app.command()
def show(
    uri: Uri,
    n: Count = 5,
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, help="Of how many rows of each type the gallery has images; 0: of all.")
    ] = 48,
    no_open: Annotated[bool, typer.Option("--no-open", help="Write the gallery and open no browser.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the counts of a data set, what its terms of use forbid, its first rows; open all of them as a gallery.

    The gallery is a page below the home, images beside questions and answers. With --json, without one: uri, digest,
    counts, terms, quarantine, samples.
    """
    from medmim import shards
    from medmim.run.provenance import terms_of
    from medmim.sample import to_json
    from medmim.terms import FLAGS, reasons

    ws = workspace(home)
    artifact = store.get(uri)
    _print_resolved(ws, data=artifact.digest)
    folder = store.fetch(artifact, ws.cache, [shards.SAMPLES, "quarantine.jsonl"])
    samples = shards.read_samples(folder)[:n]
    quarantine = _lines(folder / "quarantine.jsonl")[:n]
    if as_json:
        rows = [{"id": sample.id, **to_json(sample)} for sample in samples]
        allowed = terms_of(artifact).as_dict()
        facts = {"counts": dict(artifact.counts), "terms": allowed, "quarantine": quarantine, "samples": rows}
        typer.echo(json.dumps({"uri": artifact.uri, "digest": artifact.digest, **facts}))
        return
    from medmim.cli import data_tables

    data_tables.built(artifact.counts, cached=True)
    data_tables.rows(samples, quarantine)
    for line in reasons(terms_of(artifact), FLAGS):
        typer.echo(line)
    from medmim.data import gallery

    for page in gallery.write(ws, artifact, pictures):
        sys.stderr.write(f"gallery {page}\n")
        if not no_open and _has_display():
            import webbrowser

            webbrowser.open(page.as_uri())


@app.command()
def peek(recipe: RecipeRef, n: Count = 3, sets: Sets = None, home: Home = None, as_json: Json = False) -> None:
    """Show what the recipe's base would read: rendered prompts, trained tokens coloured, images, tokens, lengths.

    With --json, a list: id, ability, family, images, rendered (segments with `trained`), tokens, length, trained.
    """
    from medmim.cli import data_peek
    from medmim.cluster import dispatch
    from medmim.lvlm import checkpoint

    parsed = loading.load(recipe, sets or ())
    ws = workspace(home, parsed)
    base = checkpoint.resolve_text(parsed.finetune.base, ws)
    outcome = dispatch.data_set(parsed, ws)
    model = checkpoint.digest(checkpoint.locate(parsed.finetune.base))
    _print_resolved(ws, recipe=parsed.name, data=outcome.digest, base=parsed.finetune.base, model=model)
    rows = data_peek.read_rows(ws.fetch(outcome.uri), base, n)
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows]))
    else:
        data_peek.draw(rows)


app.command("export")(data_export.export)
app.command("exports")(data_export.exports)


@app.command()
def erase(
    patients: Annotated[
        list[str],
        typer.Argument(metavar="PATIENT...", help="Identifiers, or POPULATION/IDENTIFIER; `-` reads them from stdin."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only shown.")] = False,
    why: Annotated[str, typer.Option("--why", help="The reason, for the record; without any identifier.")] = "",
    remove_descendants: Annotated[
        bool, typer.Option("--remove-descendants", help="Also remove what was made of it, not only mark it.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what holds or descends from a patient; with --yes remove it, and leave them out of every later build.

    Data sets and exports that hold the patient are removed, and reports, which may show their pictures. Models, scores
    and answers are marked. With --json: done, artifacts (list of {name, recipe, why, does, note}), exports (list of
    {id, folder, host, form, rows, state, does, note}), rebuild (list of {recipe, made}), recipes (the files to run
    again), runs, resume, record (its number, or null).
    """
    from medmim.cli import data_erase

    names = [line.strip() for line in sys.stdin if line.strip()] if patients == ["-"] else patients
    data_erase.plan_and_erase(workspace(home), names, yes, why, remove_descendants, as_json)


@app.command()
def lookalike(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; absent, or empty.")],
    patients: Annotated[int, typer.Option("--patients", min=1, help="Of each source.")] = 60,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal bytes.")] = 0,
    as_json: Json = False,
) -> None:
    """Write folders that look like the real sources, with drawn pictures: to try a recipe without gated data.

    With --json: folder, and sources: name -> patients, rows, images, dirty (kind -> rows).
    """
    from medmim.cli import data_lookalike

    data_lookalike.write(folder, patients, seed, as_json)


def _has_display() -> bool:
    """Whether somebody sits at a screen of this machine."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _print_resolved(ws: Workspace, **resolved: str | None) -> None:
    """Print on stderr what a command has resolved, before it works."""
    known = [f"{name} {value}" for name, value in resolved.items() if value]
    sys.stderr.write(", ".join([*known, f"home {ws.home}", f"store {ws.store}"]) + "\n")


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line] if path.is_file() else []
