"""medmim doctor: what works on this machine or a cluster, one line a check, each failure with its fix."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from medmim import hints
from medmim.cli.options import Home, Json, keep
from medmim.doctor.check import Check, failed, line
from medmim.doctor.machine import check_all
from medmim.errors import BAD_INPUT, INTERNAL, REFUSED, TRY_AGAIN, UserError
from medmim.redact import shown
from medmim.run.workspace import Workspace, workspace
from medmim.store import open_store
from medmim.store.folder import FolderStore


def doctor(
    home: Home = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check the Kubernetes cluster instead.")] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="[default: this pod's, or the kubeconfig's]", callback=keep)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="Whose `platform` the cluster must serve.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, or with --cluster the cluster: what works, and the fix for what does not.

    With --json: home, store, tracking, ok, checks (name, status, found, fix, exit_code). Exit code 2 when something
    must be fixed, 75 when only a server or a disk is unavailable for now, 70 after a fault of the doctor itself. Leaves
    nothing behind, but that fault's traceback.

    With --cluster: settings come from the recipe, this environment, then ConfigMap `medmim` of the namespace; exit
    code 1 when any check fails. With --json: cluster, namespace, store, tracking, kfp, image, ok, checks.
    """
    if cluster:
        if _cluster(namespace, recipe, as_json):
            raise typer.Exit(REFUSED)
        return
    if namespace or recipe:
        raise UserError("--namespace and --recipe are for the cluster", fix="add --cluster")
    wanted = hints.expanded(home).absolute() if home else hints.home()
    sys.stderr.write(f"home {wanted}\n")
    with _new_folders_removed(wanted):
        ws: Workspace | None = None
        try:
            ws = workspace(home)
            first = Check("home", "ok", str(ws.home))
        except UserError as error:
            first = failed("home", error)
        header = {
            "home": str(wanted),
            "store": ws.store if ws else None,
            "tracking": shown(ws.tracking) if ws else None,
        }
        codes = _report(header, chain([first], check_all(wanted, ws)), as_json)
    if codes:
        raise typer.Exit(next(code for code in (BAD_INPUT, INTERNAL, TRY_AGAIN) if code in codes))


def _cluster(namespace: str | None, recipe: str | None, as_json: bool) -> set[int]:
    """Check a cluster; where its API server does not answer, only servers that need none."""
    from medmim.cluster.doctor import api
    from medmim.cluster.doctor.run import check_all as check_cluster
    from medmim.cluster.doctor.setup import resolve
    from medmim.cluster.kube import Kube, connect
    from medmim.recipe.loading import load
    from medmim.recipe.schema import Platform

    platform = load(recipe).platform if recipe else Platform()
    warnings.filterwarnings("ignore", message="Unverified HTTPS")  # a kubeconfig without verification says so itself
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # more checks at once than kept connections
    kube: Kube | None = None
    try:
        kube = connect(namespace or platform.pods.namespace)
        first = api.cluster(kube)
    except UserError as error:
        first = failed("cluster", error)
    host, space = (kube.api.configuration.host, kube.namespace) if kube else (None, namespace)
    sys.stderr.write(f"cluster {host}, namespace {space}\n")
    answering = kube if first.status == "ok" else None
    found = resolve(answering, platform)
    header = {
        "cluster": host,
        "namespace": space,
        "store": found.store,
        "tracking": shown(found.tracking),
        "kfp": shown(found.kfp),
        "image": found.image,
    }
    with _environment({**found.environment, "MEDMIM_PATIENCE": "0"}):  # a doctor reports and does not wait
        return _report(header, chain([first], check_cluster(answering, found)), as_json)


def _report(header: Mapping[str, Any], checks: Iterable[Check], as_json: bool) -> set[int]:
    """Print the checks as they come, or all of them as JSON; the exit codes of those that failed."""
    found = []
    for check in checks:
        found.append(check)
        if not as_json:
            colour = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}[check.status]
            typer.echo(line(check, typer.style(f"{check.status:5}", fg=colour)))
    codes = {check.exit_code for check in found if check.status == "fail"}
    if as_json:
        typer.echo(json.dumps({**header, "ok": not codes, "checks": [asdict(check) for check in found]}))
    return codes


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _new_folders_removed(home: Path) -> Iterator[None]:
    """Remove again the folders that are new and empty."""
    store = os.environ.get("MEDMIM_STORE") or str(home / "store")
    places = [home]
    with suppress(UserError):
        place = open_store(store)
        places += [place.root] if isinstance(place, FolderStore) else []
    new = {folder for place in places for folder in (place, *place.parents) if not folder.exists()}
    try:
        yield
    finally:
        for folder in sorted(new, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):
                folder.rmdir()
