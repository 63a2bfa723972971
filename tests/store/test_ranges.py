"""Downloads in ranges: whatever an earlier one left, the files are right in the end, and no range is read twice."""

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim import store
from medmim.store import ranges
from medmim.store.artifact import scan
from medmim.store.folder import FolderStore
from medmim.store.interface import open_store
from tests.support.killing import killed_at

RANGE = 100
SIZES = st.lists(st.sampled_from([0, 1, RANGE - 1, RANGE, RANGE + 1, 2 * RANGE, 5 * RANGE + 3]), min_size=1, max_size=4)


class Counting(FolderStore):
    """A folder that remembers which ranges were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_ranges: list[tuple[str, int]] = []

    def read_range(self, key: str, version: str, start: int, length: int, write: object) -> None:
        super().read_range(key, version, start, length, write)  # type: ignore[arg-type]
        self.read_ranges.append((key, start))


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "RANGE", RANGE)
    monkeypatch.setattr(ranges, "CONNECTIONS", 3)


def filled(folder: Path, sizes: list[int], seed: int) -> Counting:
    """A store with files of these sizes, two of which may be equal."""
    draw = random.Random(seed)
    (folder / "a" / "sub").mkdir(parents=True)
    for number, length in enumerate(sizes):
        (folder / "a" / ("sub" * (number % 2)) / f"{number}").write_bytes(
            draw.randbytes(length) if seed else bytes(length)
        )
    return Counting(folder)


def known_by(known: str, place: FolderStore) -> dict[str, dict[str, Any]]:
    """What is asked for: files with their digests, as of an artifact, or with their versions."""
    found = scan(place.root / "a")
    if known == "digest":
        return found
    return {name: dict(zip(("bytes", "version"), place.version(f"a/{name}"), strict=True)) for name in found}


KNOWN = st.sampled_from(["digest", "version"])


@settings(max_examples=50)
@given(known=KNOWN, sizes=SIZES, seed=st.integers(0, 3), at=st.integers(0, 12))
def test_what_was_read_before_a_kill_is_not_read_again(known: str, sizes: list[int], seed: int, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, part = filled(Path(folder), sizes, seed), Path(folder) / "part"
        part.mkdir()
        files = known_by(known, place)
        killed_at(at, Counting, ["read_range"], lambda: ranges.download(place, "a", files, part, "x"))
        before = ranges.missing_bytes(files, part)
        known, place.read_ranges = set(place.read_ranges), []
        assert ranges.download(place, "a", files, part, "x") == []
        assert scan(part) == scan(Path(folder) / "a")
        ranges.forget(part)
        assert {path.name for path in part.iterdir()} == {Path(name).parts[0] for name in files}
        assert len(place.read_ranges) == len(set(place.read_ranges)) and not known & set(place.read_ranges)
        lengths = {f"a/{name}": facts["bytes"] for name, facts in files.items()}
        assert before == sum(min(RANGE, lengths[key] - start) for key, start in place.read_ranges)


@settings(max_examples=50)
@given(known=KNOWN, sizes=SIZES, where=st.integers(0, 10**6), what=st.sampled_from(["flip", "cut", "grow", "remove"]))
def test_what_differs_from_the_manifest_or_version_is_named_and_nothing_else(
    known: str, sizes: list[int], where: int, what: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, part = filled(Path(folder), sizes, 1), Path(folder) / "part"
        part.mkdir()
        files, before = known_by(known, place), scan(Path(folder) / "a")
        name = sorted(files)[where % len(files)]
        path, data = Path(folder) / "a" / name, bytearray((Path(folder) / "a" / name).read_bytes())
        if what == "remove":
            path.unlink()
        elif what == "grow":
            path.write_bytes(data + b"!")
        elif data and what == "cut":
            path.write_bytes(data[:-1])
        elif data:
            data[where % len(data)] ^= 1
            path.write_bytes(data)
        else:
            return
        if what != "remove":
            os.utime(path, (1, 1))  # two writes may be too close for the clock of the file system
        grown = known == "digest" and what == "grow" and files[name]["bytes"] <= RANGE  # what was asked for is there
        expected = [] if grown else [name]
        assert ranges.download(place, "a", files, part, "x") == expected
        right = {other: facts for other, facts in before.items() if other not in expected}
        assert {other: store.file_digest(part / other) for other in right} == {
            other: facts["sha256"] for other, facts in right.items()
        }


@pytest.mark.parametrize("known", ["digest", "version"])
def test_a_range_that_the_disk_has_spoiled_is_read_again_and_no_other(known: str, tmp_path: Path) -> None:
    """A kill leaves a file that is whole by its journal; then the machine goes down before all of it is on the disk."""
    place, part = filled(tmp_path, [5 * RANGE + 3], 1), tmp_path / "part"
    part.mkdir()
    files = known_by(known, place)
    assert ranges.download(place, "a", files, part, "x") == []
    spoiled = bytearray((part / "0").read_bytes())
    spoiled[2 * RANGE + 7] ^= 1
    (part / "0").write_bytes(spoiled)
    place.read_ranges = []
    assert ranges.download(place, "a", files, part, "x") == []
    assert scan(part) == scan(tmp_path / "a")
    assert place.read_ranges == [("a/0", 2 * RANGE)]


def test_what_is_there_of_another_version_is_read_anew(tmp_path: Path) -> None:
    place, part = filled(tmp_path, [RANGE, 2 * RANGE], 1), tmp_path / "part"
    part.mkdir()
    for byte in (b"a", b"b"):
        for name in ("a/0", "a/sub/1"):
            place.write(name, byte * place.version(name)[0])
        versions = known_by("version", place)
        assert ranges.missing_bytes(versions, part) == 3 * RANGE
        assert ranges.download(place, "a", versions, part, "x") == []
        assert scan(part) == scan(tmp_path / "a") and ranges.missing_bytes(versions, part) == 0


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_an_object_that_is_replaced_between_two_ranges_is_refused_and_not_mixed(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = open_store(request.getfixturevalue("bucket") if where == "bucket" else str(tmp_path / "store"))
    place.write("key", b"a" * 200)
    _, version = place.version("key")
    got = bytearray()

    def write(_: int, piece: bytes) -> None:
        got.extend(piece)

    place.read_range("key", version, 0, 100, write)
    place.write("key", b"b" * 200)  # of the same size: only the version tells
    with pytest.raises(FileNotFoundError):
        place.read_range("key", version, 100, 100, write)
    assert bytes(got) == b"a" * 100
    place.read_range("key", "", 100, 100, write)
    assert bytes(got) == b"a" * 100 + b"b" * 100
