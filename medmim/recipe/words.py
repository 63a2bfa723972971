"""The section `data.words` of a recipe: a language model that words the questions."""

from typing import Annotated, Literal

from pydantic import Field

from medmim.recipe.keys import Address, Positive, Section

VARIANTS = 12  # ways to ask that the prompt knows


class Words(Section):
    """Questions, and the short answers of open ones, in the words of a language model; absent: in the templates'."""

    endpoint: Address = Field(
        description="base address of a server with the OpenAI API, such as http://127.0.0.1:8000/v1"
    )
    model: Annotated[str, Field(min_length=1)] = Field(description="name of the model on that server")
    splits: tuple[Literal["train", "dev", "test"], ...] = Field(
        ("train",), min_length=1, description="which questions; a benchmark keeps its words by default"
    )
    variants: int = Field(4, ge=1, le=VARIANTS, description="ways to say one thing that are asked for")
    tries: Positive = Field(3, description="requests for one text; a rejected one is asked for again with the reason")
    max_tokens: Positive = Field(200, description="longest reply")
    max_fallback_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="questions that keep the template's words, above this share the step fails"
    )
    at_once: Positive = Field(8, description="requests under way")
    per_minute: Positive | None = Field(None, description="most requests in a minute; default: no limit")
    may_leave: bool = Field(
        False,
        description="texts may go to a server of somebody else, where the sources' terms allow it, too",
    )


NOT_CONTENT = ("endpoint", "max_fallback_fraction", "at_once", "per_minute", "may_leave")
"""Keys of `data.words` that change no content of the data set: whose server it is, is provenance."""
