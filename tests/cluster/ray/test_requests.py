"""How often steps that wait for Ray jobs ask the API server: thirty at once stay below 20 requests a second."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kube import MANAGED_BY_MEDMIM, Kube
from tests.support.ray_jobs import Step, a_request, platform
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

JOBS, SECONDS, LIMIT = 30, 60.0, 20.0


@pytest.mark.timeout(600)
def test_thirty_jobs_of_which_half_waits_for_gpus_ask_less_than_twenty_times_a_second(
    cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()
    lock, asked = threading.Lock(), Kube.request

    def counting(self: Kube, method: str, path: str, *rest: Any, **more: Any) -> Any:
        with lock:
            counted[f"{method} {path.partition('?')[0].split('/namespaces/')[-1].split('/')[1]}"] += 1
        return asked(self, method, path, *rest, **more)

    settings = platform(cluster, gpus=1, head_cpus=0.2, cpus=0.2, pending_minutes=60)
    steps = [Step(a_request(f"r{n}"), settings, tmp_path / str(n)) for n in range(JOBS)]

    def running() -> int:
        jobs = cluster.list("rayjobs", MANAGED_BY_MEDMIM)
        return len(jobs) == JOBS and sum(j.get("status", {}).get("jobDeploymentStatus") == "Running" for j in jobs)

    until(lambda: running() >= 10, 300)
    time.sleep(10)
    monkeypatch.setattr(Kube, "request", counting)
    begun = time.monotonic()
    time.sleep(SECONDS)
    rate, some = sum(counted.values()) / (time.monotonic() - begun), running()
    told = ", ".join(f"{what} {count / SECONDS:.1f}" for what, count in counted.most_common(8))
    print(f"{JOBS} jobs, {some} of them running: {rate:.1f} requests a second ({told})")
    assert all(step.is_alive() for step in steps), [step.error for step in steps if step.error]
    assert 0 < rate < LIMIT, told
