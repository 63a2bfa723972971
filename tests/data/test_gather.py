"""Gathering images: each is read once, bad ones have a reason, a killed run is resumed."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmim.data.gather import MISSING, gather, stored
from medmim.data.sources.source import BadImage


def png(level: int) -> bytes:
    out = io.BytesIO()
    picture = Image.new("L", (8, 8), level)
    picture.putpixel((3, 3), 255)
    picture.save(out, "PNG")
    return out.getvalue()


FILES = {"a": png(1), "b": png(2), "c": png(3), "same as a": png(1)}
PATHS = [*FILES, "absent", "outside", "text"]


def read(path: str) -> bytes:
    if path == "outside":
        raise BadImage("the path leaves the image root")
    if path == "text":
        return b"not an image"
    try:
        return FILES[path]
    except KeyError:
        raise FileNotFoundError(path) from None


def refusing(path: str) -> bytes:
    raise AssertionError(f"{path} was read again")


def test_good_images_are_stored_once_in_order_with_the_digest_of_their_file(tmp_path: Path) -> None:
    found = gather(PATHS, read, tmp_path)
    kept = list(stored(tmp_path, found.values()))
    assert [path for _, path, _ in kept] == ["a", "b", "c"]
    assert [data for _, _, data in kept] == [FILES["a"], FILES["b"], FILES["c"]]
    assert found["a"].id == found["same as a"].id != found["b"].id


def test_an_unusable_image_has_a_reason_and_no_id(tmp_path: Path) -> None:
    found = gather(PATHS, read, tmp_path)
    problems = {path: item.problem for path, item in found.items() if item.problem}
    assert set(problems) == {"absent", "outside", "text"}
    assert problems["absent"] == MISSING
    assert problems["outside"] == "the path leaves the image root"
    assert not any(found[path].id for path in problems)


BLANK = {
    "black": Image.new("L", (9, 9)),
    "one grey": Image.new("L", (9, 9), 77),
    "one colour": Image.new("RGB", (9, 9), (3, 99, 200)),
    "one level of 16 bits": Image.fromarray(np.full((9, 9), 30_000, np.uint16)),
    "one float": Image.fromarray(np.full((9, 9), 0.5, np.float32)),
    "one pixel": Image.new("L", (1, 1), 3),
}


@pytest.mark.parametrize("name", BLANK)
def test_an_image_of_one_value_is_quarantined(tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    BLANK[name].save(out, "TIFF")
    (found,) = gather([name], lambda path: out.getvalue(), tmp_path).values()
    assert (found.id, found.problem) == ("", "all pixels of the image have one value")


def test_a_second_call_reads_nothing_again(tmp_path: Path) -> None:
    first = gather(PATHS, read, tmp_path)
    assert gather(PATHS, refusing, tmp_path) == first


@pytest.mark.parametrize(
    "damage",
    [
        lambda index, pixels: index.write_bytes(index.read_bytes()[:-9]),
        lambda index, pixels: pixels.write_bytes(pixels.read_bytes()[:-9]),
        lambda index, pixels: pixels.write_bytes(pixels.read_bytes() + b"torn"),
        lambda index, pixels: index.unlink(),
        lambda index, pixels: pixels.unlink(),
    ],
    ids=["torn line", "torn pixels", "pixels without a line", "no index", "no pixels"],
)
def test_a_killed_run_resumes_to_the_same_images(tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    whole = gather(PATHS, read, tmp_path / "whole")
    gather(PATHS[:3], read, tmp_path / "killed")
    damage(tmp_path / "killed" / "index.jsonl", tmp_path / "killed" / "pixels.bin")
    again = gather(PATHS, read, tmp_path / "killed")
    assert list(stored(tmp_path / "killed", again.values())) == list(stored(tmp_path / "whole", whole.values()))


def test_images_are_read_on_all_cores_and_stored_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    together = threading.Barrier(3)  # breaks unless three reads run at once

    def late(path: str) -> bytes:
        together.wait(timeout=20)
        time.sleep(0.02 * (int(path) % 3))  # the later ones of three are done first, or last
        return png(int(path))

    found = gather([str(number) for number in range(30)], late, tmp_path)
    assert [data for *_, data in stored(tmp_path, found.values())] == [png(number) for number in range(30)]


def test_images_wait_for_the_slowest_in_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    begun: list[str] = []
    most = 0

    def first_is_slow(path: str) -> bytes:
        nonlocal most
        begun.append(path)
        if path == "0":
            time.sleep(0.5)
            most = len(begun)
        return png(int(path))

    gather([str(number) for number in range(100)], first_is_slow, tmp_path)
    assert 1 < most < 10
