"""Ray across pods on the real node: lost workers and heads, adoption, cancel, a hostile namespace, outages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medmim import store, tracking
from medmim.cluster import kube
from medmim.cluster.ray.sweep import sweep
from medmim.finetune import run as finetune
from medmim.recipe import loading
from medmim.recipe.registry import CANDIDATE
from medmim.run.workspace import Workspace, workspace
from tests.node.ray_jobs import LEASE, SAVE, STEPS, TUNED, Run, a_run, sets
from tests.node.world import Namespace
from tests.support.waiting import until

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The losses of the same training on this machine, at the same world size, without a kill."""
    return losses_here(tmp_path_factory.mktemp("here"), {})


def losses_here(home: Path, settings: dict[str, Any]) -> list[tuple[int, float]]:
    command = [sys.executable, "-m", "medmim.cli.main", "finetune", "demo", "--home", str(home), "--json"]
    more = [word for one in sets(TUNED | {"platform.threads": 1} | settings) for word in ("--set", one)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MEDMIM_"))}
    done = subprocess.run([*command, *more], capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    uri = json.loads(done.stdout.strip().splitlines()[-1])["uri"]
    return [(p["step"], p["loss"]) for p in map(json.loads, (Path(uri) / "losses.jsonl").read_text().splitlines())]


def pod_of(run: Run, kind: str) -> str:
    return str(run.ray("pods", f"ray.io/node-type={kind}")[0]["metadata"]["name"])


def nothing_of_ray_is_left(run: Run) -> None:
    for kind in ("rayjobs", "rayclusters", "leases"):
        until(lambda kind=kind: not run.ray(kind), 90, f"no {kind}")
    until(lambda: not run.ray("pods", "ray.io/node-type"), 90, "no Ray pods")


def test_a_lost_worker_in_a_hostile_namespace(
    bare_namespace: Namespace, tmp_path: Path, uninterrupted: list[tuple[int, float]]
) -> None:
    """Enforced restricted, a quota and default limits; the token guards the head; no secret is written anywhere."""
    bare_namespace.call("create", "quota", "all", "--hard=limits.cpu=8,limits.memory=16Gi,pods=12")
    limit = {"type": "Container", "default": {"cpu": "100m", "memory": "128Mi"}, "max": {"cpu": "2", "memory": "4Gi"}}
    bare_namespace.apply(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "all"}, "spec": {"limits": [limit]}}
    )
    run = a_run(bare_namespace, "worker-lost", tmp_path)
    run.step()
    run.wait_for_step(25)
    head = run.ray("pods", "ray.io/node-type=head")[0]["status"]["podIP"]
    request = f"import urllib.request as u; print(u.urlopen(u.Request('http://{head}:8265/api/jobs/', b'{{}}')).status)"
    kubectl = run.namespace.kubectl.command  # type: ignore[attr-defined]
    denied = subprocess.run(
        [*kubectl, "-n", run.namespace.name, "exec", run.pods[-1], "--", "python3", "-c", request],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "401" in denied.stderr or "403" in denied.stderr, denied
    run.namespace.call("delete", "pod", pod_of(run, "worker"), "--grace-period=0", "--force")
    uri = run.end()
    assert [step for step, _ in run.losses(uri, tmp_path)] == list(range(1, STEPS + 1)), "each step once"
    mine, theirs = [loss for _, loss in uninterrupted], [loss for _, loss in run.losses(uri, tmp_path)]
    assert theirs == pytest.approx(mine, abs=1e-6)
    written = run.namespace.call("get", "rayjobs,rayclusters,pods,events,leases", "-o", "json") + run.log()
    written += "".join(map(run.namespace.read, run.namespace.objects("store/runs/")))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in written
    nothing_of_ray_is_left(run)
    assert not run.namespace.objects("store/resume/"), "nothing of the checkpoints is left"


def test_a_lost_head_is_a_new_attempt_from_the_checkpoint(
    bare_namespace: Namespace, tmp_path: Path, uninterrupted: list[tuple[int, float]]
) -> None:
    run = a_run(bare_namespace, "head-lost", tmp_path)
    run.step()
    run.wait_for_step(25)
    run.namespace.call("delete", "pod", pod_of(run, "head"), "--grace-period=0", "--force")
    uri = run.end()
    assert "starting a new attempt" in run.log()
    assert "resuming from step" in run.log()
    losses = run.losses(uri, tmp_path)
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in uninterrupted], abs=1e-6)
    nothing_of_ray_is_left(run)


