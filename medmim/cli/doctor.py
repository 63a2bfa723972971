"""medmim doctor: what this machine has and lacks, one line a check, each failure with its fix."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import typer

from medmim import steps
from medmim.check import Check, failed
from medmim.cli.doctor_checks import check_all
from medmim.cli.options import Home, Json
from medmim.errors import BAD_INPUT, TRY_AGAIN, UserError
from medmim.steps import Workspace
from medmim.store import open_store
from medmim.store_folder import FolderStore


def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check this machine: Python, torch, GPUs, memory, disk, store, MLflow, Ray, KFP, extras, bases.

    With --json: home, store, tracking, ok, checks (name, status, found, fix, exit_code). Exit code 2 when something
    is to be mended, 75 when only a server or a disk is not there for now. Leaves nothing behind.
    """
    wanted = (home or Path(os.environ.get("MEDMIM_HOME", ".medmim"))).expanduser().absolute()
    sys.stderr.write(f"home {wanted}\n")
    with _nothing_left(wanted):
        ws: Workspace | None = None
        try:
            ws = steps.workspace(home)
            first = Check("home", "ok", str(ws.home))
        except UserError as error:
            first = failed("home", error)
        found = []
        for check in chain([first], check_all(wanted, ws)):
            found.append(check)
            if not as_json:
                _print(check)
    codes = {check.exit_code for check in found if check.status == "fail"}
    if as_json:
        told = {"home": str(wanted), "store": ws.store if ws else None, "tracking": ws.tracking if ws else None}
        typer.echo(json.dumps(told | {"ok": not codes, "checks": [asdict(check) for check in found]}))
    if codes:
        raise typer.Exit(TRY_AGAIN if codes == {TRY_AGAIN} else BAD_INPUT)


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
    typer.echo(f"{typer.style(f'{check.status:5}', fg=colour)} {check.name:7} {check.found}{fix}")
