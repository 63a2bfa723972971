"""Connects to a running Ray cluster whose nodes share no disk, waits for its workers and forwards their events."""

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any

from medmim import hints, progress
from medmim.errors import Unavailable, UserError, require
from medmim.run.workspace import Workspace

WAIT = "MEDMIM_WORKERS_WAIT"  # s that workers may take to join the cluster
_LOG_DELAY = 1.0  # s that a line of a worker's log takes to arrive, at most
_LOOK_EVERY = 1.0  # s
_LEAVING = ".leaving"  # in a node's home: until when it lasts
_TRAINING = "training"  # in a node's home: a file for each process that trains
_RETRIES = 2  # lost nodes after which a task is tried again
_JOIN_TIMEOUT = 600.0  # s; a pod's image may have to be pulled, a machine be started
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",  # asks the dashboard, which may be off
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # the end of a training is noticed this late
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class NodeLeaves(Unavailable):
    """The node of this driver leaves the cluster, as the pod of a head that is preempted does."""


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Join a running cluster as a driver; the events of its workers go where this process's own go.

    Args:
        address: `auto` on a node of the cluster, or `HOST:6379`.

    Raises:
        UserError: An address of another kind.
        Unavailable: It does not answer.
    """
    if "://" in address:
        raise UserError(
            f"platform.ray is {address}",
            reason="Ray Client (ray://) is not made for Ray Train",
            fix="run on a node of the cluster with platform.ray: auto",
        )
    _check_port(address)
    with ExitStack() as undo:
        undo.enter_context(environment(QUIET))
        ray = require("ray", "finetune")
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as streams

        undo.enter_context(redirect_stdout(StringIO()))  # Ray prints on stdout, which is for results
        keep_sigterm = undo.enter_context(sigterm())
        quiet_ray()
        undo.callback(ray.shutdown)
        undo.callback(streams.remove_handler, "medmim")
        try:
            ray.init(address, log_to_driver=True, logging_level=logging.ERROR, configure_logging=False)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            raise no_answer(address, str(error)) from None
        keep_sigterm()
        streams.remove_handler("ray_print_logs")  # it prints all output of the workers on stdout
        streams.add_handler("medmim", _forward)
        yield
        time.sleep(_LOG_DELAY)


def wait_for_workers(workers: int, cpus: int) -> bool:
    """Wait until the joined cluster has room for `workers` of `cpus` CPUs, and a GPU each if it has any.

    Returns:
        Whether each worker gets a GPU.

    Raises:
        Unavailable: Not all of them joined within MEDMIM_WORKERS_WAIT seconds.
    """
    timeout = join_timeout()
    until = time.monotonic() + timeout
    shown = ""
    while True:
        joined, gpu = room(cpus)
        if joined >= workers:
            return gpu
        count = f"{joined} of {workers} workers have joined the Ray cluster"
        if time.monotonic() > until:
            sizes = [f"a node of {n.get('CPU', 0):g} CPUs" + f" and {n.get('GPU', 0):g} GPUs" * gpu for n in _alive()]
            raise Unavailable(
                f"{count} after {timeout:.0f} s",
                reason=f"each needs {cpus} CPU{'s' * (cpus > 1)}{' and a GPU' * gpu}; the cluster has "
                + (", ".join(sizes) or "no node"),
                fix="check the workers' pods or machines, lower platform.workers or platform.threads; "
                "then run the same command",
            )
        if count != shown:
            shown = count
            progress.say(f"waiting: {count}")
        time.sleep(0.5)


def room(cpus: int) -> tuple[int, bool]:
    """How many workers of `cpus` CPUs the joined cluster has room for, and whether each gets a GPU: if it has any."""
    nodes = _alive()
    gpu = any(node.get("GPU") for node in nodes)
    by_cpus = [int(node.get("CPU", 0) // cpus) for node in nodes]
    return sum(min(n, int(node.get("GPU", 0))) if gpu else n for n, node in zip(by_cpus, nodes, strict=True)), gpu


def _alive() -> list[dict[str, float]]:
    """The resources of each node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def pre_stop(seconds: int) -> str:
    """A shell script that tells the trainings in this container to save, and waits for their end: `leaving`.

    SIGTERM to a container reaches its first process alone, `ray start`, which ends all others. What the script waits
    for is the end of these processes: a worker that has returned lives on until Ray has seen it.

    Args:
        seconds: From now until the container is killed.
    """
    return (
        f'echo $(($(date +%s) + {seconds})) >"$MEDMIM_HOME/{_LEAVING}"; for one in "$MEDMIM_HOME"/{_TRAINING}/*; do '
        'while kill -0 "${one##*/}" 2>/dev/null; do sleep 1; done; done'
    )


