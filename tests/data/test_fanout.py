"""Nodes of a Ray cluster make the data set of one process, whoever is lost, and in bounded memory."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medmim import store
from medmim.data import build, gather
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from medmim.sample import digest_of
from tests.support import gated_read, ray_cluster
from tests.support import med_mim_files as files
from tests.support.raw_sources import write_csv, write_image
from tests.support.ray_cluster import Nodes
from tests.support.waiting import until

pytestmark = pytest.mark.long

BUILD = """
import os, sys
from pathlib import Path
from medmim import progress
from medmim.data import build
from medmim.errors import UserError
from medmim.recipe.loading import from_dump
from medmim.run.workspace import workspace
recipe, home, raw = sys.argv[1:]
if raw:
    os.dup2(os.open(raw, os.O_RDONLY), 200)
recipe = from_dump(recipe)
try:
    progress.emit("digest", text=build.run(recipe, workspace(Path(home), recipe)).digest)
except UserError as error:
    progress.emit("error", text=str(error))
    sys.exit(error.exit_code)
"""
GATHER = """
import sys
from functools import partial
from pathlib import Path
from medmim import progress
from medmim.data import fanout, gather
from medmim.sample import digest_of
from tests.support import gated_read
address, shared, raw, folder, *paths = sys.argv[1:]
folder = Path(folder)
decode = fanout.on_nodes(address, shared, lambda _: raw)
found = gather.gather(paths, partial(gated_read.read, Path(raw)), folder, 16, decode=decode)
progress.emit("digest", text=digest_of(map(repr, gather.stored(folder, found.values()))))
"""
AHEAD = """
import sys
from functools import partial
from pathlib import Path
import ray
from medmim import progress, store
from medmim.data import fanout, gather
from tests.support import gated_read
address, shared, raw, *paths = sys.argv[1:]
reader = gather.Reader(partial(gated_read.read, Path(raw)), 16)
pictures = fanout.on_nodes(address, shared, lambda _: raw)(paths, reader)
next(pictures)
ray.get([ray.remote(lambda: None).remote() for _ in range(8)])  # they wait behind all that was submitted before
progress.emit("read", text=str(len(gated_read.seen(Path(raw)))))
pictures.close()
"""

SENDING = """
import sys, threading, types
from medmim import progress
from medmim.data import fanout, gather
from medmim.errors import UserError
address, shared, kind = sys.argv[1:]
held = threading.Lock()
def read(path):
    return held and b""
if kind == "absent module":
    sys.modules["absent_here"] = types.ModuleType("absent_here")
    exec("def read(path): return b''", sys.modules["absent_here"].__dict__)
    read = sys.modules["absent_here"].read
try:
    list(fanout.on_nodes(address, shared, lambda _: "")(["a.png"], gather.Reader(read, 16)))
except UserError as error:
    progress.emit("error", text=str(error))
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, s3_server: dict[str, str]) -> Iterator[Nodes]:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), **s3_server}
    with ray_cluster.nodes(tmp_path_factory.mktemp("nodes"), 2, **environment) as made:
        yield made


def events_of(driver: "subprocess.Popen[str]", code: int = 0) -> list[dict[str, Any]]:
    out = driver.communicate(timeout=240)[0]
    assert driver.returncode == code, out
    return ray_cluster.events(out)


def text_of(events: list[dict[str, Any]], kind: str) -> str:
    return str(next(event["text"] for event in events if event["kind"] == kind))


