"""What `scores.json` of a benchmark must be for pages to show it; of an earlier version, some of it may be absent."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from medmim.bench.run import SCORES
from medmim.errors import UserError

Share = float | None


class _Measured(BaseModel):
    group: str
    metric: str
    value: float
    low: Share
    high: Share
    n: int


class _Row(_Measured):
    model: str
    patients: int
    blind: Share = None
    chance: Share = None
    grey: Share = None
    gap: Share = None
    gap_low: Share = None
    gap_high: Share = None
    swap: Share = None
    swap_low: Share = None
    swap_high: Share = None
    unparsed: int | None = None
    errors: int | None = None


class _Difference(_Measured):
    opponent: str
    p_holm: Share = None


class _TextOnly(BaseModel):
    group: str
    above: bool
    blind: float
    chance: float


class _Reading(BaseModel):
    model: str
    answers: int
    cut: int
    closed: int
    unread: int
    unfinished: int
    replaced: int
    single: int
    letter: str | None
    holding: int
    unread_cut: int = 0
    finished: int = 0


class _Reason(BaseModel):
    questions: int
    reason: str


class _Failure(BaseModel):
    model: str
    errors: int
    asked: int
    empty: bool
    reasons: list[_Reason]


class _Listed(BaseModel):
    items: int
    digest: str


class _Scores(BaseModel):
    comparable: bool
    data: str
    items: int
    models: dict[str, dict[str, Any]] = Field(min_length=1)
    answers: dict[str, dict[str, str]]
    leaderboard: list[_Row]
    differences: list[_Difference]
    split: str = ""
    protocol: str = ""
    tasks: list[str] = []
    clusters: str = ""
    lists: dict[str, _Listed] = {}
    max_new_tokens: int = 0
    likelihoods: dict[str, dict[str, str]] = {}
    text_only: list[_TextOnly] = []
    reading: list[_Reading] = []
    failures: list[_Failure] = []


def check(uri: str, scores: Mapping[str, Any]) -> None:
    """Refuse the scores of a benchmark that no bench writes.

    Args:
        uri: Of the benchmark.
        scores: The content of its `scores.json`.

    Raises:
        UserError: They are of another form; its reason names the first place.
    """
    try:
        _Scores.model_validate(scores, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise UserError(
            f"{uri} holds no scores that this version reads",
            reason=f"{SCORES}: {'.'.join(map(str, first['loc']))}: {first['msg']}"[:300],
            fix="bench these models again: their answers are kept, so only the scores are made anew",
        ) from None
