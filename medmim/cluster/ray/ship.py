"""Ray's session logs on their way into the store, from every node, while the job runs: they vanish with its pods.

A process of its own beside the driver: it goes on whatever the driver's own Ray session does, and a last time when its
stdin is closed.
"""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select
from typing import Any

from medmim import store
from medmim.errors import UserError

_EVERY = 30.0  # s between two rounds
_LAST = 60.0  # s that the last round may take
_LOGS = Path("/tmp/ray/session_latest/logs")  # noqa: S108
_FILE = 16 << 20  # bytes of one file that are kept, from its end


@contextmanager
def shipped(uri: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Keep `URI/logs/NODE/` in step with the session logs of every node of this Ray cluster."""
    child = subprocess.Popen(
        [sys.executable, "-m", "medmim.cluster.ray.ship", uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        finish(child)


def finish(child: "subprocess.Popen[bytes]") -> None:
    """The last round."""
    assert child.stdin is not None  # noqa: S101
    with suppress(BrokenPipeError):  # it died
        child.stdin.close()
    try:
        child.wait(_LAST)
    except subprocess.TimeoutExpired:
        child.kill()


def collect(folder: str, uri: str, known: dict[str, int]) -> dict[str, int]:
    """Copy this node's log files that grew; runs on every node as a Ray task.

    Args:
        folder: The session's logs.
        uri: The job's folder in the store.
        known: File -> size when it was last copied.

    Returns:
        The same, as it is now.
    """
    target = store.open_store(f"{uri}/logs/{socket.gethostname()}")
    now = dict(known)
    for path in sorted(Path(folder).resolve().rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        size, name = path.stat().st_size, path.relative_to(Path(folder).resolve()).as_posix()
        if size and known.get(name) != size:
            with path.open("rb") as file:
                file.seek(max(0, size - _FILE))
                target.write(name, file.read())
            now[name] = size
    return now


def _main(uri: str) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    task = ray.remote(num_cpus=0, max_retries=0)(collect)
    known: dict[str, dict[str, int]] = {}
    last = False
    while not last:
        last = bool(select([sys.stdin], [], [], _EVERY)[0])  # closed: the driver is done
        begun: dict[str, Any] = {
            node["NodeID"]: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(_LOGS), uri, known.get(node["NodeID"], {}))
            for node in ray.nodes()
            if node["Alive"]
        }
        until = time.monotonic() + _EVERY
        for node, future in begun.items():
            with suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError, UserError):
                known[node] = ray.get(future, timeout=max(1.0, until - time.monotonic()))


if __name__ == "__main__":
    _main(sys.argv[1])
