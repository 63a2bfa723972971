"""The data sets that a command of `bench` asks about."""

import json

from medmim import hints, store
from medmim.bench import tasks
from medmim.data import build
from medmim.data.sources import questions
from medmim.data.sources.source import Entry
from medmim.errors import UserError
from medmim.recipe.schema import Data, Recipe
from medmim.recipe.sources import Questions
from medmim.run.workspace import Workspace
from medmim.store.paths import existing

_OWN = "questions"  # the recipe of a file of questions


def of(ws: Workspace, place: str | None) -> str:
    """URI of the data set that a command names.

    Args:
        ws: The workspace.
        place: A URI, or a file of questions, of which a data set is built; None for the newest one of the store.

    Raises:
        UserError: There is none, or the file cannot be used.
    """
    if place is None:
        return newest(ws)
    return built(ws, place) if tasks.is_rows(place) else place


def built(ws: Workspace, place: str) -> str:
    """URI of the data set of a file of questions, built where the store does not have it.

    The terms of use stand beside `mine.jsonl` in `mine.terms.json`; without them, nothing is allowed.

    Raises:
        UserError: No such file, or every line of it that cannot be used.
    """
    path = existing(place)
    if path is None:
        raise UserError(f"there is no file {place}", fix="give a file with one question a line, as docs/tasks.md shows")
    path = path.absolute()
    terms = path.with_suffix(".terms.json")
    own = Questions(
        name="questions", root=str(path.parent), file=path.name, terms=terms.name if terms.exists() else None
    )
    if bad := questions.load(Entry(own)).bad:
        raise UserError(
            f"{len({row.row for row in bad}):,} lines of {path} cannot be used",
            problems=[f"line {row.row}, {row.key or 'all of it'}: {row.reason}" for row in bad],
            fix="correct them: docs/tasks.md says what a line holds",
        )
    recipe = Recipe(name=_OWN, data=Data(sources=(own,), max_bad_fraction=0.0))
    return build.run(recipe, ws).uri


def newest(ws: Workspace) -> str:
    """URI of the data set of the store that was built last.

    Raises:
        UserError: There is none.
    """
    found = newest_if_any(ws)
    if found is None:
        raise UserError(
            f"there is no data set in {ws.store}",
            fix=f"build one with `{hints.command('data', 'build', 'RECIPE')}`, or give --data URI",
        )
    return found


def newest_if_any(ws: Workspace) -> str | None:
    """URI of the data set of the store that was built last; None where there is none.

    That of a file of questions only where there is no other: a bench of one's own questions changes no default.
    """
    where = store.open_store(ws.store)
    keys = [key for key in where.list("data/") if key.endswith(f"/{store.PROVENANCE}")]
    found = []
    for key in keys:
        made = json.loads(where.read(key))
        found.append(((made.get("recipe") or {}).get("name") != _OWN, made["time"], key))
    return f"{where.uri}/{max(found)[-1].rpartition('/')[0]}" if found else None
