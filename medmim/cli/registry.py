"""medmim registry list | show | promote | rollback | refuse | retire | reconcile | pipeline: who is champion."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer
from rich.console import Console

from medmim import hints, tracking
from medmim.cli.options import Home, Host, Json, Namespace, keep
from medmim.errors import UserError
from medmim.housekeeping import erase
from medmim.recipe.registry import CANDIDATE
from medmim.redact import shown
from medmim.registry import aliases, approval, decisions, facts, lookup, promote
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace, sqlite_path, workspace

app = typer.Typer(no_args_is_help=True, help="Registered models, and which version is champion.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]
Why = Annotated[str, typer.Option("--why", help="The reason; it is kept in the decision log.")]
OnCluster = Annotated[
    bool, typer.Option("--on-cluster", help="In a Job with the promoter's credentials, which your account may create.")
]
Promoters = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="With --on-cluster: of the promoter. [default: MEDMIM_PROMOTER_NAMESPACE, or the kubeconfig's]",
        callback=keep,
    ),
]


@app.command("list")
def show_all(home: Home = None, as_json: Json = False) -> None:
    """List the registered models, their versions and aliases.

    --json: a list of {name, champion (version or null), aliases (alias -> version), versions (list of {version, digest,
    uri, created, aliases, data, recipe, base, retired (why the gate refused it, or who retired it, or empty)}),
    decisions (how many the log holds), drift (a sentence for every alias that is not what the log says), awaiting
    (versions that await approval)}.
    """
    ws = _workspace(home)
    rows = facts.of_models(ws)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    out = Console(highlight=False)
    for row in rows:
        out.print(row["name"], style="bold", markup=False, soft_wrap=True)
        for version in reversed(row["versions"]):
            _print_version(out, version)
    if not rows:
        typer.echo(f"no model is registered yet; `{hints.command('run', 'RECIPE')}` registers one")
    for row in rows:
        for text in row["drift"]:
            sys.stderr.write(f"{text}; `{hints.command('registry', 'reconcile')}` restores it\n")
        for number in row["awaiting"]:
            sys.stderr.write(f"{approval.AWAITING}: {approval.command(row['name'], number)}\n")


@app.command()
def show(
    ref: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="NAME@ALIAS or NAME/VERSION.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show a model version: where it is stored, what it was made of, and every decision about it.

    --json: {name, version, aliases, digest, uri, created, retired, run, lineage (tag -> value), decisions (list of {n,
    verdict, version, digest, uri, evidence, evidence_uri, bench, against, why, who, time})}.
    """
    ws = _workspace(home)
    name, number = lookup.locate(ref, ws)
    version = lookup.get_version(ws, name, number)
    digest = version.tags.get(lookup.DIGEST, "")
    log = decisions.read(ws, name.removesuffix(CANDIDATE))
    own = [entry for entry in log if entry.digest == digest]
    found = {
        "name": name,
        **facts.of_version(tracking.aliases(ws, name) or {}, version, log),
        "run": version.run,
        "lineage": {key.removeprefix("medmim."): value for key, value in sorted(version.tags.items())},
        "decisions": [asdict(entry) for entry in own],
    }
    if digest in erase.marked(ws):
        sys.stderr.write("an erased patient was in its data: rebuild it, `medmim data erase` wrote the recipe\n")
    if as_json:
        typer.echo(json.dumps(found))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{name}[/] version {number}  {', '.join(found['aliases'])}")
    for key, value in found["lineage"].items():
        console.print(f"  {key:<14} {value}", markup=False, soft_wrap=True)
    for entry in own:
        text = f"decision {entry.n}  {entry.verdict}  {entry.time}  {entry.who}: {entry.why}"
        console.print(text, markup=False, soft_wrap=True)
    if sqlite_path(ws.tracking) and unquote(str(ws.home)) != str(ws.home):
        console.print("\nMLflow's own load_model takes the % in the path of this home for a code: load it by its uri")
        return
    console.print("\nload it in Python:", markup=False)
    uri = shlex.quote(shown(ws.tracking))
    console.print(f"  MLFLOW_TRACKING_URI={uri}", markup=False, soft_wrap=True)
    console.print(f"  mlflow.pyfunc.load_model({json.dumps(f'models:/{name}/{number}')})", markup=False, soft_wrap=True)


