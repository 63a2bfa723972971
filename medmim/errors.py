"""User-facing errors: a fact, its reason, the fix and an exit code; a traceback goes to a log, never to the screen."""

import errno
import importlib
import os
import platform
import re
import secrets
import socket
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from medmim import __version__, hints, progress, redact

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

DONE = 0
REFUSED = 1
BAD_INPUT = 2
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
TRY_AGAIN = 75  # EX_TEMPFAIL
INTERRUPTED = 130  # what a shell gives for SIGINT
TERMINATED = 143  # and for SIGTERM
HUNG_UP = 129  # and for SIGHUP

MIN_TRIES = 4  # of a request to a server

_SHOWN = 20
_end: ContextVar[float | None] = ContextVar("end", default=None)  # of the block of `within`, by time.monotonic()


class UserError(Exception):
    """Bad input or a missing prerequisite, reported so that the reader can fix it.

    Passwords and keys of the environment are not in it, whoever wrote the words (`redact.hidden`).

    Args:
        fact: What is wrong, naming file, row and key.
        reason: Why that cannot work. May be empty where the fact is enough.
        fix: What to type or change.
        problems: Every single problem, when there are several; one line each.
        exit_code: `BAD_INPUT`, `REFUSED`, `TRY_AGAIN`, or of `internal_error` `INTERNAL`.
    """

    def __init__(
        self,
        fact: str,
        reason: str = "",
        fix: str = "",
        problems: Sequence[str] = (),
        exit_code: int = BAD_INPUT,
    ) -> None:
        self.fact = redact.hidden(fact)
        super().__init__(self.fact)
        self.reason = redact.hidden(reason)
        self.fix = redact.hidden(fix)
        self.problems = tuple(map(redact.hidden, problems))
        self.exit_code = exit_code

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON, for another process to raise: `UserError(**fields)`."""
        return {**self.__dict__, "problems": list(self.problems)}

    def __str__(self) -> str:
        lines = [self.fact]
        lines += [f"  - {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  - and {len(self.problems) - _SHOWN} more")
        if self.reason:
            lines.append(f"reason: {self.reason}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return redact.escaped("\n".join(lines))


class Refused(UserError):
    """A gate or an audit refused. Nothing is broken; exit code 1."""

    def __init__(self, fact: str, reason: str = "", fix: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(fact, reason, fix, problems, exit_code=REFUSED)


class Missing(UserError):
    """What a name or an address says is not there, as far as is known by mistake; nothing is broken. Exit code 2."""


class Unavailable(UserError):
    """A server or a device failed in a way that may be temporary; exit code 75."""

    def __init__(self, fact: str, reason: str = "", fix: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(fact, reason, fix, problems, exit_code=TRY_AGAIN)


def as_user_error(error: BaseException, doing: str, home: Path | None = None) -> UserError:
    """The error that a user sees for any exception: itself, one of the operating system's, or medmim's own fault.

    Args:
        error: Any exception; a panic of a Rust library is no `Exception`.
        doing: What was being done, as in "no permission while DOING".
        home: See `internal_error`.
    """
    if isinstance(error, UserError):
        return error
    found = _os_error(error)
    if found is not None:
        return from_os_error(found, doing, home)
    where = None if isinstance(error, MemoryError) else out_of_memory(error)
    if where is not None:
        fix = "lower finetune.max_tokens or bench.batch_size, end what else uses it, or take a larger one"
        return used_up(where, f"while {doing}", error, fix)
    return internal_error(error, home)


def internal_error(error: BaseException, home: Path | None = None) -> UserError:
    """The error for an exception that no code expects: a fault of medmim's own. Its traceback is written to a log.

    On a machine the log is a file in the home; in a pod, whose home ends with it, the pod's own log.

    Args:
        error: The exception.
        home: Its folder `errors` gets the file; by default that of this process.

    Returns:
        A UserError with exit code `INTERNAL`, which nobody retries.
    """
    lines = [line for line in progress.strip_ansi(str(error)).splitlines() if line.strip()] or [""]
    message = lines[-1 if "Traceback" in str(error) else 0].strip()[:300]
    frames: list[str] = []
    try:
        reason = f"its traceback is in {_write_traceback(error, home or hints.home())}"
    except OSError as failed:
        reason = f"its traceback could not be written to a log: {failed}"
        frames = [f"{one.filename}:{one.lineno} in {one.name}" for one in traceback.extract_tb(error.__traceback__)]
    return UserError(
        f"a fault of medmim itself: {type(error).__name__}{f': {message}' if message else ''}",
        reason=reason,
        fix="report it, with that traceback; the same command on the same input would fail again",
        problems=frames[-5:],
        exit_code=INTERNAL,
    )


def _write_traceback(error: BaseException, home: Path) -> str:
    """Write the traceback of an exception to a log; returns which."""
    text = redact.hidden("".join(traceback.format_exception(error)))
    stage = os.environ.get("MEDMIM_STAGE")
    if stage and not os.environ.get("MEDMIM_RUNNER"):
        sys.stderr.write(text)
        sys.stderr.flush()
        return f"the log of this pod (`{hints.command('runs', 'logs', 'RUN', stage)}`)"
    now = datetime.now(UTC)
    path = home / "errors" / f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"medmim {__version__}, Python {platform.python_version()}, {platform.platform()}, {now.isoformat()}\n"
    path.write_text(head + text, encoding="utf-8", errors="backslashreplace")
    return str(path)


def patience() -> float:
    """How long a server that does not answer is retried, in seconds (MEDMIM_PATIENCE); 0 means a few attempts only.

    Raises:
        UserError: It is not a number.
    """
    given = os.environ.get("MEDMIM_PATIENCE") or "0"
    try:
        return max(0.0, float(given))
    except ValueError:
        raise UserError(f"MEDMIM_PATIENCE is '{given}'", fix="give seconds, such as 300") from None


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside the block a server that does not answer is given up after so many seconds in all, not MEDMIM_PATIENCE.

    Only a request that is under way lasts longer, until its own time is over. Threads do not inherit it.
    """
    token = _end.set(time.monotonic() + min(seconds, time_left()))
    try:
        yield
    finally:
        _end.reset(token)


