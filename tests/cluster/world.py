"""Orders and their keepers on simulated nodes: pods turn Running there, and no driver answers by itself."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medmim.cluster.kube import MINE, Kube
from medmim.cluster.ray import manifest, request, runner
from medmim.cluster.ray.request import Order, Result
from medmim.recipe.schema import Platform
from tests.support.waiting import until

SIMULATED = {
    "node_selector": {"type": "simulated"},
    "tolerations": ({"key": "nvidia.com/gpu"},),
    "pending_minutes": 0.25,
}


def platform(kube: Kube, workers: int = 1, **pods: Any) -> Platform:
    settings = {"namespace": kube.namespace, **SIMULATED, **pods}
    return Platform.model_validate_json(json.dumps({"ray": "rayjob", "workers": workers, "pods": settings}))


def an_order(run: str = "r1") -> Order:
    return Order("finetune", '{"name": "x"}', run, {"data": "s3://b/data/1", "base": "tiny-mantis"})


class Step(threading.Thread):
    """A step in a thread: its URI or its error."""

    def __init__(self, wanted: Order, settings: Platform, store: Path) -> None:
        super().__init__(daemon=True)
        self.wanted, self.settings, self.store = wanted, settings, store
        self.uri: str | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.uri = runner.run(self.wanted, self.settings, str(self.store))
        except BaseException as error:
            self.error = error


def job_of(kube: Kube, status: str = "") -> dict[str, Any]:
    """The only job, once it is at that deployment status."""

    def look() -> dict[str, Any] | None:
        jobs = kube.list("rayjobs", MINE)
        assert len(jobs) <= 1, [job["metadata"]["name"] for job in jobs]
        fits = jobs and (not status or jobs[0].get("status", {}).get("jobDeploymentStatus") == status)
        return jobs[0] if fits else None

    found: dict[str, Any] = until(look)
    return found


def answer(job: dict[str, Any], uri: str = "s3://b/model/1") -> None:
    """What the driver would leave."""
    request.answer(job["metadata"]["annotations"][manifest.ORDER], Result(uri=uri))


@contextmanager
def nothing_left(kube: Kube) -> Iterator[None]:
    """After the block no object of ours or of KubeRay's for us remains."""
    yield
    for kind in ("rayjobs", "rayclusters", "leases", "pods"):
        try:
            until(lambda kind=kind: not kube.list(kind), 60)
        except AssertionError:
            raise AssertionError(json.dumps(kube.list(kind), indent=1)) from None
