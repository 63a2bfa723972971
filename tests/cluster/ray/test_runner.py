"""Ray jobs on a real API server with KubeRay's operator and simulated nodes: scheduling, adoption, ends, clean-up."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.cluster.kube import Kube, Object
from medmim.cluster.ray import manifest, runner
from medmim.cluster.ray.request import Request, read_request
from medmim.errors import BAD_INPUT, UserError
from medmim.recipe import names
from medmim.recipe.loading import validate
from tests.cluster.conftest import kubectl
from tests.support import kube_server
from tests.support.lossy_proxy import lossy
from tests.support.ray_jobs import Step, a_request, driver_succeeds, job_of, nothing_left, on_simulated, platform
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are looked at oftener than on a cluster, so that the tests end sooner."""
    monkeypatch.setattr(runner, "_SEEN_EVERY", 2.0)


def test_a_job_of_gpus_runs_on_tainted_nodes_under_restricted_and_leaves_nothing(cluster: Kube, tmp_path: Path) -> None:
    with nothing_left(cluster):
        step = Step(
            a_request(), platform(cluster, 8, gpus=4, accelerator="NVIDIA-H100-80GB-HBM3", head_cpus=2.0), tmp_path
        )
        job = job_of(cluster, "Running")
        pods = until(lambda: [p for p in cluster.list("pods", "ray.io/node-type=worker") if p["spec"].get("nodeName")])
        assert len(pods) == 2, "eight workers of four GPUs a pod"
        assert {pod["spec"]["nodeName"] for pod in pods} <= {"gpu-0", "gpu-1"}
        driver_succeeds(job)
        step.join(90)
        assert step.error is None
        assert step.uri == "s3://b/model/1"
        folder = store.open_store(job["metadata"]["annotations"][manifest.REQUEST])
        assert any(event["reason"] for event in json.loads(folder.read("events.json"))), "Events are archived"


