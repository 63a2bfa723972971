"""A Ray cluster on loopback whose nodes have nothing in common but a store: each has a home of its own.

Run as a module it is the process that keeps the cluster: a process reads once whether Ray's servers want a token, and
that of the tests may have had a session that did.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from medmim import progress, ray_nodes

STORE = 80 << 20  # bytes of a node's object store


class Nodes:
    """A head without CPUs, as KubeRay's, and workers of one CPU, which have numbers from 0."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.root, self.environment, self.count = root, environment, 0
        self.short = tempfile.TemporaryDirectory(prefix="m", dir="/tmp")  # a Unix socket's path ends at 107 bytes
        os.environ["RAY_TMPDIR"] = self.short.name
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = str(self._call("address"))

    def add(self) -> int:
        """One more worker node, with an empty home."""
        self.count += 1
        home = self.root / f"node{self.count}"
        home.mkdir(parents=True)
        self._call("add", {**self.environment, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"})
        return self.count - 1

    def remove(self, node: int) -> None:
        """As a machine is lost."""
        self._call("remove", node)

    def leave(self, node: int) -> None:
        """As a pod that is preempted ends: its hook, which has 100 s, then Ray."""
        home = {"MEDMIM_HOME": str(self.root / f"node{node + 1}")}
        subprocess.run(["sh", "-c", ray_nodes.pre_stop(100)], env=os.environ | home, check=True, timeout=100)
        self.remove(node)

    def _call(self, name: str, *arguments: object) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        del os.environ["RAY_TMPDIR"]
        self.short.cleanup()


def keep() -> None:
    """Keep a cluster until stdin ends; a line on stdin is a call, one on stdout its result."""
    from ray.cluster_utils import Cluster

    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints on stdout
    cluster, workers = Cluster(), list[Any]()
    cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=STORE)

    def add(environment: dict[str, str]) -> None:
        workers.append(cluster.add_node(num_cpus=1, env_vars=environment, object_store_memory=STORE))

    calls = {
        "address": lambda: cluster.address,
        "add": add,
        "remove": lambda node: cluster.remove_node(workers[node], allow_graceful=False),
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        results.write(json.dumps(calls[name](*arguments)) + "\n")
        results.flush()
    cluster.shutdown()


@contextmanager
def nodes(root: Path, workers: int, **environment: str) -> Iterator[Nodes]:
    """A cluster with so many workers."""
    made = Nodes(root, environment)
    try:
        for _ in range(workers):
            made.add()
        yield made
    finally:
        made.stop()


def driver(code: str, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """A driver on the head, whose stdout is the log of its pod."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "MEDMIM_EVENTS": "-", "MEDMIM_STAGE": "stage", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def events(text: str) -> list[dict[str, Any]]:
    """The events of a driver; every line of its stdout is one."""
    found = [progress.parse(line) for line in text.splitlines()]
    assert None not in found, text
    return [event for event in found if event]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def train_workers() -> list[psutil.Process]:
    """Processes of Ray Train's workers that this process has started."""
    family = psutil.Process().children(recursive=True)
    return [process for process in family if "RayTrainWorker" in " ".join(process.cmdline())]


if __name__ == "__main__":
    keep()
