"""The section `data.words` of a recipe: the wordings that a person has approved."""

from typing import Annotated, Literal

from pydantic import Field

from medmim.recipe.keys import Section

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Words(Section):
    """Questions, and the short answers of open ones, in approved wordings; absent: in the templates'."""

    approved: Digest = Field(description="the wordings, as `data words approve` names them; they lie in the store")
    splits: tuple[Literal["train", "dev", "test"], ...] = Field(
        ("train",), min_length=1, description="which questions; a benchmark keeps its words by default"
    )
