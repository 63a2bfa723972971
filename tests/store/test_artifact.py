"""The contract of every kind of store, and artifacts in it: each test runs on a folder and on a bucket."""

import json
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmim import store
from medmim.errors import UserError
from medmim.store import open_store
from medmim.store.s3 import connect

PART = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=20)
KEY = st.lists(PART.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map("/".join)


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "the store")
    return request.getfixturevalue("bucket") + "/with a prefix"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "ein Bild ü.png").write_bytes(bytes(range(256)) * 300)
    (folder / "rows.jsonl").write_text('{"a": 1}\n')
    (folder / "images" / "manifest.json").write_text("not ours")
    return folder


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEY, data=st.binary(max_size=2000))
def test_any_name_and_content_is_read_back(uri: str, tmp_path: Path, key: str, data: bytes) -> None:
    # a new prefix: a folder that an earlier key left may have the name of this one
    place = open_store(f"{uri}/{uuid.uuid4().hex}")
    place.write(key, data)
    assert place.read(key) == data and place.exists(key) and list(place.list()) == [key]
    place.download(key, tmp_path / "down")
    place.delete(key)
    place.upload(key, tmp_path / "down")
    assert place.read(key) == data
    place.delete(key)
    place.delete(key)
    assert not place.exists(key) and list(place.list()) == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\nb", "a\0", "\ud800", ".part-a", "x" * 256]
)
def test_an_invalid_key_is_refused_by_every_operation(uri: str, tmp_path: Path, key: str) -> None:
    place = open_store(uri)
    file = tmp_path / "file"
    file.write_text("x")
    for operation in (
        lambda: place.read(key),
        lambda: place.write(key, b""),
        lambda: place.create(key, b""),
        lambda: place.upload(key, file),
        lambda: place.download(key, file),
        lambda: place.exists(key),
        lambda: place.delete(key),
    ):
        with pytest.raises(UserError, match="key of a store"):
            operation()


def test_a_missing_object_is_a_file_not_found_error(uri: str, tmp_path: Path) -> None:
    place = open_store(uri)
    place.write("a/b", b"1")
    for key in ("a", "a/c", "z", "a/b/c"):
        assert not place.exists(key)
        with pytest.raises(FileNotFoundError):
            place.read(key)
        with pytest.raises(FileNotFoundError):
            place.download(key, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_list_gives_the_keys_under_a_prefix_in_order(uri: str) -> None:
    place = open_store(uri)
    keys = ["a/10", "a/9", "a-b", "a/ü", "a/b/c", "b", "a/é", "ab"]
    for key in keys:
        place.write(key, b"")
    assert list(place.list()) == sorted(keys)
    assert list(place.list("a/")) == sorted(k for k in keys if k.startswith("a/"))
    assert list(place.list("a/b")) == ["a/b/c"]
    assert list(place.list("nothing/here")) == []


def test_a_large_file_is_uploaded_and_downloaded_whole(uri: str, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * (20 << 12))  # 20 MiB: two parts in S3
    place = open_store(uri)
    place.upload("large", large)
    place.download("large", tmp_path / "back")
    assert store.file_digest(tmp_path / "back") == store.file_digest(large)


def test_of_many_threads_that_create_one_wins(uri: str) -> None:
    place = open_store(uri)
    for round_ in range(5):
        start = threading.Barrier(8)

        def create(me: int, key: str = f"decisions/{round_}.json", start: threading.Barrier = start) -> bool:
            start.wait()
            return place.create(key, str(me).encode())

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert place.read(f"decisions/{round_}.json") == str(won.index(True)).encode()


def test_of_many_processes_that_create_one_wins(uri: str) -> None:
    code = (
        "import sys, time; from medmim.store import open_store\n"
        "place = open_store(sys.argv[1]); place.exists('x')\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "print(place.create('decisions/1.json', sys.argv[3].encode()))"
    )
    start = str(time.time() + 3)
    racers = [
        subprocess.Popen([sys.executable, "-c", code, uri, start, str(me)], stdout=subprocess.PIPE, text=True)
        for me in range(4)
    ]
    won = [racer.communicate(timeout=150)[0].strip() for racer in racers]
    assert sorted(won) == ["False", "False", "False", "True"]
    assert open_store(uri).read("decisions/1.json") == str(won.index("True")).encode()


def test_a_reader_never_sees_half_an_object(uri: str) -> None:
    place = open_store(uri)
    size = 2 << 20
    place.write("object", b"a" * size)
    done = threading.Event()

    def write() -> None:
        for turn in range(15):
            place.write("object", (b"b", b"a")[turn % 2] * size)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not done.is_set() and not writing.done():
            seen = place.read("object")
            assert len(seen) == size and seen in (b"a" * size, b"b" * size)
        writing.result()


def test_the_digest_is_of_the_content_and_of_nothing_else(bucket: str, files: Path, tmp_path: Path) -> None:
    one = store.publish(files, str(tmp_path / "one"), "data", {"rows": 1}, {"who": "a"})
    two = store.publish(files, f"{bucket}/x y", "data", {"rows": 1}, {"who": "b", "time": 2})
    assert (one.digest, one.files) == (two.digest, two.files)
    assert set(one.files) == {"images/ein Bild ü.png", "rows.jsonl", "images/manifest.json"}
    (files / "rows.jsonl").rename(files / "lines.jsonl")
    assert store.publish(files, str(tmp_path / "one"), "data", {}, {}).digest != one.digest


def test_publishing_twice_is_publishing_once(uri: str, files: Path) -> None:
    first = store.publish(files, uri, "data", {"rows": 1}, {"who": "first"})
    before = list(open_store(uri).list())
    assert store.publish(files, uri, "data", {"rows": 1}, {"who": "second"}) == first == store.get(first.uri)
    assert list(open_store(uri).list()) == before
    prefix = f"data/{first.digest}"
    assert json.loads(open_store(uri).read(f"{prefix}/provenance.json")) == {"who": "first"}


def test_files_that_several_have_uploaded_are_sealed_to_the_artifact_that_one_would_have_published(
    uri: str, files: Path, tmp_path: Path
) -> None:
    published = store.publish(files, uri, "data", {}, {})
    names = ["images/ein Bild ü.png", "images/manifest.json", "rows.jsonl"]
    place = open_store(uri)
    for name in names:
        place.upload(f"parts/mine/{name}", files / name)
    assert store.find(f"{uri}/parts/mine") is None
    facts = {name: store.file_facts(files / name) for name in names}
    sealed = store.seal(place, "parts/mine", "data", facts, {"rows": 1}, {"who": "all"})
    assert store.get(f"{uri}/parts/mine") == sealed
    assert (sealed.digest, sealed.files, sealed.counts) == (published.digest, published.files, {"rows": 1})
    place.write("parts/mine/rows.jsonl", b"{}")
    assert store.verify(store.get(published.uri)) == []
    with pytest.raises(UserError, match="is damaged"):
        store.fetch(sealed, tmp_path / "other cache")


def test_working_files_are_not_content(uri: str, files: Path) -> None:
    plain = store.publish(files, uri, "data", {}, {})
    for name in (".lock", "resume/step.json", ".cache/x", "images/.DS_Store"):
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).write_text("x")
    assert store.publish(files, uri, "data", {}, {}) == plain


