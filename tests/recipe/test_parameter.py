"""A step takes its recipe as JSON or by its URI, of a bounded size, and says what is wrong with it."""

from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.recipe.parameter import LARGEST, from_parameter
from medmim.store import open_store

DEMO = loading.load("demo")


def test_json_and_a_uri_are_the_same_recipe(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write("runs/r/recipe.json", DEMO.dump().encode())
    assert from_parameter(DEMO.dump()) == from_parameter(f"{tmp_path}/runs/r/recipe.json") == DEMO
    assert from_parameter(f"file://{tmp_path}/runs/r/recipe.json") == DEMO


def test_a_recipe_lies_in_a_bucket(bucket: str) -> None:
    open_store(bucket).write("runs/r/recipe.json", DEMO.dump().encode())
    assert from_parameter(f"{bucket}/runs/r/recipe.json") == DEMO
    with pytest.raises(UserError, match=f"there is no recipe at {bucket}/runs/other/recipe.json") as raised:
        from_parameter(f"{bucket}/runs/other/recipe.json")
    assert "AWS_ENDPOINT_URL" in raised.value.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "is not a mapping"),
        (b'{"name": "demo"', "is not valid YAML"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b'{"name": "demo", "colour": "red"}', "has 2 problems"),
        (b" " * (LARGEST + 1), "has 1,048,577 bytes"),
    ],
)
def test_what_is_no_recipe_is_an_error_with_its_uri(tmp_path: Path, content: bytes, message: str) -> None:
    open_store(str(tmp_path)).write("recipe.json", content)
    with pytest.raises(UserError, match=message) as raised:
        from_parameter(f"{tmp_path}/recipe.json")
    assert f"{tmp_path}/recipe.json" in raised.value.fact and raised.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "hello", "{", "http://host/recipe.json"])
def test_what_is_neither_is_an_error(text: str) -> None:
    with pytest.raises(UserError):
        from_parameter(text)
