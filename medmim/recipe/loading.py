"""Load and check a recipe: a shipped name or a file, then overrides; all errors at once.

medmim recipe list                  the shipped ones
medmim recipe copy demo mine.yaml   one to edit
medmim recipe explain finetune.lr   what a key means
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from pydantic import ValidationError

from medmim import hints, sniff
from medmim.errors import UserError, from_os_error
from medmim.recipe.keys import explain, leaves, nearest, type_name
from medmim.recipe.schema import Audit, Recipe
from medmim.recipe.yaml_text import parse_value, parse_yaml
from medmim.sample import escaped, is_utf8
from medmim.store.paths import existing

_OF_THE_PLATFORM = {  # what recipes said of pods, and the chart's values say now
    "node_selector": "runPods.nodeSelector",
    "tolerations": "runPods.tolerations",
    "priority": "runPods.worker and runPods.head, spec.priorityClassName",
    "queue": "runPods.queue",
    "pull_secrets": "imagePullSecrets",
    "pull_policy": "image.pullPolicy",
    "service_account": "runPods.worker and runPods.head, spec.serviceAccountName",
    "s3_secret": "store.existingSecret, or accounts.ray.annotations for workload identity",
    "tracking_secret": "Secret medmim-mlflow of the run's namespace, which pods read if it is there",
    "ca_config_map": "store.certificate",
}
_REMOVED = {
    "bench.resamples": "intervals are computed without drawing now; delete this line",
    **{
        f"platform.pods.{key}": f"a cluster says it once, in the chart's values: {place}; delete this line"
        for key, place in _OF_THE_PLATFORM.items()
    },
}
_OFFERED = 5  # files of a folder that is given as a recipe


def shipped() -> dict[str, str]:
    """Names of the shipped recipes and their first comment line."""
    found = {}
    for entry in sorted(resources.files("medmim.shipped.recipes").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text("utf-8").split("\n", 1)[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return found


def read_text(ref: str) -> tuple[str, str]:
    """The YAML of a shipped recipe or a file, and the name to use in messages.

    Raises:
        UserError: Neither a shipped name nor a readable file, or a file of something else.
    """
    names = shipped()
    if ref in names:
        return (resources.files("medmim.shipped.recipes") / f"{ref}.yaml").read_text("utf-8"), f"recipe {ref}"
    try:
        path = existing(ref)
    except PermissionError as error:
        raise from_os_error(error, "reading the recipe") from None
    listing = f"`{hints.command('recipe', 'list')}` shows: {', '.join(names)}"
    if path is None:
        near = difflib.get_close_matches(ref, names, 1)
        raise UserError(
            f"no recipe '{ref}'",
            reason="it is neither a file nor a shipped name",
            fix=(f"did you mean '{near[0]}'? " if near else "") + listing,
        )
    if path.is_dir():
        inside = sorted(str(file) for file in path.glob("*.y*ml"))[:_OFFERED]
        raise UserError(
            f"{path} is a folder, not a recipe",
            reason="a recipe is one file in YAML",
            fix=f"give a file in it: {', '.join(inside)}" if inside else f"give a file, or a shipped one: {listing}",
        )
    return sniff.read_text(path, "a recipe in YAML", pipe=True), str(path)


def load(ref: str, sets: Sequence[str] = ()) -> Recipe:
    """Load and check a recipe.

    Args:
        ref: A shipped name or a file.
        sets: `key=value` overrides with dotted keys; the value is YAML.

    Raises:
        UserError: Every problem of file and overrides, in one message.
    """
    text, where = read_text(ref)
    values = parse_yaml(text, where)
    for item in sets:
        _override(values, item)
    return validate(values, where)


def validate(values: dict[str, Any], where: str) -> Recipe:
    """Check a mapping against the schema.

    Raises:
        UserError: Every problem, in one message.
    """
    try:
        problems = list(_unwritable(values))
        if not problems:
            return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = [_explain(e) for e in error.errors()]
    except (TypeError, ValueError, RecursionError) as error:  # a set, bytes or another YAML type that JSON lacks
        problems = [str(error)]
    raise UserError(
        f"{where} has {len(problems)} problem{'s' * (len(problems) != 1)}",
        problems=problems,
        fix=f"`{hints.command('recipe', 'explain')}` lists every key with its type and default",
    )


def load_to_train(ref: str, sets: Sequence[str] = ()) -> Recipe:
    """As `load`, for commands of what was trained or will be.

    Raises:
        UserError: As `load`; or its pipeline trains nothing.
    """
    found = load(ref, sets)
    if found.pipeline == "bench":
        raise UserError(
            f"recipe {found.name} trains no model: its pipeline is bench",
            fix=f"`{hints.command('run', ref)}` compares the models that it names; `{hints.command('recipe', 'list')}` "
            "shows recipes that train",
        )
    return found


def audit_section(values: Mapping[str, Any], sets: Sequence[str] = ()) -> Audit:
    """A section `audit` with overrides, for an audit that no run asks for.

    Args:
        values: The section, of a valid recipe.
        sets: `audit.key=value`, as for `load`.

    Raises:
        UserError: An override is of another section, or is wrong: every problem, in one message.
    """
    whole: dict[str, Any] = {"audit": dict(values)}
    for item in sets:
        if not item.startswith("audit."):
            raise UserError(
                f"--set {item}: no key of the section `audit`",
                reason="an audit reads no other section",
                fix=f"give --set audit.KEY=VALUE; `{hints.command('recipe', 'explain', 'audit')}` lists the keys",
            )
        _override(whole, item)
    return validate({"name": "audit", "data": {"source": "phantom"}, **whole}, "the section `audit`").audit


def from_dump(text: str) -> Recipe:
    """Read back what `Recipe.dump` wrote, an earlier version's too: what is the platform's now is left out.

    Raises:
        UserError: It is something else.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("the recipe passed to this step is not JSON", reason=str(error)) from None
    pods = (values.get("platform") or {}).get("pods") if isinstance(values, dict) else None
    if isinstance(pods, dict):
        values["platform"]["pods"] = {key: value for key, value in pods.items() if key not in _OF_THE_PLATFORM}
    return validate(values, "the recipe passed to this step")


