"""Keys as users see them: which one a misspelt key is nearest to, and types in words."""

from typing import Annotated, Literal

import pytest

from medmim.recipe.keys import leaves, nearest, type_name
from medmim.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("data.sauce", "data.source"),  # in its own section
        ("lr", "finetune.lr"),  # else in any
        ("finetune.patients", "data.patients"),
        ("fine_tune", "finetune"),  # a section
        ("finetune.qqqqqq", ""),
    ],
)
def test_the_nearest_key_is_of_the_own_section_else_of_any(key: str, known: str) -> None:
    assert nearest(Recipe, key) == known


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "int or null"),
        (tuple[str, ...], "list of str"),
        (Literal["cosine", "linear"], "cosine | linear"),
        (Annotated[float, "positive"], "float"),
        (dict[str, str], "mapping"),
        (Recipe, "mapping"),
    ],
)
def test_a_type_is_named_in_words(annotation: object, words: str) -> None:
    assert type_name(annotation) == words


def test_keys_are_dotted_in_the_order_of_the_schema_and_named_as_in_yaml() -> None:
    keys = [key for key, _ in leaves(Recipe)]
    assert (
        keys[:3] == ["name", "pipeline", "data.source"] and "register.model" in keys and "platform.pods.image" in keys
    )
