"""Training at 8B on one GPU: useful tokens/s, MFU and memory of medmim, beside the Trainer of transformers.

    PYTHONPATH=. python benchmarks/train_gpu.py [--minutes 7] [--shape NAME] [--out FILE] [--tiny]

It runs from a checkout, in a Python environment that has torch >= 2.11 and transformers >= 5.17; the other packages
that it needs are gathered by `benchmarks/gather_wheels.py`. Neither network nor data is read: the models have the
shapes of Mantis-8B-siglip-llama3 and of LLaVA-Med v1.5 and random weights made on the GPU, the samples random tokens
and the lengths of Med-MIM, on two or three images of noise.

Both sides train the same LoRA (the recipe's defaults, adapters in fp32) around the same frozen bf16 weights under bf16
autocast, with AdamW, on the same samples and as many of them in a step; a forward pass has at most so many tokens,
padding included. Tokens are useful ones: padding does not count. Steps are timed after a warm-up and after the GPU has
done them. MFU is model FLOPs (`throughput.step_flops`: what is computed again is not counted) over the peak of large
matrix products that is measured first. Where time is short, cases get fewer steps or none.

`--tiny` takes small numbers in the same architectures, on the CPU where there is no GPU: a test of this file.
"""

import argparse
import importlib.util
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several the Trainer would use DataParallel
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if TYPE_CHECKING:
    from gpu_cases import Case, Measured

LEAST = {"torch": (2, 11), "transformers": (5, 17)}
SHAPES = ("mantis-8b-siglip-llama3", "llava-med-v1.5-mistral-7b")
WHEELS = ("accelerate", "peft", "pydantic", "rich")
MEMORY_GIB = 70
BATCH = 12
MAX_TOKENS, LESS_TOKENS = 8192, 4096
GOALS = {"mfu": 0.5, "Trainer": 1.3}


def missing(tiny: bool) -> str | None:
    """What this machine lacks, in words; None where nothing is missing."""
    found = []
    for name, least in LEAST.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
            continue
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < least:
            found.append(f"{name} {version}")
    absent = [name for name in WHEELS if importlib.util.find_spec(name) is None]
    if absent:
        found.append(f"no {', '.join(absent)} (benchmarks/gather_wheels.py)")
    if found:
        return "; ".join(found)
    if importlib.util.find_spec("medmim") is None:
        return "no medmim (PYTHONPATH=. in its checkout)"
    if tiny:
        return None
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()}, which computes no bf16"
    free = torch.cuda.mem_get_info()[0] / 2**30
    return f"{free:.0f} GiB free on {torch.cuda.get_device_name()}" if free < MEMORY_GIB else None


def run(names: Sequence[str], tiny: bool, minutes: float, out: Path | None) -> list[str]:
    """Measure all cases, print them; returns the goals that were missed."""
    begin = time.perf_counter()
    import gpu_cases
    import torch
    import transformers
    from rich.console import Console
    from rich.table import Table

    from medmim.finetune import throughput

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = gpu_cases.matmul_peak(device)
    sheet = throughput.peak_flops(device, bf16=True) if device.type == "cuda" else None
    on = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{on}; torch {torch.__version__}, transformers {transformers.__version__}")
    beside = f", data sheet {sheet / 1e12:,.0f}" if sheet else ""
    print(f"bf16 matrix products: {peak / 1e12:,.2f} TFLOP/s measured{beside}", flush=True)

    lines = out.open("w", encoding="utf-8") if out else None
    results: list[tuple[Case, Measured]] = []

    def measure(case: "Case", left: int) -> "Measured":
        """Measure one of the cases that are left: each may take its share of the time."""
        now = time.perf_counter()
        remaining = begin + 60 * minutes - now
        if remaining <= 0:
            found = gpu_cases.Measured(note="no time was left")
        else:
            plan = gpu_cases.planned(case, device)
            found = replace(gpu_cases.measure(case, device, now + remaining / left), plan_gib=plan)
        results.append((case, found))
        print(said(case, found, peak), flush=True)
        if lines:
            print(gpu_cases.record(case, found, peak), file=lines, flush=True)
        return found

    left = 4 * len(names)
    for name in names:
        for checkpointing in (False, True):
            for tokens in (MAX_TOKENS,) if checkpointing else (MAX_TOKENS, LESS_TOKENS):
                max_tokens = tokens // 16 if tiny else tokens
                ours = gpu_cases.Case("medmim", name, checkpointing, max_tokens, BATCH, tiny)
                found = measure(ours, left)
                if found.fits:
                    break
            measure(gpu_cases.Case("Trainer", name, checkpointing, max_tokens, BATCH, tiny), left - 1)
            left -= 2

    table = Table(
        "base", "checkpointing", "tokens", "side", "tokens/s", "MFU", "peak GiB", "plan GiB", "steps", "note", box=None
    )
    for case, found in results:
        table.add_row(case.name, "on" if case.checkpointing else "off", str(case.max_tokens), case.side,
                      *numbers(found, peak), str(found.steps), found.note)  # fmt: skip
    console = Console(width=140)
    console.print(table)
    return [] if tiny else judged(results, peak)