def describe(prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Rows of (key, type, default, meaning) for every key that starts with `prefix`.

    Raises:
        UserError: No such key.
    """
    rows = [
        (
            key,
            type_name(info.annotation),
            "required" if info.is_required() else json.dumps(_plain(info.get_default(call_default_factory=True))),
            info.description or "",
        )
        for key, info in leaves(Recipe)
        if key == prefix or not prefix or key.startswith(prefix + ".")
    ]
    if not rows:
        near = nearest(Recipe, prefix)
        raise UserError(f"no recipe key '{prefix}'", fix=f"did you mean '{near}'?" if near else "")
    return rows


def _unwritable(value: Any, key: str = "") -> Iterator[str]:
    """Problems of texts that no path, file or database can hold; YAML can, by an escape."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _unwritable(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _unwritable(inner, key)
    elif isinstance(value, str) and ("\0" in value or not is_utf8(value)):
        what = "a NUL" if "\0" in value else "half a surrogate pair"
        yield f"{escaped(key)}: holds {what}, which no path or record can (got {value!a})"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _override(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UserError(f"--set {item}: not of the form key=value", fix="for example --set data.root=FOLDER")
    for part in parts[:-1]:
        if values.get(part) is None:  # `audit:` with nothing below it
            values[part] = {}
        values = values[part]
        if not isinstance(values, dict):
            raise UserError(f"--set {item}: '{part}' is a value, not a section")
    values[parts[-1]] = parse_value(text)


def _explain(error: Any) -> str:
    place = error["loc"]
    if place[:2] == ("data", "sources"):
        place = (*place[:3], *place[4:])  # pydantic names the kind of the entry, which is no key
    key = ".".join(str(part) for part in place)
    if error["type"] == "extra_forbidden" and key in _REMOVED:
        return f"{key}: no longer a key; {_REMOVED[key]}"
    return explain({**error, "loc": place}, Recipe)
