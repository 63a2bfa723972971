"""Workers of a Ray cluster give the answers of one process to the byte, however many they are and whoever is killed."""

import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from medmim.bench import chunks, run
from medmim.bench.crew import UNFINISHED, refuse_mixed
from medmim.errors import UserError
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from tests.bench.test_run import SETTINGS, bench
from tests.support import crew, ray_cluster, waiting
from tests.support.bench import World, publish, publish_data, write_data
from tests.support.killing import Killed

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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    write_data(folder)
    return folder


PROBES = {"generate": ("none", "blind", "swap"), "both": ("none", "grey")}
FEW = settings(max_examples=4, phases=(Phase.generate,))  # to shrink a failure takes minutes
MODELS = {"tuned": "one", "base": "two", "same": "one"}


def on_workers(
    cluster: crew.Cluster, where: Path, data: Path, size: int = 3, protocol: str = "generate", head: str = "head"
) -> dict[chunks.Set, str]:
    """Digests of the answers of all models, and nothing else is left in the store."""
    made = recipe(where / "store", "127.0.0.1:1", batch_size=size, protocol=protocol, limit=24)
    uri = publish_data(data, str(where / "store"))
    found = crew.collect(made, where / head, uri, PROBES[protocol], **MODELS)
    assert not list((where / "store").glob("resume/*"))
    return {one: artifact.digest for one, artifact in found.items()}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[chunks.Set, str]]:
    """Digests of the answers that one process collects, by batch size and protocol."""
    found = {}
    for size, protocol in ((3, "generate"), (7, "both")):
        where = tmp_path_factory.mktemp("alone")
        made = recipe(where / "store", "local", batch_size=size, protocol=protocol, limit=24)
        uri = publish_data(data, str(where / "store"))
        found[size, protocol] = crew.alone(crew.Cluster(where), made, where / "head", uri, PROBES[protocol], **MODELS)
    return found


@pytest.mark.parametrize(("size", "protocol"), [(3, "generate"), (7, "both")])
@given(workers=st.integers(1, 4), deaths=st.frozensets(st.integers(0, 120), max_size=6))
@FEW
def test_any_number_of_workers_gives_the_bytes_of_one_process_and_a_killed_one_costs_its_batch(
    size: int, protocol: str, workers: int, deaths: frozenset[int], alone: Any, data: Path
) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        cluster = crew.Cluster(Path(name) / "node", workers, deaths=deaths).start(patch)
        assert on_workers(cluster, Path(name), data, size, protocol) == alone[size, protocol]
    assert cluster.lost == len([number for number in deaths if number < len(cluster.asked)])
    assert _again(cluster.asked) <= size * cluster.lost
    assert len(cluster.loaded) <= 2 * (workers + cluster.lost)


def _again(asked: list[Any]) -> int:
    return len(asked) - len(set(asked))


@given(workers=st.integers(1, 3), after=st.integers(0, 30))
@FEW
def test_a_killed_driver_costs_a_batch_of_each_worker(workers: int, after: int, alone: Any, data: Path) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        killed = crew.Cluster(Path(name) / "node", workers, driver_dies=after).start(patch)
        with pytest.raises(Killed):
            on_workers(killed, Path(name), data)
        again = crew.Cluster(Path(name) / "other-node", 2).start(patch)
        assert on_workers(again, Path(name), data, head="other") == alone[3, "generate"]
    assert _again(killed.asked + again.asked) <= 3 * workers


def test_what_failed_is_asked_again_in_the_batch_in_which_it_was(alone: Any, data: Path, tmp_path, monkeypatch) -> None:
    cluster = crew.Cluster(tmp_path / "node", 2, fails="What changed in 3?").start(monkeypatch)
    with pytest.raises(UserError, match="failed on 1 of 24"):
        on_workers(cluster, tmp_path, data)
    cluster.fails = "no question"
    assert on_workers(cluster, tmp_path, data) == alone[3, "generate"]


def test_a_model_that_cannot_be_asked_costs_no_answer_of_the_others(
    alone: Any, data: Path, tmp_path, monkeypatch
) -> None:
    cluster = crew.Cluster(tmp_path / "node", 2, broken="base").start(monkeypatch)
    with pytest.raises(UserError, match="1 of 3 models could not be asked: base") as caught:
        on_workers(cluster, tmp_path, data)
    assert caught.value.exit_code == 2 and "base is too large" in str(caught.value)
    tries = [question[0] for question in cluster.asked]
    assert set(tries) == {"tuned", "base"} and tries.count("base") <= 2, "each worker finds out once"
    cluster.broken, cluster.asked = "none", []
    assert on_workers(cluster, tmp_path, data) == alone[3, "generate"]
    assert {question[0] for question in cluster.asked} == {"base"}


def test_what_a_killed_driver_left_of_published_answers_is_removed(
    alone: Any, data: Path, tmp_path, monkeypatch
) -> None:
    cluster = crew.Cluster(tmp_path / "node").start(monkeypatch)
    assert on_workers(cluster, tmp_path, data) == alone[3, "generate"]
    for number, index in enumerate((tmp_path / "store").glob("steps/answers/*.json")):
        left = tmp_path / "store" / f"{UNFINISHED}{index.stem[:16]}" / "0.jsonl"
        left.parent.mkdir(parents=True)
        left.write_text(str(number))
    shutil.rmtree(tmp_path / "store" / "steps" / "answers-of-nodes")
    cluster.asked.clear()
    assert on_workers(cluster, tmp_path, data) == alone[3, "generate"] and not cluster.asked