@pytest.mark.parametrize("call", ["create_from 2", "create 1", "create 2"])
def test_killed_while_publishing_nothing_exists_and_the_next_try_completes(uri: str, files: Path, call: str) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from medmim import store\n"
        "uri, files, method, left = sys.argv[1], Path(sys.argv[2]), *sys.argv[3].split()\n"
        "kind = type(store.open_store(uri)); real = getattr(kind, method); left = int(left)\n"
        "def killed(*args):\n"
        "    global left; left -= 1\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if left == 0 else None\n"
        "    return real(*args)\n"
        "setattr(kind, method, killed); store.publish(files, uri, 'data', {}, {})"
    )
    ended = subprocess.run([sys.executable, "-c", code, uri, str(files), call])
    assert ended.returncode == -9
    address = f"{open_store(uri).uri}/data/{store.content_digest(store.scan(files))}"
    assert any(open_store(uri).list()) and store.find(address) is None
    with pytest.raises(UserError, match="there is no artifact"):
        store.get(address)
    assert store.publish(files, uri, "data", {}, {}) == store.get(address)


def test_fetched_files_are_the_published_ones(uri: str, files: Path, tmp_path: Path) -> None:
    artifact = store.publish(files, uri, "data", {}, {})
    folder = store.fetch(artifact, tmp_path / "cache")
    assert store.scan(folder) == store.scan(files) and store.verify(artifact) == []


