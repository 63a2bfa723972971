"""Benchmarks as the pages read them: what a digest stands for never changes, so it is read once."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from sqlite3 import Connection
from typing import Any

from medmim import store
from medmim.bench import items, standings
from medmim.bench import run as bench
from medmim.errors import Missing, UserError
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim_console import scores_form
from medmim_console.catalog import Made


@dataclass(frozen=True)
class Summary:
    """A benchmark in the list.

    Attributes:
        made: The artifact.
        models: Their roles, the best first.
        metric: The one that leads.
        lead: See `standings.Standings.leads`: of the first domain; None without a score.
        comparable: Whether every question of the tasks was asked.
        tasks: Their names.
    """

    made: Made
    models: tuple[str, ...] = ()
    metric: str = ""
    lead: Mapping[str, Any] | None = None
    comparable: bool = False
    tasks: tuple[str, ...] = ()


def scores(ws: Workspace, digest: str) -> tuple[Artifact, Mapping[str, Any]]:
    """A benchmark that is in the store now, and its `scores.json`. Raises as `there`."""
    artifact = there(ws, digest)
    return artifact, _scores(ws, artifact.uri)


def there(ws: Workspace, digest: str) -> Artifact:
    """A benchmark that is in the store now.

    Raises:
        Missing: There is none.
        UserError: It is damaged.
    """
    found = store.find(f"{ws.store}/bench/{digest}")
    if found is None:
        raise Missing(
            f"there is no benchmark {digest[:12]} in this store",
            fix="it was removed, or is of another store: choose one under Leaderboard",
        )
    return found


def index_of(ws: Workspace, artifact: Artifact, record: Mapping[str, Any]) -> AbstractContextManager[Connection]:
    """The index of a benchmark's items and scores, see `items.opened`.

    Args:
        ws: The workspace.
        artifact: The benchmark.
        record: Its provenance.
    """
    _, asked = data_of(ws, artifact, record)
    return items.opened(ws, artifact, record, provenance_of(asked) if asked else {})


def data_of(ws: Workspace, artifact: Artifact, record: Mapping[str, Any]) -> tuple[str, Artifact | None]:
    """Digest of the data set that a benchmark asks, and the data set; None where it is not in the store any more.

    One account for all pages: it decides whether patients may be named, and so which index of the items is made.
    """
    digest = str((record.get("parents") or {}).get("data") or _scores(ws, artifact.uri).get("data", ""))
    return digest, store.find(f"{ws.store}/data/{digest}") if digest else None


def read_scores(ws: Workspace, uri: str) -> Mapping[str, Any]:
    """The content of `scores.json` of a benchmark of this store."""
    return _scores(ws, uri)


def summary(ws: Workspace, made: Made) -> Summary:
    """A row of the list, from the artifact."""
    try:
        return Summary(made) if made.trouble else Summary(made, *_summed(ws, made.uri))
    except UserError as error:
        if error.exit_code != 2:
            raise
        return Summary(replace(made, trouble=error.fact))


@lru_cache(maxsize=16)  # of ten models half a megabyte each
def _scores(ws: Workspace, uri: str) -> Mapping[str, Any]:
    return _read(ws, uri)


def _read(ws: Workspace, uri: str) -> Mapping[str, Any]:
    written = bench.scores(ws, uri)
    scores_form.check(uri, written)
    return written


@lru_cache(maxsize=4096)
def _summed(ws: Workspace, uri: str) -> tuple[tuple[str, ...], str, Mapping[str, Any] | None, bool, tuple[str, ...]]:
    written = _read(ws, uri)
    found = standings.standings(written)
    lead = next(iter(found.leads()), None)
    return found.roles, found.metric, lead, bool(written["comparable"]), tuple(written.get("tasks", ()))
