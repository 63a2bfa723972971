"""Recipe keys as users see them: dotted names, types in words, and the nearest key to a misspelt one."""

import difflib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the recipe: no unknown keys, no silent conversions, no changes after load."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


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
