"""What a home keeps of stored pictures: only new and changed files are read again, and what is erased is gone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmim.data import kept_pixels
from medmim.data.gather import gather, stored
from medmim.data.kept_pixels import KeptPixels
from medmim.data.sources import files
from medmim.errors import UserError
from tests.support.dicom_files import nifti
from tests.support.image_files import encoded


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(picture(number))
    (folder / "bad.png").write_bytes(b"not an image")
    rng = np.random.default_rng(0)
    (folder / "v.nii.gz").write_bytes(nifti(rng.integers(0, 999, (9, 9, 9), np.int16)))
    return folder


def picture(seed: int) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60), np.uint8)), "PNG")


PATHS = [f"{number}.png" for number in range(5)] + ["bad.png"] + [f"v.nii.gz#axial={i}" for i in (2, 5, 7)]
Build = Callable[..., tuple[list[str], list[tuple[str, str, bytes]]]]


@pytest.fixture
def build(tmp_path: Path, raw: Path) -> Build:
    """Gathers into a new folder; gives the files that were read, and the stored images."""
    runs = iter(range(99))

    def build(kept: KeptPixels | None, side: int = 32, paths: list[str] = PATHS) -> tuple[list[str], list[object]]:
        reads: list[str] = []

        def read(path: str) -> bytes:
            reads.append(path)
            return files.read_bytes(raw, path)

        folder = tmp_path / f"run {next(runs)}"
        found = gather(paths, read, folder, side, lambda path: files.identity(raw, path), kept)
        assert list(found) == paths
        return sorted(reads), list(stored(folder, found.values()))

    return build  # type: ignore[return-value]


def test_each_file_is_read_once_a_build_and_not_again_by_the_next(tmp_path: Path, build: Build) -> None:
    kept = kept_pixels.of(tmp_path)
    reads, first = build(kept)
    assert reads == ["0.png", "1.png", "2.png", "3.png", "4.png", "bad.png", "v.nii.gz"]
    assert len({name for name, *_ in first}) == 8
    assert build(kept) == (["bad.png"], first)
    assert build(None) == (reads, first)


def test_only_new_and_changed_files_and_slices_are_read(tmp_path: Path, raw: Path, build: Build) -> None:
    kept = kept_pixels.of(tmp_path)
    build(kept, paths=PATHS[2:8])
    reads, found = build(kept)
    assert reads == ["0.png", "1.png", "bad.png", "v.nii.gz"]
    (raw / "3.png").write_bytes(picture(33))
    touched = (raw / "4.png").stat()
    os.utime(raw / "4.png", ns=(touched.st_atime_ns, touched.st_mtime_ns + 1))
    reads, changed = build(kept)
    assert reads == ["3.png", "4.png", "bad.png"]
    assert [a == b for a, b in zip(found, changed, strict=True)] == [number != 3 for number in range(8)]
    assert build(None)[1] == changed


def test_another_size_is_another_picture(tmp_path: Path, build: Build) -> None:
    kept = kept_pixels.of(tmp_path)
    _, small = build(kept)
    reads, large = build(kept, side=64)
    assert len(reads) == 7
    assert [name for name, *_ in small] == [name for name, *_ in large] and small != large
    assert build(kept)[1] == small


def test_a_torn_picture_is_read_again(tmp_path: Path, build: Build) -> None:
    kept = kept_pixels.of(tmp_path)
    _, found = build(kept)
    torn = [path for path in (tmp_path / "pixels").rglob("*") if path.is_file()]
    for cut, path in enumerate(torn[:4]):
        path.write_bytes(path.read_bytes()[: -1 - 40 * cut] if cut < 3 else b"")
    reads, again = build(kept)
    assert again == found and len(reads) > 1


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, build: Build) -> None:
    kept = kept_pixels.of(tmp_path)
    assert kept is not None
    build(kept, paths=PATHS[:4])
    held = [path for path in kept.folder.rglob("*") if path.is_file()]
    for path in held:
        os.utime(path, (1000, 1000))
    build(kept, paths=PATHS[:2])  # uses two of them
    used = [path for path in held if path.stat().st_mtime > 1000]
    assert len(used) == 2
    KeptPixels(kept.folder, sum(path.stat().st_size for path in used)).trim()
    assert [path for path in held if path.exists()] == used


def test_a_build_stays_below_the_limit(tmp_path: Path, build: Build) -> None:
    kept = KeptPixels(tmp_path / "pixels" / "none", 4000)
    build(kept)
    assert 0 < sum(path.stat().st_size for path in kept.folder.rglob("*") if path.is_file()) <= 4000


def test_an_erasure_leaves_nothing_of_before(tmp_path: Path, build: Build) -> None:
    build(kept_pixels.of(tmp_path))
    assert kept_pixels.of(tmp_path, "0123456789abcdef" * 4) is not None
    assert not any(path.is_file() for path in (tmp_path / "pixels").rglob("*"))
    build(kept_pixels.of(tmp_path, "0123456789abcdef" * 4))
    kept_pixels.clear(tmp_path)
    assert not (tmp_path / "pixels").exists()


def test_the_limit_is_set_by_the_environment(tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    build(kept_pixels.of(tmp_path))
    monkeypatch.setenv(kept_pixels.LIMIT, "0.5")
    half = kept_pixels.of(tmp_path)
    assert half is not None and half.limit == 1 << 29
    monkeypatch.setenv(kept_pixels.LIMIT, "0")
    assert kept_pixels.of(tmp_path) is None and not list((tmp_path / "pixels").iterdir())
    monkeypatch.setenv(kept_pixels.LIMIT, "much")
    with pytest.raises(UserError, match="much"):
        kept_pixels.of(tmp_path)


def test_a_disk_that_is_nearly_full_is_left_to_the_build(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_pixels.of(tmp_path)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=(1 << 30) - 1))
    first = build(kept)
    assert build(kept) == first, "all files were read again"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=1 << 31))
    assert build(kept) == first and build(kept)[0] == ["bad.png"]
