"""Parse YAML with YAML 1.1's surprises fixed, and with one clear error where it is broken."""

import re
from typing import Any

import yaml

from medmim.errors import UserError

MAX_REPEATED = 10_000  # values that aliases may add: nine levels of nine are 400 million
# Beside its own, PyYAML lets through what an explicit tag (`!!int x`) or very deep nesting raises.
_BROKEN = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 fixed: `1e-5` is a number, `2024-01-01` is text, a duplicate key is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            sizes: dict[int, int] = {}
            if _expanded(node, sizes) - len(sizes) > MAX_REPEATED:
                problem = f"aliases repeat more than {MAX_REPEATED:,} values"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"duplicate key '{key.value}', first in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many nodes there are once each alias is replaced by what it stands for; `sizes` by identity, each once."""
    if id(node) not in sizes:
        sizes[id(node)] = 1  # also for a node inside itself, which is refused as JSON
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        if not isinstance(node, yaml.ScalarNode):
            sizes[id(node)] += sum(_expanded(part, sizes) for part in parts)
    return sizes[id(node)]


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
        UserError: Broken YAML (with line and column), a duplicate key, aliases without end, or no mapping.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except _BROKEN as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
        raise UserError(f"{where} is not valid YAML{at}", reason=problem or str(error)) from None
    if not isinstance(loaded, dict):
        raise UserError(f"{where} is not a mapping of keys to values", fix="write lines like `key: value`")
    return loaded


def parse_value(text: str) -> Any:
    """One value of the command line: parsed where it is valid YAML, else the text itself."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except _BROKEN:
        return text
