"""A Ray cluster on loopback whose nodes have nothing in common but a store: each has a home of its own."""

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

from medmim import progress


class Nodes:
    """A head without CPUs, as KubeRay's, and workers of one CPU."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        from ray.cluster_utils import Cluster

        self.root, self.environment = root, environment
        self.short = tempfile.TemporaryDirectory(prefix="m", dir="/tmp")  # a Unix socket's path ends at 107 bytes
        os.environ["RAY_TMPDIR"] = self.short.name
        self.cluster = Cluster()
        self.workers: list[Any] = []
        self.cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=80 << 20)

    def add(self) -> Any:
        """One more worker node, with an empty home."""
        home = self.root / f"node{len(self.workers) + 1}"
        home.mkdir(parents=True)
        variables = {**self.environment, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.workers.append(self.cluster.add_node(num_cpus=1, env_vars=variables, object_store_memory=80 << 20))
        return self.workers[-1]

    def stop(self) -> None:
        self.cluster.shutdown()
        del os.environ["RAY_TMPDIR"]
        self.short.cleanup()


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
