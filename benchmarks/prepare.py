"""Prepares 83,200 samples as `medmim finetune` does before its workers start, and opens them as a worker does.

    python benchmarks/prepare.py [--base tiny-mantis] [--rows 83200] [--texts FOLDER]

The questions are those of Med-MIM where FOLDER holds its JSON files, else drawn ones. A sample has two or three images
of 728 tokens (tiny-llava-med: 576), and the index of the images has the size of a real one: 150,000 ids, eight in a row
group. The images themselves are small, and no weights are loaded: neither is read here. Building the data set is not
timed.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from process_memory import peak_of
from rich.console import Console
from rich.table import Table

from medmim import shards
from medmim.sample import Sample, split_options

ROWS = 83_200
TEXTS = Path(__file__).parents[2] / "shared" / "data" / "med-mim"
MAX_TOKENS = 4096
LIMITS = {"seconds": 180.0, "peak": 2 << 30, "share": 1 << 30}
_IMAGE_SIDE = 24
_STEPS = 12  # that the worker builds


def texts(folder: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """Question, options and answer of each row of Med-MIM's files, or drawn ones."""
    found = []
    for file in sorted(folder.glob("*.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            asked, answer = (turn["content"] for turn in row["conversation"][:2])
            question, options = split_options(asked.replace("<image>", ""))
            if question and answer.strip():
                found.append((question, options, answer.strip().partition(": ")[2] or answer.strip()))
    if found:
        return found
    rng = random.Random(0)
    words = ["which", "image", "shows", "the", "larger", "opacity", "of", "left", "right", "lung", "compared", "first"]
    return [
        (" ".join(rng.choices(words, k=rng.randint(12, 60))), ("image 1", "image 2", "same"), "image 2")
        for _ in range(5_000)
    ]


def samples(rows: int, images: int, folder: Path) -> Iterator[Sample]:
    """Rows with a question each, on two or three of the images."""
    rng = random.Random(0)
    asked = texts(folder)
    for row in range(rows):
        question, options, answer = asked[row % len(asked)]
        names = tuple(f"sha256:{rng.randrange(images):064x}" for _ in range(rng.choice((2, 3))))
        gold = (options.index(answer),) if answer in options else (0,)
        text = options[gold[0]] if options else answer
        yield Sample(
            "comparison", "larger", "med-mim", "train", False, (f"p{row}",), names, names,
            f"{question} (case {row})", options, text, gold if options else (),
        )  # fmt: skip


def build(folder: Path, base: str, rows: int, source: Path) -> None:
    """A data set below `folder/data` and a base with images of the published size below `folder/base`."""
    import io

    import numpy as np
    from PIL import Image

    from medmim.lvlm import checkpoint

    def image(i: int) -> bytes:
        out = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 256, (_IMAGE_SIDE, _IMAGE_SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()

    count = rows * 150_000 // ROWS
    each = len(image(0))
    shards.ROW_GROUP_BYTES, shards.SHARD_BYTES = 8 * each - each // 2, max(1, count // 80) * each
    files = ((f"sha256:{i:064x}", f"{i}.png", image(i)) for i in range(count))
    shards.write(folder / "data", samples(rows, count, source), files)
    shutil.copytree(checkpoint.resolve(base), folder / "base")
    file = folder / "base" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    clip = config["vision_config"]["model_type"] == "clip_vision_model"
    config["vision_config"] |= {"image_size": 336 if clip else 384, "patch_size": 14}
    config["text_config"]["max_position_embeddings"] = 8192  # the published ones'; the tiny bases have 2,048
    config["text_config"].pop("sliding_window", None)
    file.write_text(json.dumps(config), encoding="utf-8")


def prepare(folder: Path) -> dict[str, Any]:
    """What the driver does: tokenize the train split, write it, forget it."""
    from medmim.finetune.examples import prepare

    examples, _ = prepare(folder / "base", folder / "data", MAX_TOKENS, 0.0)
    examples.save(folder / "examples.safetensors")
    return {
        "samples": len(examples),
        "tokens": sum(examples.lengths) / len(examples),
        "text": len(examples.tokens) / len(examples),
        "images": len(examples.images) / len(examples),
    }


def private() -> int:
    """Memory of this process that no other can share, bytes: without the pages of mapped files."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty:"))


def work(folder: Path) -> dict[str, Any]:
    """What a worker holds beside the model: the samples, the index of the images, and batches."""
    from medmim.finetune.examples import Examples
    from medmim.finetune.loader import loader
    from medmim.lvlm import llava
    from medmim.lvlm.llava import Lvlm, quiet_transformers
    from medmim.recipe.schema import Finetune

    text = llava.load_text(folder / "base")
    processor = quiet_transformers().AutoImageProcessor.from_pretrained(folder / "base", backend="pil")
    processor.size = {"height": text.config.vision_config.image_size, "width": text.config.vision_config.image_size}
    lvlm = Lvlm(SimpleNamespace(config=text.config), text.tokenizer, processor, text.family, text.path)
    begin = time.perf_counter()
    examples = Examples.load(folder / "examples.safetensors")
    images = shards.Images(folder / "data")
    settings = Finetune(max_tokens=MAX_TOKENS)
    with loader(lvlm, examples, images, settings, threads=psutil.cpu_count() or 1) as batch_at:
        batch_at(0)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        shown = 0
        for step in range(1, _STEPS + 1):
            batch = batch_at(step)  # the one before is held meanwhile, as in training
            shown += sum(0 if row.pixel_values is None else len(row.pixel_values) for row in batch.rows)
        seconds = time.perf_counter() - begin
    return {"private": private(), "first": first, "images_per_s": shown / seconds}


def hold(folder: Path) -> dict[str, Any]:
    """The share alone: samples and index, all of it read once, without any pixels."""
    from medmim.finetune import loader  # noqa: F401  what a worker imports is not its share
    from medmim.finetune.examples import Examples

    before = private()
    examples = Examples.load(folder / "examples.safetensors")
    images = shards.Images(folder / "data")
    tokens = sum(len(examples[i].ids) for i in islice(range(len(examples)), 1_000)) + sum(examples.lengths)
    found = {name in images for i in range(len(examples)) for name in examples.images_of(i)}
    assert tokens and found == {True}
    return {"share": private() - before}


STEPS = {"prepare": prepare, "work": work, "hold": hold}


def measure(step: str, folder: Path) -> tuple[dict[str, Any], float, int]:
    """Run a step in a process of its own; its facts, wall seconds and peak of the summed PSS of its tree."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, seconds, peak = peak_of([sys.executable, __file__, "--step", step, "--folder", str(folder)])
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {**json.loads(out.strip().splitlines()[-1]), "cpu": cpu}, seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny-mantis")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--texts", type=Path, default=TEXTS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step](given.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="medmim-bench-") as name:
        folder = Path(name)
        build(folder, given.base, given.rows, given.texts)
        made, seconds, peak = measure("prepare", folder)
        held, _, _ = measure("hold", folder)
        worked, _, worker_peak = measure("work", folder)
        size = (folder / "examples.safetensors").stat().st_size
    gib = 1 << 30
    table = Table("", "measured", "limit", title=f"{given.base}, {psutil.cpu_count()} cores", box=None)
    table.add_row("rows", f"{made['samples']:,}", "")
    table.add_row("tokens of a sample", f"{made['tokens']:,.0f}", "")
    table.add_row("images of a sample", f"{made['images']:.2f}", "")
    table.add_row("tokens of a sample, an image as one", f"{made['text']:,.0f}", "")
    table.add_row("prepare, start of Python included", f"{seconds:.1f} s", f"{LIMITS['seconds']:.0f} s")
    table.add_row("CPU time of that", f"{made['cpu']:.1f} s", "")
    table.add_row("rows/s", f"{made['samples'] / seconds:,.0f}", "")
    table.add_row("peak memory (PSS of the process tree)", f"{peak / gib:.2f} GiB", f"{LIMITS['peak'] / gib:.0f} GiB")
    table.add_row("file that workers map", f"{size / 2**20:,.0f} MiB", "")
    table.add_row("a worker's share, private", f"{held['share'] / gib:.2f} GiB", f"{LIMITS['share'] / gib:.0f} GiB")
    table.add_row("a worker with its batches, private", f"{worked['private'] / gib:.2f} GiB", "")
    table.add_row("a worker with its batches, peak (PSS)", f"{worker_peak / gib:.2f} GiB", "")
    table.add_row("a worker's first batch", f"{worked['first']:.1f} s", "")
    table.add_row("images that a worker prepares", f"{worked['images_per_s']:,.0f}/s", "")
    Console().print(table)
    if seconds > LIMITS["seconds"] or peak > LIMITS["peak"] or held["share"] > LIMITS["share"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