@app.command("promote")
def promote_version(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version number.")],
    why: Why,
    despite_terms: Annotated[
        bool, typer.Option("--despite-terms", help="Even where its terms of use forbid to serve it: for research only.")
    ] = False,
    despite_gate: Annotated[
        bool,
        typer.Option("--despite-gate", help="Even where gate or person refused it, or its evidence does not hold."),
    ] = False,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="Your policy, by which a candidate is judged again. Default: MEDMIM_GATE_POLICY, else default.",
        ),
    ] = "",
    on_cluster: OnCluster = False,
    namespace: Promoters = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make a version champion by your own decision; the reason goes into the decision log.

    A version of NAME-candidate, which awaits approval, is judged again from its answers, and written anew into NAME.
    With --on-cluster your name in the log is the one that the cluster knows you by, and the platform's policy decides.

    --json: {name, version, digest, uri, decision (number in the log), verdict, changed, aliases (alias -> version)}.
    """
    if on_cluster and policy:
        raise UserError(
            "--policy is of no use with --on-cluster",
            reason="the platform's own policy decides there: the chart's value promotion.policy",
            fix="leave it out",
        )
    if on_cluster:
        given = {"--despite-terms": despite_terms, "--despite-gate": despite_gate}
        words = ["promote", f"--why={why}", *(option for option, value in given.items() if value), "--", name, version]
        return _on_cluster(words, namespace, as_json)
    _refuse_namespace(namespace)
    ws = _workspace(home)
    candidate, name = name, name.removesuffix(CANDIDATE)
    log = decisions.read(ws, name)
    entry = promote.promote(
        ws, candidate, version, why, despite_terms=despite_terms, despite_gate=despite_gate, policy=policy
    )
    _print(facts.of_decision(ws, name, entry, len(log)), as_json)
    judged = [known for known in log if known.digest == entry.digest and known.evidence]
    if judged and judged[-1].verdict == "refused":
        sys.stderr.write(
            f"promoted by hand: the gate refused this model in decision {judged[-1].n}: {judged[-1].why}\n"
        )
    elif candidate != name and entry.n > len(log) and not entry.evidence:
        sys.stderr.write("promoted by hand: the gate did not pass this model against the champion that it replaces\n")


@app.command()
def rollback(
    name: Name,
    why: Why,
    on_cluster: OnCluster = False,
    namespace: Promoters = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make the previous champion champion again; done twice, it swaps the two back.

    --json: as for promote.
    """
    if on_cluster:
        return _on_cluster(["rollback", f"--why={why}", "--", name], namespace, as_json)
    _refuse_namespace(namespace)
    ws = _workspace(home)
    before = len(decisions.read(ws, name))
    _print(facts.of_decision(ws, name, promote.rollback(ws, name, why), before), as_json)


