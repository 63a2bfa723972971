"""Progress reports: log lines, progress bars and training metrics, as JSON events or drawn on the terminal.

A step under `kfp.local` or in a pod has no terminal. Where MEDMIM_EVENTS names a file, each event is appended to it
as one JSON line for the parent process to draw; `-` is stdout, whose lines are a pod's log; otherwise it is drawn here,
on stderr.
"""

import codecs
import json
import locale
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

_listener: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar("listener", default=None)
_EVERY = 0.5  # s between two events of one bar
_PLAIN_EVERY = 4.0  # s between two lines where there is no terminal
_SILENCE = 3.0  # s of a server until `waiting_for` reports it
_WAITED_EVERY = 60.0  # s between two such lines of one server
_STDOUT = "-"
_TAIL = 1 << 16  # bytes of a file of events in which the last ones are looked for
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# an event, perhaps behind Ray's prefix: `(RayTrainWorker pid=7, ip=10.0.0.1) `
_EVENT_LINE = re.compile(r"\s*(?:\(.*?\bpid=\d+[^)]*\)\s*)?(\{.*\})\s*")


def emit(kind: str, **fields: Any) -> None:
    """Report one event: a `line` (text), a `bar` (label, done, total, unit, rate, eta) or a `step` (metrics)."""
    forward({"kind": kind, "time": time.time(), "stage": os.environ.get("MEDMIM_STAGE", ""), **fields})


@contextmanager
def heard(by: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hand the events of this thread, within the block, to somebody else as well, such as a page that shows them."""
    before = _listener.set(by)
    try:
        yield
    finally:
        _listener.reset(before)


def forward(event: dict[str, Any], to: str | None = None) -> None:
    """Report an event of this process or of another, unchanged.

    Args:
        event: What `emit` or `parse` made.
        to: Instead of MEDMIM_EVENTS: a file, `-` for stdout, or an empty string for this terminal.
    """
    if (listener := _listener.get()) is not None:
        listener(event)
    path = os.environ.get("MEDMIM_EVENTS") if to is None else to
    line = json.dumps(event).encode() + b"\n"
    if path == _STDOUT:
        while line:  # not by sys.stdout: it may be redirected, and one write keeps lines of several processes apart
            line = line[os.write(1, line) :]
    elif path:
        with open(path, "ab", buffering=0) as file:  # one write of one line: appends of several processes do not mix
            file.write(line)
    else:
        _draw(event, sys.stderr)


def locale_encoding() -> str:
    """The encoding of this shell's locale, as Python calls it: `utf-8`; `ascii` for C and POSIX; `iso8859-1`."""
    return codecs.lookup(locale.getencoding()).name


def strip_ansi(text: str) -> str:
    """Text without ANSI colour codes."""
    return _ANSI.sub("", text)


def parse(line: str) -> dict[str, Any] | None:
    """The event in a log line, also behind Ray's prefix and colour codes; None for any other line."""
    found = _EVENT_LINE.fullmatch(strip_ansi(line))
    if found is None:
        return None
    try:
        event = json.loads(found[1])
    except (ValueError, RecursionError):
        return None
    whole = isinstance(event, dict) and isinstance(event.get("kind"), str) and {"time", "stage"} <= event.keys()
    return event if whole else None


def last(path: Path, stage: str) -> list[str]:
    """What a stage has reported last: its bar that is not full, its metrics, its line; empty where there is no file.

    Args:
        path: Of MEDMIM_EVENTS.
        stage: Its name.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    newest: dict[str, str] = {}
    for line in lines:
        event = parse(line)
        if event is not None and event["stage"] == stage and event["kind"] in ("bar", "step", "line"):
            with suppress(KeyError, TypeError, ValueError):  # of another version
                whole = event["kind"] == "bar" and event["done"] >= event["total"]
                newest[event["kind"]] = "" if whole else render(event)
    return [newest[kind] for kind in ("bar", "step", "line") if newest.get(kind)]


def say(text: str) -> None:
    """Report one line of text."""
    emit("line", text=text)


_waited: dict[str, float] = {}  # server -> when it was last said that it is waited for


@contextmanager
def waiting_for(server: str) -> Iterator[None]:
    """Say that a server is waited for where the block takes longer than three seconds; of one server once a minute.

    Args:
        server: As the line names it, such as `KFP at http://kfp:8888`.
    """

    def report() -> None:
        now = time.monotonic()
        if now - _waited.get(server, -_WAITED_EVERY) >= _WAITED_EVERY:
            _waited[server] = now
            say(f"waiting for {server}, which has not answered for {_SILENCE:.0f} s")

    timer = threading.Timer(_SILENCE, report)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def size(count: float) -> str:
    """Bytes in the unit that fits: `16.1 GB`, `40.0 kB`, `512 bytes`."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:,.1f} {unit}"
    return f"{count:,.0f} bytes"


class Bar:
    """A progress bar: counts work and reports rate and time left, at most twice a second."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.begin = time.perf_counter()
        self._shown_at = 0.0
        self._shown = -1

    def add(self, n: int = 1) -> None:
        """Count `n` more as done."""
        self.done += n
        now = time.perf_counter()
        if now - self._shown_at >= _EVERY or self.done >= self.total:
            self._shown_at = now
            self.show()

    def show(self) -> None:
        """Report the current count, once for each count."""
        if self.done == self._shown:
            return
        self._shown = self.done
        took = time.perf_counter() - self.begin
        rate = self.done / took if took > 0 else 0.0
        left = (self.total - self.done) / rate if rate else None
        emit(
            "bar",
            label=self.label,
            done=self.done,
            total=self.total,
            unit=self.unit,
            rate=round(rate, 2),
            eta=None if left is None else round(left, 1),
        )


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[Bar]:
    """A progress bar that is shown at its start and at its end, also when the work fails."""
    it = Bar(label, total, unit)
    it.show()
    try:
        yield it
    finally:
        it.show()


_last: dict[str, float] = {}  # bar -> when it was last printed where there is no terminal


def _draw(event: dict[str, Any], out: TextIO) -> None:
    text = render(event)
    if event["kind"] != "bar":
        out.write(("\r\x1b[K" if out.isatty() else "") + text + "\n")
    elif out.isatty():
        out.write(f"\r\x1b[K{text}" + ("\n" if event["done"] >= event["total"] else ""))
    else:
        now = time.monotonic()
        if event["done"] >= event["total"] > 0 or now - _last.get(event["label"], 0.0) > _PLAIN_EVERY:
            _last[event["label"]] = now
            out.write(text + "\n")
    out.flush()


def render(event: dict[str, Any]) -> str:
    """An event as one line of text."""
    if event["kind"] == "bar":
        eta = event.get("eta")
        left = "" if not eta else f", {eta:.0f} s left"
        rate = f"{event['rate']:,.{0 if event['rate'] >= 10 else 1}f}/s"
        return f"{event['label']}: {event['done']:,}/{event['total']:,} {event['unit']} ({rate}{left})"
    if event["kind"] == "step":
        return " ".join(f"{k} {_number(v)}" for k, v in event.items() if k not in ("kind", "time", "stage"))
    return str(event["text"])


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:,.4g}"
