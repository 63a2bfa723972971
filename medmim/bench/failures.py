"""Models that cannot be asked, questions that ended in an error, models that answer nothing: why, and how many."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from medmim.errors import Unavailable, UserError
from medmim.progress import say
from medmim.sample import Answer

_REASONS = 3  # that are shown of a model


def keep(error: UserError, role: str, failed: dict[str, UserError], models: Collection[str]) -> None:
    """Keep the error of a model that cannot be asked for the end: the others are asked first.

    Args:
        error: The error.
        role: Its name.
        failed: Name -> error; a model's first one is kept.
        models: The names of all models.
    """
    if role not in failed and len(models) > 1:
        say(f"{role} cannot be asked: {error.fact}; the others are")
    failed.setdefault(role, error)


def refuse(failed: Mapping[str, UserError], models: Collection[str]) -> None:
    """Raise what kept models from being asked, when the answers of the others are in the store.

    Raises:
        UserError: That of the only model; of several models, each one that failed, with its reason and its fix.
        Unavailable: Likewise, where all of them may answer later.
    """
    if len(models) == 1:
        for error in failed.values():
            raise error
    if failed:
        away = all(isinstance(error, Unavailable) for error in failed.values())
        raise (Unavailable if away else UserError)(
            f"{len(failed)} of {len(models)} models could not be asked: {', '.join(failed)}",
            reason="without its answers there is nothing to compare; those of the others are kept",
            fix="do what is named, then run the same command again: only what is missing is asked",
            problems=[f"{role}: {error}" for role, error in failed.items()],
        )


def summary(
    role: str,
    by_probe: Mapping[str, Iterable[Answer | None]] | None,
    compared: Mapping[str, Iterable[Answer | None]] | None = None,
) -> list[dict[str, Any]]:
    """What went wrong with the answers of one model: one row, or none where nothing did.

    Args:
        role: Its name.
        by_probe: Probe -> its generated answers; None where none were.
        compared: Likewise, the likelihoods of the options.

    Returns:
        `model`; over all probes `asked`, `errors` and `reasons`, the most frequent ones with how often, equal but for
        their numbers; `empty`: of the questions as they are, every answer is empty.
    """
    generated = by_probe or {}
    given = [answer for own in (generated, compared or {}) for answers in own.values() for answer in answers if answer]
    failed = [answer.error for answer in given if answer.status == "error"]
    answered = [answer.text for answer in generated.get("none", ()) if answer and answer.status != "error"]
    empty = bool(answered) and not any(text.strip() for text in answered)
    if not failed and not empty:
        return []
    kinds = Counter(map(_kind, failed))
    first = {_kind(error): error for error in reversed(failed)}
    reasons = [{"reason": first[kind], "questions": count} for kind, count in kinds.most_common(_REASONS)]
    return [{"model": role, "asked": len(given), "errors": len(failed), "reasons": reasons, "empty": empty}]


def _kind(error: str) -> str:
    return re.sub(r"\d[\d.,]*", "0", error)


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """What a reader of the scores must know about what was not answered.

    Args:
        facts: The content of `scores.json`; one of an earlier version gives no warning.
    """
    found = []
    rows: Sequence[Mapping[str, Any]] = facts.get("failures", ())
    for row in rows:
        if row["errors"]:
            named = "; ".join(f"{one['questions']:,} times: {one['reason']}" for one in row["reasons"])
            more = row["errors"] - sum(one["questions"] for one in row["reasons"])
            found.append(
                f"{row['model']}: {row['errors']:,} of {row['asked']:,} questions (all probes) ended in an error and "
                f"are in no score: {named}{f'; {more:,} others' if more else ''}"
            )
        if row["empty"]:
            found.append(
                f"{row['model']}: every answer is empty: its weights may be untrained or damaged, or the server's chat "
                "template wrong"
            )
    return found
