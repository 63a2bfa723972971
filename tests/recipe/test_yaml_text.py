"""YAML is read as people write it, or is one clear error with its line."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medmim.errors import UserError
from medmim.recipe.loading import validate
from medmim.recipe.yaml_text import parse_value, parse_yaml


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("2E+1", 20.0), (".5e-3", 5e-4), ("3", 3), ("0.1", 0.1)])
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_yaml(f"lr: {text}\n", "it") == {"lr": value} and parse_value(text) == value


def test_what_looks_like_a_date_stays_text() -> None:
    assert parse_yaml("root: 2024-01-01\n", "it") == {"root": "2024-01-01"}
    assert parse_value("2024-13-99") == "2024-13-99"


def test_a_value_that_is_no_yaml_is_its_own_text() -> None:
    assert parse_value("[half") == "[half" and parse_value("[a, 1]") == ["a", 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "line 2, column 1\nreason: duplicate key 'name', first in line 1"),
        ("data:\n  seed: 1\n  source: phantom\n  seed: 2\n", "duplicate key 'seed', first in line 2"),
        ("name: [1\n", "is not valid YAML at line 2"),
        ("a: b: c\n", "is not valid YAML at line 1"),
        ("- a\n- b\n", "is not a mapping"),
        ("just words\n", "is not a mapping"),
        ("", "is not a mapping"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
        ("a: !!int x\n", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "is not valid YAML"),
        ("name: mine\x00\n", "is not valid YAML"),
        ("a: " + "[" * 5000, "is not valid YAML"),
    ],
)
def test_what_is_no_yaml_mapping_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "mine.yaml")
    assert message in str(caught.value) and "mine.yaml" in caught.value.fact


def nested(levels: int, width: int, form: str = "list") -> str:
    """A YAML of a few hundred bytes whose aliases stand for width ** levels values."""
    lines = [f"k0: &k0 [{', '.join(['x'] * width)}]"]
    for level in range(1, levels):
        inner = [f"*k{level - 1}"] * width
        text = {
            "list": f"[{', '.join(inner)}]",
            "mapping": "{" + ", ".join(f"m{i}: {alias}" for i, alias in enumerate(inner)) + "}",
            "merge": "{<<: [" + ", ".join(inner) + "]}" if level > 1 else "{" + ", ".join("abcdefghi"[:width]) + "}",
        }[form]
        lines.append(f"k{level}: &k{level} {text}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("form", ["list", "mapping", "merge"])
@pytest.mark.parametrize(("levels", "width"), [(9, 9), (20, 3), (40, 2), (5, 9), (300, 2)])
def test_aliases_that_grow_without_end_are_refused(form: str, levels: int, width: int) -> None:
    text = nested(levels, width, form)
    with pytest.raises(UserError, match="mine.yaml is not valid YAML") as caught:
        parse_yaml(text, "mine.yaml")
    assert "aliases repeat more than 10,000 values" in caught.value.reason
    assert parse_value(text) == text


def test_aliases_that_repeat_little_are_read_and_so_is_a_long_list_without_any() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}, e: *a}\n", "it") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": 1, "e": [1, 2]},
    }  # fmt: skip
    assert len(parse_yaml(nested(4, 9), "it")["k3"]) == 9
    many = parse_yaml("a: &a [1]\nb: [" + "x, " * 15_000 + "*a]\n", "it")["b"]
    assert len(many) == 15_001


@given(st.text() | st.text("[]{}:,-?&*!|>'\"%@`# \n\tab1.=<~"))
@example("!!int ''")
@example("!!timestamp x")
@example("? \n")
@example("<<: 1")
@example("=")
@example("%YAML 9.9\n---\na")
def test_any_text_is_a_recipe_or_a_user_error(text: str) -> None:
    with suppress(UserError):
        validate(parse_yaml(text, "it"), "it")
