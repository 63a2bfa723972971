"""What a benchmark of many models costs beside asking them: scores, intervals and page, and a finished one run again.

    python benchmarks/bench_scoring.py [--models 10] [--items 4190] [--home FOLDER] [--profile]

Answers of ten models to 4,190 questions (as many as Med-MIM's benchmark has) are drawn and stored as `medmim bench run`
stores them, under the digests of ten checkpoints, with the probes `blind` and `swap`: some 98,000 texts. Then that
command runs and finds them all; once more as if another version had read them; and once more when it is done. Times of
commands are with the start of their process; --home keeps the answers for the next time.
"""

import argparse
import cProfile
import io
import json
import os
import pstats
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from medmim import shards, store
from medmim.bench import answers, run, tasks
from medmim.bench.engines import engine
from medmim.bench.likelihood import GENERATE
from medmim.bench.page import leaderboard
from medmim.bench.reader.reply import reader
from medmim.lvlm import checkpoint
from medmim.lvlm.ask import Question, Reply
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from medmim.sample import LETTERS, Sample

PICTURES = 600
SOURCES = (  # source, held out, patients, family, options; a family's questions are as many in each source
    ("embed", False, 500, "birads", ("negative", "benign", "probably benign", "suspicious")),
    ("lumiere", False, 91, "response", ("complete response", "partial response", "stable disease", "progression")),
    ("ms-cxr-t", False, 800, "change", ("improved", "stable", "worse")),
    ("pmc-oa", False, 900, "figure", ("image 1", "image 2", "image 3", "neither image")),
    ("odir", True, 400, "side", ("left side", "right side", "both sides", "neither side")),
    ("vqa-rad", True, 300, "single", ()),
)  # fmt: skip
ABILITIES = ("temporal", "comparison", "reasoning", "coreference")
MODELS = (
    "mantis-8b", "llava-med-7b", "qwen2.5-vl-7b", "lingshu-7b", "qwen3-vl-8b", "internvl3.5-8b", "gemma-3-4b",
    "medgemma-4b", "llava-onevision-7b", "smolvlm2-2.2b",
)  # fmt: skip


def main() -> None:
    """Print a row for each part, beside its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=len(MODELS), choices=range(1, len(MODELS) + 1))
    parser.add_argument("--items", type=int, default=4190)
    parser.add_argument("--home", type=Path, help="Keep the answers here. [default: a temporary folder]")
    parser.add_argument("--profile", action="store_true", help="Print where scoring and page spend their time.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = (given.home or Path(scratch)).absolute()
        ws = workspace(home)
        data = build(ws, given.items)
        models = {name: str(a_checkpoint(home / "models", name)) for name in MODELS[: given.models]}
        fill(ws, data, models, Bench())
        read_by(ws, reader())
        forget_scores(ws)
        if given.profile:
            profile = cProfile.Profile()
            profile.runcall(lambda: leaderboard.render(ws, run.bench(ws, data, models, Bench())[0].uri))
            pstats.Stats(profile).sort_stats("cumtime").print_stats(50)
            return
        print(f"{given.models} models, {given.items:,} questions; {os.cpu_count()} cores, one used")
        print("| | wall s | core s | limit |\n|---|---:|---:|---:|")
        part("scores and intervals, answers read when they were stored", lambda: run.bench(ws, data, models, Bench()))
        uri = run.bench(ws, data, models, Bench())[0].uri
        part("page", lambda: leaderboard.render(ws, uri))
        forget_scores(ws)
        words = [word for name, ref in models.items() for word in ("--model", f"{name}={ref}")]
        typed = ["medmim", "bench", "run", *words, "--task", "held_in", "--task", "held_out", "--data", data]
        typed += ["--home", str(home)]
        command("bench run: scores, intervals, page", typed, 30)
        read_by(ws, "another")
        forget_scores(ws)
        command("the same, every answer read anew", typed, 30)
        command("the same command again", typed, 3)


def read_by(ws: Workspace, reader: str) -> None:
    """Let all answers be read by this one: those of an earlier call with --home may be another version's."""
    for file in Path(ws.store).glob("answers/*/provenance.json"):
        record = json.loads(file.read_text("utf-8"))
        file.write_text(json.dumps({**record, answers.READER: reader}), encoding="utf-8")


def part(name: str, work: Callable[[], object]) -> None:
    """Print the row of a part in this process."""
    wall, core = time.perf_counter(), time.process_time()
    work()
    print(f"| {name} | {time.perf_counter() - wall:.1f} | {time.process_time() - core:.1f} | |", flush=True)


