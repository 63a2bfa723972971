"""One image of a data set: the bytes that were stored, read from where they lie, and nothing else."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medmim import shards, store
from medmim.data import pictures
from medmim.errors import UserError
from medmim.run.index import NotReady
from medmim.run.workspace import Workspace
from medmim.shards import Place
from medmim.store import Artifact
from tests.support.bench import picture, samples
from tests.support.benchmarks import publish_samples
from tests.support.s3_proxy import Proxy


def stored(ws: Workspace, data: Artifact, *names: str) -> dict[str, Place]:
    while True:
        try:
            return pictures.stored(ws, data, names)
        except NotReady:
            time.sleep(0.05)


def images() -> dict[str, bytes]:
    return {name: picture(n) for n, name in enumerate(sorted({name for one in samples() for name in one.images}))}


@pytest.mark.parametrize("group", [1, 400, 1 << 20])
def test_an_image_is_the_one_that_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", group)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    ws, made = Workspace(tmp_path / "home", str(tmp_path / "store"), ""), images()
    data = publish_samples(ws, samples(), made)
    places = stored(ws, data, *made, "sha256:none", "../manifest.json")
    assert places.keys() == made.keys()
    for name, place in places.items():
        assert pictures.read(data, place) == (made[name], "image/png")


def test_of_a_data_set_in_s3_its_ids_and_one_row_group_are_read(
    tmp_path: Path, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1 << 18)
    ws = Workspace(tmp_path / "home", f"{bucket}/x", "")
    png = picture(0)
    made = {f"sha256:{n:03}": png + bytes([n]) * 100_000 for n in range(100)}
    data = publish_samples(ws, samples(), made)
    proxy.reads.clear()
    places = stored(ws, data, *made)
    indexed = proxy.bytes
    assert pictures.read(data, places["sha256:042"])[0] == made["sha256:042"]
    one = proxy.bytes - indexed
    assert len(places) == 100
    assert indexed < 500_000, "of 10 MB"
    assert one < 500_000, "its row group, and the end of the file"
    assert not (ws.home / "cache").exists()


def test_a_data_set_without_pixels_says_so(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "home", str(tmp_path / "store"), "")
    with pytest.raises(UserError, match="holds no images") as told:
        stored(ws, publish_samples(ws, samples(), {}), "sha256:000")
    assert "rows_only" in told.value.reason


@pytest.mark.parametrize(
    ("damage", "what"),
    [(lambda data: data[:-30], "is damaged"), (lambda data: b"PAR1" + bytes(len(data) - 4), "cannot be read")],
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], what: str) -> None:
    ws = Workspace(tmp_path / "home", str(tmp_path / "store"), "")
    data = publish_samples(ws, samples(), images())
    (path,) = (Path(data.uri) / "images").iterdir()
    places = stored(ws, data, "sha256:000")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=what) as told:
        pictures.read(data, places["sha256:000"])
    assert path.name in str(told.value)


def test_what_is_neither_png_nor_jpeg_is_no_image(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "home", str(tmp_path / "store"), "")
    data = publish_samples(ws, samples(), {"sha256:00": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"})
    with pytest.raises(UserError, match="neither PNG nor JPEG"):
        pictures.read(data, stored(ws, data, "sha256:00")["sha256:00"])


def test_two_data_sets_keep_their_own_images(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "home", str(tmp_path / "store"), "")
    first = publish_samples(ws, samples(), {"sha256:00": picture(1)})
    second = publish_samples(ws, samples(), {"sha256:00": picture(2), "sha256:01": picture(3)})
    assert store.get(first.uri).digest != second.digest
    assert pictures.read(first, stored(ws, first, "sha256:00")["sha256:00"])[0] == picture(1)
    assert pictures.read(second, stored(ws, second, "sha256:00")["sha256:00"])[0] == picture(2)
    assert not stored(ws, first, "sha256:01")
