"""The lock of a step in the store: one process makes it, on a laptop and on a cluster alike; the others wait.

    STORE/locks/STEP/00000007.json    the seventh turn: whose it is, how often it was renewed, whether it has ended

A turn is created only if absent, and only where the one before has ended or its holder is lost, so that one process
alone gets the next. The highest number counts. It is never removed here, so that numbers only grow, and a process that
was paused anywhere can neither get an old turn nor remove a new one: it finds a higher one, and has lost its lock.

A holder is lost when its process is gone, which only the same machine can tell, at once; or when its turn has not
changed for `STALE` seconds on the clock of the one who waits. Clocks of two machines are never compared.
"""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import FrameType
from uuid import uuid4

from medmim.errors import Unavailable, UserError
from medmim.progress import say
from medmim.store import Store
from medmim.store.removal import LOCK

FOLDER = "locks"  # in a store
RENEW = 15.0  # s between two renewals
STALE = 120.0  # s without one after which a lock is taken over
_LONGEST_POLL = 5.0  # s between two looks at the lock of another
_REPORT = 300.0  # s between two lines about waiting
_TURN = re.compile(r"\d{8}\.json")
_here: set[str] = set()  # holders in this process: another one of it could not say that it has ended
_WAKE = signal.SIGWINCH  # does nothing where nobody handles it; SIGURG is what Go's runtime sends itself


@dataclass(frozen=True)
class Turn:
    """What a turn's object holds.

    Attributes:
        number: From 1 on; in the object's name.
        holder: Unlike that of any other process.
        shared: What the processes have in common that share it; empty where it is one process's alone.
        run: Name of the run; empty outside a run.
        host: Name of the machine or pod.
        pid: Number of the process.
        process: See `_this_process`; empty where its death would not end the work.
        renewals: How often it was renewed.
        ended: Its holder is done.
    """

    number: int = 0
    holder: str = ""
    shared: str = ""
    run: str = ""
    host: str = ""
    pid: int = 0
    process: str = ""
    renewals: int = 0
    ended: bool = False

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host}" if self.pid else "another process"
        return f"run {self.run} ({who})" if self.run else who


@dataclass
class Held:
    """A lock that this process has.

    Attributes:
        place: The store.
        name: Of the step.
        turn: As this process writes it.
        waited: Whether another process had it first.
        lost: Whose it is now, once it is not this process's any more.
    """

    place: Store
    name: str
    turn: Turn
    waited: bool = False
    lost: Turn | None = field(default=None, init=False)

    def check(self) -> None:
        """Look whether the lock is still held: before others' work would be overwritten or removed.

        Raises:
            Unavailable: It is another process's by now.
        """
        if self.lost is None and _numbers(self.place, self.name)[-1:] != [self.turn.number]:
            self.lost = _newest(self.place, self.name)
        if self.lost is not None:
            raise Unavailable(
                f"this process has lost the lock of {self.name} to {self.lost}",
                reason=f"it did not renew it for {STALE:.0f} s: it was paused, or the store did not answer",
                fix="run the same command again: it waits for the other one, and finds its result",
            )

    def renew(self) -> None:
        """Show that this process lives. Raises as `check`."""
        self.check()
        known = _newest(self.place, self.name) if self.turn.shared else self.turn  # others who share it write it, too
        if not known.ended:
            self.turn = replace(self.turn, renewals=known.renewals + 1)
            _write(self.place, self.name, self.turn)

    def end(self) -> None:
        """Let others have it. Raises as `check`."""
        self.check()
        _write(self.place, self.name, replace(self.turn, ended=True))