def command(name: str, words: Sequence[str], limit: float) -> None:
    """Print the row of a command, with the start of its process."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    program = [sys.executable, "-c", "from medmim.cli.main import main; main()"]
    subprocess.run([*program, *words[1:]], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - wall
    core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"| {name} | {took:.1f} | {core:.1f} | {limit:.0f} |", flush=True)


def forget_scores(ws: Workspace) -> None:
    """Let scores and page be made again; the answers stay."""
    for step in ("bench", "leaderboard"):
        shutil.rmtree(Path(ws.store) / "steps" / step, ignore_errors=True)


def build(ws: Workspace, items: int) -> str:
    """URI of the data set: questions on small images."""
    rng = random.Random(0)
    names = [f"sha256:{n:064x}" for n in range(PICTURES)]
    asked = {}
    while len(asked) < items:
        source, held_out, people, family, options = SOURCES[len(asked) % len(SOURCES)]
        images = tuple(rng.sample(names, rng.choice((2, 2, 2, 3))))
        gold = rng.randrange(len(options)) if options else 0
        moved = (tuple(o for o in range(len(options)) if o != gold)[:1]) if options and rng.random() < 0.4 else ()
        sample = Sample(
            "single" if not options else rng.choice(ABILITIES), family, source, "test", held_out,
            (f"p{rng.randrange(people)}",), images, images, f"What do the images show, case {len(asked)}?", options,
            options[gold] if options else rng.choice(("a small nodule", "no effusion", "an enlarged heart")),
            (gold,) if options else (), moved,
        )  # fmt: skip
        asked[sample.id] = sample
    with tempfile.TemporaryDirectory() as folder:
        shards.write(Path(folder), asked.values(), [(name, name, picture(n)) for n, name in enumerate(names)])
        (Path(folder) / "quarantine.jsonl").touch()
        return store.publish(Path(folder), ws.store, "data", {}, {"time": "2026-01-01T00:00:00+00:00"}).uri


def picture(number: int) -> bytes:
    """A PNG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (24, 24), (number % 256, number // 256, 0)).save(out, "PNG")
    return out.getvalue()


def a_checkpoint(folder: Path, name: str) -> Path:
    """A shipped base under another digest: it is found, and never loaded."""
    path = folder / name
    if not path.exists():
        shutil.copytree(checkpoint.resolve("tiny-mantis"), path)
        config = json.loads((path / "config.json").read_text("utf-8"))
        (path / "config.json").write_text(json.dumps({**config, "copy": name}), encoding="utf-8")
    return path


def fill(ws: Workspace, data: str, models: dict[str, str], settings: Bench) -> None:
    """Store the drawn answers of all models where the cache finds them."""
    source = store.get(data)
    folder = store.fetch(source, ws.cache)
    items = tasks.select(folder, settings.tasks, settings.limit, settings.split)
    images = shards.Images(folder)
    for number, (role, ref) in enumerate(models.items()):
        for probe in answers.probes_of(settings):
            one = replace(engine(ref, ws), ask=drawn(items.samples, probe, number))
            sets = [(GENERATE, probe)]
            answers.collect(ws, role, one, items, images, source.digest, sets, settings)


def drawn(
    samples: Sequence[Sample], probe: str, number: int
) -> Callable[[Sequence[Question], int, int], Iterator[Reply]]:
    """What writes as models do: the better ones more often the right option, some of it in many words."""
    by_prompt = {sample.prompt: sample for sample in samples}
    skill = {"none": 0.45 + 0.04 * number, "blind": 0.1, "swap": 0.3 + 0.04 * number}[probe]

    def ask(questions: Sequence[Question], batch_size: int, max_new_tokens: int) -> Iterator[Reply]:
        for question in questions:
            sample = by_prompt[question.prompt]
            rng = random.Random(f"{number} {probe} {sample.id}")
            gold = sample.swapped if probe == "swap" else sample.gold
            text = _text(sample, gold, rng, skill)
            yield Reply(text, "k" * 64, cut=rng.random() < 0.02, prompt_tokens=700, new_tokens=len(text) // 4)

    return ask


def _text(sample: Sample, gold: Sequence[int], rng: random.Random, skill: float) -> str:
    if not sample.options:
        return (
            sample.answer
            if rng.random() < skill / 2
            else rng.choice(("a nodule", "The heart is normal in size.", "no"))
        )
    at = sample.gold[0] if rng.random() < skill else rng.randrange(len(sample.options))
    letter, option = LETTERS[at], sample.options[at]
    case = rng.randrange(10_000)
    ways = (
        [f"{letter}: {option}"] * 70
        + [f"The answer is {letter}."] * 8
        + [f"Looking at case {case}, the finding is best described as {option}."] * 10
        + [f"Image 1 shows the first visit of case {case}. " + "Image 2 was taken later, and both were read. " * 12
           + f"Therefore, the answer is {letter}: {option}."] * 8
        + [f"I cannot tell from case {case}."] * 4
    )  # fmt: skip
    return rng.choice(ways)


if __name__ == "__main__":
    main()