def recipe(raw: Path | str, where: Path, address: str = "local") -> Recipe:
    sources = [{"name": "covid_chestxray", "root": str(raw)}, {"name": "phantom", "patients": 20}]
    data = {"sources": sources, "max_bad_fraction": 0.9, "max_side": 64, "test_fraction": 0.3}
    return validate({"name": "t", "data": data, "platform": {"store": str(where), "ray": address}}, "test")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which one is missing, one is cut off, one is text and one is a folder."""
    rows = files.covid_rows(12)
    root = files.write_covid(tmp_path_factory.mktemp("raw"), rows)
    images = sorted(path for path in (root / "images").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:-60])
    images[2].write_text("no image", encoding="utf-8")
    images[3].unlink()
    images[3].mkdir()
    return root


def files_of(uri: str) -> dict[str, Any]:
    return dict(store.get(uri).files)


def test_nodes_build_the_bytes_of_one_process(nodes: Nodes, raw: Path, tmp_path: Path) -> None:
    made = recipe(raw, tmp_path / "one")
    alone = build.run(made, workspace(tmp_path / "home", made))
    driver = ray_cluster.driver(BUILD, recipe(raw, tmp_path / "store", nodes.address).dump(), tmp_path / "head", "")
    events = events_of(driver)
    assert text_of(events, "digest") == alone.digest
    assert any(event["text"].startswith("reading images on the Ray cluster: ") for event in events if "text" in event)
    assert files_of(f"{tmp_path}/store/data/{alone.digest}") == files_of(alone.uri)
    assert alone.facts["quarantined"] and alone.facts["missing_images"] == 1, "it has bad images"
    assert list(store.open_store(str(tmp_path / "store")).list("resume/")) == []


def test_raw_data_and_store_in_s3_are_read_and_written_by_the_nodes_with_their_own_keys(
    nodes: Nodes, bucket: str, tmp_path: Path
) -> None:
    rows = [{"patient": f"P{i // 2}", "path": f"{i}.png", "modality": "CT", "finding": "nodule"} for i in range(40)]
    root = write_csv(tmp_path / "raw" / "studies.csv", list(rows[0]), rows).parent
    for row in rows[1:]:  # the first is missing
        write_image(root / row["path"], "PNG", side=48)
    for path in root.iterdir():
        store.open_store(f"{bucket}/raw").upload(path.name, path)

    def made(place: str, where: str, ray: str) -> Recipe:
        data = {"sources": [{"name": "studies", "root": place}], "max_bad_fraction": 0.5, "max_side": 32}
        return validate({"name": "t", "data": data, "platform": {"store": where, "ray": ray}}, "test")

    alone = made(str(root), str(tmp_path / "store"), "local")
    there = made(f"{bucket}/raw", f"{bucket}/store", nodes.address)
    events = events_of(ray_cluster.driver(BUILD, there.dump(), tmp_path / "head", ""))
    assert text_of(events, "digest") == build.run(alone, workspace(tmp_path / "home", alone)).digest
    assert list(store.open_store(f"{bucket}/store").list("resume/")) == []


def test_a_root_that_only_the_drivers_node_has_is_named_with_the_node(nodes: Nodes, raw: Path, tmp_path: Path) -> None:
    """The folder is an open file of the driver, which is no folder of any other process."""
    own = recipe("/proc/self/fd/200", tmp_path / "store", nodes.address)
    events = events_of(ray_cluster.driver(BUILD, own.dump(), tmp_path / "head", raw), code=2)
    fact, *rest = text_of(events, "error").splitlines()
    assert fact.startswith(f"the node {os.uname().nodename} (") and fact.endswith("in /proc/self/fd/200")
    assert "s3://" in rest[-1]


def pictures(root: Path, early: int, late: int) -> list[str]:
    """So many images that are read at once, and so many that wait for the gate."""
    names = [f"early{i:03}.png" for i in range(early)] + [f"late{i:03}.png" for i in range(late)]
    for number, name in enumerate(names):
        image = Image.new("L", (40, 30), number % 250)
        image.putpixel((3, 3), 255)
        image.save(root / name)
    return names


def test_what_is_read_survives_driver_home_and_node(nodes: Nodes, tmp_path: Path) -> None:
    raw, shared = tmp_path / "raw", tmp_path / "store" / "resume" / "data-1"
    raw.mkdir()
    paths = pictures(raw, early=6, late=18)  # in batches of three
    arguments = [nodes.address, shared, raw, tmp_path / "head", *paths]
    first = ray_cluster.driver(GATHER, *arguments)
    until(lambda: len(list(shared.glob("*.pictures"))) == 2 and any(path[0] == "l" for path, _ in gated_read.seen(raw)))
    first.send_signal(signal.SIGKILL)
    first.wait()
    shutil.rmtree(tmp_path / "head")  # as that of a pod
    before = gated_read.seen(raw)
    second = ray_cluster.driver(GATHER, *arguments)
    until(lambda: {home for _, home in gated_read.seen(raw)[len(before) :]} >= {"node1", "node2"})
    nodes.remove(0)
    nodes.add()
    with gated_read.opened(raw):
        events = events_of(second)
        alone = gather.gather(paths, partial(gated_read.read, raw), tmp_path / "alone", 16)
    assert text_of(events, "digest") == digest_of(map(repr, gather.stored(tmp_path / "alone", alone.values())))
    assert [event["text"] for event in events if "6 images are there" in event.get("text", "")]
    again = [path for path, home in gated_read.seen(raw)[len(before) :] if home.startswith("node")]
    assert {path for path in again if path.startswith("late")} == set(paths[6:]) == set(again)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("lock", r"a source of this recipe cannot be read on other nodes\n.*lock"),
        ("absent module", r"a source of this recipe is not installed \(on the node .*\)\n.*absent_here"),
    ],
)
def test_a_source_that_cannot_be_sent_to_nodes_is_told(nodes: Nodes, tmp_path: Path, kind: str, told: str) -> None:
    events = events_of(ray_cluster.driver(SENDING, nodes.address, tmp_path / "store", kind))
    assert re.match(told, text_of(events, "error"))


def test_few_images_are_read_ahead_of_the_driver(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    paths = pictures(tmp_path / "raw", early=640, late=0)
    events = events_of(ray_cluster.driver(AHEAD, nodes.address, tmp_path / "store", tmp_path / "raw", *paths))
    assert 32 <= int(text_of(events, "read")) <= 9 * 32, "batches: two for each of two CPUs, and five to be fetched"
