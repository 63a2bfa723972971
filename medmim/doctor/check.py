"""What a doctor reports: one line a check, each failure with its fix."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from medmim.errors import UserError, as_user_error
from medmim.store import open_store


@dataclass(frozen=True)
class Check:
    """One line. `exit_code` is 0 unless the check failed."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""
    exit_code: int = 0


def run_side_by_side(checks: Mapping[str, Callable[[], Check]]) -> Iterator[Check]:
    """The result of each check, in the order given; all of them run at once, and one that raises is a failed line."""
    with ThreadPoolExecutor(max(1, len(checks))) as pool:
        running = {name: pool.submit(check) for name, check in checks.items()}
        for name, result in running.items():
            try:
                yield result.result()
            except Exception as error:  # a fault of the doctor itself is one failed line too, and the others are shown
                yield failed(name, as_user_error(error, f"checking {name}"))


def failed(name: str, error: UserError) -> Check:
    """A failed check from an error."""
    text = "; ".join([error.fact, *error.problems, *([error.reason] if error.reason else [])])
    return Check(name, "fail", text, error.fix, error.exit_code)


def line(check: Check, status: str = "") -> str:
    """A check in one line.

    Args:
        check: The check.
        status: Its status as it is to be shown, such as in colour, padded to five places.
    """
    return f"{status or f'{check.status:5}'} {check.name:9} {check.found}{f'; fix: {check.fix}' if check.fix else ''}"


def store(uri: str) -> Check:
    """Whether a store writes, reads, deletes, and creates only what is absent, which the decision log needs.

    Raises:
        UserError: It does not.
    """
    place, key, begin = open_store(uri), f"doctor-{uuid.uuid4().hex}", time.perf_counter()
    try:
        first, second = place.create(key, b"first"), place.create(key, b"second")
        content = place.read(key)
        place.write(key, b"third")
        last = place.read(key)
    finally:
        place.delete(key)
    if not first or second or content != b"first":
        raise UserError(
            f"{place.uri} overwrites what was to be created once",
            reason="two promoters at once would both succeed",
            fix="use a server with conditional writes (If-None-Match), or a folder",
        )
    if last != b"third" or place.exists(key):
        raise UserError(f"{place.uri} returns something else than was written", fix="use another server")
    took = (time.perf_counter() - begin) * 1000
    return Check("store", "ok", f"{place.uri}: writes, reads, creates once, deletes ({took:.0f} ms)")
