"""YAML as people mean it, and as one clear error where it is broken."""

import re
from typing import Any

import yaml

from medmim.errors import UserError

# What PyYAML lets through from nonsense behind an explicit tag (`!!int x`) or from bottomless nesting.
_BROKEN = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 mended: `1e-5` is a number, `2024-01-01` is text, a key that stands twice is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                said = f"the key '{key.value}' stands twice, first in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=said, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse YAML into a mapping.

    Args:
        text: The YAML.
        where: The file, for messages.

    Raises:
        UserError: Broken YAML (with line and column), a key that stands twice, or something else than a mapping.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except _BROKEN as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
        raise UserError(f"{where} is not valid YAML{at}", reason=said or str(error)) from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where} is not a mapping of keys to values", fix="write lines like `key: value`")
    return loaded


def parse_value(text: str) -> Any:
    """One value of the command line: YAML where it is any, else the text itself."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except _BROKEN:
        return text
