"""docs/security.md, the threat model, names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    defined = {
        path: {one.name for one in ast.walk(tree(path)) if isinstance(one, ast.FunctionDef)} for path, _ in named
    }
    assert [f"{path}::{name}" for path, name in named if name not in defined[path]] == []


def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"))


def test_every_protection_has_its_tests() -> None:
    told = {int(one) for cell in re.findall(r"\((\d+(?:, \d+)*)\)", PAGE) for one in cell.split(", ")}
    shown = {int(one) for one in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert told == shown == set(range(1, len(shown) + 1))
