"""A root is a folder or an address in S3: both give the same tables, images, names and errors."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.data.sources import roots
from medmim.data.sources.roots import Root
from medmim.data.sources.source import BadImage, Entry
from medmim.errors import UserError
from medmim.recipe.sources import Odir

FILES = {"data.csv": b"a,b\n1,2\n", "images/p1/x#1.png": b"picture", "images/p2/v.nii.gz": b"volume"}


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    place = str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket") + "/raw"
    for name, data in FILES.items():
        store.open_store(place).write(name, data)
    return roots.opened(entry(place))


def entry(place: str | None) -> Entry[Any]:
    return Entry(Odir(name="odir", root=place))


def test_tables_and_images_are_read(root: Root) -> None:
    assert root.table("data.csv").read_bytes() == FILES["data.csv"]
    assert root.read("images/p1/x#1.png") == b"picture"  # no fragment, but a name
    assert root.read("images/p2/v.nii.gz#coronal=3") == b"volume"


def test_the_first_bytes_are_read_alone(root: Root) -> None:
    assert root.head("images/p2/v.nii.gz#axial=0", 3) == b"vol"
    assert root.head("images/p2/v.nii.gz", 100) == b"volume"
    with pytest.raises(FileNotFoundError):
        root.head("images/p2/w.nii.gz", 3)


def test_what_is_there_is_listed_and_what_is_not_is_told(root: Root) -> None:
    assert list(root.names("images")) == ["images/p1/x#1.png", "images/p2/v.nii.gz"]
    assert root.has("images/p2/v.nii.gz#axial=0") and not root.has("images/p2/w.nii.gz")
    with pytest.raises(FileNotFoundError):
        root.read("images/p2/w.nii.gz")
    with pytest.raises(UserError, match=r"there is no metadata\.csv in "):
        root.table("metadata.csv")


def test_names_are_in_one_order_wherever_they_lie(root: Root) -> None:
    """Of two files for one thing the first counts, and rows are in the order of their files."""
    place = store.open_store(str(root))
    for name in ("b/z.png", "b-1/a.png", "b.png", "images.png", "a/b/c.png", "a/b.png"):
        place.write(name, b"")
    everything = [
        "a/b.png", "a/b/c.png", "b-1/a.png", "b.png", "b/z.png", "data.csv", "images.png", "images/p1/x#1.png",
        "images/p2/v.nii.gz",
    ]  # fmt: skip
    again = roots.opened(entry(str(root)))
    assert list(again.names()) == everything == sorted(everything)
    assert list(again.names("a")) == everything[:2] and list(again.names("absent")) == []


def test_inputs_change_with_a_table_and_with_an_image(root: Root, request: pytest.FixtureRequest) -> None:
    images = ["images/p1/x#1.png", "images/p2/v.nii.gz#coronal=1", "images/absent.png"]
    before = roots.digest(root, ["data.csv"], images)
    assert set(before) == {"data.csv", "images"} and roots.digest(root, ["data.csv"], images[::-1]) == before
    place = store.open_store(str(root))
    place.write("images/p2/v.nii.gz", b"another volume")
    changed = roots.digest(roots.opened(entry(str(root))), ["data.csv"], images)
    assert changed["images"] != before["images"] and changed["data.csv"] == before["data.csv"]
    place.write("data.csv", b"a,b\n1,3\n")
    assert roots.digest(roots.opened(entry(str(root))), ["data.csv"], images)["data.csv"] != before["data.csv"]


def test_a_path_that_leaves_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "secret.csv").write_text("x")
    os.symlink(tmp_path / "secret.csv", tmp_path / "raw" / "link.csv")
    root = roots.opened(entry(str(tmp_path / "raw")))
    for read in (root.read, root.table):
        for path in ("../secret.csv", "link.csv", str(tmp_path / "secret.csv")):
            with pytest.raises((BadImage, UserError), match="leaves|cannot be read"):
                read(path)


def test_a_folder_can_be_sent_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    read: Callable[[str], bytes] = pickle.loads(pickle.dumps(roots.opened(entry(str(tmp_path))).read))
    assert read("a.png") == b"picture"


def test_a_bucket_is_sent_without_its_listing_and_read_there_without_one(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = store.open_store(f"{bucket}/raw")
    for number in range(30):
        place.write(f"image-{number}.png", b"picture")
    root = roots.opened(entry(f"{bucket}/raw"))
    assert root.has("image-7.png")
    sent = pickle.dumps(root.read)
    assert b"image-7.png" not in sent
    read: Callable[[str], bytes] = pickle.loads(sent)
    monkeypatch.setattr(type(place), "ages", None)
    assert read("image-7.png") == b"picture"
    with pytest.raises(FileNotFoundError):
        read("image-77.png")


def test_no_root_is_told_with_its_key() -> None:
    with pytest.raises(UserError, match="data names no folder") as caught:
        roots.opened(entry(None))
    assert "data.root" in caught.value.fix


def test_a_table_may_be_larger_than_any_image(tmp_path: Path) -> None:
    for name in ("large.csv", "large.png"):
        with (tmp_path / name).open("wb") as file:
            file.truncate((256 << 20) + 1)  # of no bytes on the disk
    root = roots.opened(entry(str(tmp_path)))
    assert root.table("large.csv").stat().st_size > 256 << 20
    with pytest.raises(BadImage, match="more than 268,435,456"):
        root.read("large.png")
