"""The decision log: `STORE/decisions/NAME/N.json`, the truth on which version is champion.

An entry is created only if it is absent, and only after the one before it: of two promoters one wins, and the log has
no gaps. What the aliases should be is a fold over it.

    STORE/decisions/NAME/N.json                        an entry
    STORE/decisions/NAME/entries-FIRST-LAST-MARK.json  a hundred entries again: a long log is read in few requests

MARK is that of the times and sizes with which the store lists the hundred: where one was written since, the copy has
another name than the one that is looked for, and the entries themselves are read.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from medmim.errors import UserError
from medmim.run.person import current_user, on_cluster, person
from medmim.run.workspace import Workspace
from medmim.store import Store, open_store

FOLDER = "decisions"
MADE = "made.json"  # beside the entries
_TOGETHER = 100  # entries in a copy
_SETTLED = 600.0  # s: what was written longer ago was not written again in the same second, whatever the clocks
_AT_ONCE = 16  # requests
_MOST = 50_000  # entries that a process remembers

T = TypeVar("T")
Written = tuple[float, int]  # time and size, as `Store.ages` gives them

Verdict = Literal["promoted", "kept", "refused", "rolled-back", "retired"]


@dataclass(frozen=True)
class Decision:
    """One entry of the log.

    Attributes:
        verdict: `promoted` and `rolled-back` make `version` champion; `kept`, `refused` and `retired` change no alias.
            What a person has retired is out of use, and its model may be removed.
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
    """The entry by which a person refused or retired a model, where no person has promoted it since.

    What the gate refused is the gate's word alone.

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


def retirement(log: Sequence[Decision], digest: str) -> Decision | None:
    """The entry by which a person retired a model, where no person has promoted it since; arguments as `refusal`."""
    found = None
    for entry in log:
        if entry.digest == digest and entry.verdict in ("promoted", "rolled-back"):
            found = None
        elif entry.digest == digest and entry.verdict == "retired":
            found = entry
    return found


def read(ws: Workspace, name: str) -> list[Decision]:
    """The log of a model, first entry first.

    An entry that this process has read before is not read again, unless it was written since, as when it was restored
    from a backup.

    Args:
        ws: The workspace.
        name: Registered model.

    Raises:
        UserError: An entry is missing or was edited into something else.
    """
    place = open_store(ws.store)
    return _load(place, name, place.ages(_prefix(name)))


def read_all(ws: Workspace) -> dict[str, list[Decision]]:
    """The logs of all models, by name; the store is listed once.

    Raises:
        UserError: As `read`.
    """
    place, by_name = open_store(ws.store), dict[str, dict[str, Written]]()
    for key, written in place.ages(f"{FOLDER}/").items():
        by_name.setdefault(key.split("/")[1], {})[key] = written
    found = {name: _load(place, name, written) for name, written in sorted(by_name.items())}
    return {name: log for name, log in found.items() if log}


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
        written = store.ages(_prefix(name))
        log = _load(store, name, written)
        wanted = decide(log)
        if wanted.n:
            return wanted
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = wanted.who or current_user()
        if on_cluster() and wanted.verdict in ("promoted", "rolled-back"):
            who = person(who)
        entry = replace(wanted, n=len(log) + 1, who=who, time=now)
        text = json.dumps(asdict(entry), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if store.create(f"{_prefix(name)}{entry.n}.json", text.encode()):
            _copy(store, name, written, log)
            return entry


def names(ws: Workspace) -> list[str]:
    """Models that have a log."""
    return sorted({key.split("/")[1] for key in open_store(ws.store).list(f"{FOLDER}/") if not key.endswith(MADE)})


def record_made(ws: Workspace, name: str) -> None:
    """Record that a promoter made the registered model, where steps cannot write: MLflow does not tell who did."""
    open_store(ws.store).create(_prefix(name) + MADE, b"{}\n")


def was_made(ws: Workspace, name: str) -> bool:
    """Whether a promoter made the registered model, or used it before that was recorded."""
    if open_store(ws.store).exists(_prefix(name) + MADE):
        return True
    return not all(map(_is_refusal, read(ws, name)))  # a candidate can be refused or retired before the model is made


def _is_refusal(entry: Decision) -> bool:
    return entry.verdict in ("refused", "retired") and not entry.evidence


def _prefix(name: str) -> str:
    return f"{FOLDER}/{name}/"


_known: dict[str, tuple[Written, Decision]] = {}  # address -> the entry, and when it was written


def _load(place: Store, name: str, written: Mapping[str, Written]) -> list[Decision]:
    """The entries among what is listed below a name."""
    prefix = _prefix(name)
    numbers = sorted(int(m[1]) for key in written if (m := re.fullmatch(r"(\d+)\.json", key[len(prefix) :])))
    missing = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
    if missing:
        raise UserError(
            f"the decision log of {name} has gaps",
            reason="it decides which version is champion, so no entry may be missing",
            fix="restore the files from a backup of the store",
            problems=[f"{place.uri}/{prefix}{n}.json is missing" for n in missing],
        )
    keys = [f"{prefix}{n}.json" for n in numbers]
    found = {key: known[1] for key in keys if (known := _known.get(f"{place.uri}/{key}")) and known[0] == written[key]}
    hundreds = [own for own in _hundreds(keys) if any(key not in found for key in own)]
    copies = [copy for own in hundreds if (copy := _copied_to(prefix, own, written)) in written]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for text, copy in zip(pool.map(place.read, copies), copies, strict=True):
            for entry in _parse_copy(text, f"{place.uri}/{copy}"):
                found[f"{prefix}{entry.n}.json"] = entry
        rest = [key for key in keys if key not in found]
        for text, key in zip(pool.map(place.read, rest), rest, strict=True):
            found[key] = _parse(text, f"{place.uri}/{key}")
    if len(_known) > _MOST:
        _known.clear()
    _known.update({f"{place.uri}/{key}": (written[key], found[key]) for key in keys if _is_settled(written[key])})
    return [found[key] for key in keys]


def _copy(place: Store, name: str, written: Mapping[str, Written], log: Sequence[Decision]) -> None:
    """Write each full hundred of entries again that has no copy yet; one that is refused does no harm."""
    prefix = _prefix(name)
    for entries in _hundreds(log):
        keys = [f"{prefix}{entry.n}.json" for entry in entries]
        copy = _copied_to(prefix, keys, written)
        if copy not in written and all(_is_settled(written[key]) for key in keys):
            with suppress(UserError):
                place.create(copy, json.dumps([asdict(entry) for entry in entries], ensure_ascii=False).encode())


def _hundreds(every: Sequence[T]) -> list[Sequence[T]]:
    """The full ones."""
    return [every[first : first + _TOGETHER] for first in range(0, len(every) - len(every) % _TOGETHER, _TOGETHER)]


def _copied_to(prefix: str, keys: Sequence[str], written: Mapping[str, Written]) -> str:
    marks = ";".join(f"{key} {written[key][0]:.3f} {written[key][1]}" for key in keys)
    first, last = (key[len(prefix) : -len(".json")] for key in (keys[0], keys[-1]))
    return f"{prefix}entries-{first}-{last}-{hashlib.sha256(marks.encode()).hexdigest()[:16]}.json"


def _is_settled(written: Written) -> bool:
    return time.time() - written[0] > _SETTLED


def _parse_copy(text: bytes, where: str) -> list[Decision]:
    try:
        return [_parse(json.dumps(values).encode(), where) for values in json.loads(text)]
    except (ValueError, TypeError):
        raise _damaged(where, "delete the file: it only repeats entries") from None


def _parse(text: bytes, where: str) -> Decision:
    try:
        values: dict[str, Any] = json.loads(text)
        found = Decision(**values)
        if wrong := [key for key, value in values.items() if type(value) is not (int if key == "n" else str)]:
            raise TypeError(wrong)
        return found
    except (ValueError, TypeError):
        raise _damaged(where, "restore the file from a backup of the store") from None


def _damaged(where: str, fix: str) -> UserError:
    return UserError(f"{where} is not a decision", reason="it is cut off or was edited by hand", fix=fix)
