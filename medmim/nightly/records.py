"""The nights' records, `STORE/nights/NAME/DATE.json`, created once and never changed; and a night's claim on a cluster.

Of two nightlies of one night one creates the record, and the other one fails. Scores stay here for good, so that the
trend needs no artifact; the answers themselves are artifacts, which a record names by digest.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medmim import hints, store
from medmim.errors import UserError
from medmim.run.workspace import Workspace

FOLDER = "nights"


@dataclass(frozen=True)
class Night:
    """A night's record. It has no text of a question: records are kept for good, and a patient's data must not be.

    Attributes:
        date: The night, YYYY-MM-DD.
        run: The run that recorded it.
        data: Digest of the data set.
        bench: Digest of the scores and answers.
        models: Role -> `weights` (their digest), `digest` (the key of the cached answers), `anew` (the night since
            which they were asked anew, or empty), `answers` (digest).
        scores: Rows of `model`, `group`, `metric`, `value`, `low`, `high`, `n`, `patients`.
        canary: Role -> `asked`, `changed`, `p`, `drifted`, `items` (ids of some that changed), `answers` (digest).
        differences: Rows of `model`, `against` (a date), `group`, `metric`, `value`, `low`, `high`, `p`, `p_holm`,
            `n`, `patients`, `dropped`.
        changed: Role -> ids of the questions that are answered differently than the night before.
        alarms: Sentences; empty on a quiet night.
        notes: Sentences about what could not be asked or compared.
        window: How many past nights are compared with; garbage collection keeps their answers.
        who: User.
        time: UTC, ISO 8601.
    """

    date: str
    run: str
    data: str
    bench: str
    models: Mapping[str, Mapping[str, str]]
    scores: Sequence[Mapping[str, Any]]
    canary: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    differences: Sequence[Mapping[str, Any]] = ()
    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alarms: Sequence[str] = ()
    notes: Sequence[str] = ()
    window: int = 1
    who: str = ""
    time: str = ""


def read(ws: Workspace, name: str) -> list[Night]:
    """All nights of a recipe, in order.

    Raises:
        UserError: A record was edited into something else.
    """
    place = store.open_store(ws.store)
    keys = sorted(key for key in place.list(f"{FOLDER}/{name}/") if key.endswith(".json"))
    return [_parse(place.read_unchanged(key), f"{place.uri}/{key}") for key in keys]


def dates(ws: Workspace) -> dict[str, list[str]]:
    """Recipe -> its nights, in order."""
    return _dates(store.open_store(ws.store))


def find(ws: Workspace, name: str, date: str) -> Night | None:
    """The record of a night."""
    place = store.open_store(ws.store)
    try:
        return _parse(place.read_unchanged(_key(name, date)), f"{place.uri}/{_key(name, date)}")
    except FileNotFoundError:
        return None


def record(ws: Workspace, name: str, night: Night) -> Night:
    """Record a night, once.

    Returns:
        The record in the store: this one, or that of an earlier, killed try of the same run.

    Raises:
        UserError: Another run recorded the night.
    """
    text = json.dumps(asdict(night), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    store.open_store(ws.store).create(_key(name, night.date), text.encode())
    existing = find(ws, name, night.date)
    if existing is None or existing.run != night.run:
        raise already_recorded(name, night.date, existing.run if existing else "another run")
    return existing


def already_recorded(name: str, date: str, run: str) -> UserError:
    """The error for a night that another run recorded."""
    return UserError(
        f"the night of {date} of recipe {name} is taken by run {run}",
        reason="a night has one record, which never changes: two nightlies overlapped, or it is done already",
        fix=f"look at that run's page: `{hints.command('runs', 'show', run)}` on a cluster, "
        "`reports/` in its home on a laptop",
    )


def claim(ws: Workspace, name: str, date: str, again: bool = False) -> str:
    """Claim a night for a run on a cluster, before it is submitted; of two submitters one gets it.

    Args:
        ws: The claim is made in its store.
        name: The recipe's.
        date: The night.
        again: Also where a run of it was submitted before and ended without a record.

    Returns:
        Name of the run.

    Raises:
        UserError: The night is recorded or claimed.
    """
    existing = find(ws, name, date)
    if existing is not None:
        raise already_recorded(name, date, existing.run)
    place = store.open_store(ws.store)
    last = max((int(key.rpartition("-")[2]) for key in place.list(_claim(name, date, ""))), default=0)
    if last and not again:
        raise _already_claimed(name, date, last)
    number = last + 1  # not how many there are: an earlier one may have been withdrawn
    if not place.create(_claim(name, date, number), b""):
        raise _already_claimed(name, date, number)
    return run_name(name, date, str(number))


def withdraw(ws: Workspace, name: str, date: str, run: str) -> None:
    """Withdraw a claim whose run was not started."""
    store.open_store(ws.store).delete(_claim(name, date, int(run.rpartition("-")[2])))


def run_name(name: str, date: str, suffix: str) -> str:
    """Name of a night's run; a resumed try has the same."""
    return f"{name}-nightly-{date.replace('-', '')}-{suffix}"


def _already_claimed(name: str, date: str, number: int) -> UserError:
    run = run_name(name, date, str(number))
    return UserError(
        f"the night of {date} of recipe {name} is taken by run {run}",
        reason="it was submitted before; two runs of one night would do the same work twice",
        fix=f"`{hints.command('runs', 'show', run)}`; if it failed or does not exist: the same command with --again",
    )


def digests_in_window(place: store.Store) -> set[str]:
    """Digests that the next nights compare with: those in the last records of each recipe."""
    found: set[str] = set()
    for name, nights in _dates(place).items():
        keys = [_key(name, date) for date in nights]
        last = _parse(place.read_unchanged(keys[-1]), keys[-1])
        for key in keys[-last.window :]:
            night = _parse(place.read_unchanged(key), key)
            found |= {night.bench, night.data, *(own["answers"] for own in night.models.values())}
    return found


def _dates(place: store.Store) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in sorted(key for key in place.list(f"{FOLDER}/") if key.endswith(".json") and key.count("/") == 2):
        _, name, night = key.split("/")
        found[name].append(night.removesuffix(".json"))
    return dict(found)


def _key(name: str, date: str) -> str:
    return f"{FOLDER}/{name}/{date}.json"


def _claim(name: str, date: str, number: int | str) -> str:
    return f"{FOLDER}/{name}/{date}.claim-{number}"


def _parse(text: bytes, where: str) -> Night:
    try:
        return Night(**json.loads(text))
    except (ValueError, TypeError):
        raise UserError(
            f"{where} is not the record of a night",
            reason="it is cut off or was edited by hand",
            fix="restore the file from a backup of the store, or remove it: that night is then not compared with",
        ) from None
