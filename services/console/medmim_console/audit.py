"""The audit line: one JSON object on stderr for every attempt at a change, whoever made it and however it ended."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from fastapi import Request

_log = logging.getLogger("medmim.console.audit")
_LONGEST = 2000  # characters of a value; what is sent may be of any length


@dataclass(frozen=True)
class Attempt:
    """Somebody who wants to change something.

    Attributes:
        request: Id of the request, as its answer has it.
        who: The person of the session; empty where nobody is known.
        address: That it comes from.
        what: `promote`, `rollback` or `refuse`.
        model: The registered model.
        version: Its version; empty for a rollback.
        why: Their reason.
    """

    request: str
    who: str
    address: str
    what: str
    model: str
    version: str = ""
    why: str = ""


def attempt(request: Request, who: str, address: str, why: str = "") -> Attempt:
    """What a request wants, by its address: `/models/NAME/VERSION/WHAT`."""
    given = request.path_params
    what = request.url.path.rstrip("/").rpartition("/")[2]
    return Attempt(request.state.id, who, address, what, str(given.get("name", "")), str(given.get("ordinal", "")), why)


def write(one: Attempt, result: str) -> None:
    """Write the line.

    Args:
        one: The attempt.
        result: `started`, `done: ...`, `refused: ...` or `failed: ...`.
    """
    cut = replace(one, **{name: value[:_LONGEST] for name, value in asdict(one).items()})
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    _log.info("%s", json.dumps({"time": time, **asdict(cut), "result": result[:_LONGEST]}))