def test_a_build_runs_without_gpus_where_its_raw_data_is_mounted_for_reading(
    cluster: Kube, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On nodes of GPUs, since there are no others here."""
    volume, common = f"patients-{cluster.namespace}", {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    bound = {"claimRef": {"namespace": cluster.namespace, "name": "patients"}, "hostPath": {"path": "/data"}}
    for kind, name, spec in (
        ("PersistentVolume", volume, {"capacity": {"storage": "1Gi"}, **bound}),
        ("PersistentVolumeClaim", "patients", {"volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}),
    ):
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "spec": {**common, **spec}}
        kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=json.dumps(body))
    monkeypatch.setenv("MEDMIM_RAW_CLAIM", "patients")
    data = {"source": "odir", "root": f"{names.RAW_FOLDER}/odir"}
    settings = platform(cluster, 8, gpus=4, cpus=2)
    with nothing_left(cluster):
        step = Step(Request("data", validate({"name": "b", "data": data}, "test").dump(), "r1", {}), settings, tmp_path)
        job = job_of(cluster, "Running")
        assert job["metadata"]["name"].startswith("data-")

        def running() -> list[Object]:
            pods = [one for one in cluster.list("pods", "ray.io/cluster") if one["status"].get("phase") == "Running"]
            return pods if len(pods) == 3 else []

        for pod in until(running):
            (container,) = pod["spec"]["containers"]
            claims = [one["persistentVolumeClaim"] for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one]
            assert claims == [{"claimName": "patients", "readOnly": True}]
            assert (names.RAW_FOLDER, True) in [(m["mountPath"], m.get("readOnly")) for m in container["volumeMounts"]]
            assert "nvidia.com/gpu" not in container["resources"]["limits"]
        driver_succeeds(job, "s3://b/data/1")
        step.join(90)
        assert (step.error, step.uri) == (None, "s3://b/data/1")
    kubectl(kubeconfig, "delete", "pv", volume, "--wait=false")


def test_a_benchmark_by_vllm_has_a_server_s_image_and_a_gpu_in_each_worker(cluster: Kube, tmp_path: Path) -> None:
    """The pods of simulated nodes run nothing: what the API server takes, and where the scheduler puts it."""
    image = "registry.example/medmim-vllm@sha256:" + "0" * 64
    settings = platform(cluster, 2, gpus=1, vllm_image=image)
    own = {"name": "b", "data": {"source": "phantom"}, "bench": {"engine": "vllm"}}
    recipe = validate({**own, "platform": settings.model_dump(mode="json", exclude_none=True)}, "test")
    with nothing_left(cluster):
        step = Step(Request("bench", recipe.dump(), "r1", {}), settings, tmp_path)
        job = job_of(cluster, "Running")
        pods = until(lambda: [p for p in cluster.list("pods", "ray.io/node-type=worker") if p["spec"].get("nodeName")])
        containers = [pod["spec"]["containers"][0] for pod in pods]
        assert [one["image"] for one in containers] == [image] * 2
        assert [one["resources"]["limits"]["nvidia.com/gpu"] for one in containers] == ["1"] * 2
        driver_succeeds(job, "s3://b/bench/1")
        step.join(90)
        assert (step.error, step.uri) == (None, "s3://b/bench/1")


def test_two_steps_at_once_run_one_job(cluster: Kube, tmp_path: Path) -> None:
    with nothing_left(cluster):
        steps = [Step(a_request(), platform(cluster), tmp_path) for _ in range(4)]
        driver_succeeds(job_of(cluster, "Running"))
        for step in steps:
            step.join(90)
        assert [step.error for step in steps] == [None] * 4
        assert {step.uri for step in steps} == {"s3://b/model/1"}
        requests = [key for key in store.open_store(str(tmp_path)).list() if key.endswith("order.json")]
        assert len(requests) == 1, "the requests of the steps that came second are deleted"


def test_a_lost_answer_to_the_start_leaves_the_job_its_request(
    cluster: Kube, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nothing_left(cluster), kubectl_proxy(kubeconfig) as server, lossy(server) as proxy:
        proxy.lose_first("POST", "/rayjobs")
        monkeypatch.setenv("KUBECONFIG", str(kube_server.kubeconfig(tmp_path, proxy.url)))
        step = Step(a_request(), platform(cluster), tmp_path)
        job = job_of(cluster, "Running")
        until(lambda: [path.endswith("/rayjobs") for method, path in proxy.seen if method == "POST"].count(True) == 2)
        assert read_request(job["metadata"]["annotations"][manifest.REQUEST]) == a_request()
        driver_succeeds(job)
        step.join(90)
        assert (step.error, step.uri) == (None, "s3://b/model/1")


@contextmanager
def kubectl_proxy(kubeconfig: Path) -> Iterator[str]:
    """The API server by plain HTTP, as its administrator."""
    command = [kubeconfig.parent / "bin" / "kubectl", "--kubeconfig", kubeconfig, "proxy", "--port=0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield f"http://{running.stdout.readline().split()[-1]}"
    finally:
        running.terminate()
        running.wait(10)


def test_a_step_that_replaces_a_killed_one_adopts_its_job(cluster: Kube, tmp_path: Path, kubeconfig: Path) -> None:
    script = (
        "import sys; from tests.support.ray_jobs import *; from medmim.cluster import kube\n"
        "from medmim.cluster.ray import runner\n"
        "k = kube.connect(sys.argv[1]); runner.run(a_request(), platform(k), sys.argv[2])"
    )
    with nothing_left(cluster):
        first = subprocess.Popen(
            [sys.executable, "-c", script, cluster.namespace, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        )
        before = job_of(cluster, "Running")
        first.send_signal(signal.SIGKILL)
        first.wait()
        step = Step(a_request(), platform(cluster), tmp_path)
        time.sleep(4)
        after = job_of(cluster)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        driver_succeeds(after)
        step.join(90)
        assert step.uri == "s3://b/model/1"


@pytest.mark.parametrize("terminated", [True, False])
def test_sigterm_ends_the_job_of_a_run_that_was_terminated_and_leaves_that_of_another(
    cluster: Kube,
    workflow: dict[str, Any],
    kubeconfig: Path,
    tmp_path: Path,
    terminated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    security = {
        "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {"name": "main", "image": "none", "securityContext": security}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "the-step", "ownerReferences": [workflow]},
        "spec": {"nodeSelector": {"no": "node"}, "containers": [container]},
    }  # fmt: skip
    kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    monkeypatch.setenv("KFP_POD_NAME", "the-step")

    def send() -> None:
        job_of(cluster, "Running")
        if terminated:  # as KFP does it, before Argo ends the pod
            cluster.patch("workflows", "run", {"spec": {"activeDeadlineSeconds": 0}})
        until(lambda: signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)  # which would end the tests
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit, match="143"):
        runner.run(a_request(), platform(cluster), str(tmp_path))
    sender.join()
    if terminated:
        until(lambda: not cluster.list("rayjobs") and not cluster.list("pods", "ray.io/node-type"))
        assert len(list(tmp_path.rglob("events.json"))) == 1
        return
    job = job_of(cluster, "Running")
    assert job["metadata"].get("deletionTimestamp") is None
    driver_succeeds(job)
    assert runner.run(a_request(), platform(cluster), str(tmp_path)) == "s3://b/model/1", "adopted"


def test_a_failed_job_is_not_adopted(cluster: Kube, tmp_path: Path) -> None:
    settings = platform(cluster)
    with nothing_left(cluster):
        first = Step(a_request(), settings, tmp_path)
        job = job_of(cluster, "Running")
        head = until(lambda: cluster.list("pods", "ray.io/node-type=head"))[0]
        kubectl_delete_pod(cluster, head["metadata"]["name"])
        second = until(lambda: [j for j in cluster.list("rayjobs") if j["metadata"]["name"].endswith("-2")])[0]
        assert second["metadata"]["annotations"][manifest.REQUEST] != job["metadata"]["annotations"][manifest.REQUEST]
        until(lambda: [j["metadata"]["name"][-2:] for j in cluster.list("rayjobs")] == ["-2"])
        driver_succeeds(second)
        first.join(120)
        assert first.error is None, "the step makes a new attempt for a lost head"


def kubectl_delete_pod(cluster: Kube, name: str) -> None:
    kubectl(Path(os.environ["KUBECONFIG"]), "-n", cluster.namespace, "delete", "pod", name, "--wait=false")


def test_gpus_that_no_node_has_end_with_the_schedulers_message(cluster: Kube, tmp_path: Path) -> None:
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster, 1, gpus=1, accelerator="NVIDIA-H900"), tmp_path)
        step.join(150)
        assert isinstance(step.error, UserError)
        assert step.error.exit_code == BAD_INPUT
        assert "is unschedulable" in step.error.fact
        assert "didn't match Pod's node affinity/selector" in step.error.reason
        assert "accelerator" in step.error.fix


def test_a_quota_that_is_too_small_is_named(cluster: Kube, tmp_path: Path, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "create", "quota", "small", "--hard=limits.memory=1Gi,limits.cpu=1")
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster), tmp_path)
        step.join(150)
        assert isinstance(step.error, UserError)
        assert "quota" in step.error.fact
        assert "exceeded quota: small" in step.error.reason


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"priorityClassName": "nosuch"}, "no PriorityClass with name nosuch"),
        ({"serviceAccountName": "nosuch"}, 'serviceaccount "nosuch" not found'),
    ],
)
def test_pods_that_the_cluster_refuses_are_reported(
    cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("MEDMIM_PODS", on_simulated(wanted))
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster), tmp_path)
        step.join(150)
        assert isinstance(step.error, UserError)
        assert step.error.exit_code == BAD_INPUT
        assert "refuses to make the job's pods" in step.error.fact
        assert message in step.error.reason


def test_the_deadline_stops_a_job(cluster: Kube, tmp_path: Path) -> None:
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster, deadline_minutes=0.5), tmp_path)
        step.join(150)
        assert isinstance(step.error, UserError)
        assert "stopped at its deadline of 0.5 minutes" in step.error.fact


def test_a_queue_suspends_and_preempts_a_job_for_as_long_as_it_likes(
    cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_PODS", on_simulated(job={"kueue.x-k8s.io/queue-name": "team-a"}))
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster), tmp_path)
        job = job_of(cluster)
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
        name = job["metadata"]["name"]
        cluster.patch("rayjobs", name, {"spec": {"suspend": True}})  # as Kueue does
        job_of(cluster, "Suspended")
        until(lambda: not cluster.list("pods", "ray.io/node-type"))
        assert step.is_alive()
        cluster.patch("rayjobs", name, {"spec": {"suspend": False}})
        job_of(cluster, "Running")
        for seen_for in (4, 0.5, 3):  # a step that polls every two seconds sees some suspensions and misses others
            time.sleep(seen_for)
            cluster.patch("rayjobs", name, {"spec": {"suspend": True}})  # preempted
            job_of(cluster, "Suspended")
            cluster.patch("rayjobs", name, {"spec": {"suspend": False}})
            job = job_of(cluster, "Running")
        time.sleep(4)
        assert job["metadata"]["name"] == name, "the same attempt runs on"
        driver_succeeds(job)
        step.join(90)
        assert step.error is None


def test_a_deleted_job_ends_the_step(cluster: Kube, tmp_path: Path, kubeconfig: Path) -> None:
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster), tmp_path)
        job = job_of(cluster, "Running")
        kubectl(kubeconfig, "-n", cluster.namespace, "delete", "rayjob", job["metadata"]["name"])
        step.join(60)
        assert isinstance(step.error, UserError)
        assert "was deleted" in step.error.fact
