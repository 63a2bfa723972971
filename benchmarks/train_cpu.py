"""Useful tokens per second of the training loop on a CPU, beside the Trainer of transformers and beside the bound.

    python benchmarks/train_cpu.py [--base tiny-mantis --base tiny-llava-med] [--rounds 3] [--steps 8] [--threads 1]

All sides train the same model on the same samples with AdamW, the same step size and clipping; reading and preparing
images is not timed. Lengths are distributed like those of Med-MIM (two or three images, a question, options) and, in a
second row, with a long tail. Padding does not count as tokens.

- packed: medmim as it is; padded: medmim with `finetune.packing: false`.
- Trainer: transformers' own, with `group_by_length`, which pads a batch to its longest sample.
- bound: medmim's loop on as many samples and tokens where all samples are equally long: there is nothing to pad.

Ratios are medians over the rounds, and sides take turns in each, so that a busy machine slows all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import training_samples
from rich.console import Console
from rich.table import Table

from medmim.finetune import batch, loop, packing
from medmim.finetune.worker import EXAMPLES, Job, run_worker
from medmim.lvlm import checkpoint, llava
from medmim.lvlm.encode import Encoded
from medmim.recipe.schema import Finetune

BATCH = 64
MAX_TOKENS = 4096
LR = 1e-4
GOALS = {"bound": 0.95, "ray": 0.97}
RAY_SECONDS = 30


def ours(base: str, samples: Sequence[Encoded], steps: int, packed: bool) -> float:
    """Tokens per second of medmim's loop."""
    lvlm = llava.load(checkpoint.resolve(base), dtype=torch.float32)
    picture = training_samples.picture(lvlm.config)
    plan = packing.plan([len(s) for s in samples], MAX_TOKENS, BATCH, 0, 0)

    def batch_at(step: int) -> batch.Batch:
        chosen = [samples[i] for i in plan[step % len(plan)]]
        return batch.build(chosen, lambda i: picture[: chosen[i].images], max_tokens=MAX_TOKENS, packed=packed)

    settings = Finetune(packing=packed, max_tokens=MAX_TOKENS, optimizer="adamw", lr=LR, save_every=steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(lvlm, batch_at, 1, settings, Path(folder) / "warm")
        begin = time.perf_counter()
        loop.train(lvlm, batch_at, steps, settings, Path(folder) / "timed")
        return sum(len(s) for s in samples) / (time.perf_counter() - begin)


def trainer(base: str, samples: Sequence[Encoded], steps: int) -> float:
    """Tokens per second of transformers' Trainer."""
    lvlm = llava.load(checkpoint.resolve(base), dtype=torch.float32)
    model: Any = lvlm.model
    model.model.vision_tower.requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        peer = training_samples.peer(
            model, samples, Path(folder), lvlm.tokenizer.pad_token_id or 0, per_device_train_batch_size=BATCH,
            max_steps=steps, learning_rate=LR, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        begin = time.perf_counter()
        peer.train()
        return sum(len(s) for s in samples) / (time.perf_counter() - begin)


def rates(base: str, spread: tuple[int, int], rounds: int, steps: int) -> dict[str, list[float]]:
    """Tokens per second of each side, round by round."""
    lvlm = llava.load(checkpoint.resolve(base), dtype=torch.float32)
    samples = training_samples.draw(lvlm.config, BATCH * steps, *spread)
    equal = training_samples.level(lvlm.config, samples)
    sides: dict[str, Callable[[], float]] = {
        "packed": lambda: ours(base, samples, steps, True),
        "padded": lambda: ours(base, samples, steps, False),
        "Trainer": lambda: trainer(base, samples, steps),
        "bound": lambda: ours(base, equal, steps, False),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def training(folder: Path, base: str, threads: int, seconds: float) -> tuple[Job, Path]:
    """A training on drawn patients that takes about so long."""
    from medmim.data import reading
    from medmim.data.build import make
    from medmim.finetune.examples import prepare
    from medmim.recipe.schema import Data

    data = Data(source="phantom", patients=60, max_bad_fraction=0)
    source, work = folder / "data", folder / "prepared"
    work.mkdir()
    make(reading.of(data).load(), data, source)
    base_folder = checkpoint.resolve(base)
    prepare(base_folder, source, MAX_TOKENS, 0.0)[0].save(work / EXAMPLES)

    def job(steps: int) -> Job:
        settings = Finetune(base=base, steps=steps, batch_size=BATCH, max_tokens=MAX_TOKENS, save_every=steps + 1)
        return Job(str(base_folder), str(source), str(work), settings.model_dump_json(), threads)

    probe = _train(job(5), folder / "probe", "bare")
    return job(max(10, round(5 * seconds / probe["seconds"]))), work


def _train(job: Job, folder: Path, side: str) -> dict[str, Any]:
    """Train in a process of its own: bare, or with Ray and one worker."""
    (folder / "model").mkdir(parents=True)
    os.link(Path(job.folder) / EXAMPLES, folder / "model" / EXAMPLES)
    given = json.dumps({**asdict(job), "folder": str(folder / "model")})
    command = [sys.executable, __file__, "--side", side, "--job", given]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "MEDMIM_EVENTS": str(folder / "events")}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def side(name: str, job: Job) -> None:
    """The child of `_train`: prints the result as JSON."""
    from medmim.finetune.ray.launcher import launch

    folder = Path(job.folder)
    result = run_worker(job) if name == "bare" else launch(job, folder, 1, folder.parent / "home")
    print(json.dumps(asdict(result)))


def ray_beside_bare(base: str, threads: int, rounds: int) -> list[tuple[float, float]]:
    """Tokens per second of (Ray, bare) after start-up, round by round."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job, _ = training(folder, base, threads, RAY_SECONDS)
        for turn in range(rounds):
            with_ray, bare = (_train(job, folder / f"{side}{turn}", side) for side in ("ray", "bare"))
            found.append((with_ray["tokens_per_s"], bare["tokens_per_s"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", action="append", help="default: both shipped ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("ray", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side(given.side, Job(**json.loads(given.job)))
        return
    torch.set_num_threads(given.threads)
    os.environ["MEDMIM_EVENTS"] = os.devnull
    bases = given.base or ["tiny-mantis", "tiny-llava-med"]
    sides = ("packed", "padded", "Trainer", "bound")
    table = Table(
        "base", "lengths", *sides, "packed/Trainer", "packed/bound",
        title=f"useful tokens/s, {given.threads} threads, median of {given.rounds}", box=None,
    )  # fmt: skip
    missed = []
    for base in bases:
        for name, spread in training_samples.SPREADS.items():
            found = rates(base, spread, given.rounds, given.steps)

            def ratio(other: str, found: dict[str, list[float]] = found) -> float:
                return statistics.median(a / b for a, b in zip(found["packed"], found[other], strict=True))

            speeds = [f"{statistics.median(found[side]):,.0f}" for side in sides]
            table.add_row(base, name, *speeds, f"{ratio('Trainer'):.2f}x", f"{ratio('bound'):.2f}")
            if ratio("bound") < GOALS["bound"]:
                missed.append(f"{base}, {name}: packed/bound {ratio('bound'):.2f} is below {GOALS['bound']}")
    console = Console(width=110)
    console.print(table)
    for base in bases:
        turns = ray_beside_bare(base, given.threads, given.rounds)
        ratio_ray = statistics.median(a / b for a, b in turns)
        shown = ", ".join(f"{a:,.0f}/{b:,.0f}" for a, b in turns)
        console.print(f"{base}: Ray/bare tokens/s over {RAY_SECONDS} s after start-up: {ratio_ray:.3f} ({shown})")
        if ratio_ray < GOALS["ray"]:
            missed.append(f"{base}: Ray/bare {ratio_ray:.3f} is below {GOALS['ray']}")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
