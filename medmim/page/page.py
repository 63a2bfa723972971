"""A page for people: one HTML file that needs nothing else, below the home and as an artifact."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.errors import from_os_error
from medmim.page import figures
from medmim.run.stage import Outcome
from medmim.run.workspace import Workspace

if TYPE_CHECKING:
    from jinja2 import Environment

FILE = "report.html"


def templates(*packages: str) -> "Environment":
    """The templates of these packages, values escaped, with the filters that pages share."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": _percent, "points": _points, "label": figures.label}
    return found


def publish(ws: Workspace, page: str, goal: Path, made: Mapping[str, Any], outcome: Outcome) -> None:
    """Write a page to its place, whole or not at all, and publish it as the stage's artifact.

    Args:
        ws: The workspace.
        page: HTML.
        goal: Where people find it.
        made: Its provenance.
        outcome: Gets the artifact and the `path`.

    Raises:
        UserError: The disk is full, or the store refuses.
    """
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=goal.parent) as folder:
            (Path(folder) / FILE).write_text(page)
            outcome.of(store.publish(Path(folder), ws.store, "report", {}, made), cached=False)
            shutil.move(Path(folder) / FILE, goal)
    except OSError as error:
        raise from_os_error(error, f"writing {goal}") from error
    outcome.facts = {"path": str(goal)}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
