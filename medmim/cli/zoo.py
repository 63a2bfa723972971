"""medmim zoo list | show | check | import | tiny: the models that can be asked, what admits one, how it comes in."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medmim import hints
from medmim.cli import importing
from medmim.cli.options import Home, Json, Namespace

app = typer.Typer(no_args_is_help=True, help="The zoo: models to ask and to bench, and what admits a checkpoint.")

_Ref = Annotated[
    str,
    typer.Argument(metavar="NAME|PATH", help="A model of `zoo list`, zoo:NAME, or a folder or URI with a checkpoint."),
]


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """The models of the zoo, and which the store has: of them, and under names of your own.

    With --json: a list of what their files declare, and `imported`, the URIs in the store; a model under a name of your
    own has `name` and `imported` only.
    """
    import json

    from medmim.lvlm.zoo import stored
    from medmim.lvlm.zoo.entry import entries
    from medmim.run.workspace import workspace

    there = stored.by_name(workspace(home))
    if as_json:
        known = [entry.model_dump(mode="json") | {"imported": there.pop(entry.name, [])} for entry in entries()]
        typer.echo(json.dumps([*known, *({"name": name, "imported": uris} for name, uris in there.items())]))
        return
    for entry in entries():
        kind = "medical" if entry.medical else "general"
        checked = "chat template known" if entry.template else "not checked on its real weights"
        typer.echo(f"{entry.name:<20}{entry.classes[0]:<17}{kind}, beside {entry.sibling}")
        typer.echo(f"  {entry.hub}{', gated' if entry.gated else ''}, terms: {entry.terms}; {checked}")
        for uri in there.pop(entry.name, []):
            typer.echo(f"  in the store: {uri}")
    for name, uris in there.items():
        typer.echo("\n  in the store: ".join([f"{stored.PREFIX}{name}", *uris]))


@app.command("show")
def show(ref: _Ref, home: Home = None, as_json: Json = False) -> None:
    """How a model is asked: class, pixel budget, several images, stop tokens, tokens an image, licence.

    With --json: of a name what its file declares; of a checkpoint model_type, adapter, siblings (models of the zoo of
    that class), digest, template (of all it is asked with), asking and terms.
    """
    import json

    from medmim.lvlm.zoo import entry as zoo
    from medmim.lvlm.zoo import lookup
    from medmim.registry import lookup as names
    from medmim.run.workspace import workspace

    if entry := zoo.named(ref):
        facts = entry.model_dump(mode="json")
    else:
        ws = workspace(home)
        facts = lookup.describe(names.resolve(ref, ws), ws)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        if value not in (None, "", [], {}):
            typer.echo(f"{key.replace('_', ' '):<12}{_words(value)}")


@app.command("check")
def check(
    ref: _Ref,
    hub: Annotated[
        bool, typer.Option("--hub", help="Download the weights of a NAME from the Hugging Face Hub.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write", metavar="FILE", help="Write a NAME's declaration with the digest of its chat template."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto.")] = "auto",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Whether a checkpoint's answers in a batch can be trusted: 1 if they cannot. In fp32; once for each model.

    With --json: an object with `digest`, `model_type`, `template` (SHA-256 of the chat template) and `checks`, a list
    of objects with `name`, `passed` and `detail`.
    """
    import json
    import sys
    from dataclasses import asdict

    from medmim.errors import Refused, UserError
    from medmim.lvlm.zoo import admission, lookup, stored
    from medmim.lvlm.zoo import entry as zoo
    from medmim.registry import lookup as names
    from medmim.run.workspace import workspace

    ws = workspace(home)
    found, entry = lookup.find(ref if zoo.named(ref) else names.resolve(ref, ws), ws, hub)
    own = zoo.named(ref.removeprefix(stored.PREFIX))  # of `zoo:NAME`
    if own is not None and own.format is None:
        entry = own
    if write is not None and entry is None:
        raise UserError("--write is for a NAME of the zoo", fix=f"`{hints.command('zoo', 'list')}` shows them")
    sys.stderr.write(f"checkpoint {found}, home {ws.home}\n")
    report = admission.check(found, entry, device)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        for one in report.checks:
            typer.echo(f"{'ok' if one.passed else 'FAILED':<8}{one.name:<12}{one.detail}")
    failed = [one.name for one in report.checks if not one.passed]
    if failed:
        raise Refused(
            f"{ref} did not pass: {', '.join(failed)}",
            reason="its answers would depend on the batch, on nothing, or on images in another order than asked",
            fix="ask it through a server: openai:URL#NAME; or take a model of the zoo",
        )
    if write is not None and entry is not None:
        write.write_text(entry.with_template(report.template), encoding="utf-8")
        sys.stderr.write(f"wrote {write}\n")


@app.command("import")
def import_(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A model of `zoo list`; or, with SOURCE, a name of your own.")
    ],
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help=importing.SOURCE)] = None,
    store: importing.Store = None,
    hub: importing.Hub = False,
    terms: importing.TermsOfUse = None,
    on_cluster: importing.OnCluster = False,
    namespace: Namespace = None,
    image: importing.Image = None,
    disk: importing.Disk = "64Gi",
    dry_run: importing.DryRun = False,
    home: Home = None,
) -> None:
    """Put a checkpoint of a class of the zoo into the store, where recipes and pods find it by NAME; prints its URI."""
    from medmim.lvlm.zoo import stored

    allowed = importing.terms_given(terms)
    if on_cluster:
        from medmim.cluster import base_import
        from medmim.lvlm.zoo import entry as zoo

        there = source or zoo.find(name).hub
        words = importing.words(hub, terms=terms)
        job = base_import.job(there, store, words, image, disk, ("zoo", "import", name))
        importing.submit(job, dry_run, namespace)
        return
    importing.refuse_options_of_the_job(dry_run, image)
    ws = importing.to_store(home, store)
    artifact = stored.import_model(name, source or "", ws, hub, allowed)
    counts = artifact.counts
    typer.echo(f"{artifact.uri}\nzoo:{name}, {counts['model_type']}, {counts['parameters']:,} parameters")


@app.command("tiny")
def tiny(home: Home = None, as_json: Json = False) -> None:
    """Put tiny stand-ins of all models of the zoo into the store, to try a comparison: random, they answer noise.

    With --json: an object, name -> URI.
    """
    import json

    from medmim.run.workspace import workspace
    from medmim.tiny import zoo

    made = zoo.publish_all(workspace(home))
    if as_json:
        typer.echo(json.dumps(made))
        return
    for name, uri in made.items():
        typer.echo(f"{name:<26}{uri}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(one)}" for key, one in value.items() if one not in (None, ""))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
