"""medmim doctor: what this machine or a cluster has and lacks, one line a check, each failure with its fix."""

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

from medmim.cli.options import Home, Json
from medmim.doctor.check import Check, failed
from medmim.doctor.machine import check_all
from medmim.errors import BAD_INPUT, REFUSED, TRY_AGAIN, UserError
from medmim.run.workspace import Workspace, workspace
from medmim.store import open_store
from medmim.store.folder import FolderStore


def doctor(
    home: Home = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check the Kubernetes cluster instead.")] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="[default: this pod's, or the kubeconfig's]")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="Whose `platform` the cluster must serve.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, or with --cluster the cluster: what works, and the fix for what does not.

    With --json: home, store, tracking, ok, checks (name, status, found, fix, exit_code). Exit code 2 when something
    is to be mended, 75 when only a server or a disk is not there for now. Leaves nothing behind.

    With --cluster: settings come from the recipe, this environment, then ConfigMap `medmim` of the namespace; exit
    code 1 when any check says no. With --json: cluster, namespace, store, tracking, kfp, image, ok, checks.
    """
    if cluster:
        if _cluster(namespace, recipe, as_json):
            raise typer.Exit(REFUSED)
        return
    if namespace or recipe:
        raise UserError("--namespace and --recipe are for the cluster", fix="add --cluster")
    wanted = (home or Path(os.environ.get("MEDMIM_HOME", ".medmim"))).expanduser().absolute()
    sys.stderr.write(f"home {wanted}\n")
    with _nothing_left(wanted):
        ws: Workspace | None = None
        try:
            ws = workspace(home)
            first = Check("home", "ok", str(ws.home))
        except UserError as error:
            first = failed("home", error)
        told = {"home": str(wanted), "store": ws.store if ws else None, "tracking": ws.tracking if ws else None}
        codes = _tell(told, chain([first], check_all(wanted, ws)), as_json)
    if codes:
        raise typer.Exit(TRY_AGAIN if codes == {TRY_AGAIN} else BAD_INPUT)


def _cluster(namespace: str | None, recipe: str | None, as_json: bool) -> set[int]:
    """Look at a cluster; what cannot be asked without it is left out where it does not answer."""
    from medmim.cluster.doctor import api
    from medmim.cluster.doctor.run import check_all as check_cluster
    from medmim.cluster.doctor.servers import without_password
    from medmim.cluster.doctor.setup import setup
    from medmim.cluster.kube import Kube, connect
    from medmim.recipe.loading import load
    from medmim.recipe.schema import Platform

    platform = load(recipe).platform if recipe else Platform()
    warnings.filterwarnings("ignore", message="Unverified HTTPS")  # who has a kubeconfig without a check knows it
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # more checks at once than kept connections
    kube: Kube | None = None
    try:
        kube = connect(namespace or platform.pods.namespace)
        first = api.cluster(kube)
    except UserError as error:
        first = failed("cluster", error)
    at, space = (kube.api.configuration.host, kube.namespace) if kube else (None, namespace)
    sys.stderr.write(f"cluster {at}, namespace {space}\n")
    there = kube if first.status == "ok" else None
    found = setup(there, platform)
    told = {"cluster": at, "namespace": space}
    told |= {
        "store": found.store,
        "tracking": without_password(found.tracking),
        "kfp": without_password(found.kfp),
        "image": found.image,
    }
    with _environment({**found.environment, "MEDMIM_PATIENCE": "0"}):  # a doctor tells and does not wait
        return _tell(told, chain([first], check_cluster(there, found)), as_json)


def _tell(told: Mapping[str, Any], checks: Iterable[Check], as_json: bool) -> set[int]:
    """Show the checks as they come, or all of them as JSON; the exit codes of those that failed."""
    found = []
    for check in checks:
        found.append(check)
        if not as_json:
            _print(check)
    codes = {check.exit_code for check in found if check.status == "fail"}
    if as_json:
        typer.echo(json.dumps({**told, "ok": not codes, "checks": [asdict(check) for check in found]}))
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
def _nothing_left(home: Path) -> Iterator[None]:
    """Folders that were not there before, and are empty, go again."""
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


def _print(check: Check) -> None:
    colour = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}[check.status]
    fix = f"; fix: {check.fix}" if check.fix else ""
    typer.echo(f"{typer.style(f'{check.status:5}', fg=colour)} {check.name:9} {check.found}{fix}")