@pytest.mark.parametrize("kind", ["worker", "head"])
def test_two_workers_with_zero_2_save_when_a_pod_is_preempted(
    bare_namespace: Namespace, tmp_path: Path, kind: str
) -> None:
    """Deleted as a scheduler does it, with SIGTERM and a grace period: no step is lost, and none is done twice."""
    run = a_run(bare_namespace, f"{kind}-preempted", tmp_path)
    adamw = {"finetune.optimizer": "adamw", "finetune.save_every": "2h"}
    run.settings = adamw | {"finetune.zero": 2}
    run.step()
    run.wait_for_step(20)
    begun = time.monotonic()
    run.namespace.call("delete", "pod", pod_of(run, kind))  # waits for its end
    print(f"the {kind} has ended {time.monotonic() - begun:.0f} s after its SIGTERM")
    uri = run.end()
    log = run.log()
    print(log)
    shown = [int(line.split()[1].split("/")[0]) for line in log.splitlines() if line.startswith("step ")]
    (resumed,) = [int(line.rpartition(" ")[2]) for line in log.splitlines() if line.startswith("resuming from step ")]
    assert shown == sorted(shown) and 20 <= resumed < STEPS
    assert ("a node leaves the Ray cluster" if kind == "worker" else "starting a new attempt") in log
    losses = run.losses(uri, tmp_path)
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    plain = losses_here(tmp_path / "here", adamw | {"platform.workers": 1})
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in plain], rel=1e-3)
    nothing_of_ray_is_left(run)
    assert not run.namespace.objects("store/resume/")


