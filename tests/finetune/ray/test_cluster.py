"""Workers without a common disk compute what those of one machine do, and resume from the store after any loss."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.finetune import record, run, validation
from medmim.finetune.ray import launcher
from medmim.finetune.worker import Job, run_worker
from medmim.lvlm import saving
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.family import Family
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from medmim.sample import Sample
from tests.support import ray_cluster
from tests.support.finetune import make_data, make_dev, make_lvlm, make_samples

pytestmark = pytest.mark.timeout(1200)

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


def world(root: Path, where: object, family: Family, dev: Sequence[Sample] = ()) -> tuple[str, str]:
    """URI of a data set in a store, and the folder of a base."""
    saving.save(make_lvlm(family), root / "base")
    make_data(root / "data", [*make_samples(30), *dev])
    return store.publish(root / "data", str(where), "data", {}, {}).uri, str(root / "base")


@pytest.fixture
def place(tmp_path: Path, family: Family) -> tuple[Path, str, str]:
    """A store, the URI of a data set in it, and the folder of a base."""
    where = tmp_path / "store"
    return where, *world(tmp_path, where, family)


def train(made: Recipe, home: Path, data: str, base: str, **environment: str) -> "subprocess.Popen[str]":
    return ray_cluster.driver(CODE, made.dump(), home, data, base, **environment)


def finish(driver: "subprocess.Popen[str]", code: int = 0) -> list[dict[str, Any]]:
    """The events of a driver; waits for its end."""
    out = driver.communicate(timeout=400)[0]
    assert driver.returncode == code, out
    return ray_cluster.events(out)


def digest(events: list[dict[str, Any]]) -> str:
    return str(next(event["text"] for event in events if event["kind"] == "digest"))


def losses(where: Path, model: str) -> list[float]:
    """Of each step of a model in a store, every step once."""
    lines = ray_cluster.lines(where / "model" / model / record.LOSSES)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def until(done: Any, what: str, seconds: float = 240) -> None:
    last = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < last, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.02)


def saved(where: Path, step: int) -> bool:
    return bool(list(where.glob(f"resume/finetune-*/step-{step:08d}/*/{store.MANIFEST}")))


@pytest.mark.slow
def test_a_node_with_a_home_of_its_own_gives_the_digest_of_one_process(tmp_path: Path) -> None:
    """Before it joins, the training reports that it waits for it. The families share a cluster: its start is slow."""
    where = tmp_path / "store"
    given = [world(tmp_path / family.name, where, family) for family in FAMILIES]
    with ray_cluster.nodes(tmp_path / "a", 0) as nodes:
        made = recipe(where, nodes.address)
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
def test_a_killed_worker_and_a_killed_driver_change_nothing(tmp_path: Path, place: tuple[Path, str, str]) -> None:
    """A worker is killed, then the driver with its whole cluster; new nodes with empty homes end in the digest of
    a training in one process."""
    where, data, base = place
    changes = {"steps": 60, "save_every": 5}
    with ray_cluster.nodes(tmp_path / "a", 1) as nodes:
        first = train(recipe(where, nodes.address, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 10), "a checkpoint")
        lost = ray_cluster.train_workers()
        assert lost, "no worker was there to kill"
        for process in lost:
            process.kill()
        until(lambda: saved(where, 30), "a checkpoint of the worker's successor")
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with ray_cluster.nodes(tmp_path / "b", 1) as nodes:
        events = finish(train(recipe(where, nodes.address, **changes), tmp_path / "other-head", data, base))
    assert any(str(event.get("text", "")).startswith("resuming from step ") for event in events)
    steps = [event for event in events if event["kind"] == "step"]
    assert (steps[-1]["step"], steps[-1]["stage"]) == ("60/60", "stage")
    assert not (where / "resume").exists()
    assert len(losses(where, digest(events))) == 60
    here = recipe(tmp_path / "here" / "store", "local", **changes)
    assert bare(tmp_path / "here", here, data, base) == digest(events)


def bare(home: Path, made: Recipe, data: str, base: str) -> str:
    """Digest of the same training in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "launch", lambda job, *_: run_worker(job, "cpu"))
        return run.run(made, workspace(home, made), data, base).digest


@pytest.mark.slow
def test_two_nodes_and_a_bucket_give_the_digest_of_one_machine(tmp_path: Path, bucket: str, family: Family) -> None:
    data, base = world(tmp_path, bucket, family)
    local = train(recipe(tmp_path / "local", "local", 2), tmp_path / "home", data, base)
    here = digest(finish(local))
    with ray_cluster.nodes(tmp_path / "nodes", 1) as nodes:
        driver = train(recipe(bucket, nodes.address, 2), tmp_path / "head", data, base)
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
def test_a_lost_node_is_replaced_and_a_user_error_ends_the_training(
    tmp_path: Path, place: tuple[Path, str, str]
) -> None:
    """At two workers: the losses after the last checkpoint are those of an undisturbed training."""
    where, data, base = place
    changes = {"steps": 60, "save_every": 5}
    with ray_cluster.nodes(tmp_path / "a", 1) as nodes:
        second = nodes.add()
        driver = train(recipe(where, nodes.address, 2, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 10), "a checkpoint")
        nodes.remove(second)
        time.sleep(20)  # a new pod takes its time, and no try is spent on it
        nodes.add()
        events = finish(driver)
        bad = recipe(where, nodes.address, 2, lr=1e38, optimizer="adamw")
        error = finish(train(bad, tmp_path / "head", data, base), code=2)[-1]
    assert "the loss is" in error["text"] and "fix: lower finetune.lr" in error["text"]
    here = digest(finish(train(recipe(tmp_path / "local", "local", 2, **changes), tmp_path / "home", data, base)))
    assert digest(events) == here


