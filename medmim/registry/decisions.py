"""The decision log: `STORE/decisions/NAME/N.json`, the truth on which version is champion.

An entry is created only if it is absent, and only after the one before it: of two promoters one wins, and the log has
no gaps. What the aliases should be is a fold over it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from medmim.errors import UserError
from medmim.run.person import current_user, on_cluster, person
from medmim.run.workspace import Workspace
from medmim.store import open_store

FOLDER = "decisions"
_MADE = "made.json"  # beside the entries

Verdict = Literal["promoted", "kept", "refused", "rolled-back"]


@dataclass(frozen=True)
class Decision:
    """One entry of the log.

    Attributes:
        verdict: `promoted` and `rolled-back` make `version` champion; `kept` and `refused` change no alias.
        version: MLflow version number of the model it is about; where a person refuses a candidate, that of the
            candidate.
        digest: Digest of that model's artifact.
        uri: Its store URI.
        evidence: Digest of the gate's decision artifact; empty where a person decided.
        evidence_uri: Its store URI.
        bench: Digest of the scores that were judged.
        against: Store URI of the champion it was benched against; empty for the base.
        why: The reason, a sentence.
        who: User that wrote the entry.
        time: UTC, ISO 8601.
        n: Number in the log, from 1; 0 before it is written.
    """

    verdict: Verdict
    version: str
    digest: str
    uri: str
    evidence: str = ""
    evidence_uri: str = ""
    bench: str = ""
    against: str = ""
    why: str = ""
    who: str = ""
    time: str = ""
    n: int = 0


@dataclass(frozen=True)
class Roles:
    """The roles by the log: the entry that made the champion, the champion's before it, the last that was judged."""

    champion: Decision | None = None
    previous: Decision | None = None
    challenger: Decision | None = None

    def by_alias(self) -> dict[str, Decision]:
        """Alias -> the entry whose model it should name."""
        named = {"champion": self.champion, "previous-champion": self.previous, "challenger": self.challenger}
        return {alias: entry for alias, entry in named.items() if entry is not None}


def roles(log: Sequence[Decision]) -> Roles:
    """Fold the log: the champion, the champion before it, and the model that the gate judged last."""
    now = Roles()
    for entry in log:
        if entry.verdict in ("promoted", "rolled-back"):
            again = now.champion is not None and now.champion.digest == entry.digest
            now = replace(now, champion=entry, previous=now.previous if again else now.champion)
        if entry.evidence:
            now = replace(now, challenger=entry)
    return now


def refusal(log: Sequence[Decision], digest: str) -> Decision | None:
    """The entry by which a person refused a model, where no person has promoted it since. The gate's stay the gate's.

    Args:
        log: Of the model's name.
        digest: Of the model.
    """
    found = None
    for entry in log:
        if entry.digest == digest and entry.verdict in ("promoted", "rolled-back"):
            found = None
        elif entry.digest == digest and _is_refusal(entry):
            found = entry
    return found


def read(ws: Workspace, name: str, remembered: bool = False) -> list[Decision]:
    """The log of a model, first entry first.

    Args:
        ws: The workspace.
        name: Registered model.
        remembered: For pages, not for decisions: an entry that this process has read before is not read again, unless
            it was written since, as when it was restored from a backup.

    Raises:
        UserError: An entry is missing or was edited into something else.
    """
    store = open_store(ws.store)
    prefix = _prefix(name)
    written: Mapping[str, object] = store.ages(prefix) if remembered else dict.fromkeys(store.list(prefix))
    numbers = sorted(int(m[1]) for key in written if (m := re.fullmatch(r"(\d+)\.json", key[len(prefix) :])))
    missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
    if missing:
        raise UserError(
            f"the decision log of {name} has gaps",
            reason="it decides which version is champion, so no entry may be missing",
            fix="restore the files from a backup of the store",
            problems=[f"{store.uri}/{prefix}{n}.json is missing" for n in missing],
        )
    keys = [f"{prefix}{n}.json" for n in numbers]
    return [_remembered(ws.store, key, written[key]) if remembered else _read(ws.store, key) for key in keys]


def append(ws: Workspace, name: str, decide: Callable[[list[Decision]], Decision]) -> Decision:
    """Add an entry.

    Args:
        ws: The workspace.
        name: Registered model.
        decide: Gets the log and returns the entry to add, or one of the log's own when nothing is to be added; raises
            when the log no longer allows it. Called again when another process was first.

    Returns:
        The entry as it is in the log.

    Raises:
        UserError: On a cluster, it makes a champion and no person is known who submitted or decided.
    """
    store = open_store(ws.store)
    while True:
        log = read(ws, name)
        wanted = decide(log)
        if wanted.n:
            return wanted
        time = datetime.now(UTC).isoformat(timespec="seconds")
        who = wanted.who or current_user()
        if on_cluster() and wanted.verdict in ("promoted", "rolled-back"):
            who = person(who)
        entry = replace(wanted, n=len(log) + 1, who=who, time=time)
        text = json.dumps(asdict(entry), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if store.create(f"{_prefix(name)}{entry.n}.json", text.encode()):
            return entry


def names(ws: Workspace) -> list[str]:
    """Models that have a log."""
    return sorted({key.split("/")[1] for key in open_store(ws.store).list(f"{FOLDER}/") if not key.endswith(_MADE)})


def record_made(ws: Workspace, name: str) -> None:
    """Record that a promoter made the registered model, where steps cannot write: MLflow does not tell who did."""
    open_store(ws.store).create(_prefix(name) + _MADE, b"{}\n")


def was_made(ws: Workspace, name: str) -> bool:
    """Whether a promoter made the registered model, or used it before that was recorded."""
    if open_store(ws.store).exists(_prefix(name) + _MADE):
        return True
    return not all(map(_is_refusal, read(ws, name)))  # a candidate can be refused before the model is made


def _is_refusal(entry: Decision) -> bool:
    return entry.verdict == "refused" and not entry.evidence


def _prefix(name: str) -> str:
    return f"{FOLDER}/{name}/"


def _read(uri: str, key: str) -> Decision:
    store = open_store(uri)
    return _parse(store.read(key), f"{store.uri}/{key}")


@lru_cache(maxsize=20_000)
def _remembered(uri: str, key: str, written: object) -> Decision:
    return _read(uri, key)


def _parse(text: bytes, where: str) -> Decision:
    try:
        values: dict[str, Any] = json.loads(text)
        found = Decision(**values)
        if wrong := [key for key, value in values.items() if type(value) is not (int if key == "n" else str)]:
            raise TypeError(wrong)
        return found
    except (ValueError, TypeError):
        raise UserError(
            f"{where} is not a decision",
            reason="it is cut off or was edited by hand",
            fix="restore the file from a backup of the store",
        ) from None
