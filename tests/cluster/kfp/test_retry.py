"""A run that failed without a stage's failure record goes on by KFP's own retry, once, and reads right meanwhile."""

import time
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kfp import client, retry, runs, submit
from medmim.run import stage
from medmim.run.workspace import Workspace
from medmim.store import open_store
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.kfp_world import World
from tests.support.kube_pods import kube_pods


@pytest.fixture
def run(world: World) -> dict[str, Any]:
    """One that has lost the pod of finetune."""
    submit.start(submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image))
    run = world.kfp.run("demo-1")
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.record("demo-1", "data")
    world.kfp.begin(run, "finetune", state="FAILED")
    world.kfp.omit(run, "bench", "register")
    world.kfp.begin(run, "report", state="SUCCEEDED")
    world.record("demo-1", "report")
    world.kfp.end(run, "FAILED")
    return run


def asked(world: World) -> int:
    return len([one for one in world.kfp.changes() if one.endswith(":retry")])


def test_a_run_without_a_failure_record_is_retried_and_its_end_is_not(
    world: World, api: client.Api, run: dict[str, Any]
) -> None:
    said: list[str] = []
    assert retry.go_on(api, runs.find(api, "demo-1"), said.append) and run["state"] == "RUNNING"
    world.kfp.end(run, "FAILED")
    assert not retry.go_on(api, runs.find(api, "demo-1"), said.append)
    assert asked(world) == 1 and len(said) == 1 and "\n" not in said[0] and "once" in said[0]