@app.command()
def refuse(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version number.")],
    why: Why,
    on_cluster: OnCluster = False,
    namespace: Promoters = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Refuse a version, which then awaits approval no more; the reason goes into the decision log.

    Only --despite-gate promotes it later, by a person. The champion cannot be refused: roll back first.

    --json: as for promote; the version is the one that was given, also of NAME-candidate.
    """
    if on_cluster:
        return _on_cluster(["refuse", f"--why={why}", "--", name, version], namespace, as_json)
    _refuse_namespace(namespace)
    _print_word_against(promote.refuse, _workspace(home), name, version, why, as_json)


@app.command()
def retire(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Version number.")],
    why: Why,
    on_cluster: OnCluster = False,
    namespace: Promoters = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a version out of use, so that `gc` may remove its model; the reason goes into the decision log.

    Never the champion, nor the version that a rollback makes champion. Lineage, scores and decisions stay.

    --json: as for promote; the version is the one that was given, also of NAME-candidate.
    """
    if on_cluster:
        return _on_cluster(["retire", f"--why={why}", "--", name, version], namespace, as_json)
    _refuse_namespace(namespace)
    _print_word_against(promote.retire, _workspace(home), name, version, why, as_json)


@app.command()
def reconcile(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model; default: all.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Set the aliases to what the decision log says.

    --json: {NAME: list of sentences, one for every alias that differed}.
    """
    ws = _workspace(home)
    if name and name not in decisions.names(ws):
        fix = f"`{hints.command('registry', 'list')}` shows the models"
        raise UserError(f"no decision has been made about '{name}'", fix=fix)
    found = aliases.reconcile(ws, name)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for texts in found.values():
        for text in texts:
            typer.echo(f"restored: {text}")
    if not any(found.values()):
        typer.echo("the aliases are what the decision log says")


@app.command()
def pipeline(
    image: Annotated[
        str | None, typer.Option("--image", help="medmim's image; pinned by digest. [default: MEDMIM_IMAGE]")
    ] = None,
    host: Host = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Upload the pipeline medmim-promote, by which people promote in KFP's web pages.

    --json: {pipeline, version, new_version, image, link, notes}.
    """
    from medmim.cluster.kfp.access import resolve
    from medmim.cluster.kfp.upload import upload

    made = upload("promote", resolve(host, namespace), image)
    for note in made["notes"]:
        sys.stderr.write(f"note: {note}\n")
    known = "new" if made["new_version"] else "known"
    human = "{pipeline}, version {version:.12} ({known})\n{image}\n{link}".format(known=known, **made)
    typer.echo(json.dumps(made) if as_json else human.rstrip())


def _print_version(out: Console, version: Mapping[str, Any]) -> None:
    """A version in two lines: of seven columns none can be read in a terminal of 80."""
    made, roles = version["created"][:16].replace("T", " "), [*version["aliases"]]
    roles += ["retired"] if version["retired"] else []
    facts = (
        version["recipe"] and f"recipe {version['recipe']}",
        version["base"] and f"base {version['base']}",
        version["digest"] and f"digest {version['digest'][:12]}",
    )
    out.print(f"  version {version['version']:<4} {made}  {', '.join(roles)}".rstrip(), markup=False, soft_wrap=True)
    out.print(f"    {', '.join(filter(None, facts)) or 'not of medmim'}", markup=False, soft_wrap=True)


def _workspace(home: Path | None) -> Workspace:
    ws = workspace(home)
    sys.stderr.write(f"home {ws.home}\nstore {ws.store}\ntracking {shown(ws.tracking)}\n")
    return ws


def _on_cluster(words: Sequence[str], namespace: str | None, as_json: bool) -> None:
    """Run a command of this group as the promoter of a cluster, and end as it ends."""
    from medmim.cluster import promotion

    at = namespace or os.environ.get("MEDMIM_PROMOTER_NAMESPACE")
    typed = ["registry", words[0], "--json", *words[1:]]
    code, found = promotion.run(typed, at, lambda line: typer.echo(line, err=True))
    if found:
        _print(found, as_json)
    raise typer.Exit(code)


def _refuse_namespace(namespace: str | None) -> None:
    if namespace:
        raise UserError("--namespace is for --on-cluster", fix="add --on-cluster, or leave it out")


def _print_word_against(
    word: Callable[[Workspace, str, str, str], Decision],
    ws: Workspace,
    given: str,
    version: str,
    why: str,
    as_json: bool,
) -> None:
    name = given.removesuffix(CANDIDATE)
    before = len(decisions.read(ws, name))
    _print(facts.of_decision(ws, name, word(ws, given, version, why), before), as_json)


def _print(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    if found["verdict"] in ("refused", "retired"):
        done = "is {verdict} now" if found["changed"] else "was {verdict} before"
        done = done.format(verdict=found["verdict"])
    else:
        done = "is champion now" if found["changed"] else "is the champion already"
    what = "version {version} of {name} {done} (decision {decision}, {verdict})"
    typer.echo(what.format(done=done, **found))
