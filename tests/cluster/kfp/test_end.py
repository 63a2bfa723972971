"""Runs that are cancelled or deleted, and those that cannot end."""

from pathlib import Path

import pytest

from medmim.cluster.kfp import client, end, follow, runs
from medmim.errors import Unavailable, UserError
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.kfp_world import World
from tests.support.kube_pods import kube_pods


@pytest.mark.parametrize(
    "description", ["", "made by hand with medmim 1.0, recipe demo 0", "medmim is what this tries"]
)
def test_a_run_of_others_is_shown_and_not_cancelled(world: World, api: client.Api, description: str) -> None:
    run = world.start()
    run["description"] = description
    found = runs.find(api, "demo-1")
    with pytest.raises(UserError, match="not submitted by medmim") as raised:
        end.cancel(api, found)
    assert raised.value.exit_code == 2 and found.run_id in raised.value.fix
    assert run["state"] == "PENDING" and not any("terminate" in one for one in world.kfp.changes())


def test_a_run_whose_workflow_is_gone_cannot_be_cancelled_and_the_way_out_is_told(
    world: World, api: client.Api
) -> None:
    run = world.start()
    world.kfp.delete_workflow(run)
    before = len(world.kfp.front.requests)
    with pytest.raises(runs.Deleted, match="the Workflow of run demo-1 is gone") as raised:
        end.cancel(api, runs.find(api, "demo-1"))
    assert "due to patching error" in raised.value.reason and "medmim runs delete demo-1" in raised.value.fix
    assert sum("terminate" in one for one in world.kfp.front.requests[before:]) == 1, "KFP would answer the same again"
    world.kfp.front.lose.append("DELETE")
    end.delete(api, runs.find(api, "demo-1"))
    assert not world.kfp.state.runs
    world.start("demo-2")


def test_a_cancel_that_did_not_reach_the_workflow_is_none_and_is_tried_again(world: World, api: client.Api) -> None:
    """KFP has noted it in its database, and refuses another one until it hears of the Workflow again."""
    run = world.start()
    world.kfp.begin(run, "data")
    world.kfp.unreach_workflow(run)
    with pytest.raises(Unavailable, match="which goes on") as raised:
        end.cancel(api, runs.find(api, "demo-1"))
    assert "connection refused" in raised.value.reason and "medmim runs cancel demo-1" in raised.value.fix
    world.kfp.unreach_workflow(run, away=False)
    run["state"] = "RUNNING"  # by the persistence agent
    assert end.cancel(api, runs.find(api, "demo-1"))


def test_that_a_workflow_is_gone_is_seen_in_kubernetes(
    world: World, api: client.Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.start()
    world.kfp.begin(run, "data")
    monkeypatch.setattr(follow, "_LOOK", 0)
    with kube_pods() as (cluster, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        assert not any("Workflow" in note for note in runs.find(api, "demo-1").notes)
        cluster.workflow, cluster.other = False, "0b1c2d3e-0000-4000-8000-000000000000"
        assert not any("Workflow" in note for note in runs.find(api, "demo-1").notes), "of another KFP: another cluster"
        cluster.other = world.start("other-1", "other")["run_id"]
        assert any("Workflow" in note for note in runs.find(api, "demo-1").notes)
        cluster.other = ""
        found = runs.find(api, "demo-1")
        assert "the Workflow of run demo-1 is gone, and KFP will call it running for ever" in found.notes[-1]
        with pytest.raises(runs.Deleted):
            follow.follow(api, found, lambda _: None, lambda _: None)
        run["state"] = "CANCELING"
        with pytest.raises(runs.Deleted):
            end.cancel(api, runs.find(api, "demo-1"))
        world.kfp.end(run, "FAILED")
        assert not end.cancel(api, runs.find(api, "demo-1")), "it ended, and Argo removes Workflows in time"
        assert not any("Workflow" in note for note in runs.find(api, "demo-1").notes)


def test_a_run_of_others_is_not_deleted(world: World, api: client.Api) -> None:
    world.start()["description"] = "of others"
    with pytest.raises(UserError, match="not submitted by medmim"):
        end.delete(api, runs.find(api, "demo-1"))


def test_cancelling_twice_is_cancelling_once(world: World, api: client.Api) -> None:
    run = world.start()
    assert end.cancel(api, runs.find(api, "demo-1"))
    assert run["state"] == "CANCELING"
    assert not end.cancel(api, runs.find(api, "demo-1"))
    world.kfp.end(run, "FAILED")
    assert not end.cancel(api, runs.find(api, "demo-1"))
    assert len([one for one in world.kfp.changes() if "terminate" in one]) == 1


def test_a_run_that_ends_while_it_is_cancelled_is_no_error(world: World, api: client.Api) -> None:
    run = world.start()
    seen = runs.find(api, "demo-1")
    world.kfp.end(run, "SUCCEEDED")
    assert end.cancel(api, seen)


def test_a_cancel_whose_answer_is_lost_is_a_cancel(world: World, api: client.Api) -> None:
    run = world.start()
    world.kfp.front.lose.append("terminate")
    assert end.cancel(api, runs.find(api, "demo-1")) and run["state"] == "CANCELING"
