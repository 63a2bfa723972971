"""The cache of local copies: its room, its disk, who else reads it, and copies of some files."""

import errno
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.store import copies, open_store, ranges
from tests.support.copies import FETCH, LARGE, RANGE, SMALL, process, publish, size, whole
from tests.support.s3_proxy import Proxy


def test_an_artifact_that_is_removed_meanwhile_is_reported_so(
    artifact: store.Artifact, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medmim.store.removal import remove

    monkeypatch.setattr(ranges, "CONNECTIONS", 1)

    def gc(name: str, range_: str, body: bytes) -> bytes:
        if range_ == f"bytes=0-{RANGE - 1}":
            remove(open_store(bucket), f"model/{artifact.digest}")
        return body

    proxy.alter = gc
    with pytest.raises(UserError, match="was removed while it was fetched") as caught:
        store.fetch(artifact, tmp_path / "cache")
    assert caught.value.exit_code == 2 and "medmim gc" in caught.value.reason
    assert not list((tmp_path / "cache").iterdir())


def test_a_copy_outlives_its_artifact_until_the_next_sweep(
    artifact: store.Artifact, bucket: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    folder = store.fetch(artifact, cache)
    other = store.fetch(publish(bucket, tmp_path / "other", small=b"other"), cache)
    open_store(bucket).delete(f"model/{artifact.digest}/manifest.json")
    assert store.fetch(artifact, cache) == folder
    store.sweep(cache, 0)
    assert folder.is_dir(), "this process uses it"
    copies._used.clear()
    store.sweep(cache, 3600)
    assert folder.is_dir(), "it was swept a moment ago"
    (cache / f".part-removed-{artifact.digest}").mkdir()
    (cache / f".part-removed-{artifact.digest}" / "file").write_text("of a removal that was killed")
    os.utime(cache / ".swept", (time.time() + 1e6,) * 2)
    store.sweep(cache, 3600)
    assert not folder.exists() and other.is_dir(), "the clock was set back since the last sweep"


def isolated(folder: Path, mount: str, artifact: store.Artifact, cache: Path) -> subprocess.CompletedProcess[str]:
    """`FETCH` where a file system of its own is mounted at `folder`."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no mount namespace of one's own")
    folder.mkdir(parents=True, exist_ok=True)
    shell = f'{mount} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", shell, "sh", sys.executable, "-c", FETCH, artifact.uri, str(cache)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_read(
    artifact: store.Artifact, proxy: Proxy, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    ended = isolated(disk, f"mount -t tmpfs -o size=128k tmpfs {disk}", artifact, disk / "cache")
    assert ended.returncode == 2, ended.stderr
    assert f"the disk of {disk}/cache is too small for {artifact.uri}" in ended.stdout
    assert re.search(rf"{size(artifact):,} bytes are needed, and 1[23]\d,\d\d\d are free", ended.stdout)
    assert proxy.bytes == 0


def test_a_cache_that_may_only_be_read_serves_what_it_has(
    artifact: store.Artifact, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    folder = store.fetch(artifact, cache)
    other = publish(bucket, tmp_path / "other", small=b"other")
    read_only = f"mount --bind {cache} {cache} && mount -o remount,ro,bind {cache}"
    known = isolated(cache, read_only, artifact, cache)
    assert known.returncode == 0 and known.stdout.split("\n")[1] == str(folder), known.stdout + known.stderr
    unknown = isolated(cache, read_only, other, cache)
    assert unknown.returncode == 2 and f"the cache {cache} cannot be written" in unknown.stdout, unknown.stderr
    assert "set MEDMIM_CACHE to another folder" in unknown.stdout


def test_a_file_system_without_locks_is_said_so_and_leaves_whole_copies_only(
    artifact: store.Artifact,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)  # no such file system is at hand
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    cache = tmp_path / "cache"
    assert whole(artifact, store.fetch(artifact, cache))
    assert "on a file system without locks" in capfd.readouterr().err
    assert sorted(path.name for path in cache.iterdir()) == sorted([".swept", artifact.digest])
    before = proxy.bytes
    assert store.fetch(artifact, cache).is_dir() and proxy.bytes == before
    monkeypatch.setenv("MEDMIM_CACHE_GIB", "0.0001")
    copies._make_room(artifact, cache / artifact.digest, 1)
    assert (cache / artifact.digest).is_dir(), "nobody knows who uses it"


def test_the_least_recently_used_copies_make_room_but_not_those_in_use(
    proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    one, two, three, four = (publish(bucket, tmp_path / str(n), "data", large=bytes([n]) * 1_000_000) for n in range(4))
    with process(one, cache, "and wait") as reader:
        reader.stdout.readline(), reader.stdout.readline()
        for known in (two, three, two):
            store.fetch(known, cache)
            time.sleep(0.02)
        copies._used.clear()
        monkeypatch.setenv("MEDMIM_CACHE_GIB", str(3_500_000 / 2**30))
        store.fetch(four, cache)
        kept = {path.name for path in cache.iterdir() if len(path.name) == 64}
        assert kept == {one.digest, two.digest, four.digest}, "three was used last of all before two"
        reader.kill()
        reader.wait()
    monkeypatch.setenv("MEDMIM_CACHE_GIB", "0.001")
    store.fetch(three, cache)
    kept = {path.name for path in cache.iterdir() if len(path.name) == 64}
    assert kept == {four.digest, three.digest}, "this process uses four"
    assert "larger than MEDMIM_CACHE_GIB allows" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["much", "-1", "inf", "nan"])
def test_a_limit_that_is_no_size_is_refused(
    given: str, artifact: store.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_CACHE_GIB", given)
    with pytest.raises(UserError, match=f"MEDMIM_CACHE_GIB is '{given}'"):
        store.fetch(artifact, tmp_path / "cache")


def test_a_copy_that_was_cut_off_long_ago_is_removed(artifact: store.Artifact, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name, age in ((".part-old", 8 * 86400), (".part-new", 86400)):
        (cache / name / "sub").mkdir(parents=True)
        file = cache / name / "sub" / "large"
        file.write_bytes(b"1")
        for path in (file, cache / name / "sub", cache / name):
            os.utime(path, (time.time() - age, time.time() - age))
    store.sweep(cache, 0)
    assert sorted(path.name for path in cache.iterdir()) == [".part-new", ".swept"]
    shutil.rmtree(cache)


@pytest.mark.parametrize("only", [["*small"], ["sub/large", "nothing"], [], ["*_small", "*empty"]])
def test_some_files_are_a_copy_of_their_own_and_never_the_whole(
    only: list[str], artifact: store.Artifact, proxy: Proxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    wanted = {name for name in artifact.files if any(fnmatch.fnmatchcase(name, glob) for glob in only)}
    some = store.fetch(artifact, cache, only)
    assert store.scan(some) == {name: artifact.files[name] for name in wanted}
    before = sum(artifact.files[name]["bytes"] for name in wanted)
    assert proxy.bytes == before, "nothing else was read"
    assert store.fetch(artifact, cache, only) == some and proxy.bytes == before, "fetched once"
    folder = store.fetch(artifact, cache)
    assert folder == cache / artifact.digest != some and whole(artifact, folder)
    assert proxy.bytes == before + size(artifact), "no file was taken from the part"
    assert store.fetch(artifact, cache, ["*large"]) == folder and proxy.bytes == before + size(artifact)


def test_globs_of_all_files_give_the_whole(artifact: store.Artifact, tmp_path: Path) -> None:
    assert store.fetch(artifact, tmp_path / "cache", ["*"]) == tmp_path / "cache" / artifact.digest


def test_eight_processes_fetch_some_files_once(artifact: store.Artifact, proxy: Proxy, tmp_path: Path) -> None:
    proxy.rate = 2_000_000
    code = FETCH.replace("Path(sys.argv[2])", "Path(sys.argv[2]), ['*large']")
    command = [sys.executable, "-c", code, artifact.uri, str(tmp_path / "cache")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    (found,) = {racer.communicate(timeout=60)[0].split("\n")[1] for racer in racers}
    assert proxy.bytes == len(LARGE)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted([".swept", Path(found).name])


def test_damage_in_some_files_is_refused_and_that_in_others_is_not_looked_for(
    artifact: store.Artifact, bucket: str, tmp_path: Path
) -> None:
    open_store(bucket).write(f"model/{artifact.digest}/sub/large", LARGE[:-1])
    assert store.fetch(artifact, tmp_path / "cache", ["*small"]).is_dir()
    with pytest.raises(UserError, match="is damaged") as caught:
        store.fetch(artifact, tmp_path / "cache", ["*large"])
    assert caught.value.problems == ("sub/large",)
    spoiled = store.fetch(artifact, tmp_path / "cache", ["*small"]) / "sub" / "a_small"
    spoiled.write_bytes(SMALL[::-1])
    assert (store.fetch(artifact, tmp_path / "cache", ["*small"]) / "sub" / "a_small").read_bytes() == SMALL


def test_copies_of_some_files_are_swept_evicted_and_discarded_as_whole_ones_are(
    artifact: store.Artifact, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    other = publish(bucket, tmp_path / "other", "data", a_small=SMALL, large=LARGE[::-1])
    some, of_other = store.fetch(artifact, cache, ["*small"]), store.fetch(other, cache, ["*small"])
    assert some != of_other, "equal files, but each goes with its artifact"
    open_store(bucket).delete(f"model/{artifact.digest}/manifest.json")
    store.sweep(cache, 0)
    assert some.is_dir(), "this process uses it"
    copies._used.clear()
    store.sweep(cache, 0)
    assert not some.exists() and of_other.is_dir()
    monkeypatch.setenv("MEDMIM_CACHE_GIB", str(1.1 * len(LARGE) / 2**30))
    copies._used.clear()
    folder = store.fetch(other, cache)
    assert {path.name for path in cache.iterdir()} == {".swept", folder.name, of_other.name}, "both fit"
    again = store.fetch(publish(bucket, tmp_path / "third", large=LARGE), cache)
    assert {path.name for path in cache.iterdir()} >= {folder.name, again.name}, "the whole one is in use"
    assert not of_other.exists()
    store.fetch(other, cache, ["sub/none"])
    (cache / f".part-{other.digest}-0").mkdir()
    store.discard(other.digest, cache)
    assert {path.name for path in cache.iterdir()} == {".swept", again.name}


def test_two_homes_share_one_cache(
    artifact: store.Artifact, bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medmim.run.workspace import workspace

    monkeypatch.setenv("MEDMIM_STORE", bucket)
    apart = {workspace(tmp_path / home).fetch(artifact.uri) for home in "ab"}
    assert apart == {tmp_path / home / "cache" / artifact.digest for home in "ab"}
    assert proxy.bytes == 2 * size(artifact)
    monkeypatch.setenv("MEDMIM_CACHE", str(tmp_path / "shared"))
    shared = {workspace(tmp_path / home).fetch(artifact.uri) for home in "ab"}
    assert shared == {tmp_path / "shared" / artifact.digest} and proxy.bytes == 3 * size(artifact)


def test_a_slow_download_shows_its_megabytes(
    proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    artifact = publish(bucket, tmp_path / "files", large=bytes(3_000_000))
    monkeypatch.setattr(ranges, "_SHOWN_AFTER", 0.0)
    store.fetch(artifact, tmp_path / "cache")
    assert f"fetching model {artifact.digest[:12]}: 3/3 MB (" in capfd.readouterr().err
    monkeypatch.setattr(ranges, "_SHOWN_AFTER", 3.0)
    store.fetch(artifact, tmp_path / "another")
    assert "fetching" not in capfd.readouterr().err
