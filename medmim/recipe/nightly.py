"""The recipe section `nightly`: which models are benched again each night, and what raises an alarm."""

from datetime import date
from typing import Annotated

from pydantic import AfterValidator, Field

from medmim.recipe.keys import Positive, Section


def _a_day(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:  # which also takes 20261125 and 2026-W48-3
        raise ValueError("write a day as YYYY-MM-DD")
    return text


Day = Annotated[str, AfterValidator(_a_day)]


class Nightly(Section):
    """Which models `medmim nightly` benches, and when it raises an alarm. None of it changes any content."""

    references: tuple[str, ...] = Field(
        (),
        description="models to bench beside champion, challengers and base: shipped bases, folders, store URIs, "
        "models:/NAME@ALIAS or openai:URL#NAME",
    )
    canary: Positive = Field(100, description="questions that each model is asked anew, other ones each night")
    noise: float = Field(
        0.01, ge=0, lt=1, description="share of a canary's answers that may differ without an alarm; 0: none may"
    )
    nights: Positive = Field(14, description="how many last nights are compared with")
    significance: float = Field(0.01, gt=0, lt=0.5, description="chance of a false alarm, for all tests of a night")
    drop: float = Field(0.01, ge=0, le=1, description="a smaller regression is no alarm, however significant")
    since: Day | None = Field(
        None, description="nights before this day are not compared with: a regression was accepted"
    )
    date: Day | None = Field(None, description="the night; default: today in UTC, which `medmim nightly` writes here")
