"""What asking the models of a benchmark cost, from the records beside their answers: tokens and seconds.

No part of the scores: the same answers may have taken another machine another time.
"""

from collections.abc import Mapping
from typing import Any

from medmim import store
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace

TOKENS = ("prompt_tokens", "new_tokens")


def of(ws: Workspace, scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Role -> `questions`, `prompt_tokens`, `new_tokens`, `seconds` and `questions_per_s`, over all that it was asked.

    A model some of whose answers were stored without such a record, by an earlier version, is left out. Tokens that a
    server did not tell are 0.
    """
    found: dict[str, dict[str, float]] = {}
    for role in scores["models"]:
        sets = [*scores["answers"].get(role, {}).values(), *scores.get("likelihoods", {}).get(role, {}).values()]
        known = [store.find(f"{ws.store}/answers/{digest}") for digest in dict.fromkeys(sets)]
        records = [(one, (provenance_of(one).get("cost") or {}).get("seconds")) for one in known if one is not None]
        if len(records) < len(known) or any(seconds is None for _, seconds in records):
            continue
        total = {"questions": sum(one.counts["answers"] for one, _ in records)}
        total |= {name: sum(one.counts.get(name, 0) for one, _ in records) for name in TOKENS}
        total["seconds"] = sum(seconds for _, seconds in records)
        total["questions_per_s"] = total["questions"] / total["seconds"] if total["seconds"] else 0
        found[role] = total
    return found
