"""A night on a Ray cluster: its nodes answer, the canary too, and the night is the one of a single process."""

from pathlib import Path

import pytest

from medmim.nightly import rebench
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from medmim.store import open_store
from tests.support import ray_cluster
from tests.support.bench import World, publish, world  # noqa: F401

CODE = """
import sys
from pathlib import Path
from medmim import progress
from medmim.run.workspace import workspace
from medmim.nightly import rebench
from medmim.recipe.loading import from_dump
recipe, home, data, base = sys.argv[1:]
recipe = from_dump(recipe)
ws = workspace(Path(home), recipe, "t-nightly-20260601-1")
progress.emit("digest", text=rebench.run(recipe, ws, data, {"base": base}).digest)
"""


def recipe(where: str, ray: str) -> Recipe:
    values = {
        "name": "t",
        "data": {"source": "phantom"},
        "bench": {"max_new_tokens": 4, "probes": []},
        "nightly": {"canary": 10, "date": "2026-06-01"},
        "platform": {"store": where, "ray": ray, "threads": 1},
    }
    return validate(values, "test")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_nodes_answer_and_the_night_is_the_same(world: World, tmp_path: Path) -> None:  # noqa: F811
    one = recipe(str(tmp_path / "one"), "local")
    ws = workspace(tmp_path / "here", one, "t-nightly-20260601-1")
    here = rebench.run(one, ws, publish(world, ws.store), {"base": str(world.models[0])})
    where = str(tmp_path / "store")
    with ray_cluster.nodes(tmp_path / "nodes", 1) as nodes:
        made = recipe(where, nodes.address)
        data = publish(world, where)
        driver = ray_cluster.driver(CODE, made.dump(), tmp_path / "head", data, world.models[0])
        out = driver.communicate(timeout=600)[0]
    assert driver.returncode == 0, out
    said = ray_cluster.events(out)
    assert [one["text"] for one in said if one["kind"] == "digest"] == [here.digest]
    assert "asking base, 1 of 1 models" in [one["text"] for one in said if one["kind"] == "line"], "the nodes did"
    assert len([key for key in open_store(where).list("steps/answers/")]) == 2, "the benchmark and the canary"
