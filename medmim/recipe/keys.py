"""Recipe keys as users see them: dotted names, types in words, and the nearest key to a misspelt one."""

import difflib
import json
import reprlib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from medmim.errors import UserError
from medmim.redact import shown
from medmim.sample import ABILITIES


def _known_ability(name: str) -> str:
    if name not in ABILITIES:
        near = difflib.get_close_matches(name, ABILITIES, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"no such ability; {hint}they are {', '.join(ABILITIES)}")
    return name


def holds_secret(address: str) -> bool:
    """Whether the address of a server holds what no record may: a user, a password, or a query, where keys stand."""
    return shown(address) != address or "?" in address


def _without_secret(address: str) -> str:
    if holds_secret(address):
        raise ValueError(IN_RECORDS)
    return address


IN_RECORDS = (
    "the address holds a user name, a password or a key, and recipes are written into records; leave it out, and put a "
    "key into OPENAI_API_KEY"
)
Address = Annotated[str, Field(min_length=1), AfterValidator(_without_secret)]
Positive = Annotated[int, Field(gt=0)]
Ability = Annotated[str, AfterValidator(_known_ability)]


class Section(BaseModel):
    """A part of the recipe: no unknown keys, no silent conversions, no changes after load."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


S = TypeVar("S", bound=Section)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and definition of every value in the schema, in its order; a section that may be null is one, too."""
    for name, info in model.model_fields.items():
        key = prefix + (info.alias or name)
        kinds = [info.annotation, *get_args(info.annotation)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if section is None or section is not info.annotation:
            yield key, info
        if section is not None:
            yield from leaves(section, key + ".")


def nearest(model: type[BaseModel], key: str) -> str:
    """The known key nearest to an unknown one: by its name in its own section, else in any; or empty."""
    values = [leaf for leaf, _ in leaves(model)]
    section, _, name = key.rpartition(".")
    names = {known.rpartition(".")[2]: known for known in values if known.rpartition(".")[0] == section}
    if not section:
        names |= {part: part for part in (known.partition(".")[0] for known in values)}
    near = difflib.get_close_matches(name, names, 1, cutoff=0.6)
    return names[near[0]] if near else next((known for known in values if known.rpartition(".")[2] == name), "")


def checked(model: type[S], values: Any, where: str, fix: str) -> S:
    """What was read from a small YAML file, as a section of its own.

    Args:
        model: Of the file.
        values: What it holds.
        where: The file, for the message.
        fix: What explains its keys.

    Raises:
        UserError: Every problem, in one message.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = [explain(problem, model) for problem in error.errors()]
    except (TypeError, ValueError, RecursionError) as error:  # what YAML has, and JSON has not
        problems = [str(error)]
    raise UserError(f"{where} has {len(problems)} problem{'s' * (len(problems) != 1)}", problems=problems, fix=fix)


def explain(error: Any, model: type[BaseModel]) -> str:
    """A mistake that pydantic found in a file of `model`: the key, what is wrong with it, and what was given.

    Args:
        error: One of `ValidationError.errors()`.
        model: Of the file as a whole.
    """
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = nearest(model, key)
        return f"{key}: unknown key" + (f"; did you mean '{near}'?" if near else "")
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    unshown = isinstance(error["input"], dict) or IN_RECORDS in message
    given = "" if unshown else f" (got {reprlib.repr(error['input'])})"
    return f"{key}: {message}{given}" if key else message  # of the whole file: the message names the keys


def type_name(annotation: Any) -> str:
    """A type in words: `int or null`, `list of str`, `cosine | linear`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in inner))
    if origin is tuple:
        return f"list of {type_name(inner[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "mapping"
    return "null" if annotation is NoneType else str(annotation.__name__)
