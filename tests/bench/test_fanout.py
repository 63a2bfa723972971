"""Nodes of a Ray cluster give the answers of one process, with equal digests; cached answers are not asked again."""

import subprocess
import time
from pathlib import Path

import pytest

from medmim import store
from medmim.bench import run
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from tests.bench.test_run import SETTINGS, bench
from tests.support import ray_cluster
from tests.support.bench import World, publish

CODE = """
import sys
from pathlib import Path
from medmim import progress
from medmim.run.workspace import workspace
from medmim.bench import run
from medmim.errors import UserError
from medmim.recipe.loading import from_dump
recipe, home, data, tuned, base = sys.argv[1:]
recipe = from_dump(recipe)
try:
    ws = workspace(Path(home), recipe)
    progress.emit("digest", text=run.run(recipe, ws, data, tuned, {"base": base}).digest)
except UserError as error:
    progress.emit("error", text=str(error))
    sys.exit(error.exit_code)
"""


def recipe(where: Path, address: str, workers: int = 2, **changes: object) -> Recipe:
    section = {**SETTINGS.model_dump(mode="json"), **changes}
    platform = {"store": str(where), "ray": address, "workers": workers, "threads": 1}
    return validate({"name": "t", "data": {"source": "phantom"}, "bench": section, "platform": platform}, "test")


def start(made: Recipe, home: Path, world: World) -> "subprocess.Popen[str]":
    data = publish(world, str(made.platform.store))
    return ray_cluster.driver(CODE, made.dump(), home, data, *world.models)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_gives_the_digest_of_one_process_even_if_a_node_is_lost(world: World, tmp_path: Path) -> None:
    local = bench(world, tmp_path / "local")[1]
    where = tmp_path / "store"
    with ray_cluster.nodes(tmp_path / "nodes", 2) as nodes:
        driver = start(recipe(where, nodes.address), tmp_path / "head", world)
        asked = list((tmp_path / "nodes").glob("node1/work/answers-*"))
        last = time.monotonic() + 240
        while not asked and time.monotonic() < last:
            asked = list((tmp_path / "nodes").glob("node1/work/answers-*"))
            time.sleep(0.02)
        nodes.remove(0)
        nodes.add()
        out = driver.communicate(timeout=400)[0]
    assert driver.returncode == 0, out
    events = ray_cluster.events(out)
    assert [event["text"] for event in events if event["kind"] == "digest"] == [local.digest]
    assert {event["label"] for event in events if event["kind"] == "bar"} >= {"tuned answers", "base answers swap"}
    assert list((tmp_path / "nodes").glob("node2/work")), "the second node has answered too"
    made = recipe(where, "127.0.0.1:1")  # the cluster is gone
    ws = workspace(tmp_path / "other-head", made)
    data = publish(world, ws.store)
    assert run.run(made, ws, data, str(world.models[0]), {"base": str(world.models[1])}).uri


@pytest.mark.slow
def test_a_user_error_on_a_node_is_raised_by_the_driver(world: World, tmp_path: Path) -> None:
    """The driver reads no image, so the node is the one that finds them damaged."""
    where = tmp_path / "store"
    data = store.get(publish(world, str(where)))
    damaged = next(name for name in data.files if name.startswith("images/"))
    (where / "data" / data.digest / damaged).write_bytes(b"")
    with ray_cluster.nodes(tmp_path / "nodes", 1) as nodes:
        driver = start(recipe(where, nodes.address, workers=1), tmp_path / "head", world)
        out = driver.communicate(timeout=400)[0]
    assert driver.returncode == 2, out
    text = ray_cluster.events(out)[-1]["text"]
    assert "is damaged" in text and damaged in text
