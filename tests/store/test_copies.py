"""Local copies of what lies in a bucket: fetched once, in ranges, resumed, and held against their digests."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from medmim import store
from medmim.errors import Unavailable, UserError
from medmim.store import copies, open_store, ranges
from tests.support.copies import FETCH, LARGE, RANGE, part, process, size, whole
from tests.support.s3_proxy import Proxy
from tests.support.waiting import until


def ranges_done(artifact: store.Artifact, cache: Path) -> list[int]:
    """The ranges of `sub/large` that its journal names."""
    journal = ranges._beside(part(artifact, cache), "sub/large")
    return [int(line.split()[0]) for line in journal.read_text().splitlines()[1:]] if journal.is_file() else []


def killed_midway(artifact: store.Artifact, cache: Path, proxy: Proxy) -> list[int]:
    """Kill -9 a process that has fetched two of the five ranges; returns which."""
    gate = threading.Event()

    def hold(name: str, range_: str, body: bytes) -> bytes:
        if name.endswith("large") and int(range_[6:].split("-")[0]) >= 2 * RANGE:
            gate.wait(60)
        return body

    proxy.alter = hold
    with process(artifact, cache, CONNECTIONS="2") as victim:
        until(lambda: len(ranges_done(artifact, cache)) == 2, 30)
        victim.kill()
        victim.wait()
    gate.set()
    time.sleep(0.3)  # for what the proxy was still sending
    proxy.alter = lambda name, range_, body: body
    proxy.reads.clear()
    assert not (cache / artifact.digest).exists()
    return sorted(ranges_done(artifact, cache))


def test_eight_processes_fetch_one_copy(artifact: store.Artifact, proxy: Proxy, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    proxy.rate = 2_000_000
    racers = [process(artifact, cache) for _ in range(8)]
    found = {racer.communicate(timeout=60)[0].split("\n")[1] for racer in racers}
    assert found == {str(cache / artifact.digest)} and whole(artifact, cache / artifact.digest)
    assert proxy.bytes == size(artifact)
    assert sorted(path.name for path in cache.iterdir()) == sorted([".swept", artifact.digest])


def test_after_kill_9_only_the_missing_ranges_are_fetched(
    artifact: store.Artifact, proxy: Proxy, tmp_path: Path
) -> None:
    done = killed_midway(artifact, tmp_path / "cache", proxy)
    folder = store.fetch(artifact, tmp_path / "cache")
    assert whole(artifact, folder) and sorted(p.name for p in folder.iterdir()) == ["manifest.json", "sub"]
    missing = [index for index in range(5) if index not in done]
    asked = sorted(int(range_[6:].split("-")[0]) // RANGE for name, range_, _ in proxy.reads if name.endswith("large"))
    assert asked == missing and "a_small" not in proxy.names()


def test_a_waiting_process_goes_on_where_a_killed_one_was(
    artifact: store.Artifact, proxy: Proxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    proxy.rate = 300_000
    with process(artifact, cache, CONNECTIONS="1") as victim:
        until(lambda: ranges_done(artifact, cache), 30)
        with process(artifact, cache) as other:
            other.stdout.readline()
            time.sleep(0.5)
            victim.kill()
            proxy.rate = 0
            assert other.communicate(timeout=30)[0].strip() == str(cache / artifact.digest)
    asked = [range_ for name, range_, sent in proxy.reads if name.endswith("large") and sent >= RANGE]
    assert len(asked) == len(set(asked)) and whole(artifact, cache / artifact.digest)


def test_a_stopped_process_is_named_and_goes_on(
    artifact: store.Artifact,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(copies, "_SAY_AFTER", 0.5)
    monkeypatch.setattr(copies, "_STOPPED", 1.5)
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    proxy.rate = 200_000
    with process(artifact, cache, CONNECTIONS="1") as holder:
        until(lambda: ranges_done(artifact, cache), 30)
        holder.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable, match=f"process {holder.pid} on .* has not moved for") as caught:
                store.fetch(artifact, cache)
        finally:
            holder.send_signal(signal.SIGCONT)
        assert caught.value.exit_code == 75 and "kill -9" in caught.value.fix
        said = capfd.readouterr().err
        assert f"waiting for {artifact.uri}: process {holder.pid} on " in said
        proxy.rate = 0
        assert holder.communicate(timeout=30)[0].split("\n")[1] == str(cache / artifact.digest)


def test_a_slow_process_is_not_taken_for_a_stopped_one(
    artifact: store.Artifact, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_STOPPED", 2.5)
    proxy.latency = 0.4
    with process(artifact, tmp_path / "cache", CONNECTIONS="1") as holder:
        until((tmp_path / "cache" / f"{artifact.digest}.lock").exists, 30)
        assert whole(artifact, store.fetch(artifact, tmp_path / "cache"))
        holder.communicate(timeout=30)
    assert proxy.bytes == size(artifact)


def test_ranges_of_another_version_are_thrown_away(
    artifact: store.Artifact, proxy: Proxy, bucket: str, tmp_path: Path
) -> None:
    place, key = open_store(bucket), f"model/{artifact.digest}/sub/large"
    place.write(key, LARGE[::-1])
    killed_midway(artifact, tmp_path / "cache", proxy)
    place.write(key, LARGE)
    assert whole(artifact, store.fetch(artifact, tmp_path / "cache"))
    assert proxy.bytes == len(LARGE), "all of it, and once"


def test_an_object_that_is_replaced_meanwhile_is_fetched_anew(
    artifact: store.Artifact, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "CONNECTIONS", 1)
    place, key = open_store(bucket), f"model/{artifact.digest}/sub/large"
    place.write(key, LARGE[::-1])

    def replace(name: str, range_: str, body: bytes) -> bytes:
        if range_ == f"bytes=0-{RANGE - 1}" and name.endswith("large") and body != LARGE[:RANGE]:
            place.write(key, LARGE)
        return body

    proxy.alter = replace
    assert whole(artifact, store.fetch(artifact, tmp_path / "cache"))
    assert proxy.bytes == size(artifact) + RANGE, "no more was read of the old one"


def test_a_range_that_the_disk_has_spoiled_is_fetched_again_and_no_other(
    artifact: store.Artifact, proxy: Proxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    done = killed_midway(artifact, cache, proxy)
    with (part(artifact, cache) / "sub" / "large").open("r+b") as file:
        file.seek(done[0] * RANGE + 100)
        file.write(b"spoiled")
    assert whole(artifact, store.fetch(artifact, cache))
    asked = sorted(int(range_[6:].split("-")[0]) // RANGE for name, range_, _ in proxy.reads if name.endswith("large"))
    assert asked == sorted({*range(5)} - {*done} | {done[0]})


@pytest.mark.parametrize("times", [1, 99])
def test_what_was_spoiled_on_the_way_is_fetched_again_once(
    times: int, artifact: store.Artifact, proxy: Proxy, tmp_path: Path
) -> None:
    spoiled = []

    def spoil(name: str, range_: str, body: bytes) -> bytes:
        if len(spoiled) >= times or range_ != f"bytes={RANGE}-{2 * RANGE - 1}":
            return body
        spoiled.append(range_)
        return b"?" + body[1:]

    proxy.alter = spoil
    if times == 1:
        assert whole(artifact, store.fetch(artifact, tmp_path / "cache"))
    else:
        with pytest.raises(UserError, match="is damaged") as caught:
            store.fetch(artifact, tmp_path / "cache")
        assert caught.value.problems == ("sub/large",) and not list((tmp_path / "cache").iterdir())
    assert proxy.bytes == size(artifact) + len(LARGE)


def test_every_file_is_on_the_disk_before_the_manifest_says_so(
    artifact: store.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    part_of = part(artifact, tmp_path / "cache")
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, (part_of / "manifest.json").exists()))
        real(handle)

    monkeypatch.setattr("os.fsync", fsync)
    folder = store.fetch(artifact, tmp_path / "cache")
    assert {((folder / name).stat().st_ino, False) for name in artifact.files} <= set(synced)


@pytest.mark.parametrize("name", ["sub/large", "sub/a_small"])  # asked for in the main thread, and in another
def test_an_interrupt_ends_the_retries(name: str, artifact: store.Artifact, tmp_path: Path) -> None:
    """Ctrl-C while the server is gone and MEDMIM_PATIENCE is long."""
    files = {name: dict(artifact.files[name])}
    code = (
        f"{FETCH.splitlines()[0]}\n{FETCH.splitlines()[1]}\n"
        f"artifact = store.Artifact(sys.argv[1], {artifact.digest!r}, 'model', {files!r}, {{}})\n"
        "store.fetch(artifact, Path(sys.argv[2]))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, artifact.uri, str(tmp_path / "cache")],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "MEDMIM_PATIENCE": "600"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # in the background it is ignored
    )
    try:
        until(lambda: part(artifact, tmp_path / "cache").exists(), 30)
        time.sleep(1)
        running.send_signal(signal.SIGINT)
        running.wait(15)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == -signal.SIGINT and not (tmp_path / "cache" / artifact.digest).exists()


def test_a_broken_connection_repeats_its_range_only(
    artifact: store.Artifact, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = []
    client = store.artifact.locate(artifact.uri)[0]._client
    real = client.get_object

    def breaking(*arguments: object, **more: object) -> object:
        answer = real(*arguments, **more)
        if not broken and arguments[2] == 2 * RANGE:
            broken.append(True)
            answer._fp.close()  # as a connection that is lost after the headers
        return answer

    monkeypatch.setattr(client, "get_object", breaking)
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))
    assert whole(artifact, store.fetch(artifact, tmp_path / "cache")) and broken
    asked = [range_ for name, range_, _ in proxy.reads if name.endswith("large")]
    assert len(asked) == 6 and len(set(asked)) == 5
