"""Requests and the steps that wait for them on simulated nodes: pods turn Running there, and no driver runs in them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medmim.cluster.kube import MANAGED_BY_MEDMIM, Kube
from medmim.cluster.ray import manifest, runner
from medmim.cluster.ray.request import Request, Result, write_result
from medmim.recipe.schema import Platform
from tests.support.waiting import until

_ON_SIMULATED = {
    "nodeSelector": {"type": "simulated"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}


def on_simulated(spec: dict[str, Any] | None = None, job: dict[str, str] | None = None) -> str:
    """MEDMIM_PODS of a platform whose nodes are simulated, and which wants more of the pods or the RayJob."""
    pods = {role: [{"spec": _ON_SIMULATED}, {"spec": spec or {}}] for role in ("head", "worker", "submitter")}
    return json.dumps({**pods, "job": job or {}})


def platform(kube: Kube, workers: int = 1, **pods: Any) -> Platform:
    settings = {"namespace": kube.namespace, "pending_minutes": 0.25, **pods}
    return Platform.model_validate_json(json.dumps({"ray": "rayjob", "workers": workers, "pods": settings}))


def a_request(run: str = "r1") -> Request:
    return Request("finetune", '{"name": "x"}', run, {"data": "s3://b/data/1", "base": "tiny-mantis"})


class Step(threading.Thread):
    """A step in a thread: its URI or its error."""

    def __init__(self, request: Request, settings: Platform, store: Path) -> None:
        super().__init__(daemon=True)
        self.request, self.settings, self.store = request, settings, store
        self.uri: str | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.uri = runner.run(self.request, self.settings, str(self.store))
        except BaseException as error:
            self.error = error


def job_of(kube: Kube, status: str = "") -> dict[str, Any]:
    """The only job, once it is at that deployment status."""

    def job_at_status() -> dict[str, Any] | None:
        jobs = kube.list("rayjobs", MANAGED_BY_MEDMIM)
        assert len(jobs) <= 1, [job["metadata"]["name"] for job in jobs]
        fits = jobs and (not status or jobs[0].get("status", {}).get("jobDeploymentStatus") == status)
        return jobs[0] if fits else None

    found: dict[str, Any] = until(job_at_status)
    return found


def driver_succeeds(job: dict[str, Any], uri: str = "s3://b/model/1") -> None:
    """Write the result that the job's driver would."""
    write_result(job["metadata"]["annotations"][manifest.REQUEST], Result(uri=uri))


@contextmanager
def nothing_left(kube: Kube) -> Iterator[None]:
    """After the block no object remains that medmim or KubeRay made for it."""
    yield
    for kind in ("rayjobs", "rayclusters", "leases", "pods"):
        try:
            until(lambda kind=kind: not kube.list(kind), 60)
        except AssertionError:
            raise AssertionError(json.dumps(kube.list(kind), indent=1)) from None
