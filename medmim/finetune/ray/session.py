"""A private Ray session on loopback that leaves nothing behind."""

import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import lru_cache
from pathlib import Path

from medmim import progress
from medmim.errors import require
from medmim.ray_nodes import QUIET, environment, no_answer, quiet_ray, sigterm

_OWNER = "owner.pid"
FOLDER = "MEDMIM_RAY_FOLDER"
_STORE = 80 << 20  # bytes of Ray's object store: only small records pass through it
_QUIET = {
    **QUIET,
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # 15 by default: on a laptop that does anything else, training would starve
    "RAY_COLOR_PREFIX": "0",
}


@contextmanager
def session(home: Path, workers: int) -> Iterator[None]:
    """A Ray session inside the block; nothing of it is left afterwards, also after a failure or SIGTERM."""
    with ExitStack() as undo:
        # a Unix socket's path ends at 107 bytes and Ray's sockets lie deep below its folder
        base = tempfile.gettempdir()
        base = "/tmp" if len(base) > 20 else base  # noqa: S108
        _sweep(Path(base))
        folder = Path(tempfile.mkdtemp(prefix="medmim-", dir=base))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / _OWNER).write_text(str(os.getpid()), encoding="utf-8")
        inside = home / "ray"
        inside.mkdir(parents=True, exist_ok=True)
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        undo.enter_context(
            environment(
                {
                    **_QUIET,
                    "HOME": str(inside),
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # for Ray's own processes; see _loopback
                    FOLDER: str(folder),
                    "RAY_AUTH_TOKEN": _token(),
                    "GLOO_SOCKET_IFNAME": loopback,
                    "NCCL_SOCKET_IFNAME": loopback,
                }
            )
        )
        ray = require("ray", "finetune")
        undo.enter_context(_loopback())
        undo.enter_context(_events(folder / "events"))
        # Ray prints the death of a worker on stdout, which is for results
        undo.enter_context(redirect_stdout(undo.enter_context((folder / "stdout").open("w", encoding="utf-8"))))
        keep_sigterm = undo.enter_context(sigterm())
        quiet_ray()
        progress.say(f"starting Ray with {workers} worker{'s' * (workers > 1)}")
        undo.callback(ray.shutdown)
        with _without_sigterm():
            try:
                ray.init(
                    "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    include_dashboard=False,
                    num_cpus=workers + 1,
                    object_store_memory=_STORE,
                    _temp_dir=str(folder),
                    _node_ip_address="127.0.0.1",
                )
            except Exception as error:
                # of a machine too busy to start it in time Ray says so in a plain Exception
                if type(error) is not Exception and not isinstance(
                    error, ConnectionError | RuntimeError | TimeoutError
                ):
                    raise
                raise no_answer("local", str(error)) from None
            keep_sigterm()
        yield


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """No process that is started inside the block gets SIGTERM, nor do those that it starts; this one gets it after it.

    A scheduler sends it to all processes of a job: the driver has the workers save, for which Ray must still be there.
    Ray itself does the same with SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _loopback() -> Iterator[None]:
    """Ray binds to 127.0.0.1 alone, also where it was imported, and so has read its environment, long ago."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@lru_cache
def _token() -> str:
    """The token of Ray's processes. One for this process: Ray keeps the first that it sees."""
    return secrets.token_hex(32)


def _sweep(base: Path) -> None:
    """Remove the folders of drivers that were killed."""
    for owner in base.glob(f"medmim-*/{_OWNER}"):
        with suppress(OSError, ValueError):
            try:
                os.kill(int(owner.read_text(encoding="utf-8")), 0)
            except ProcessLookupError:
                shutil.rmtree(owner.parent, ignore_errors=True)


@contextmanager
def _events(path: Path) -> Iterator[None]:
    """Forward the workers' events, unless they go to a file anyway: their own stdout and stderr are files."""
    watcher = os.environ.get("MEDMIM_EVENTS", "")
    if watcher not in ("", "-"):
        yield
        return
    path.touch()
    end = threading.Event()

    def relay() -> None:
        with path.open(encoding="utf-8") as file:
            while True:
                last = end.is_set()
                for line in file:
                    with suppress(ValueError):  # half a line, of a worker that was killed
                        progress.forward(json.loads(line), watcher)
                if last:
                    return
                time.sleep(0.1)

    thread = threading.Thread(target=relay, daemon=True)
    with environment({"MEDMIM_EVENTS": str(path)}):
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
