"""The benchmark of builds: the loop that it compares with makes the pictures that the build stores."""

import io
import subprocess
import sys
from pathlib import Path

import data_build
import numpy as np
import pytest
from PIL import Image

from medmim.data.sources.image_file import decode

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", data_build.KINDS)
def test_the_loop_makes_the_pictures_that_the_build_stores(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data_build.written(data_build.film(3, 1300), kind))
    stored, made = (
        Image.open(io.BytesIO(data)) for data in (decode(path.read_bytes()).shrunk(), data_build.bare(path))
    )
    assert stored.size == made.size == (853, 1024)
    assert np.abs(np.asarray(stored, int) - np.asarray(made, int)).max() <= 1


@pytest.mark.long
def test_one_command_prints_both_tables(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "data_build.py"),
        "--files",
        "8",
        "--side",
        "200",
        "--rows",
        "40",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode in (0, 1), done.stderr  # of so few and small files the start is the larger part
    assert all(f" {kind} " in done.stdout for kind in data_build.KINDS) and "peak MiB" in done.stdout
    assert not list(tmp_path.iterdir())