def time_left() -> float:
    """Seconds that the block of `within` has left; infinite outside of one."""
    end = _end.get()
    return float("inf") if end is None else max(0.0, end - time.monotonic())


def retrying(
    temporary: type[BaseException] | Callable[[BaseException], bool],
    longest_wait: float = 5.0,
    before_sleep: "Callable[[RetryCallState], None] | None" = None,
    patient: bool = True,
    asked: Callable[[BaseException], float] | None = None,
) -> "Retrying":
    """Calls a function again after a temporary failure: MIN_TRIES times, and more until MEDMIM_PATIENCE is over.

    Args:
        temporary: The exception that may pass by itself, or what says so of an exception.
        longest_wait: Between two tries, in seconds.
        before_sleep: Called before each wait.
        patient: Whether MEDMIM_PATIENCE counts; else MIN_TRIES are all.
        asked: The seconds that the failure itself asks to wait, such as `Retry-After`; 0 for none.

    Returns:
        Call it with the function and its arguments; it raises the last exception.
    """
    from tenacity import (
        Retrying,
        retry_if_exception,
        retry_if_exception_type,
        stop_after_attempt,
        stop_after_delay,
        stop_all,
        stop_any,
        wait_exponential_jitter,
    )

    backoff = wait_exponential_jitter(initial=0.3, max=longest_wait)

    def wait(state: "RetryCallState") -> float:
        failed = state.outcome.exception() if state.outcome else None
        return min(max(backoff(state), asked(failed) if asked and failed else 0.0), time_left())

    tried = stop_all(stop_after_attempt(MIN_TRIES), stop_after_delay(patience() if patient else 0))
    return Retrying(
        retry=retry_if_exception_type(temporary) if isinstance(temporary, type) else retry_if_exception(temporary),
        stop=stop_any(tried, stop_after_delay(time_left())),
        wait=wait,
        before_sleep=before_sleep,
        reraise=True,
    )


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or name the line that installs it.

    Args:
        module: Dotted name of the module.
        extra: The extra of pyproject.toml that brings it.

    Raises:
        UserError: The module, or one that it needs, is not installed or does not load; the message names it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        raise UserError(
            f"{missing} is not installed" if missing else f"{module} does not load: {error}",
            reason=f"this command needs the extra '{extra}'",
            fix=f"pip install 'medmim[{extra}]'",
        ) from None


_DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file grew too large",
}
_TEMPORARY = (
    errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR,
    errno.EBUSY, errno.ETXTBSY, errno.EDEADLK, errno.ENOLCK, errno.ETIMEDOUT, errno.ETIME, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EADDRINUSE,
    errno.EADDRNOTAVAIL, errno.ENOLINK, errno.ECOMM, errno.EREMOTEIO, errno.EPROTO,
)  # fmt: skip
_GPU_MEMORY = re.compile(
    r"out of memory|_STATUS_\w*(ALLOC(ATION)?_FAILED|NOT_ENOUGH_MEMORY)|MemoryAllocation", re.IGNORECASE
)
_MACHINE_MEMORY = re.compile(r"DefaultCPUAllocator|t allocate memory|Cannot allocate memory|bad_alloc", re.IGNORECASE)


@contextmanager
def wrap_os_errors(doing: str) -> Iterator[None]:
    """Turn operating-system errors into a UserError, also those that a library only mentions in its message.

    Args:
        doing: What was being done, as in "no permission while DOING".

    Raises:
        UserError: See `from_os_error`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # also of a library that only mentions one
        found = _os_error(error)
        if found is None:
            raise
        raise from_os_error(found, doing) from error


def out_of_memory(error: BaseException) -> str | None:
    """The memory that was used up, `GPU` or `machine`, in Python's or torch's words; None for another error.

    torch has a class for one of its ways to say so; others are a RuntimeError (an allocation on the CPU), an
    AcceleratorError, or what cuBLAS and cuDNN return.
    """
    if isinstance(error, MemoryError):
        return "machine"
    if not isinstance(error, RuntimeError):
        return None
    if _MACHINE_MEMORY.search(str(error)):
        return "machine"
    return "GPU" if _GPU_MEMORY.search(str(error)) else None


def used_up(where: str, doing: str, error: BaseException, fix: str) -> UserError:
    """The error for memory that was used up: bad input, since the same command would need as much again.

    Args:
        where: As `out_of_memory` gives it.
        doing: As in "the GPU ran out of memory DOING".
        error: What was raised.
        fix: What to lower.
    """
    sentences = [part.strip() for line in str(error).splitlines() for part in line.split(". ")]
    said = next((one for one in sentences if _MACHINE_MEMORY.search(one) or _GPU_MEMORY.search(one)), "")
    return UserError(f"the {where} ran out of memory {doing}", reason=said[:300] or "an allocation failed", fix=fix)


def _os_error(error: BaseException) -> OSError | None:
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, str(error))
    rust = re.search(r"\(os error (\d+)\)", str(error))  # Rust libraries: safetensors, tokenizers
    if rust:
        return OSError(int(rust[1]), str(error))
    return OSError(errno.ENOSPC, str(error)) if "disk is full" in str(error) else None  # SQLite


def from_os_error(error: OSError, doing: str, home: Path | None = None) -> UserError:
    """Turn an operating-system error (full disk, no permission, lost network) into a UserError.

    One without a number is none of the system's: a library's own, which its caller should have expected.

    Args:
        error: What was raised.
        doing: As for `as_user_error`.
        home: See `internal_error`.
    """
    where = f": {error.filename}" if error.filename else ""
    # The numbers of name resolution and TLS are their own: -3 is no errno, and 1 is not EPERM.
    other = isinstance(error, socket.gaierror | socket.herror | ssl.SSLError)
    name = os.strerror(error.errno) if error.errno and not other else (error.strerror or str(error))
    if other and not isinstance(error, ssl.SSLCertVerificationError):
        return Unavailable(
            f"{name} while {doing}{where}", fix="check the address and the network, then run the same command again"
        )
    if other:
        return UserError(f"{name} while {doing}{where}", fix="set SSL_CERT_FILE to the authority that signed it")
    if error.errno in _DISK_FULL:
        return UserError(
            f"{_DISK_FULL[error.errno]} while {doing}{where}",
            reason=name,
            fix="free some space, or give another folder with --home, then run the same command",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            f"no permission while {doing}{where}",
            reason=name,
            fix="give a folder that you may write with --home, or fix its permissions",
        )
    if error.errno in _TEMPORARY or isinstance(error, ConnectionError | TimeoutError):
        return Unavailable(f"{name} while {doing}{where}", fix="run the same command again: finished steps are kept")
    if not error.errno:
        return internal_error(error, home)
    return UserError(
        f"{name} while {doing}{where}",
        reason="the operating system refuses this path",
        fix="give another path; --home and platform.store say where medmim writes",
    )
