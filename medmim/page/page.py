"""A page for people: one HTML file that needs nothing else, in the home and as an artifact."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.errors import from_os_error
from medmim.run.stage import Outcome
from medmim.run.workspace import Workspace

if TYPE_CHECKING:
    from jinja2 import Environment

FILE = "report.html"
_NAMES = {"coreference": "co-reference"}
_METRICS = {
    "token_f1": "token F1",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "accuracy_if_read": "accuracy of read answers",
    "swap_consistency": "right both ways",
}
_GROUP = re.compile(r"(?:^|(?<=[;:] ))(?:[a-z]+:)?[a-z][a-z_-]*(?=: )")


def templates(*packages: str) -> "Environment":
    """The templates of packages, with the style sheet and the filters of all pages; values are escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "medmim.page")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "label": label, "metric": metric, "worded": worded}
    return environment


def label(group: str) -> str:
    """A group's name as people read it: `ability:coreference` is co-reference."""
    name = group.rpartition(":")[2]
    return _NAMES.get(name, name).replace("_", "-")


def metric(name: str) -> str:
    """A metric's name as people read it."""
    return _METRICS.get(name, name.replace("_", " "))


def worded(sentences: str) -> str:
    """Sentences of the gate, joined by `; `, with the group that each begins with as people read it."""
    return _GROUP.sub(lambda found: label(found[0]), sentences)


def publish(ws: Workspace, html: str, target: Path, provenance: Mapping[str, Any], outcome: Outcome) -> None:
    """Write a page to its path atomically, and publish it as the stage's artifact.

    Args:
        ws: The workspace.
        html: The page.
        target: Its path in the home.
        provenance: Of the artifact.
        outcome: Of the stage; gets the artifact and, as a fact, the `path`.

    Raises:
        UserError: The disk is full, or the store refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            (Path(folder) / FILE).write_text(html, encoding="utf-8")
            outcome.of(store.publish(Path(folder), ws.store, "report", {}, provenance), cached=False)
            shutil.move(Path(folder) / FILE, target)
    except OSError as error:
        raise from_os_error(error, f"writing {target}") from error
    outcome.facts = {"path": str(target)}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
