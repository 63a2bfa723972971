"""A Ray session: our own on loopback, gone without a trace afterwards, or a running cluster that is joined."""

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from medmim import progress
from medmim.errors import Unavailable, require

_OWNER = "owner.pid"
FOLDER = "MEDMIM_RAY_FOLDER"
_STORE = 80 << 20  # bytes of Ray's object store: only small records pass through it
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",  # asks the dashboard, which is off
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the end of a training is noticed this late
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # 15 by default: on a laptop that does anything else, training would starve
    "RAY_COLOR_PREFIX": "0",
}


@contextmanager
def session(home: Path, workers: int, address: str) -> Iterator[None]:
    """A Ray that is there inside, and gone without a trace outside, also after a failure or SIGTERM."""
    with ExitStack() as undo:
        # a Unix socket's path ends at 107 bytes and Ray's sockets lie deep below its folder
        base = tempfile.gettempdir()
        base = "/tmp" if len(base) > 20 else base  # noqa: S108
        _sweep(Path(base))
        folder = Path(tempfile.mkdtemp(prefix="medmim-", dir=base))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / _OWNER).write_text(str(os.getpid()))
        undo.enter_context(_environment(_QUIET))
        settings: dict[str, Any] = {"address": address}
        if address == "local":
            inside = home / "ray"
            inside.mkdir(parents=True, exist_ok=True)
            # Ray decides what it binds to when it is imported; with "0" a local Ray binds to 127.0.0.1 alone
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            undo.enter_context(
                _environment(
                    {
                        "HOME": str(inside),
                        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                        FOLDER: str(folder),
                        "RAY_AUTH_TOKEN": _token(),
                        "GLOO_SOCKET_IFNAME": loopback,
                        "NCCL_SOCKET_IFNAME": loopback,
                    }
                )
            )
            settings |= {
                "include_dashboard": False,
                "num_cpus": workers + 1,
                "object_store_memory": _STORE,
                "_temp_dir": str(folder),
                "_node_ip_address": "127.0.0.1",
            }
        else:
            _knock(address)
        ray = require("ray", "finetune")
        undo.enter_context(_events(folder / "events"))
        # Ray prints the death of a worker on stdout, which is for results
        undo.enter_context(redirect_stdout(undo.enter_context((folder / "stdout").open("w"))))
        undo.enter_context(_sigterm())
        for name in ("ray", "ray.train", "ray.tune", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        progress.say(f"starting Ray with {workers} worker{'s' * (workers > 1)}")
        undo.callback(ray.shutdown)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **settings)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            raise _silent(address, str(error)) from None
        yield


@lru_cache
def _token() -> str:
    """What Ray's processes know each other by. One for this process: Ray keeps the first that it sees."""
    return secrets.token_hex(32)


def _sweep(base: Path) -> None:
    """Remove what a driver that was killed could not."""
    for owner in base.glob(f"medmim-*/{_OWNER}"):
        with suppress(OSError, ValueError):
            try:
                os.kill(int(owner.read_text()), 0)
            except ProcessLookupError:
                shutil.rmtree(owner.parent, ignore_errors=True)


def _knock(address: str) -> None:
    """Ray itself takes a minute to notice that nobody is there."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # `auto`: Ray looks for the cluster of this node
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise _silent(address, str(error)) from None


def _silent(address: str, reason: str) -> Unavailable:
    return Unavailable(
        f"Ray at {address} does not {'start' if address == 'local' else 'answer'}",
        reason=reason.partition("\n")[0],
        fix="check platform.ray, then run the same command",
    )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _events(path: Path) -> Iterator[None]:
    """Show what the workers tell, where nobody above does: their own stderr is a file."""
    if os.environ.get("MEDMIM_EVENTS"):
        yield
        return
    path.touch()
    end = threading.Event()

    def relay() -> None:
        with path.open() as file:
            while True:
                last = end.is_set()
                for line in file:
                    with suppress(ValueError):  # half a line, of a worker that was killed
                        progress.show(json.loads(line))
                if last:
                    return
                time.sleep(0.1)

    thread = threading.Thread(target=relay, daemon=True)
    with _environment({"MEDMIM_EVENTS": str(path)}):
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


@contextmanager
def _sigterm() -> Iterator[None]:
    """SIGTERM ends Ray too: by default Python dies of it without running a single `finally`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
