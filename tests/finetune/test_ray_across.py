"""Workers without a common disk compute what those of one machine do, and go on from the store after any loss."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import ray_world
from finetune_world import make_data, make_lvlm, make_samples

from medmim import steps, store
from medmim.errors import UserError
from medmim.finetune import across, ray_across, record, run, told
from medmim.lvlm import zoo
from medmim.recipe import Recipe, validate

CODE = """
import sys
from pathlib import Path
from medmim import progress, steps
from medmim.errors import UserError
from medmim.finetune import run
from medmim.recipe import from_dump
recipe, home, data, base = sys.argv[1:]
recipe = from_dump(recipe)
try:
    progress.emit("digest", text=run.run(recipe, steps.workspace(Path(home), recipe), data, base).digest)
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


def world(root: Path, where: object) -> tuple[str, str]:
    """URI of a data set in a store, and the folder of a base."""
    zoo.save(make_lvlm(), root / "base")
    make_data(root / "data", make_samples(30))
    return store.publish(root / "data", str(where), "data", {}, {}).uri, str(root / "base")


def train(made: Recipe, home: Path, data: str, base: str, **environment: str) -> "subprocess.Popen[str]":
    return ray_world.driver(CODE, made.dump(), home, data, base, **environment)


def digest(driver: "subprocess.Popen[str]") -> str:
    """What a driver made; waits for it."""
    out = driver.communicate(timeout=240)[0]
    assert driver.returncode == 0, out
    found = ray_world.events(out)
    assert [event for event in found if event["kind"] == "step" and event["stage"] == "stage"][-1]["step"][:2] != "1/"
    return str(next(event["text"] for event in found if event["kind"] == "digest"))


def until(done: Any, what: str, seconds: float = 120) -> None:
    last = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < last, f"waited in vain for {what}"
        time.sleep(0.02)


def saved(where: Path, step: int) -> bool:
    return bool(list(where.glob(f"resume/finetune-*/step-{step:08d}/*/{store.MANIFEST}")))


def test_a_killed_worker_and_a_killed_driver_change_nothing(tmp_path: Path) -> None:
    """One worker is killed, then the driver with its whole cluster; new nodes with empty homes end in the digest of
    a training on this machine."""
    where = tmp_path / "store"
    data, base = world(tmp_path, where)
    changes = {"steps": 60, "save_every": 5}
    with ray_world.nodes(tmp_path / "a", 1) as nodes:
        first = train(recipe(where, nodes.cluster.address, **changes), tmp_path / "head", data, base)
        until(lambda: saved(where, 10), "a checkpoint")
        lost = ray_world.workers()
        assert lost, "no worker was there to kill"
        for process in lost:
            process.kill()
        until(lambda: saved(where, 30), "a checkpoint of the worker's successor")
        first.send_signal(signal.SIGKILL)
        first.wait()
    with ray_world.nodes(tmp_path / "b", 1) as nodes:
        second = train(recipe(where, nodes.cluster.address, **changes), tmp_path / "other-head", data, base)
        out = second.communicate(timeout=240)[0]
        assert second.returncode == 0, out
    said = ray_world.events(out)
    assert any(str(event.get("text", "")).startswith("going on from step ") for event in said)
    assert [e["stage"] for e in said if e["kind"] == "step"][-1] == "stage"
    assert [e["step"] for e in said if e["kind"] == "step"][-1] == "60/60"
    assert not (where / "resume").exists()
    made = store.get(f"{where}/model/{next(e['text'] for e in said if e['kind'] == 'digest')}")
    losses = ray_world.lines(where / "model" / made.digest / record.LOSSES)
    assert [line["step"] for line in losses] == list(range(1, 61))
    os.environ["OMP_NUM_THREADS"] = "1"
    here = tmp_path / "here"
    here.mkdir()
    bare = _bare(here, recipe(where, "local", **changes), data, base)
    assert bare == made.digest


def _bare(home: Path, made: Recipe, data: str, base: str) -> str:
    """Digest of the same training in this process."""
    from medmim.finetune import ray_launcher
    from medmim.finetune.work import work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_launcher, "launch", lambda job, home, workers: work(job, "cpu"))
        ws = steps.workspace(home, made.model_copy(update={"platform": validate_store(made, home)}))
        return run.run(made, ws, data, base).digest


def validate_store(made: Recipe, home: Path) -> Any:
    """The platform of a recipe with a store of its own, so that nothing is found."""
    return made.platform.model_copy(update={"store": str(home / "store")})
