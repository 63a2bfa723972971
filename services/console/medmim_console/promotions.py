"""Changes to a model's champion, which take minutes: each in a thread of its own, one at a time for a model.

A promotion reads every byte of the model and scores its answers again. It writes the decision log at the very end, one
entry that is created only if it is absent: a process that ends in the middle, by whatever signal, leaves the log, and
so the champion, as they were. Between that entry and MLflow's aliases it can end, too: then the log already says who is
champion, pages show that the aliases differ, and the next decision or `registry reconcile` sets them. So threads are
daemons, and nobody waits for them at the end. What has ended is remembered until the process ends.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock, Thread

from medmim import progress
from medmim.errors import UserError, as_user_error
from medmim.recipe.registry import CANDIDATE
from medmim.registry.decisions import Decision
from medmim_console.audit import Attempt

_KEPT = 200  # that have ended
_AT_ONCE = 4  # of all models; each reads as fast as the store gives
_LINES = 12  # of its progress


@dataclass
class Change:
    """One attempt that is running or has ended.

    Attributes:
        id: In its address.
        asked: Who wants what, and why.
        begun: When.
        lines: The last lines of its progress; a new tuple at each, since a page may be drawn from the one before.
        bar: Its present progress bar; empty without.
        ended: When; None while it is running.
        made: The decision; None where there is none.
        error: Why there is none.
    """

    id: str
    asked: Attempt
    begun: datetime
    lines: tuple[str, ...] = ()
    bar: str = ""
    ended: datetime | None = None
    made: Decision | None = None
    error: UserError | None = None
    _over: Event = field(default_factory=Event)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        return self._over.wait(seconds)


class Busy(Exception):
    """Another change is running; `by` is that one, or None where there are too many of other models."""

    def __init__(self, by: Change | None) -> None:
        super().__init__()
        self.by = by


@dataclass(frozen=True)
class Promotions:
    """Those of this process."""

    _known: OrderedDict[str, Change] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def start(
        self, asked: Attempt, decide: Callable[[], Decision], ended: Callable[[Change], None], home: Path
    ) -> Change:
        """Begin a change.

        Args:
            asked: Who wants what; `asked.model` may be `NAME-candidate`.
            decide: Does it.
            ended: Called when it has ended, however.
            home: See `errors.internal_error`.

        Raises:
            Busy: Another one of the same model is running, or too many of others.
            RuntimeError: The system gives no thread for it; it is as if nobody had asked.
        """
        with self._lock:
            running = [one for one in self._known.values() if one.ended is None]
            same = [one for one in running if _production(one.asked.model) == _production(asked.model)]
            if same or len(running) >= _AT_ONCE:
                raise Busy(same[0] if same else None)
            over = [name for name, one in self._known.items() if one.ended is not None]
            for name in over[: max(0, len(over) - _KEPT + 1)]:
                del self._known[name]
            change = Change(secrets.token_urlsafe(12), asked, datetime.now(UTC))
            self._known[change.id] = change
        thread = Thread(target=_run, args=(change, decide, ended, home), daemon=True, name=f"{asked.what} {change.id}")
        try:
            thread.start()
        except BaseException:  # else it would run for ever, and nobody could decide about its model
            with self._lock:
                del self._known[change.id]
            raise
        return change

    def get(self, name: str) -> Change | None:
        """The one of this id."""
        with self._lock:
            return self._known.get(name)

    def of(self, model: str) -> list[Change]:
        """Those of a model, the newest first."""
        with self._lock:
            return [one for one in reversed(self._known.values()) if _production(one.asked.model) == _production(model)]


def _run(change: Change, decide: Callable[[], Decision], ended: Callable[[Change], None], home: Path) -> None:
    def hear(event: dict[str, object]) -> None:
        if event["kind"] == "line":
            change.lines = (*change.lines, progress.render(event))[-_LINES:]
        elif event["kind"] == "bar":
            change.bar = progress.render(event)

    try:
        with progress.heard(hear):
            change.made = decide()
    except BaseException as error:  # noqa: BLE001  the thread is the last that sees it
        asked = change.asked
        change.error = as_user_error(error, f"{asked.what} of version {asked.version} of {asked.model}", home)
    finally:
        change.ended = datetime.now(UTC)
        ended(change)
        change._over.set()


def _production(name: str) -> str:
    return name.removesuffix(CANDIDATE)
