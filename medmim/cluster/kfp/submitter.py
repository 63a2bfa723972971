"""Who submits a run: the subject of the token that logs in to KFP, MEDMIM_USER, or the user of this machine."""

import binascii
import json
import os
from base64 import urlsafe_b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medmim import __version__
from medmim.cluster.kfp.access import Access
from medmim.errors import UserError
from medmim.run.person import PAGES, current_user, is_person, is_unfilled

_CLAIMS = ("email", "preferred_username", "sub")  # of OpenID Connect, the one that people recognize first
_MACHINE = "system:"  # how Kubernetes begins the subject of a service account


def who_submits(access: Access) -> str:
    """Who submits by this login: whose token it is, a person's; else MEDMIM_USER, a service account, this user.

    A token is read, not checked: KFP does that.

    Raises:
        UserError: Nobody: a container's own user, or a variable that nobody filled in.
    """
    subject = _subject(access)
    given = os.environ.get("MEDMIM_USER", "").strip()
    who = subject if subject and not subject.startswith(_MACHINE) else given or subject or current_user()
    machine = who == subject or who.startswith("nightly of ")  # the chart's schedule; each says what it is
    if not who.isprintable() or is_unfilled(who) or not (machine or is_person(who)):
        raise UserError(
            f"who submits this run is not known: '{who}' is no person",
            reason="its artifacts and decisions say who made them",
            fix="set MEDMIM_USER to your name: export MEDMIM_USER=jane@example.org",
        )
    return who


def record(who: str, pages: str = "") -> bytes:
    """The content of `submitted.json`.

    Args:
        who: Who submits.
        pages: Address of KFP's pages of runs, before an id; empty where only its API is known.
    """
    time = datetime.now(UTC).isoformat(timespec="seconds")
    said = {"who": who, "time": time, "medmim": __version__} | ({PAGES: pages} if pages else {})
    return json.dumps(said, indent=1, sort_keys=True).encode()


def _subject(access: Access) -> str:
    """Whose the token is, by its claims; empty without a token, or where it is no JSON Web Token."""
    token = access.token or (Path(access.token_file).read_text(encoding="utf-8") if access.token_file else "")
    payload = token.strip().split(".")[1:2]
    try:
        claims: Any = json.loads(urlsafe_b64decode(payload[0] + "=" * (-len(payload[0]) % 4))) if payload else {}
    except (binascii.Error, ValueError):
        return ""
    named = (claims.get(claim) for claim in _CLAIMS) if isinstance(claims, dict) else ()
    return next((value.strip() for value in named if isinstance(value, str) and value.strip()), "")
