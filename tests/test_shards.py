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


class Far:
    """A data set of which each read is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reads = folder, []
        self.sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.parquet")}

    def read(self, name: str, start: int, length: int) -> bytes:
        assert start >= 0 and start + length <= self.sizes[name]
        self.reads.append(length)
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(length)


@pytest.mark.parametrize(("count", "group", "shard"), [(1, 1, 1), (40, 200, 600), (40, 1, 1 << 20), (300, 1, 1 << 13)])
def test_ids_of_images_elsewhere_are_those_of_the_images_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, group: int, shard: int
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", group)
    monkeypatch.setattr(shards, "SHARD_BYTES", shard)
    shards.write(tmp_path, [SAMPLE], [(f"sha256:{i}", f"{i}.png", encoded(i % 250)) for i in range(count)])
    far = Far(tmp_path)
    assert shards.image_ids("s3://b/data/d", far.sizes, far.read) == set(shards.Images(tmp_path))


def test_ids_of_images_elsewhere_are_read_without_their_pixels(tmp_path: Path) -> None:
    pixels = bytes(2_000_000)
    shards.write(tmp_path, [SAMPLE], [(f"sha256:{i}", f"{i}.png", pixels) for i in range(20)])
    far = Far(tmp_path)
    assert len(shards.image_ids("s3://b/data/d", far.sizes, far.read)) == 20
    assert sum(far.reads) < 80_000, "the end of the file, of 64 KiB, and a few bytes for each row group"


def test_images_elsewhere_that_are_absent_or_damaged_are_reported(tmp_path: Path) -> None:
    shards.write(tmp_path, [SAMPLE], [])
    with pytest.raises(UserError, match="s3://b/data/d holds no images") as absent:
        shards.image_ids("s3://b/data/d", Far(tmp_path).sizes, Far(tmp_path).read)
    assert "rows_only" in absent.value.reason
    shards.write(tmp_path, [SAMPLE], IMAGES)
    (path,) = (tmp_path / "images").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="s3://b/data/d/images/images-00000-of-00001.parquet cannot be read"):
        shards.image_ids("s3://b/data/d", Far(tmp_path).sizes, Far(tmp_path).read)


def test_what_the_store_says_while_ids_are_read_is_not_taken_for_damage(tmp_path: Path) -> None:
    shards.write(tmp_path, [SAMPLE], IMAGES)
    far = Far(tmp_path)

    def refused(name: str, start: int, length: int) -> bytes:
        if len(far.reads) >= kept:
            raise UserError("the store does not answer")
        return far.read(name, start, length)

    kept = 99
    shards.image_ids("s3://b/data/d", far.sizes, refused)
    for last in range(len(far.reads)):
        kept = last
        far.reads.clear()
        with pytest.raises(UserError, match="the store does not answer"):
            shards.image_ids("s3://b/data/d", far.sizes, refused)


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
