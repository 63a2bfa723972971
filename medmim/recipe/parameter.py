"""A step's recipe parameter: JSON on a laptop, a store URI on a cluster, where parameters are short and public."""

from medmim.errors import UserError
from medmim.recipe.loading import from_dump, validate
from medmim.recipe.schema import Recipe
from medmim.recipe.yaml_text import parse_yaml
from medmim.store import open_store

LARGEST = 1 << 20  # bytes


def from_parameter(recipe: str) -> Recipe:
    """The recipe in a step's parameter.

    Args:
        recipe: `Recipe.dump`, or the URI of an object in a store that holds it.

    Raises:
        UserError: There is no such object, or it is no recipe.
        Unavailable: The store does not answer.
    """
    if recipe.lstrip().startswith("{") or "/" not in recipe:
        return from_dump(recipe)
    root, _, name = recipe.rpartition("/")
    place = open_store(root or "/")
    size = place.ages(name).get(name, (0.0, 0))[1]
    if size > LARGEST:
        raise UserError(
            f"the recipe at {recipe} has {size:,} bytes",
            reason=f"a recipe has at most {LARGEST:,}",
            fix="submit again: `medmim submit` writes it there",
        )
    try:
        text = place.read_unchanged(name).decode()
    except FileNotFoundError:
        raise UserError(
            f"there is no recipe at {recipe}",
            reason="it was removed, or this step reads another store than `medmim submit` wrote to",
            fix="submit again; compare AWS_ENDPOINT_URL here and there",
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"the recipe at {recipe} is not text in UTF-8", fix="submit again") from None
    return validate(parse_yaml(text, recipe), recipe)
