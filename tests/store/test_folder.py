"""Failures of a folder store: a full disk, missing permission, a file in its place; and its URIs."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.store import open_store

PUBLISH = (
    "import sys; from pathlib import Path; from medmim import store, errors\n"
    "try: store.publish(Path(sys.argv[1]), sys.argv[2], 'data', {}, {})\n"
    "except errors.UserError as error: print(error); sys.exit(error.exit_code)"
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, size in (("a-small", 10), ("b-large", 3_000_000), ("c-small", 10)):
        (folder / name).write_bytes(b"x" * size)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def no_partial_files(place: Path) -> bool:
    found = [path for path in place.rglob("*") if path.is_file()]
    return all(path.name == "a-small" or "used" in path.parts for path in found)


def test_a_full_disk_exits_with_2_and_leaves_no_artifact(files: Path, small_disk: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PUBLISH, str(files), str(small_disk / "store")], capture_output=True, text=True
    )
    assert ended.returncode == 2 and not ended.stderr
    assert "the disk is full while writing to the store" in ended.stdout and "--home" in ended.stdout
    assert no_partial_files(small_disk)


def test_a_limit_on_file_size_exits_with_2_and_leaves_no_artifact(files: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PUBLISH, str(files), str(tmp_path / "store")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "too large while writing" in ended.stdout and not ended.stderr
    assert no_partial_files(tmp_path / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_bad_input(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission") as caught:
        open_store(str(tmp_path / "store")).write("key", b"")
    assert caught.value.exit_code == 2


def test_a_file_in_the_place_of_the_store_is_reported(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("I am a file")
    place = open_store(str(tmp_path / "store"))
    with pytest.raises(UserError, match="while writing to the store"):
        place.write("key", b"")
    assert not place.exists("key") and list(place.list()) == []


def test_a_partial_file_is_not_listed(tmp_path: Path) -> None:
    place = open_store(str(tmp_path))
    place.write("a/key", b"")
    (tmp_path / "a" / ".part-x1y2").write_text("half")
    assert list(place.list()) == ["a/key"]


def test_a_relative_folder_follows_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert open_store("store").uri == str(tmp_path / name / "store")


def test_a_file_uri_is_the_folder_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    for uri in (str(folder), folder.as_uri(), f"{folder}/", f"file://{folder}"):
        assert open_store(uri).uri == str(folder)


@pytest.mark.parametrize("uri", ["hdfs://host/x", "file://host/x", "gs://bucket", "http://host/x", "://x"])
def test_another_kind_of_store_is_bad_input(uri: str) -> None:
    with pytest.raises(UserError, match="is not the address of a store"):
        open_store(uri)


def test_the_folders_below_a_prefix_are_named_whatever_is_in_them(tmp_path: Path, bucket: str) -> None:
    for place in (open_store(str(tmp_path / "store")), open_store(bucket)):
        for key in ("runs/b/data.json", "runs/b/jobs/x", "runs/a/data.json", "runs/file", "runsx/c/d", "other/e/f"):
            place.write(key, b"x")
        assert place.folders("runs/") == ("a", "b")
        assert place.folders("runs/b/") == ("jobs",)
        assert place.folders("nothing/") == ()
        assert sorted(place.ages("runs/b")) == ["runs/b/data.json", "runs/b/jobs/x"] == list(place.list("runs/b"))


def test_when_one_file_of_each_folder_was_written_is_known(tmp_path: Path, bucket: str) -> None:
    for place in (open_store(str(tmp_path / "store")), open_store(bucket)):
        for key in ("bench/a/x", "bench/a/y", "bench/b/y", "bench/c/in/x", "bench/x", "benches/d/x"):
            place.write(key, b"x")
        assert dict(place.times("bench/", "x")) == {"a": place.ages("bench/a/")["bench/a/x"][0]}
        assert dict(place.times("bench/", "y")).keys() == {"a", "b"}
        assert dict(place.times("nothing/", "x")) == {}