def said(case: "Case", found: "Measured", peak: float) -> str:
    """One case as a line."""
    what = f"{case.name}, {case.side}, checkpointing {'on' if case.checkpointing else 'off'}, {case.max_tokens} tokens"
    if not found.steps:
        return f"{what}: {found.note}"
    speed, mfu, memory, plan = numbers(found, peak)
    gib = f"peak {memory} GiB (plan {plan})"
    return f"{what}: {speed} tokens/s, MFU {mfu}, {gib}, {found.steps} steps; {found.attention}"


def numbers(found: "Measured", peak: float) -> tuple[str, str, str, str]:
    """Tokens/s, MFU, peak GiB and the plan's as text."""
    speed, mfu = found.tokens_per_s, found.mfu(peak)
    return (
        "-" if speed is None else f"{speed:,.0f}",
        "-" if mfu is None else f"{mfu:.1%}",
        *("-" if gib is None else f"{gib:.1f}" for gib in (found.peak_gib, found.plan_gib)),
    )


def judged(results: "Sequence[tuple[Case, Measured]]", peak: float) -> list[str]:
    """Print what was reached of the goals; returns what was missed or not measured."""
    missed = []
    for name in dict.fromkeys(case.name for case, _ in results):
        mine = [(case, found) for case, found in results if case.name == name]
        mfu = max((found.mfu(peak) or 0.0 for case, found in mine if case.side == "medmim"), default=0.0)
        lines = [(f"{name}: best MFU {mfu:.1%}, goal {GOALS['mfu']:.0%}", mfu >= GOALS["mfu"])]
        for checkpointing in (False, True):
            by_side = {
                case.side: found.tokens_per_s
                for case, found in mine
                if case.checkpointing == checkpointing and found.tokens_per_s
            }
            what = f"{name}: medmim/Trainer, checkpointing {'on' if checkpointing else 'off'}"
            if len(by_side) == 2:
                ratio = by_side["medmim"] / by_side["Trainer"]
                lines.append((f"{what}: {ratio:.2f}x, goal {GOALS['Trainer']}x", ratio >= GOALS["Trainer"]))
            else:
                print(f"{what}: not measured on both sides")
        for line, good in lines:
            print(line if good else f"{line}: missed")
        missed += [line for line, good in lines if not good]
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0, help="stop after so long, with what there is")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: both")
    parser.add_argument("--out", type=Path, help="write each case as a line of JSON")
    parser.add_argument("--tiny", action="store_true", help="small numbers, also on a CPU")
    given = parser.parse_args()
    lacking = missing(given.tiny)
    if lacking:
        needs = "torch >= 2.11, transformers >= 5.17 and what benchmarks/gather_wheels.py gathers"
        gpu = "" if given.tiny else f"one GPU with bf16 and {MEMORY_GIB} GiB free (an H100 or H200), "
        print(f"error: this needs {gpu}{needs}; here: {lacking}", file=sys.stderr)
        sys.exit(2)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if run(given.shape or SHAPES, given.tiny, given.minutes, given.out):
        sys.exit(1)


if __name__ == "__main__":
    main()
