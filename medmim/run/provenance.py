"""`provenance.json`: who made an artifact, from what and when; beside the artifact, never in its digest."""

import json
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from medmim import __version__, store, terms
from medmim.recipe.schema import Recipe
from medmim.redact import hidden, shown
from medmim.run.person import current_user
from medmim.terms import Terms

_PATH = re.compile(r"(?:^|[:#=,\s])(?:/(?!/)|~|\.{1,2}[/\\]|[A-Za-z]:\\|\\\\|file:|sqlite:)")
_FORM: dict[str, type | tuple[type, ...]] = {  # what a record may hold, as far as it is read
    "step": str, "parents": dict, "recipe": (dict, type(None)), "medmim": str, "time": str, "who": str,
    "refs": dict, "cost": dict, "inference": dict, "asked": dict,
}  # fmt: skip
_SECTIONS = ("data", "finetune", "bench", "platform")  # of its recipe, likewise
_NAMELESS = ("source", "name", "form")  # what the section `data` says in words that name no file
_LEFT_OUT = "…"


def provenance(
    name: str, revision: int, parents: Mapping[str, str], recipe: Recipe | None, allowed: Terms = terms.UNKNOWN
) -> dict[str, Any]:
    """The content of `provenance.json` for an artifact of this step, with the terms of its sources and bases."""
    return {
        "terms": allowed.as_dict(),
        "step": name,
        "revision": revision,
        "parents": dict(parents),
        "recipe": recipe.record() if recipe else None,
        "medmim": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": current_user(),
    }


def code_version() -> dict[str, str]:
    """Package version, and the git commit where the package is part of a checkout (`+changes` if edited)."""
    package = Path(__file__).parents[1]
    found = {"medmim": __version__}
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(package, "rev-parse", "HEAD")
        if commit:
            found["commit"] = commit + ("+changes" if _git(package, "status", "--porcelain", "--", ".") else "")
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def provenance_of(artifact: store.Artifact) -> dict[str, Any]:
    """The content of an artifact's `provenance.json`, as far as it is a record; empty where it has none."""
    return recorded(artifact)[0]


def recorded(artifact: store.Artifact) -> tuple[dict[str, Any], str]:
    """As `provenance_of`, and in words what of it is damaged; empty where nothing is, or where there is none.

    No digest covers it: whoever may write the store can have written it. What is not of its form is left out.
    """
    root, _, folder = artifact.uri.rpartition("/")
    try:
        record = json.loads(store.open_store(root).read_unchanged(f"{folder}/{store.PROVENANCE}"))
    except FileNotFoundError:
        return {}, ""
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        return {}, f"its {store.PROVENANCE} is cut off or was written by something else"
    wrong = [key for key, form in _FORM.items() if key in record and not isinstance(record[key], form)]
    if "refs" not in wrong and not all(isinstance(ref, str) for ref in record.get("refs", {}).values()):
        wrong.append("refs")
    if "recipe" not in wrong and not is_recipe(record.get("recipe") or {}):
        wrong.append("recipe")
    if not wrong:
        return record, ""
    kept = {key: value for key, value in record.items() if key not in wrong}
    return kept, f"its {store.PROVENANCE} says what no step writes of: {', '.join(wrong)}"


def is_recipe(value: object) -> bool:
    """Whether this is the content of a recipe of any version, as far as it is read."""
    return isinstance(value, dict) and all(isinstance(value.get(key) or {}, dict) for key in _SECTIONS)


def shows_patients(*records: Mapping[str, Any]) -> bool:
    """Whether pages may name patients and files: the first record, of those given, that has a recipe says it."""
    recipes = [record["recipe"] for record in records if record.get("recipe")]
    return bool(recipes) and (recipes[0].get("platform") or {}).get("show_patients") is True


def public_recipe(record: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a provenance record, of any version, as a page may show it; empty where there is none.

    Secrets of addresses are masked. Where pages may not name patients, a path is `…`, since a folder can be named after
    one: of the section `data`, every text but names of sources.
    """
    recipe = record.get("recipe")
    if not isinstance(recipe, Mapping):
        return {}
    named = shows_patients(record)
    return {key: _public(one, named, key == "data") for key, one in recipe.items()}


def _public(value: Any, named: bool, of_data: bool, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _public(one, named, of_data, name) for name, one in value.items()}
    if isinstance(value, list):
        return [_public(one, named, of_data, key) for one in value]
    if not isinstance(value, str):
        return value
    if not named and ((of_data and key not in _NAMELESS) or _PATH.search(value)):
        return _LEFT_OUT
    return hidden(shown(value) if "://" in value else value)


def terms_of(artifact: store.Artifact) -> Terms:
    """The terms of an artifact; those of a model are part of its content.

    An artifact that was published before terms were recorded has none, unless its recipe says that it was made from
    phantoms and a shipped base alone.

    Raises:
        UserError: Its `terms.json` is not a record of terms, or is not the one that was published.
    """
    if terms.FILE in artifact.files:
        return terms.parse(store.read_file(artifact, terms.FILE), f"{artifact.uri}/{terms.FILE}")
    record = provenance_of(artifact)
    if "terms" in record:
        return terms.parse(json.dumps(record["terms"]), f"{artifact.uri}/{store.PROVENANCE}")
    return terms.APACHE if _ours(record, artifact.kind) else terms.UNKNOWN


def _ours(record: Mapping[str, Any], kind: str) -> bool:
    recipe = record.get("recipe") or {}
    drawn: bool = (recipe.get("data") or {}).get("source") == "phantom"
    if kind in ("data", "audit"):
        return drawn
    shipped = {entry.name for entry in resources.files("medmim.shipped.bases").iterdir()}
    return drawn and kind == "model" and (recipe.get("finetune") or {}).get("base") in shipped
