"""The recipe of a tiny base: its family, seed and training phases; the shipped ones are in `shipped/bases/recipes`."""

import json
from importlib import resources
from typing import Literal

from pydantic import Field, ValidationError

from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.family import Family
from medmim.recipe.keys import Positive, Section
from medmim.recipe.schema import Finetune
from medmim.recipe.yaml_text import parse_yaml
from medmim.sample import digest_of


class Phase(Section):
    """One training phase with its own mixture of tasks: `diet` is task -> share."""

    name: str
    steps: Positive
    diet: dict[str, float]
    finetune: Finetune


class BaseRecipe(Section):
    """How a base is made; `chat` is the name of its family."""

    name: str
    chat: Literal["mantis", "llava-med"]
    seed: int
    vocabulary: Positive = Field(1024, description="most tokens of the tokenizer")
    drawings: Positive = Field(250, description="drawings of every class of phantom")
    phases: tuple[Phase, ...]

    @property
    def digest(self) -> str:
        """Digest of every setting that it makes: a key that the schema gets later changes none."""
        return digest_of([self.model_dump_json(exclude_unset=True)])

    @property
    def family(self) -> Family:
        """The family of the base."""
        return next(family for family in checkpoint.FAMILIES if family.name == self.chat)


def load(name: str) -> BaseRecipe:
    """A shipped base recipe.

    Raises:
        UserError: There is no such recipe, or it is invalid.
    """
    folder = resources.files("medmim.shipped.bases") / "recipes"
    known = sorted(e.name.removesuffix(".yaml") for e in folder.iterdir() if e.name.endswith(".yaml"))
    if name not in known:
        raise UserError(f"no base recipe '{name}'", fix=f"shipped ones: {', '.join(known)}")
    values = parse_yaml((folder / f"{name}.yaml").read_text(encoding="utf-8"), f"base recipe {name}")
    try:
        return BaseRecipe.model_validate_json(json.dumps({"name": name, **values}))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError(f"base recipe {name} is invalid", problems=problems) from None