def test_what_is_verified_is_hashed_anew_with_each_try(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.publish(files, str(tmp_path / "store"), "data", {}, {})
    kind = type(open_store(artifact.uri))
    real = kind.read_range

    def torn(self, key, version, start, length, write) -> None:  # as S3's does where a connection breaks
        write(0, b"")
        write(0, b"the beginning")
        real(self, key, version, start, length, write)

    monkeypatch.setattr(kind, "read_range", torn)
    assert store.verify(artifact) == []
    (Path(artifact.uri) / "rows.jsonl").write_text('{"a": 2}\n')  # of the same size
    assert store.verify(artifact) == ["rows.jsonl"]


def test_reads_of_threads_end_with_their_block(files: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an interrupt while the server is gone would last as long as MEDMIM_PATIENCE."""
    artifact = store.publish(files, bucket, "data", {}, {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MEDMIM_PATIENCE", "600")
    connect.cache_clear()
    ends: list[BaseException] = []

    def work() -> None:
        try:
            read("rows.jsonl", 0, 1)
        except BaseException as error:
            ends.append(error)

    with store.ranged(artifact) as read:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(1)
        assert thread.is_alive(), "it tries again"
    thread.join(20)
    assert [type(error) for error in ends] == [CancelledError]


def test_damage_is_reported_with_the_name_of_every_file(uri: str, files: Path, tmp_path: Path) -> None:
    artifact = store.publish(files, uri, "data", {}, {})
    place, prefix = open_store(uri), f"data/{artifact.digest}"
    flipped = bytearray(place.read(f"{prefix}/images/ein Bild ü.png"))
    flipped[1000] ^= 1
    place.write(f"{prefix}/images/ein Bild ü.png", bytes(flipped))
    place.delete(f"{prefix}/rows.jsonl")
    with pytest.raises(UserError) as caught:
        store.fetch(artifact, tmp_path / "cache")
    assert sorted(caught.value.problems) == ["images/ein Bild ü.png", "rows.jsonl"]
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"[]",
        lambda text: text.replace(b"rows.jsonl", b"../../rows"),
        lambda text: text.replace(b'"bytes"', b'"size"').replace(b'"digest"', b'"dig"'),
        lambda text: text.replace(b"rows.jsonl", b"other.jsonl"),
    ],
)
def test_a_damaged_manifest_is_an_error_and_not_an_artifact(uri: str, files: Path, damage) -> None:
    artifact = store.publish(files, uri, "data", {}, {})
    key = f"data/{artifact.digest}/manifest.json"
    open_store(uri).write(key, damage(open_store(uri).read(key)))
    with pytest.raises(UserError, match="is not a manifest"):
        store.find(artifact.uri)


def test_what_stands_at_the_address_of_another_content_is_refused_by_every_reader(uri: str, files: Path) -> None:
    """Files and manifest agree with each other, as somebody who may write into the store would leave them."""
    artifact = store.publish(files, uri, "data", {}, {})
    (files / "rows.jsonl").write_text('{"a": 2}\n')
    place, facts = open_store(uri), store.scan(files)
    for name in facts:
        place.upload(f"data/{artifact.digest}/{name}", files / name)
    forged = {"digest": store.content_digest(facts), "kind": "data", "files": facts, "counts": {}}
    place.write(f"data/{artifact.digest}/{store.MANIFEST}", json.dumps(forged).encode())
    for read in (store.find, store.get, lambda at: store.find(at + "/")):
        with pytest.raises(UserError, match="holds another artifact than its address says") as caught:
            read(artifact.uri)
        assert forged["digest"] in caught.value.reason
    place.write(f"parts/mine/{store.MANIFEST}", json.dumps(forged).encode())
    assert store.get(f"{uri}/parts/mine").digest == forged["digest"], "an address without a digest says nothing"


def test_an_address_may_end_with_a_slash_or_lead_nowhere(uri: str, files: Path) -> None:
    artifact = store.publish(files, uri, "data", {}, {})
    assert store.find(artifact.uri + "/") == artifact
    assert store.find(f"{uri}/data/nothing") is None
    assert store.find(f"{uri}/nothing at all") is None


@pytest.mark.parametrize("piece", [1, 3, 7, 1 << 20])
@pytest.mark.parametrize(
    "text", ["", "\n", "one", "one\n", "one\ntwo", "\n\none\r\n\ntwo \u2028 three\n", "ü" * 20 + "\n" + "x" * 20]
)
def test_the_lines_of_a_file_are_the_same_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, piece: int
) -> None:
    monkeypatch.setattr("medmim.store.artifact._PIECE", piece)
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(text.encode())
    artifact = store.publish(folder, str(tmp_path / "store"), "rows", {}, {})
    expected = text.encode().split(b"\n")
    assert list(store.lines(artifact, "rows.jsonl")) == (expected if expected[-1] else expected[:-1])


def test_lines_of_a_file_that_was_replaced_or_is_gone_end_with_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(b"one\ntwo\n")
    artifact = store.publish(folder, str(tmp_path / "store"), "rows", {}, {})
    (Path(artifact.uri) / "rows.jsonl").write_bytes(b"one\nsix\n")
    with pytest.raises(UserError, match="is damaged"):
        list(store.lines(artifact, "rows.jsonl"))
    with pytest.raises(UserError, match="is damaged"):
        list(store.lines(artifact, "others.jsonl"))
    (Path(artifact.uri) / "rows.jsonl").unlink()
    with pytest.raises(UserError, match="is damaged"):
        list(store.lines(artifact, "rows.jsonl"))


def test_an_empty_address_is_told_as_such() -> None:
    for uri in ("", "/"):
        with pytest.raises(UserError, match="address of an artifact is empty"):
            store.get(uri)
