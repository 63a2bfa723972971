"""Samples and images written to Parquet and read back."""

import io
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medmim import shards, store
from medmim.errors import UserError
from medmim.sample import Sample


def encoded(level: int, kind: str = "PNG", side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side), level).save(out, kind)
    return out.getvalue()


SAMPLE = Sample(
    "temporal", "change", "s", "train", False, ("p",), ("sha256:a", "sha256:b"), ("1.png", "2.jpg"), "How?",
    ("worse", "stable"), "stable", (1,), (0,),
)  # fmt: skip
IMAGES = [("sha256:a", "1.png", encoded(10)), ("sha256:b", "2.jpg", encoded(200, "JPEG"))]
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_texts = st.lists(_text, max_size=3).map(tuple)


@given(st.lists(st.tuples(_text, _texts, _texts, st.sampled_from(["train", "dev", "test"]), st.booleans())))
@settings(max_examples=30, deadline=None)
def test_samples_read_back_equal_and_in_order(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    samples = [
        replace(SAMPLE, question=q, options=o, images=i, split=split, held_out=held)
        for q, o, i, split, held in [*rows, ("q", (), (), "train", False)]
    ]
    folder = tmp_path_factory.mktemp("shards")
    shards.write(folder, samples, [])
    for split in ("train", "dev", "test"):
        assert shards.read_samples(folder, split) == [s for s in samples if s.split == split]
    assert sorted(map(repr, shards.read_samples(folder))) == sorted(map(repr, samples))


def test_samples_are_read_as_they_are_iterated_and_counted_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [replace(SAMPLE, question=str(i), images=(), split="train" if i < 6 else "test") for i in range(9)]
    monkeypatch.setattr(shards, "_READ_ROWS", 2)
    shards.write(tmp_path, rows, [])
    for split, want in ((None, rows), ("train", rows[:6]), ("test", rows[6:]), ("dev", [])):
        samples = shards.Samples(tmp_path, split)
        assert len(samples) == len(want)
        assert list(samples) == list(samples) == sorted(want, key=rows.index)
        assert not samples.show_images()
    some = iter(shards.Samples(tmp_path, "train"))
    assert [next(some), next(some)] == rows[:2]
    shards.write(tmp_path, [*rows, SAMPLE], IMAGES)
    assert shards.Samples(tmp_path, "train").show_images() and not shards.Samples(tmp_path, "test").show_images()


def test_many_threads_read_the_images_that_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 200)
    monkeypatch.setattr(shards, "SHARD_BYTES", 600)
    monkeypatch.setattr(shards, "_CACHED_GROUPS", 2)
    shards.write(tmp_path, [SAMPLE], [(f"sha256:{i}", f"{i}.png", encoded(i)) for i in range(60)])
    reading: list[int] = []
    real = shards.Images._read_group

    def read_group(self: shards.Images, number: int, group: int) -> object:
        reading.append(1)
        assert len(reading) == 1, "a ParquetFile is for one thread"
        time.sleep(0.001)
        found = real(self, number, group)
        reading.pop()
        return found

    monkeypatch.setattr(shards.Images, "_read_group", read_group)
    images = shards.Images(tmp_path)
    names = [f"sha256:{i * 7 % 60}" for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for name, image in zip(names, pool.map(images.__getitem__, names), strict=True):
            assert image.getpixel((0, 0)) == (int(name[7:]),) * 3


def test_a_data_set_without_the_column_swapped_is_still_readable(tmp_path: Path) -> None:
    shards.write(tmp_path, [SAMPLE], IMAGES)
    (path,) = (tmp_path / "samples").iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["swapped"]), path)
    assert shards.read_samples(tmp_path) == [replace(SAMPLE, swapped=())]


def test_equal_content_gives_equal_bytes_whatever_was_in_the_folder(tmp_path: Path) -> None:
    shards.write(tmp_path / "a", [SAMPLE], IMAGES)
    shards.write(tmp_path / "b", [replace(SAMPLE, split="dev")] * 3, [(f"{i}", "x", encoded(i)) for i in range(9)])
    shards.write(tmp_path / "b", [SAMPLE], IMAGES)
    assert store.scan(tmp_path / "a") == store.scan(tmp_path / "b")


def test_images_are_read_as_rgb_and_as_png_whatever_the_file_was(tmp_path: Path) -> None:
    shards.write(tmp_path, [SAMPLE], IMAGES)
    images = shards.Images(tmp_path)
    assert list(images) == ["sha256:a", "sha256:b"]
    assert len(images) == 2
    assert "sha256:a" in images and "sha256:c" not in images
    assert images["sha256:b"].mode == "RGB"
    assert images.stored("sha256:a") == images.png("sha256:a") == IMAGES[0][2]
    assert images.png("sha256:b").startswith(b"\x89PNG")
    with pytest.raises(KeyError):
        images["sha256:c"]


def test_a_worker_opens_pickled_images_by_folder(tmp_path: Path) -> None:
    shards.write(tmp_path, [SAMPLE], IMAGES)
    data = pickle.dumps(shards.Images(tmp_path))
    assert len(data) < 1_000
    assert pickle.loads(data).png("sha256:a") == IMAGES[0][2]


def test_large_sets_are_cut_into_row_groups_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 200)
    monkeypatch.setattr(shards, "SHARD_BYTES", 600)
    many = [(f"sha256:{i}", f"{i}.png", encoded(i)) for i in range(40)]
    shards.write(tmp_path, [SAMPLE], many)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) > 3
    assert names[-1] == f"images-{len(names) - 1:05d}-of-{len(names):05d}.parquet"
    images = shards.Images(tmp_path)
    assert {name: images.stored(name) for name in images} == {name: data for name, _, data in many}


def test_hugging_face_reads_the_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    shards.write(tmp_path / "set", [SAMPLE, replace(SAMPLE, split="test")], IMAGES)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(tmp_path / "set"), "samples", cache_dir=cache)
    assert set(rows) == {"train", "test"}
    assert rows["train"][0]["images"] == list(SAMPLE.images)
    pictures = datasets.load_dataset(str(tmp_path / "set"), "images", split="images", cache_dir=cache)
    assert isinstance(pictures[0]["image"], Image.Image)
    assert pictures[0]["image"].getpixel((0, 0)) == 10


def test_without_pixels_samples_are_readable_and_opening_images_is_an_error(tmp_path: Path) -> None:
    shards.write(tmp_path, [SAMPLE], [])
    assert shards.read_samples(tmp_path) == [SAMPLE]
    with pytest.raises(UserError, match="rows_only"):
        shards.Images(tmp_path)


def test_a_folder_that_is_not_a_data_set_and_a_damaged_file_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no samples"):
        shards.read_samples(tmp_path)
    shards.write(tmp_path, [SAMPLE], IMAGES)
    for path in tmp_path.rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        shards.read_samples(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        shards.Images(tmp_path)
