"""Workers without a common disk compute what those of one machine do, and resume from the store after any loss."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.finetune import record, run
from medmim.finetune.ray import launcher
from medmim.finetune.worker import Job, run_worker
from medmim.lvlm import checkpoint
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.family import Family
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from tests.support import ray_cluster
from tests.support.finetune import make_data, make_lvlm, make_samples

CODE = """
import sys
from pathlib import Path
from medmim import progress
from medmim.run.workspace import workspace
from medmim.errors import UserError
from medmim.finetune import run
from medmim.recipe.loading import from_dump
recipe, home, data, base = sys.argv[1:]
recipe = from_dump(recipe)
try:
    progress.emit("digest", text=run.run(recipe, workspace(Path(home), recipe), data, base).digest)
except UserError as error:
    progress.emit("error", text=str(error))
    sys.exit(error.exit_code)
"""


def recipe(where: object, address: str, workers: int = 1, **changes: object) -> Recipe:
    settings = {"batch_size": 8, "steps": 12, "max_tokens": 400, "lr": 1e-3, "freeze_vision": False, "save_every": 4}
    platform = {"store": str(where), "ray": address, "workers": workers, "threads": 1}
    return validate(
        {
            "name": "t",
            "data": {"source": "phantom"},
            "finetune": {**settings, **changes},
            "platform": platform,
        },
        "test",
    )


def world(root: Path, where: object, family: Family) -> tuple[str, str]:
    """URI of a data set in a store, and the folder of a base."""
    checkpoint.save(make_lvlm(family), root / "base")
    make_data(root / "data", make_samples(30))
    return store.publish(root / "data", str(where), "data", {}, {}).uri, str(root / "base")


def train(made: Recipe, home: Path, data: str, base: str, **environment: str) -> "subprocess.Popen[str]":
    return ray_cluster.driver(CODE, made.dump(), home, data, base, **environment)


def finish(driver: "subprocess.Popen[str]", code: int = 0) -> list[dict[str, Any]]:
    """The events of a driver; waits for its end."""
    out = driver.communicate(timeout=400)[0]
    assert driver.returncode == code, out
    return ray_cluster.events(out)


def digest(events: list[dict[str, Any]]) -> str:
    return str(next(event["text"] for event in events if event["kind"] == "digest"))


def until(done: Any, what: str, seconds: float = 240) -> None:
    last = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < last, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.02)


def saved(where: Path, step: int) -> bool:
    return bool(list(where.glob(f"resume/finetune-*/step-{step:08d}/*/{store.MANIFEST}")))


@pytest.mark.slow  # in a process of its own: Ray keeps the token mode of an earlier session of this process
def test_a_node_with_a_home_of_its_own_gives_the_digest_of_one_process(tmp_path: Path) -> None:
    """Before it joins, the training reports that it waits for it. The families share a cluster: its start is slow."""
    where = tmp_path / "store"
    given = [world(tmp_path / family.name, where, family) for family in FAMILIES]
    with ray_cluster.nodes(tmp_path / "a", 0) as nodes:
        made = recipe(where, nodes.cluster.address)
        error = finish(train(made, tmp_path / "head", *given[0], MEDMIM_WORKERS_WAIT="1"), code=75)[-1]
        nodes.add()
        trained = [finish(train(made, tmp_path / "other-head", *one)) for one in given]
    assert "0 of 1 workers have joined the Ray cluster after 1 s" in error["text"]
    assert "each needs 1 CPU; the cluster has a node of 0 CPUs" in error["text"]
    assert not (where / "resume").exists()
    for (data, base), events in zip(given, trained, strict=True):
        assert [event["stage"] for event in events if event["kind"] == "step"][-1] == "stage"
        assert bare(tmp_path / "here", recipe(tmp_path / "here" / "store", "local"), data, base) == digest(events)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_worker_and_a_killed_driver_change_nothing(tmp_path: Path, family: Family) -> None:
    """A worker is killed, then the driver with its whole cluster; new nodes with empty homes end in the digest of
    a training in one process."""
    where = tmp_path / "store"
    data, base = world(tmp_path, where, family)
    changes = {"steps": 60, "save_every": 5}
    with ray_cluster.nodes(tmp_path / "a", 1) as nodes:
        first = train(recipe(where, nodes.cluster.address, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 10), "a checkpoint")
        lost = ray_cluster.train_workers()
        assert lost, "no worker was there to kill"
        for process in lost:
            process.kill()
        until(lambda: saved(where, 30), "a checkpoint of the worker's successor")
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with ray_cluster.nodes(tmp_path / "b", 1) as nodes:
        events = finish(train(recipe(where, nodes.cluster.address, **changes), tmp_path / "other-head", data, base))
    assert any(str(event.get("text", "")).startswith("resuming from step ") for event in events)
    steps = [event for event in events if event["kind"] == "step"]
    assert (steps[-1]["step"], steps[-1]["stage"]) == ("60/60", "stage")
    assert not (where / "resume").exists()
    losses = ray_cluster.lines(where / "model" / digest(events) / record.LOSSES)
    assert [line["step"] for line in losses] == list(range(1, 61))
    here = recipe(tmp_path / "here" / "store", "local", **changes)
    assert bare(tmp_path / "here", here, data, base) == digest(events)


def bare(home: Path, made: Recipe, data: str, base: str) -> str:
    """Digest of the same training in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "launch", lambda job, *_: run_worker(job, "cpu"))
        return run.run(made, workspace(home, made), data, base).digest


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_nodes_and_a_bucket_give_the_digest_of_one_machine(tmp_path: Path, bucket: str, family: Family) -> None:
    data, base = world(tmp_path, bucket, family)
    local = train(recipe(tmp_path / "local", "local", 2), tmp_path / "home", data, base)
    here = digest(finish(local))
    with ray_cluster.nodes(tmp_path / "nodes", 1) as nodes:
        driver = train(recipe(bucket, nodes.cluster.address, 2), tmp_path / "head", data, base)
        time.sleep(20)
        assert driver.poll() is None, "it did not wait for the second worker"
        nodes.add()
        events = finish(driver)
    assert digest(events) == here
    assert "waiting: 1 of 2 workers have joined the Ray cluster" in [event.get("text") for event in events]
    assert not list(store.open_store(bucket).list("resume/"))
    homes = [home for home in (tmp_path / "nodes").iterdir() if (home / "cache").is_dir()]
    assert len(homes) == 2, "both nodes have fetched for themselves"
    assert not [left for home in homes for left in (home / "work").iterdir()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_lost_node_is_replaced_and_a_user_error_ends_the_training(tmp_path: Path, family: Family) -> None:
    """At two workers: the losses after the last checkpoint are those of an undisturbed training."""
    where = tmp_path / "store"
    data, base = world(tmp_path, where, family)
    changes = {"steps": 60, "save_every": 5}
    with ray_cluster.nodes(tmp_path / "a", 1) as nodes:
        second = nodes.add()
        driver = train(recipe(where, nodes.cluster.address, 2, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 10), "a checkpoint")
        nodes.cluster.remove_node(second, allow_graceful=False)
        time.sleep(20)  # a new pod takes its time, and no try is spent on it
        nodes.add()
        events = finish(driver)
        bad = recipe(where, nodes.cluster.address, 2, lr=1e38, optimizer="adamw")
        error = finish(train(bad, tmp_path / "head", data, base), code=2)[-1]
    assert "the loss is" in error["text"] and "fix: lower finetune.lr" in error["text"]
    here = digest(finish(train(recipe(tmp_path / "local", "local", 2, **changes), tmp_path / "home", data, base)))
    assert digest(events) == here


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_driver_that_gets_sigterm_ends_with_a_checkpoint_in_the_store(tmp_path: Path, family: Family) -> None:
    """Two workers with a home each, then one: the losses are those of an undisturbed training."""
    where = tmp_path / "store"
    data, base = world(tmp_path, where, family)
    changes = {"steps": 60, "save_every": 7}
    with ray_cluster.nodes(tmp_path / "a", 2) as nodes:
        first = train(recipe(where, nodes.cluster.address, 2, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 7), "a checkpoint")
        first.send_signal(signal.SIGTERM)
        error = finish(first, code=75)[-1]["text"]
        step = int(error.partition("after step ")[2].partition(" ")[0])
        assert saved(where, step) and "run the same command again" in error
        events = finish(train(recipe(where, nodes.cluster.address, 1, **changes), tmp_path / "head", data, base))
    assert f"resuming from step {step}" in [event.get("text") for event in events]
    losses = ray_cluster.lines(where / "model" / digest(events) / record.LOSSES)
    here = recipe(tmp_path / "here" / "store", "local", **changes)
    whole = tmp_path / "here" / "store" / "model" / bare(tmp_path / "here", here, data, base) / record.LOSSES
    assert [line["loss"] for line in losses] == pytest.approx(
        [line["loss"] for line in ray_cluster.lines(whole)], rel=1e-3
    )


@pytest.mark.parametrize(
    ("address", "code", "fact"), [("ray://127.0.0.1:10001", 2, "ray://"), ("127.0.0.1:1", 75, "127.0.0.1:1")]
)
def test_an_address_that_is_invalid_or_does_not_answer_is_reported(
    tmp_path: Path, address: str, code: int, fact: str
) -> None:
    job = Job("base", "data", str(tmp_path / "store"), "{}", 1)
    with pytest.raises(UserError, match=fact) as raised:
        launcher.launch(job, tmp_path, 1, tmp_path, address)
    assert raised.value.exit_code == code