def test_what_kubernetes_says_of_the_lost_pod_is_said(
    world: World, api: client.Api, run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    said: list[str] = []
    with kube_pods() as (kube, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        kube.add("a", world.kfp.node(run, "data"), run["run_id"], {"phase": "Succeeded"})
        containers = {
            "containerStatuses": [
                {"name": "wait", "state": {"terminated": {"exitCode": 0}}},
                {"name": "main", "state": killed},
            ]
        }
        kube.add("b", world.kfp.node(run, "finetune"), run["run_id"], {**evicted, **containers})
        retry.go_on(api, runs.find(api, "demo-1"), said.append)
    why = "finetune: Evicted: The node was low on resource: memory.; main: OOMKilled (exit code 137)"
    assert f"no stage recorded why ({why}); KFP retries" in said[0]


@pytest.mark.parametrize("code", [1, 2, 70, 75])
def test_a_record_that_says_why_ends_the_run(world: World, api: client.Api, run: dict[str, Any], code: int) -> None:
    world.record("demo-1", "finetune", status="refused" if code == 1 else "failed", exit_code=code, message="why")
    assert not retry.go_on(api, runs.find(api, "demo-1"), pytest.fail)
    assert asked(world) == 0 and runs.find(api, "demo-1").exit_code == code


def test_a_stage_that_sigterm_ended_says_not_why(world: World, api: client.Api, run: dict[str, Any]) -> None:
    with pytest.raises(SystemExit), stage.stage(Workspace(Path(), world.store, "", "demo-1"), "finetune"):
        raise SystemExit(143)
    assert runs.find(api, "demo-1").exit_code == 75
    assert retry.worth(runs.find(api, "demo-1"))


@pytest.mark.parametrize("broken", ["the bucket is gone", "a record is cut off", "not medmim's", "cancelled"])
def test_what_is_not_known_to_be_lost_is_not_retried(
    world: World, api: client.Api, run: dict[str, Any], broken: str
) -> None:
    if broken == "the bucket is gone":
        run["runtime_config"]["parameters"]["recipe"] = "s3://no-such-bucket-here/store/runs/demo-1/recipe.json"
    elif broken == "a record is cut off":
        open_store(world.store).write("runs/demo-1/finetune.json", b"half a reco")
    elif broken == "cancelled":
        run["state_history"].insert(-1, {**run["state_history"][-1], "state": "CANCELING"})
    else:
        run["description"] = "of others"
    assert not retry.go_on(api, runs.find(api, "demo-1"), pytest.fail) and asked(world) == 0


def test_a_retry_whose_answer_is_lost_is_a_retry(world: World, api: client.Api, run: dict[str, Any]) -> None:
    world.kfp.front.lose.append(":retry")
    assert retry.go_on(api, runs.find(api, "demo-1"), lambda _: None) and asked(world) == 1


def test_a_cancelled_run_whose_history_does_not_say_so_is_not_retried(
    world: World, api: client.Api, run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The persistence agent was away until the Workflow had ended; `--wait` began after that."""
    said: list[str] = []
    with kube_pods() as (kube, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        kube.spec = {"activeDeadlineSeconds": 0}
        assert not retry.go_on(api, runs.find(api, "demo-1"), said.append) and asked(world) == 0
        assert "cancelled" in said[0]
        kube.spec = {"activeDeadlineSeconds": 86400}
        assert retry.go_on(api, runs.find(api, "demo-1"), said.append)


def test_a_retry_whose_answer_is_lost_in_an_outage_is_waited_for(
    world: World, api: client.Api, run: dict[str, Any]
) -> None:
    found = runs.find(api, "demo-1")
    world.kfp.front.lose.append(":retry")
    world.kfp.front.fail += [("GET .*/runs/", 502)] * 4
    assert retry.go_on(api, found, lambda _: None) and run["state"] == "RUNNING"


@pytest.mark.parametrize("status", [403, 500])
def test_that_kfp_does_not_retry_it_is_said(world: World, api: client.Api, run: dict[str, Any], status: int) -> None:
    said: list[str] = []
    world.kfp.front.fail.append((":retry", status))
    assert not retry.go_on(api, runs.find(api, "demo-1"), said.append)
    assert len(said) == 1 and "KFP does not retry it" in said[0] and "\n" not in said[0]


def test_a_retried_run_shows_what_is_now(world: World, api: client.Api, run: dict[str, Any]) -> None:
    """Not what failed before; KFP lists that until the step begins again."""
    before = runs.find(api, "demo-1")
    states = {
        "data": "SUCCEEDED",
        "finetune": "FAILED",
        "bench": "SKIPPED",
        "register": "SKIPPED",
        "report": "SUCCEEDED",
    }
    assert {step.name: step.state for step in before.steps} == states and before.retried is None
    retry.go_on(api, before, lambda _: None)
    now = runs.find(api, "demo-1")
    assert {step.name: step.state for step in now.steps} == {
        "data": "SUCCEEDED", "finetune": "PENDING", "report": "SUCCEEDED",
    }  # fmt: skip
    assert now.retried is not None and now.finished is None and not now.ended
    time.sleep(1.1)  # KFP's times are whole seconds
    run["_nodes"].clear()
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.kfp.begin(run, "finetune")
    assert {step.name: step.state for step in runs.find(api, "demo-1").steps}["finetune"] == "RUNNING"


def test_a_run_that_was_cancelled_and_retried_by_a_person_ends_as_it_ends(
    world: World, api: client.Api, run: dict[str, Any]
) -> None:
    run["state_history"].insert(-1, {**run["state_history"][-1], "state": "CANCELING"})
    assert runs.find(api, "demo-1").state == "CANCELED"
    api.client.runs.run_service_retry_run(run["run_id"])
    world.kfp.end(run, "FAILED")
    assert runs.find(api, "demo-1").state == "FAILED"


def test_a_step_that_begins_again_forgets_what_its_last_try_left(world: World, tmp_path: Path) -> None:
    """Its own failure, and the report of how the run had ended, but no result."""
    ws = Workspace(tmp_path, world.store, "", "demo-1")
    world.record("demo-1", "report")
    world.record("demo-1", "finetune", status="failed", exit_code=75, message="S3 is away")
    world.record("demo-1", "data", uri="s3://b/data/1")
    for name, left in (("report", ["data", "finetune", "report"]), ("finetune", ["data"]), ("data", ["data"])):
        with stage.component(name, world.recipe.dump(), str(tmp_path), "demo-1"):
            assert list(stage.outcomes(ws)) == left
