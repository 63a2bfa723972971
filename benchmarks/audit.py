"""Audits a data set of 83,200 questions whose 150,000 images have fingerprints: seconds and peak memory.

    python benchmarks/audit.py [--rows 83200] [--images 150000]

The questions are drawn: nine in ten of templates, the others in words of their own; so are the fingerprints, around 200
pictures of which those of one kind differ in about 96 bits of 256, as real ones do. Half of the images of
the benchmark look like one of training. The limits are 3 minutes and 2 GiB for the whole audit, in a process of its
own; processor seconds stand beside, since another program may be running. What it takes to make fingerprints is
benchmarks/look_alikes.py.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from medmim import shards, store
from medmim.data.audit import fingerprints
from medmim.run.cache import remember, step_key
from medmim.run.workspace import workspace
from medmim.sample import Sample
from medmim.terms import APACHE

LIMITS = {"seconds": 180.0, "peak": 2 << 30}
_SPLITS = (("train", 0.70), ("dev", 0.05), ("test", 0.25))
_STEMS = (
    "Which image shows the {}?", "In which of the images is the {} larger?", "What became of the {} since image 1?",
    "Do both images show the {}?", "Name the change of the {} between the two visits.",
)  # fmt: skip
_FINDINGS = ("mass", "effusion", "opacity", "nodule", "consolidation", "oedema", "pneumothorax", "calcification")
_WORDS = [
    f"{a}{b}{c}" for a in ("lo", "ba", "ka", "mi") for b in ("ren", "tul", "vos", "dak") for c in ("a", "um", "is")
]
_KINDS = 200
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def samples(rows: int, images: int) -> Iterator[Sample]:
    """Questions of all splits, two images and a patient each."""
    draw, begin, first = random.Random(0), 0, 0
    for split, share in _SPLITS:
        count, mine = round(rows * share), round(images * share)
        for row in range(count):
            one, two = begin + (2 * row) % mine, begin + (2 * row + 1) % mine
            stem = (
                _STEMS[row % len(_STEMS)].format(_FINDINGS[row % 7]) if row % 10 else " ".join(draw.sample(_WORDS, 12))
            )
            options = draw.sample(["image 1", "image 2", "both", "neither"], 4) if row % 3 else ()
            answer = options[draw.randrange(4)] if options else " ".join(draw.sample(_WORDS, 9))
            gold = (options.index(answer),) if options else ()
            names = f"sha256:{one:064x}", f"sha256:{two:064x}"
            ability = ("comparison", "temporal", "coreference", "reasoning")[row % 4]
            who = (f"p{first + row // 3}",)
            yield Sample(ability, "drawn", "drawn", split, False, who, names, names, stem, tuple(options), answer, gold)
        begin, first = begin + mine, first + count


def looks(images: int) -> np.ndarray:
    """(n, 32) perceptual hashes in the order of the splits."""
    draw = np.random.default_rng(0)
    kinds = draw.random((_KINDS, fingerprints.BITS)) < 0.5
    found = np.packbits(
        kinds[draw.integers(_KINDS, size=images)] ^ (draw.random((images, fingerprints.BITS)) < 0.25), 1
    )
    tested = np.arange(images - round(images * _SPLITS[-1][1]), images, 2)
    found[tested] = found[tested - images // 2]
    return found


def build(home: Path, rows: int, images: int) -> tuple[str, int]:
    """Publish the data set and its fingerprints; returns the address, and how many images look alike."""
    ws = workspace(home)
    folder = home / "drawn"
    shards.write(folder, samples(rows, images), [("sha256:0", "0.png", _PNG)])
    data = store.publish(folder, ws.store, "data", {}, {"terms": APACHE.as_dict()})
    made = home / "prints"
    made.mkdir()
    ids = [f"sha256:{number:064x}" for number in range(images)]
    columns = {
        "id": ids,
        "pixels": pa.array([number.to_bytes(32, "big") for number in range(images)], pa.binary(32)),
        "look": pa.array([row.tobytes() for row in looks(images)], pa.binary(32)),
    }
    pq.write_table(pa.table(columns), made / fingerprints.FILE)
    prints = store.publish(made, ws.store, "fingerprints", {}, {})
    key = step_key("fingerprints", fingerprints.REVISION, None, {"data": data.digest})
    remember(ws, "fingerprints", key, prints)
    return data.uri, len(range(images - round(images * _SPLITS[-1][1]), images, 2))


def main() -> None:
    """Print the table; exit 1 where a limit is not met, or where planted look-alikes are not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=83_200)
    parser.add_argument("--images", type=int, default=150_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medmim-") as name:
        uri, planted = build(Path(name), given.rows, given.images)
        command = [sys.executable, "-m", "medmim.cli.main", "data", "audit", uri, "--home", name, "--json"]
        begin = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
        seconds = time.perf_counter() - begin
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode not in (0, 1):
            sys.exit(f"the audit ended with exit code {done.returncode}")
        checks = {check["name"]: check["value"] for check in json.loads(done.stdout)["checks"]}
    peak = used.ru_maxrss << 10
    table = Table("", "measured", "limit")
    table.add_row("questions, images", f"{given.rows:,}, {given.images:,}", "")
    table.add_row("seconds", f"{seconds:.1f}", f"{LIMITS['seconds']:.0f}")
    table.add_row("processor seconds", f"{used.ru_utime + used.ru_stime:.1f}", "")
    table.add_row("peak memory", f"{peak / (1 << 20):,.0f} MiB", f"{LIMITS['peak'] >> 20:,} MiB")
    table.add_row("look-alikes found, planted", f"{checks['look-alikes']:,}, {planted:,}", "")
    table.add_row("questions repeated, of copied words", f"{checks['repeated']:,}, {checks['same-texts']:,}", "")
    Console().print(table)
    if seconds > LIMITS["seconds"] or peak > LIMITS["peak"] or checks["look-alikes"] != planted:
        sys.exit(1)


if __name__ == "__main__":
    main()
