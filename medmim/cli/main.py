"""The process of a command: an exit code and at most one message on every way out, a traceback on none; text as UTF-8.

0 done, 1 a gate or audit said no, 2 bad input, 70 a fault of medmim itself, 75 try again, 130 interrupted. As with any
program: 141 (SIGPIPE) where the reader of the output has gone, 143 after SIGTERM, 129 after SIGHUP.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

from medmim import errors, hints, progress

_PIPE_CLOSED = 128 + signal.SIGPIPE
_ENDED = {  # by a signal: its exit code -> the begin of the last line
    errors.INTERRUPTED: "interrupted",
    errors.TERMINATED: "ended by SIGTERM",
    errors.HUNG_UP: "ended by SIGHUP",
}
_SECOND = 2.0  # s in which another signal, such as Ctrl-C, is the same one

_DEFAULTS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_ended_at: float | None = None
_ended_by = 0  # the signal


def main() -> None:
    """Run the command line and end the process with its exit code."""
    for number, default in _DEFAULTS.items():
        if signal.getsignal(number) is default:  # else it is ignored: nohup
            signal.signal(number, _end)
    os.register_at_fork(after_in_child=_restore)
    try:
        _start_again_in_utf8()
        code = _run()
    except KeyboardInterrupt:
        code = errors.INTERRUPTED
    if _ended_by:
        code = 128 + _ended_by
    if code in _ENDED:
        _print(hints.ended(_ENDED[code]))
        _flush(code)
        os._exit(code)  # Python's own end may wait for threads, or die of another Ctrl-C
    sys.exit(_flush(code))


def _run() -> int:
    try:
        _replace_unprintable()
        from medmim.cli import arguments
        from medmim.cli.app import Passed, app
        from medmim.run.stage import share_cores

        share_cores()
        arguments.check(sys.argv[1:])
        try:
            app()  # ends with SystemExit
        except Passed as passed:
            raise passed.error from None
        return errors.DONE
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's own exit code is 1
            return _PIPE_CLOSED
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BrokenPipeError as error:
        return _PIPE_CLOSED if _output_closed() else _report(errors.from_os_error(error, "running this command"))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a panic of a Rust library, which is no Exception
        if _ended_by:  # Ray's core turns what the signal raised into an exit of its own
            return 128 + _ended_by
        return _report(errors.as_user_error(error, "running this command"))


def _report(error: errors.UserError) -> int:
    _print(f"error: {error}")
    return error.exit_code


def _print(text: str) -> None:
    """Print a last message, also where nobody reads it any more."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _flush(code: int) -> int:
    """Write what is left to write, so that Python has nothing to complain about at its end; the exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or _PIPE_CLOSED
        return code or _report(errors.from_os_error(error, "printing the result"))
    return code


def _output_closed() -> bool:
    """Whether the reader of stdout or stderr has gone, as `head` does."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _end(number: int, frame: FrameType | None) -> None:
    """Raise once what ends the command: a second signal does not break off the cleaning up; a later one ends it.

    SIGTERM is the exit that Ray's session and a stage's record expect of it.
    """
    global _ended_at, _ended_by
    now, code = time.monotonic(), 128 + number
    if _ended_at is None:
        _ended_at, _ended_by = now, number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(code)
    if now - _ended_at > _SECOND:
        os.write(2, f"{hints.ended(_ENDED[code])}\n".encode())
        os._exit(code)


def _restore() -> None:
    """A forked process ends as any other: its parent ends it by a signal, and prints the line."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _start_again_in_utf8() -> None:
    """Start Python again in its UTF-8 mode where the locale is another one.

    Nothing less makes the names of files, and the files that libraries write, the same in every shell.
    """
    on = sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1"  # the latter without effect: python -E, -X utf8=0
    if not on and progress.locale_encoding() != "utf-8" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [os.fsencode(sys.executable), *map(_in_utf8, sys.orig_argv[1:])])  # noqa: S606


def _in_utf8(argument: str) -> bytes:
    """An argument in UTF-8: the bytes that were typed where they are UTF-8 already, as the name of a file may be."""
    typed = os.fsencode(argument)
    try:
        typed.decode()
    except UnicodeDecodeError:
        return argument.encode("utf-8", "surrogateescape")
    return typed


def _replace_unprintable() -> None:
    """Print a character that the terminal cannot show, or UTF-8 cannot hold, as its number, instead of failing.

    The C locale says nothing about the terminal: as Python itself does, we take it for one of UTF-8.
    """
    encoding = progress.locale_encoding()
    known = encoding in ("utf-8", "ascii") or os.environ.get("PYTHONIOENCODING")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: `medmim ... >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=None if known else encoding, errors="backslashreplace")


if __name__ == "__main__":
    main()