@contextmanager
def step_lock(place: Store, name: str, run: str = "", shared: str = "") -> Iterator[Held]:
    """Hold the lock of a step; waits for the one that holds it, and says so.

    Where it is lost, the main thread is interrupted, and the block ends with `Unavailable`.

    Args:
        place: The store.
        name: Of the step, with its key: `finetune-0123456789abcdef`; or `store.removal.LOCK`, of gc and erasures.
        run: Name of the run, for messages.
        shared: Processes that give the same hold it together: a step in the cluster, the driver of its Ray job, and
            the step that replaces it. None of their deaths ends it alone. It also outlives a step that is told to go
            (SystemExit), whose job goes on; until `STALE` where none does.

    Raises:
        Unavailable: Another process has taken it over meanwhile, or the store does not answer.
        UserError: The store refuses.
    """
    process = "" if shared else _this_process()
    own, ends = Turn(0, uuid4().hex, shared, run, socket.gethostname(), os.getpid(), process), True
    _here.add(own.holder)
    try:
        held = _acquire(place, name, own)
    except BaseException:  # an interrupt of the waiting, too
        _here.discard(own.holder)
        raise
    try:
        with _renewed(held):
            yield held
    except (Exception, KeyboardInterrupt):
        if held.lost is not None:
            held.check()
        raise
    except SystemExit:
        ends = not shared
        raise
    finally:
        try:
            if ends:
                with suppress(UserError):  # it is as if the process had been killed now: the next one waits for STALE
                    held.end()
        finally:
            _here.discard(own.holder)


@contextmanager
def kept(place: Store, name: str, shared: str) -> Iterator[None]:
    """Renew the lock of processes with the same `shared` while they have it; neither begins nor ends it."""

    def renew() -> bool:
        newest = _newest(place, name)
        if newest.shared == shared and not newest.ended:
            _write(place, name, replace(newest, renewals=newest.renewals + 1))
        return True

    with _repeated(renew, threading.Event()):
        yield


def held(place: Store, since: float) -> list[tuple[str, Turn, float]]:
    """The locks that somebody holds now, as far as this machine can tell: the name of the step, the turn, its renewal.

    Args:
        place: The store.
        since: Locks that were not renewed since then are left out, in seconds since 1970; as the renewals, by the
            store's clock.
    """
    found = []
    for key, (renewed, _) in place.ages(f"{FOLDER}/").items():
        name, _, turn = key.removeprefix(f"{FOLDER}/").rpartition("/")
        if renewed < since or not name or not _TURN.fullmatch(turn):
            continue
        with suppress(FileNotFoundError):  # ended, and the next one has begun
            known = _read(place, name, int(turn.partition(".")[0]))
            if not known.ended and not _is_gone(known.process):
                found.append((name, known, renewed))
    return found


def is_held(place: Store, name: str) -> bool:
    """Whether a process may be making this step now; one of another machine that was killed counts until the next."""
    newest = _newest(place, name)
    return newest.number > 0 and not newest.ended and not _is_gone(newest.process)


def _acquire(place: Store, name: str, own: Turn) -> Held:
    """The lock, once nobody else holds it."""
    begin = looked = time.monotonic()
    seen, silent, reported, poll = Turn(), 0.0, -1.0, 0.1
    while True:
        now, newest = time.monotonic(), _newest(place, name)
        if own.shared and own.shared == newest.shared and not newest.ended:
            return Held(place, name, replace(own, number=newest.number))
        # a time in which this process was paused, or the store away, is none in which the holder could be seen
        silent = silent + min(now - looked, 2 * _LONGEST_POLL) if newest == seen else 0.0
        seen, looked = newest, time.monotonic()
        left = newest.process != "" and newest.process == own.process and newest.holder not in _here
        gone = left or _is_gone(newest.process)
        if newest.number == 0 or newest.ended or gone or silent >= STALE:
            if newest.number and not newest.ended:
                why = "is gone" if gone else f"has not renewed its lock for {STALE:.0f} s"
                say(f"{newest} {why}: taking over {name}")
            turn = replace(own, number=newest.number + 1)
            if place.create(_key(name, turn.number), _dump(turn)):
                numbers = _numbers(place, name)
                if numbers[-1:] == [turn.number]:
                    with suppress(UserError):  # nobody reads the older ones any more
                        for number in numbers[:-1]:
                            place.delete(_key(name, number))
                    return Held(place, name, turn, waited=reported >= 0)
                place.delete(_key(name, turn.number))  # an old number, whose first object is removed already
            continue
        if reported < 0 or now - reported >= _REPORT:
            since = f", for {(now - begin) / 60:,.0f} min by now" if reported >= 0 else ""
            step = f"running this very step, {name}{since}; its result will be used"
            say(f"waiting for {newest}, which is {f'removing from the store{since}' if name == LOCK else step}")
            reported = now
        time.sleep(poll)
        poll = min(_LONGEST_POLL, poll * 1.5)