@given(st.permutations(range(9)))
@FEW
def test_a_chunk_is_of_one_model_and_asks_all_sets_of_a_place_in_turns(lost: list[int]) -> None:
    """Also of what came back from lost workers."""
    sets = [("tuned", "generate", probe) for probe in ("none", "swap")]
    leading = [[f"{place}-{n}" for n in range(3)] for place in range(9)]
    moved = [batch[1:] for batch in leading[::2]]
    places = chunks.by_place(leading, dict(zip(sets, (leading, moved), strict=True)))
    assert all(batch.ids[0] in leading[batch.place] for place in places for batch in place)
    other = chunks.Batch(("base", "generate", "none"), 0, ("0-0",))
    queue = chunks.Queue({"tuned": places, "base": [[other]] * 40})
    taken = [queue.take("tuned", 100) for _ in places]
    assert [len({batch.place for batch in chunk}) for chunk in taken] == [1] * 9
    for number in lost:
        queue.put_back(taken[number])
    while (chunk := queue.take("tuned", 1))[0].set[0] == "tuned":
        order = [(batch.place, sets.index(batch.set)) for batch in chunk]
        assert order == sorted(order) and len(set(order)) == len(order)
        assert len({batch.place for batch in chunk}) <= 4


def test_chunks_shrink_so_that_no_worker_waits_long_for_the_last_one() -> None:
    batches = [chunks.Batch(("tuned", "generate", "none"), place, (str(place),)) for place in range(131)]
    queue = chunks.Queue({"tuned": [[batch] for batch in batches]})
    sizes = []
    while len(queue):
        sizes.append(len(queue.take("", 8)))
    assert sum(sizes) == 131 and max(sizes) == 4 and sizes == sorted(sizes, reverse=True)
    assert sizes[-32:] == [1] * 32  # the last questions of each worker come singly


def test_nodes_of_several_kinds_are_refused_by_their_names() -> None:
    kinds = {"NVIDIA A100 bfloat16 pil": {"a (10.0.0.1)", "b (10.0.0.2)"}}
    refuse_mixed(kinds)
    with pytest.raises(UserError, match="several kinds") as raised:
        refuse_mixed({**kinds, "NVIDIA H200 bfloat16 pil": {"c (10.0.0.3)"}})
    assert "A100" in str(raised.value) and "b (10.0.0.2)" in str(raised.value) and "H200" in str(raised.value)


def _answered(where: Path) -> list[tuple[str, str]]:
    """Set and question of each answer that is in the store and in no artifact."""
    files = (where / "resume").glob("*/*.jsonl")
    return [(file.parts[-2], json.loads(line)["sample"]) for file in files for line in file.read_text().splitlines()]


def _workers(cluster: ray_cluster.Nodes) -> list[psutil.Process]:
    """The processes of the nodes that answer."""
    found = []
    for one in psutil.Process(cluster.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended since, a zombie too
            if " ".join(one.cmdline()).startswith("ray::Worker"):
                found.append(one)
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_digest_of_one_process_though_a_worker_and_the_driver_are_killed(
    world: World, tmp_path: Path
) -> None:
    where = tmp_path / "store"
    with ray_cluster.nodes(tmp_path / "nodes", 2) as nodes:
        made = recipe(where, nodes.address, batch_size=1)
        killed = start(made, tmp_path / "head", world)
        waiting.until(lambda: len(_answered(where)) >= 20 and len(_workers(nodes)) == 2, 120)
        _workers(nodes)[0].kill()
        assert killed.stdout
        assert any("questions are asked again" in line for line in killed.stdout), "the driver learns of its loss"
        killed.kill()
        killed.wait()
        waiting.until(lambda: not _workers(nodes))  # else one may still write
        there = _answered(where)
        assert not list(where.glob("answers/*")), "no set was complete"
        assert len(set(there)) == len(there), "what is answered is not asked again when a worker is lost"
        driver = start(made, tmp_path / "other-head", world)
        out = driver.communicate(timeout=400)[0]
        assert driver.returncode == 0, out
        last = [event for event in ray_cluster.events(out) if event["kind"] == "bar"][-1]
        assert last["done"] == last["total"] == 2 * (3 * 48 + 24) - len(there)
        refused = start(recipe(where, nodes.address, max_new_tokens=100_000), tmp_path / "head", world)
        said = refused.communicate(timeout=400)[0]
        assert refused.returncode == 2 and "leaves no tokens for a question" in texts(said, "error")[0], said
    assert texts(out, "digest") == [bench(world, tmp_path / "local")[1].digest]
    assert not _answered(where)
    gone = recipe(where, "127.0.0.1:1", batch_size=1)  # the cluster is no more
    ws = workspace(tmp_path / "third-head", gone)
    assert run.run(gone, ws, publish(world, ws.store), str(world.models[0]), {"base": str(world.models[1])}).uri


def texts(out: str, kind: str) -> list[str]:
    """What a driver has said."""
    return [event["text"] for event in ray_cluster.events(out) if event["kind"] == kind]