def test_a_replaced_step_adopts_its_job_and_a_cancelled_run_frees_its_gpus(
    bare_namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(bare_namespace, "cancelled", tmp_path)
    run.steps = 240  # more than a Lease lasts
    run.step()
    run.wait_for_step(SAVE + 2)
    before = run.ray("rayjobs")[0]["metadata"]["uid"]
    run.kill_step()
    run.step()
    until(lambda: "adopted the Ray job" in run.log(), 120, "the adoption")
    run.wait_for_step(2 * SAVE + 2)
    assert [job["metadata"]["uid"] for job in run.ray("rayjobs")] == [before]

    run.namespace.call("patch", "workflow", run.name, "--type=merge", "-p", '{"spec": {"activeDeadlineSeconds": 0}}')
    run.kill_step()
    cancelled = time.monotonic()
    until(lambda: not run.ray("pods", "ray.io/node-type"), LEASE + 120, "no Ray pod")
    print(f"no Ray pod {time.monotonic() - cancelled:.0f} s after the cancel, with a Lease of {LEASE} s")
    monkeypatch.setenv("KUBECONFIG", str(bare_namespace.kubeconfig))
    assert len(sweep(kube.connect(bare_namespace.name))) == 1
    archived = [key for key in run.namespace.objects("store/runs/") if "/jobs/" in key]
    assert {"status.json", "events.json"} <= {key.rpartition("/")[2] for key in archived}
    (log,) = [key for key in archived if "/logs/" in key]  # of the submitter: KubeRay has removed Ray's pods
    assert '"kind": "step"' in run.namespace.read(log)

    run.namespace.call("patch", "workflow", run.name, "--type=merge", "-p", '{"spec": {"activeDeadlineSeconds": null}}')
    run.step()
    uri = run.end()
    assert "resuming from step" in run.log()
    assert [step for step, _ in run.losses(uri, tmp_path)] == list(range(1, run.steps + 1))


def test_a_deleted_workflow_removes_every_ray_object(bare_namespace: Namespace, tmp_path: Path) -> None:
    run = a_run(bare_namespace, "deleted", tmp_path)
    run.step()
    until(lambda: run.ray("pods", "ray.io/node-type=worker"), 120, "the workers")
    begun = time.monotonic()
    run.namespace.call("delete", "workflow", run.name)
    for kind in ("rayjobs", "rayclusters", "leases"):
        until(lambda kind=kind: not run.ray(kind), 60, f"no {kind}")
    until(lambda: not run.ray("pods", "ray.io/node-type"), 60, "no Ray pods")
    print(f"no Ray object {time.monotonic() - begun:.0f} s after the Workflow was deleted")


def test_a_run_survives_outages(namespace: Namespace, tmp_path: Path) -> None:
    """The operator is killed, MinIO stops for a minute, the API server for half of one, MLflow's pod is deleted."""
    kit = Path(os.environ.get("KUBECONFIG", "/nowhere")).parent
    if not (kit / "minio.pid").exists():
        pytest.skip("the outage needs the kit's own MinIO, API server and operator")
    run = a_run(namespace, "outage", tmp_path)
    run.step()
    run.wait_for_step(4)
    restart(kit, "kuberay")
    run.wait_for_step(8)
    for name, seconds in (("minio", 60), ("apiserver", 30)):
        pid = int((kit / f"{name}.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
    model = run.end()
    assert [step for step, _ in run.losses(model, tmp_path)] == list(range(1, STEPS + 1))
    delete_mlflow(namespace)
    run.step("bench", model=model)
    scores = run.end()
    delete_mlflow(namespace)
    for _ in range(2):  # the second as a retry of KFP would
        run.step("register", model=model, bench=scores)
        assert run.end() == "1"
    with namespace.forwarded("medmim-mlflow", 5000) as address:
        ws = Workspace(tmp_path, namespace.store, address)
        listed = tracking.registered(ws)[f"medmim-demo{CANDIDATE}"].versions
        runs = tracking.client(ws).search_runs([tracking.experiment(ws, f"medmim-demo{CANDIDATE}")])
    assert [version.number for version in listed] == ["1"]
    assert [one.info.status for one in runs] == ["FINISHED"]
    keys = namespace.objects("store/")
    folders = {key.rsplit("/", 1)[0] for key in keys if key.endswith("manifest.json")}
    kinds = [folder.split("/")[1] for folder in folders]
    assert (kinds.count("model"), kinds.count("bench")) == (1, 1)
    for folder in folders:
        made = store.get(f"s3://{namespace.bucket}/{folder}")
        assert store.verify(made) == [], "no manifest without its files"
    assert not [key for key in keys if key.startswith("store/resume/")]
    nothing_of_ray_is_left(run)


def restart(kit: Path, name: str) -> None:
    """Kill a server of the kit and start it again as it was, in its own mounts: the operator has the cluster's DNS."""
    pid = int((kit / f"{name}.pid").read_text())
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    environment = dict(one.split("=", 1) for one in Path(f"/proc/{pid}/environ").read_text().split("\0") if one)
    os.kill(pid, signal.SIGKILL)
    time.sleep(10)
    with (kit / "log" / f"{name}.log").open("a") as log:
        server = subprocess.Popen(
            ["nsenter", f"--mount=/proc/self/fd/{mounts}", *command],
            env=environment, stdout=log, stderr=log, start_new_session=True, pass_fds=[mounts],
        )  # fmt: skip
    os.close(mounts)
    (kit / f"{name}.pid").write_text(str(server.pid))


def delete_mlflow(namespace: Namespace) -> None:
    server = ("-l", "app.kubernetes.io/component=mlflow")
    namespace.kubectl("-n", namespace.platform, "delete", "pod", *server, "--grace-period=0", "--force")


def test_a_finished_step_is_found_from_another_machine(bare_namespace: Namespace, tmp_path: Path) -> None:
    """The same step on this machine finds what the pods have made: it is the same artifact."""
    run = a_run(bare_namespace, "again", tmp_path)
    run.step()
    uri = run.end()
    parsed = loading.load("demo", [*sets(TUNED), f"platform.store={bare_namespace.store}"])
    outcome = finetune.run(parsed, workspace(tmp_path / "other", parsed), run.data)
    assert (outcome.cached, outcome.uri) == (True, uri)
