"""Which pods a step has, and why they have not started."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.cluster.kfp import client, pods, runs, submit
from medmim.cluster.kube import connect
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.kfp_nodes import fnv1a
from tests.support.kfp_world import World
from tests.support.kube_pods import Pods, kube_pods, waits

UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}
    ],
}


@pytest.fixture
def kube(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    with kube_pods() as (found, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        yield found


@pytest.fixture
def run(world: World) -> dict[str, Any]:
    submit.start(submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image))
    return world.kfp.run("demo-1")


def shown(world: World) -> runs.Run:
    return runs.find(client.connect(world.access), "demo-1")


@given(st.text("abc.-()0", min_size=1, max_size=40), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_a_steps_pods_are_the_leaves_below_it_the_newest_first(
    above: str, graphs: int, tries: int, stock: bool
) -> None:
    """Ids as Argo makes them from whole names: `data(0).executor(0)`; without KFP's settings `data.executor`."""

    def id_of(name: str) -> str:
        return f"medmim-train-x7k2p-{fnv1a(name)}"

    if not stock:
        child = id_of(f"{above}.data.executor")
        assert pods.nodes([child], {child, id_of("other.executor")}) == (child,)
        return
    children = [id_of(f"{above}.data({graph})") for graph in range(graphs)]
    executors = [f"{above}.data({graph}).executor" for graph in range(graphs)]
    leaves = [id_of(f"{one}({number})") for one in executors for number in range(tries)]
    known = {*children, *map(id_of, executors), *leaves, id_of("other(0).executor(0)")}
    assert pods.nodes(children, known) == tuple(reversed(leaves or [id_of(one) for one in executors]))


@pytest.mark.parametrize("stock", [True, False])
def test_a_step_whose_pod_has_not_started_is_pending(world: World, run: dict[str, Any], stock: bool) -> None:
    """KFP calls the step itself running; that its pod waits, the pod's own task says."""
    world.kfp.state.stock = stock
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.kfp.begin(run, "audit", state="PENDING")
    assert [(one.name, one.state) for one in shown(world).steps] == [("data", "SUCCEEDED"), ("audit", "PENDING")]
    world.kfp.begin(run, "audit", state="RUNNING")
    assert [one.state for one in shown(world).steps] == ["SUCCEEDED", "RUNNING"]


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (waits("ErrImagePull", "manifest unknown"), "ErrImagePull: manifest unknown"),
        (waits("InvalidImageName", ""), "InvalidImageName"),
        (waits("CreateContainerConfigError", "no key", "wait"), "CreateContainerConfigError: no key"),
        (UNSCHEDULABLE, "Unschedulable: 0/2 nodes are available"),
        (waits("PodInitializing"), 'FailedMount: secret "mlpipeline-minio-artifact" not found'),
    ],
)
def test_what_a_pod_waits_for_is_with_its_step(
    world: World, run: dict[str, Any], kube: Pods, status: dict[str, Any], why: str
) -> None:
    world.kfp.begin(run, "data", state="PENDING")
    uid = kube.add("a", world.kfp.node(run, "data"), run["run_id"], status)["metadata"]["uid"]
    for second, message in ((1, "timed out"), (2, 'secret "mlpipeline-minio-artifact" not found')):
        about = {"involvedObject": {"uid": uid}, "reason": "FailedMount", "message": message}
        kube.events.insert(0, {**about, "type": "Warning", "lastTimestamp": f"2026-11-30T10:00:0{second}Z"})
    (step,) = shown(world).steps
    assert (step.state, step.waiting) == ("PENDING", why)
    kube.pods["a"]["status"] = {"phase": "Running"}
    assert shown(world).steps[0].waiting == ""


def test_a_driver_that_has_not_started_is_its_steps_and_the_graphs_own_is_a_note(
    world: World, run: dict[str, Any], kube: Pods
) -> None:
    kube.add("r", f"{run['_workflow']}(0).root-driver(0)", run["run_id"], UNSCHEDULABLE)
    assert shown(world).notes == ("a pod has not started: Unschedulable: 0/2 nodes are available",)
    kube.pods.clear()
    world.kfp.begin(run, "data", state="PENDING")
    driver = world.kfp.node(run, "data").replace(".data(0).executor(0)", ".data-driver(0)")
    for task in run["run_details"]["task_details"]:
        if task["display_name"].startswith("data-driver"):
            task |= {"state": "PENDING", "end_time": "0001-01-01T00:00:00Z"}
    tasks = run["run_details"]["task_details"]
    tasks[:] = [task for task in tasks if task["display_name"].startswith("data-driver")]
    kube.add("d", driver, run["run_id"], UNSCHEDULABLE)
    (step,) = shown(world).steps
    assert (step.name, step.state, step.waiting) == ("data", "PENDING", "Unschedulable: 0/2 nodes are available")


def test_that_the_cluster_cannot_be_asked_is_a_note(world: World, run: dict[str, Any]) -> None:
    world.kfp.begin(run, "data", state="PENDING")
    (note,) = shown(world).notes
    assert "what pods wait for is not known" in note and "no-kubeconfig" in note


def test_a_run_that_is_polled_reaches_the_cluster_once_and_after_an_error_anew(
    world: World, run: dict[str, Any], kube: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client, and the look for KFP's own Service, for each poll were two requests and a pool each."""
    made: list[str] = []
    monkeypatch.setattr(pods, "connect", lambda namespace: (made.append(namespace), connect(namespace))[1])
    world.kfp.begin(run, "data", state="PENDING")
    kube.add("a", world.kfp.node(run, "data"), run["run_id"], UNSCHEDULABLE)
    api = client.connect(world.access)
    for _ in range(3):
        (step,) = runs.find(api, "demo-1").steps
        assert step.waiting.startswith("Unschedulable")
    assert made == ["team-a"]
    kube.status = 401
    assert "what pods wait for is not known" in runs.find(api, "demo-1").notes[0]
    kube.status = 200
    assert runs.find(api, "demo-1").steps[0].waiting.startswith("Unschedulable") and len(made) > 1