@contextmanager
def _renewed(held: Held) -> Iterator[None]:
    """Renew a lock from a thread, and interrupt this one where it is lost."""
    main, end = threading.main_thread(), threading.Event()
    is_main = threading.current_thread() is main

    def renew() -> bool:
        try:
            held.renew()
        except UserError:  # the next one may succeed, unless it is lost
            if held.lost is not None and is_main and not end.is_set():
                signal.pthread_kill(main.ident or 0, _WAKE)
        return held.lost is None

    def interrupt(number: int, frame: FrameType | None) -> None:
        if held.lost is not None and not end.is_set():  # a terminal that changes its size sends it, too
            raise KeyboardInterrupt  # as Ctrl-C: all code in between, Ray's too, cleans up after it

    before = signal.signal(_WAKE, interrupt) if is_main else None
    try:
        with _repeated(renew, end):
            yield
    finally:
        if is_main:
            signal.signal(_WAKE, before or signal.SIG_DFL)


@contextmanager
def _repeated(renew: Callable[[], bool], end: threading.Event) -> Iterator[None]:
    """Call a function every `RENEW` seconds, until it returns False."""

    def repeat() -> None:
        going = True
        while going and not end.wait(RENEW):
            with suppress(UserError):
                going = renew()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(5)


def _newest(place: Store, name: str) -> Turn:
    """The turn that counts; of number 0 where there is none."""
    while True:
        numbers = _numbers(place, name)
        if not numbers:
            return Turn()
        with suppress(FileNotFoundError):  # a higher one has been created since
            return _read(place, name, numbers[-1])


def _read(place: Store, name: str, number: int) -> Turn:
    """A turn; one of an unknown holder where the object is not ours. Raises FileNotFoundError."""
    text = place.read(_key(name, number))
    try:
        written = json.loads(text)
        known = {one.name: written[one.name] for one in fields(Turn) if one.name in written}
        return replace(Turn(**known), number=number)
    except (ValueError, TypeError):
        return Turn(number)


def _write(place: Store, name: str, turn: Turn) -> None:
    place.write(_key(name, turn.number), _dump(turn))


def _numbers(place: Store, name: str) -> list[int]:
    prefix = f"{_folder(name)}/"
    names = (key.removeprefix(prefix) for key in place.list(prefix))
    return sorted(int(one.partition(".")[0]) for one in names if _TURN.fullmatch(one))


def _key(name: str, number: int) -> str:
    return f"{_folder(name)}/{number:08d}.json"


def _folder(name: str) -> str:
    """Where the turns are: those of removals where no step may write, and gc may."""
    return name if name == LOCK else f"{FOLDER}/{name}"


def _dump(turn: Turn) -> bytes:
    return json.dumps(asdict(turn), sort_keys=True).encode()


def _this_process() -> str:
    """This process, unlike any other of this or another machine; empty where that cannot be told (no Linux)."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {os.getpid()} {_start(os.getpid())}"
    return ""


def _start(pid: int) -> str:
    """When a process of this machine began, in ticks since its boot; empty where it has ended.

    Raises:
        OSError: It cannot be told.
    """
    state, *after = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return "" if state in "ZX" else after[18]


def _is_gone(process: str) -> bool:
    """Whether a process of `_this_process` has ended; False where that cannot be told from here."""
    boot, namespace, pid, start = (process or "   ").split(" ", 3)
    if not pid or f"{boot} {namespace}" != " ".join(_this_process().split(" ")[:2]):
        return False
    try:
        os.kill(int(pid), 0)
        return _start(int(pid)) != start
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
