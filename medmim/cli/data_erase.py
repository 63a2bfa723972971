"""What `medmim data erase` prints and writes; never an identifier of a patient."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from medmim import hints
from medmim.errors import UserError
from medmim.housekeeping import erase
from medmim.housekeeping.erase import Erasure
from medmim.run.workspace import Workspace


def plan_and_erase(
    ws: Workspace, patients: Sequence[str], yes: bool, why: str, remove_descendants: bool, as_json: bool
) -> None:
    """Plan an erasure, carry it out with `yes`, and show it.

    Raises:
        UserError: No patient was given, one is unknown, or there is no reason to record; or an export could not be
            removed, when all else is erased and shown.
    """
    if not patients:
        one, many = (hints.command("data", "erase", given) for given in ("PATIENT", "-"))
        raise UserError("no patient was given", fix=f"`{one}`, or one a line to `{many}`")
    if yes and not why.strip():
        raise UserError("an erasure needs its reason", fix="give it with --why, without any identifier")
    sys.stderr.write(f"home {ws.home}, store {ws.store}\n")
    found = erase.plan(ws, patients, "removed" if remove_descendants else "marked")
    record = erase.erase(ws, patients, found, why.strip()) if yes else None
    left: list[str] = []
    writing: list[str] = []
    if record:
        done = tuple(erase.Exported(**one) for one in record["exports"])
        pairs = zip(found.exports, done, strict=True)
        left = [f"{was.folder}: {now.note}" for was, now in pairs if was.does != now.does]
        writing = record["unfinished"]
        found = replace(found, exports=done, unfinished=tuple(sorted({*found.unfinished, *writing})))
    files = _write(ws, found) if yes else []
    if as_json:
        shown = {key: value for key, value in asdict(found).items() if key != "who"}
        facts = {"done": yes, **shown, "recipes": files, "record": record and record["n"]}
        typer.echo(json.dumps(facts))
    else:
        _show(ws, found, files, yes, writing)
    if left:
        raise UserError(
            f"{len(left)} exports that hold them were not removed; all else was",
            problems=left,
            fix="put that right, and give the same command again",
        )


def _write(ws: Workspace, found: Erasure) -> list[str]:
    """The recipes to run again, as files; JSON is YAML."""
    files = []
    for one in found.rebuild:
        digest = min(name.partition("/")[2] for name in one["made"])
        path = ws.home / "rebuild" / f"{one['recipe']['name']}-{digest[:8]}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one["recipe"], indent=1) + "\n", encoding="utf-8")
        files.append(str(path))
    return files


def _show(ws: Workspace, found: Erasure, files: list[str], yes: bool, writing: Sequence[str]) -> None:
    console = Console(highlight=False)
    table = Table("artifact", "recipe", "it", "is" if yes else "would be", "", box=None)
    for one in found.artifacts:
        kind, _, digest = one.name.partition("/")
        table.add_row(f"{kind}/{digest[:12]}", one.recipe, one.why, one.does, one.note)
    console.print(table if found.artifacts else "no artifact holds any of them")
    for sent in found.exports:
        does = "" if sent.does == "named" else ", removed" if yes else ", would be removed"
        where = sent.folder if sent.state == "here" else f"{sent.host}:{sent.folder}"
        shown = f"export for {sent.form} holds {len(sent.rows):,} rows of them{does}: {where}"
        console.print(shown, markup=False, soft_wrap=True)
        if sent.note:
            why = f"  it is not reached ({sent.note}): remove it by hand, or its rows, whose ids --json lists"
            console.print(why, markup=False, soft_wrap=True)
    for path in found.unfinished:
        does = "may still be written" if path in writing else "is removed" if yes else "would be removed"
        shown = f"an export that did not end has left pictures, of whom is not known; it {does}: {path}"
        console.print(shown, markup=False, soft_wrap=True)
    if writing:
        console.print("end those exports, and give the same command again")
    if found.exports:
        console.print("copies of exports that somebody made are not known here: ask those who had them")
    for recipe in found.rebuild:
        made = ", ".join(sorted({name.partition("/")[0] for name in recipe["made"]}))
        console.print(f"to rebuild without them: recipe {recipe['recipe']['name']} ({made})", markup=False)
    trainings = [name for name in found.resume if not erase.is_repeated(name)]
    if trainings:
        console.print(
            f"{len(trainings)} unfinished trainings are below {ws.store}/resume and may hold rows: end them, "
            f"then `{hints.command('gc')}` removes what is left", markup=False, soft_wrap=True,
        )  # fmt: skip
    if (ws.home / "work").is_dir() and any(Path(ws.home / "work").iterdir()):
        console.print(f"{ws.home}/work holds unfinished steps: finish or delete them", markup=False, soft_wrap=True)
    if not yes:
        console.print("nothing was changed; --yes --why TEXT does it")
        return
    console.print("done: later builds leave them out")
    console.print(
        "other homes still have galleries and pictures until they next show or build a data set of this store: delete "
        "galleries and pixels there", soft_wrap=True,
    )  # fmt: skip
    for file in files:
        console.print(f"next: {hints.command('run', file)}", markup=False, soft_wrap=True)
