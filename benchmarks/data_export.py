"""Writes exports of a data set with 10,000 rows, and copies the same pictures by `cp`: one table.

    python benchmarks/data_export.py [--rows N] [--images N] [--times N] [--folder DIR] [FORMAT ...]

Of each the fastest of several times, in turns, since a disk and its cache are never twice the same. `cp -r` copies the
finished export: the same bytes in the same number of files. Where rows have their pictures in them, that is Parquet
which holds a picture once for each row that shows it.
"""

import argparse
import hashlib
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medmim import shards, store
from medmim.data.export import run
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Sample
from medmim.terms import APACHE

_PIECE = 1 << 16


def build(ws: Workspace, folder: Path, rows: int, images: int) -> str:
    """A data set in the store: neighbouring rows show neighbouring images, as those of one patient do."""
    rng = random.Random(0)
    names = [f"sha256:{hashlib.sha256(str(i).encode()).hexdigest()}" for i in range(images)]
    samples = []
    for i in range(rows):
        first, count = i * images // rows, rng.choice((2, 2, 3, 4))
        shown = tuple(names[(first + k) % images] for k in range(count))
        question = f"Which of these shows the larger finding, seen from study {i}?"
        samples.append(
            Sample(
                "comparison",
                "larger",
                "phantom-chest",
                "train",
                False,
                (f"p{first // 8}",),
                shown,
                shown,
                question,
                ("the first image", "the second image"),
                "the first image",
                (0,),
            )  # fmt: skip
        )
    # what a picture shows is never looked at, its parts are: bytes of the length of a film of 512 pixels
    pictures = ((name, name, _picture(rng.randbytes(rng.randrange(20_000, 90_000)))) for name in names)
    shards.write(folder, samples, pictures)
    return store.publish(folder, ws.store, "data", {}, {"parents": {}, "terms": APACHE.as_dict()}).uri


def _picture(data: bytes) -> bytes:
    """A PNG with this as its compressed lines, in pieces as Pillow writes them."""
    lines = (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
    chunks = [(b"IHDR", bytes(13)), *((b"IDAT", line) for line in lines), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(own)) + kind + own + bytes(4) for kind, own in chunks)


def seconds(do: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of the processor, children's included."""
    start, before = time.perf_counter(), os.times()
    do()
    after = os.times()
    return time.perf_counter() - start, sum(after[:4]) - sum(before[:4])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", help="Where to work. [default: that of temporary files]")
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="[default: all]")
    given = parser.parse_args()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("format", "MB", "export s", "cp s", "of cp's speed", "export CPU s", "cp CPU s", "rows/s"):
        table.add_column(name, justify="left" if name == "format" else "right", no_wrap=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=given.folder) as name:
        place = Path(name)
        ws = workspace(place / "home")
        uri = build(ws, place / "data", given.rows, given.images)
        shutil.rmtree(place / "data")
        for form in given.formats or run.FORMS:
            out, copy = place / "out", place / "copy"

            def export(form: str = form, out: Path = out) -> None:
                run.export(ws, uri, out, form, named=True)

            def copied(out: Path = out, copy: Path = copy) -> None:
                subprocess.run(["cp", "-r", out, copy], check=True)

            export()
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            ours, theirs = [], []
            for _ in range(given.times):
                shutil.rmtree(out)
                os.sync()
                ours.append(seconds(export))
                os.sync()
                theirs.append(seconds(copied))
                shutil.rmtree(copy)
            shutil.rmtree(out)
            (mine, my_cpu), (cp, cp_cpu) = (tuple(map(min, zip(*found, strict=True))) for found in (ours, theirs))
            cells = (size / 1e6, mine, cp, cp / mine, my_cpu, cp_cpu, given.rows / mine)
            table.add_row(
                form, *(f"{cell:,.{places}f}" for cell, places in zip(cells, (0, 2, 2, 2, 2, 2, 0), strict=True))
            )
    Console(width=120).print(table)
    print(f"load {os.getloadavg()[0]:.1f} in the last minute, {os.cpu_count()} cores")


if __name__ == "__main__":
    os.environ["MEDMIM_EVENTS"] = os.devnull
    main()