@pytest.mark.slow
def test_the_best_model_of_two_nodes_outlives_the_head(tmp_path: Path, family: Family) -> None:
    """Driver, head and nodes are killed when the best step lies behind; others go on, and end as one machine does."""
    where = tmp_path / "store"
    data, base = world(tmp_path, where, family, make_dev())
    wild = {"lr": 1e-2, "muon_lr": 6e-2, "schedule": "linear", "decay_fraction": 0.0, "warmup": 0.0}
    changes = {**wild, "steps": 40, "save_every": 3, "keep": "best", "validation": {"every": 2}}
    with ray_cluster.nodes(tmp_path / "a", 2) as nodes:
        first = train(recipe(where, nodes.address, 2, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 24), "a checkpoint")
        first.kill()
        first.communicate()
    with ray_cluster.nodes(tmp_path / "b", 2) as nodes:
        events = finish(train(recipe(where, nodes.address, 2, **changes), tmp_path / "other-head", data, base))
    assert any(str(event.get("text", "")).startswith("resuming from step ") for event in events)
    here = digest(finish(train(recipe(tmp_path / "local", "local", 2, **changes), tmp_path / "home", data, base)))
    assert digest(events) == here
    best = validation.best(validation.read(where / "model" / here / validation.VALIDATION))
    assert best is not None and best.step < 21, (
        "older than the checkpoints that are kept anyway when the head is killed"
    )
    assert not (where / "resume").exists()


@pytest.mark.slow
def test_a_driver_that_gets_sigterm_ends_with_a_checkpoint_in_the_store(
    tmp_path: Path, place: tuple[Path, str, str]
) -> None:
    """Two workers with a home each, then one: the losses are those of an undisturbed training."""
    where, data, base = place
    changes = {"steps": 60, "save_every": 7}
    with ray_cluster.nodes(tmp_path / "a", 2) as nodes:
        first = train(recipe(where, nodes.address, 2, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 7), "a checkpoint")
        first.send_signal(signal.SIGTERM)
        error = finish(first, code=75)[-1]["text"]
        step = int(error.partition("after step ")[2].partition(" ")[0])
        assert saved(where, step) and "run the same command again" in error
        events = finish(train(recipe(where, nodes.address, 1, **changes), tmp_path / "head", data, base))
    assert f"resuming from step {step}" in [event.get("text") for event in events]
    here = recipe(tmp_path / "here" / "store", "local", **changes)
    whole = losses(tmp_path / "here" / "store", bare(tmp_path / "here", here, data, base))
    assert losses(where, digest(events)) == pytest.approx(whole, rel=1e-3)


@pytest.mark.slow
def test_all_workers_save_when_a_node_leaves_and_go_on_when_another_has_joined(tmp_path: Path) -> None:
    """They save at once, not when `save_every` says so, and no step is done twice."""
    where = tmp_path / "store"
    data, base = world(tmp_path, where, FAMILIES[0])
    changes = {"steps": 40, "save_every": 1000}
    with ray_cluster.nodes(tmp_path / "a", 2) as nodes:
        driver = train(recipe(where, nodes.address, 2, **changes), tmp_path / "head", data, base)
        until_event(driver, lambda event: event["kind"] == "step")
        nodes.leave(1)
        before = until_event(driver, lambda event: "a node leaves the Ray cluster" in str(event.get("text")))
        nodes.add()
        events = finish(driver)
    (resumed,) = [
        str(event["text"]) for event in events if str(event.get("text", "")).startswith("resuming from step ")
    ]
    done, first = [
        [int(str(one["step"]).partition("/")[0]) for one in some if one["kind"] == "step"] for some in (before, events)
    ]
    assert done[-1] <= int(resumed.rpartition(" ")[2]) < first[0]
    here = recipe(tmp_path / "here" / "store", "local", **changes)
    whole = losses(tmp_path / "here" / "store", bare(tmp_path / "here", here, data, base))
    assert losses(where, digest(events)) == pytest.approx(whole, rel=1e-3)


def until_event(driver: "subprocess.Popen[str]", wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The events of a driver up to the first that is wanted."""
    assert driver.stdout is not None
    seen: list[dict[str, Any]] = []
    for line in driver.stdout:
        seen += ray_cluster.events(line)
        if wanted(seen[-1]):
            return seen
    raise AssertionError(seen)


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