@contextmanager
def leaving(home: Path, act: Callable[[], None]) -> Iterator[Event]:
    """Within the block, which is a training, `act` is called once when this node is about to leave the cluster.

    Args:
        home: Of this node, where the script of `pre_stop` looks for trainings.
        act: Makes the training save and stop.

    Returns:
        An event that is set then.
    """
    own, came, over = home / _TRAINING / str(os.getpid()), Event(), Event()
    own.parent.mkdir(parents=True, exist_ok=True)
    own.touch()

    def look() -> None:
        while not over.wait(_LOOK_EVERY):
            with suppress(OSError, ValueError):  # ValueError: the script has not written it yet
                if time.time() < int((home / _LEAVING).read_text(encoding="utf-8")):  # later, it is another container
                    came.set()
                    act()
                    return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield came
    finally:
        over.set()
        thread.join()
        own.unlink(missing_ok=True)


def join_timeout() -> float:
    """Seconds that workers may take to join."""
    return float(os.environ.get(WAIT) or _JOIN_TIMEOUT)


def worker_environment(cpus: int) -> dict[str, str]:
    """The environment that a worker inherits of the driver; credentials are the node's own."""
    inherited = {name: os.environ[name] for name in ("MEDMIM_STAGE", "MEDMIM_PATIENCE") if os.environ.get(name)}
    return {**inherited, "MEDMIM_EVENTS": "-", "OMP_NUM_THREADS": str(cpus), "OMP_WAIT_POLICY": "PASSIVE"}


def task(function: Callable[..., Any], cpus: int, gpus: int = 0) -> Any:
    """A function as Ray task, spread over the nodes and tried again where a node is lost; call its `remote`."""
    import ray

    return ray.remote(
        num_cpus=cpus,
        num_gpus=gpus,
        max_retries=_RETRIES,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": worker_environment(cpus)},
    )(function)


def actor(made: type, cpus: int, gpus: int, *arguments: Any) -> Any:
    """An actor of a class on any node; what it costs to lose it is for the caller, who starts another one.

    Ray ends the process of a task with a GPU after it: what is to stay in the GPU's memory needs an actor.
    """
    import ray

    options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
    environment = {"env_vars": worker_environment(cpus)}
    return ray.remote(made).options(**options, runtime_env=environment).remote(*arguments)


def result(ref: Any, fact: str, fix: str, problems: Sequence[str] = ()) -> Any:
    """What a task of `task` returned.

    Args:
        ref: The task; done, or waited for.
        fact: Said where its nodes were lost too often.
        fix: Likewise.
        problems: Likewise.

    Raises:
        Unavailable: Its nodes were lost too often.
        RayTaskError: It raised: a bug, with its traceback.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError:
        raise
    except RayError as lost:
        raise Unavailable(fact, reason=reason(lost), fix=fix, problems=problems) from None


def reason(lost: Exception) -> str:
    """Why Ray lost a task or an actor, in a line."""
    return str(lost).strip().splitlines()[-1][:300]


def node_name() -> str:
    """Host name and address of this node, as `ray status` and a cluster's list of pods show them."""
    import ray.util

    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


def node_workspace(store: str) -> Workspace:
    """The workspace of a worker: the common store, and a home of the node it runs on."""
    home = os.environ.get("MEDMIM_HOME") or Path(tempfile.gettempdir()) / f"medmim-{os.getuid()}"
    place = hints.expanded(home).absolute()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Workspace(place, store, tracking="")


def quiet_ray() -> None:
    """Let Ray log errors only."""
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def no_answer(address: str, reason: str) -> Unavailable:
    """The error for a Ray that does not answer."""
    return Unavailable(
        f"Ray at {address} does not {'start' if address == 'local' else 'answer'}",
        reason=reason.partition("\n")[0],
        fix="check platform.ray, then run the same command",
    )


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, and take back those that Ray sets there.

    One of them is RAY_AUTH_MODE: the next Ray of this process would die for lack of the token that it asks for.
    """
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def sigterm() -> Iterator[Callable[[], None]]:
    """Inside the block SIGTERM raises SystemExit, so that Ray ends too: by default Python runs no `finally`.

    Returns:
        What to call after `ray.init`, which installs handlers of its own: they abort the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    ours = stop if before is signal.SIG_DFL else before  # the latter where the command raises it, once

    def install() -> None:
        signal.signal(signal.SIGTERM, ours)

    install()
    try:
        yield install
    finally:
        signal.signal(signal.SIGTERM, before)


def _forward(logged: Mapping[str, Any]) -> None:
    """Forward the events among the lines of a worker's log; the others stay in Ray's logs."""
    for line in logged["lines"]:
        event = progress.parse(line)
        if event is not None:
            progress.forward(event)


def _check_port(address: str) -> None:
    """Fail at once where nothing listens: Ray itself takes a minute to notice."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # `auto`: Ray finds the cluster of this node
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise no_answer(address, str(error)) from None
