"""How fast a model is asked: medmim, a plain loop over `generate`, and the real lmms-eval; equal answers, one run.

    python benchmarks/bench_speed.py [--home DIR] [--limit N] [--repeat R] [--peer]    (--peer: `make peers` first)

The tuned tiny LLaVA-Med and the held-in test questions of the demo (found in --home where `make demo` has run, else
made), at most 16 new tokens, fp32, one thread of torch. `medmim` is what `bench run` does, from stored images to
answers on disk. `plain` decodes, resizes and tokenizes the questions of a left-padded batch of the same size, in the
order of the data, and calls `generate`. lmms-eval asks one at a time, as its guide recommends. Loading and imports are
not timed. Ways that run here take turns, and the fastest of each is shown. Ends with 1 where an answer differs.

`all probes` is what a benchmark asks of a model (none, swap, blind; answers and likelihoods), against `plain` for the
answers to none and swap alone.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
from rich.console import Console
from rich.table import Table

from medmim import shards, store
from medmim.bench import answers, asking, pixels, probes, tasks
from medmim.bench.engines import engine
from medmim.bench.export.run import export
from medmim.bench.likelihood import GENERATE
from medmim.data import build
from medmim.finetune import run as finetune
from medmim.lvlm import ask_hf, checkpoint, features, llava
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn
from medmim.recipe import loading
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Sample

sys.path.append(str(Path(__file__).with_name("peers")))
TASK, TOKENS, BATCH = "held_in", 16, 64


@dataclass(frozen=True)
class Prepared:
    """What is asked, and whom.

    Attributes:
        ws: The workspace.
        data: URI of the data set.
        ref: URI of the tuned model.
        folder: Of the data set.
        items: The questions.
        lvlm: The model, loaded.
    """

    ws: Workspace
    data: str
    ref: str
    folder: Path
    items: tasks.Items
    lvlm: llava.Lvlm


def prepared(home: Path, name: str, limit: int) -> Prepared:
    """The demo's questions and tuned model, found in the home or made there; torch has one thread from now on."""
    torch.set_num_threads(1)
    recipe = loading.load("demo")
    ws = workspace(home, recipe, name)
    data = build.run(recipe, ws).uri
    ref = finetune.run(recipe, ws, data).uri
    folder = store.fetch(store.get(data), ws.cache)
    items = tasks.select(folder, [TASK], limit)
    return Prepared(ws, data, ref, folder, items, llava.load(checkpoint.resolve(ref, ws)))


def timed(do: Callable[[], list[str]]) -> tuple[list[str], float, float]:
    """What it returns, and its seconds: of the clock, and of the CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    found = do()
    return found, time.perf_counter() - start, time.process_time() - cpu


def plain(lvlm: llava.Lvlm, folder: Path, samples: list[Sample], probe: str = "none", size: int = BATCH) -> list[str]:
    """The answers of a loop over `generate`, in batches of this size."""
    images, texts = shards.Images(folder), []
    stop = llava.stop_tokens(lvlm.tokenizer, lvlm.family)
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        ids = [encode(lvlm, [Turn(sample.prompt)], len(sample.images)).ids for sample in part]
        shown = [images[name] for sample in part for name in probes.shown(sample, probe)]
        padded, mask = ask_hf.left_padded(lvlm, ids)
        with torch.inference_mode():
            output = lvlm.model.generate(
                input_ids=padded, attention_mask=mask, pixel_values=features.pixels(lvlm, shown), do_sample=False,
                max_new_tokens=TOKENS, eos_token_id=stop, pad_token_id=lvlm.tokenizer.pad_token_id,
            )  # fmt: skip
        written = lvlm.tokenizer.batch_decode(output[:, padded.shape[1] :], skip_special_tokens=True)
        texts += [text.strip() for text in written]
    return texts


def ours(model: Any, ws: Workspace, folder: Path, items: tasks.Items, sets: list[answers.Set]) -> list[str]:
    """The answers of `bench run` to the first set, in a home where nothing is known."""
    pixels.of.cache_clear()
    with tempfile.TemporaryDirectory(prefix="speed-") as home:
        fresh = replace(ws, home=Path(home), store=f"{home}/store")
        settings = Bench(batch_size=BATCH, max_new_tokens=TOKENS)
        found = answers.collect(fresh, "medmim", model, items, pixels.of(folder), "asked", sets, settings)
        return [one.text for one in answers.load(store.fetch(found[sets[0]], fresh.cache))]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".medmim"))
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--python")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    asked = prepared(given.home, "speed", given.limit)
    ws, folder, items, lvlm = asked.ws, asked.folder, asked.items, asked.lvlm
    samples, swapped = list(items.samples), probes.select(items.samples, "swap")
    every = [(how, probe) for probe in ("none", "swap", "blind") for how in (GENERATE, "likelihood")]

    def medmim(sets: list[answers.Set]) -> tuple[list[str], float, float]:
        model = engine(asked.ref, ws)  # with no features known
        list(model.ask([], BATCH, TOKENS))  # loads it
        return timed(lambda: ours(model, ws, folder, items, sets))

    ways: dict[str, Callable[[], tuple[list[str], float, float]]] = {
        "medmim": lambda: medmim([(GENERATE, "none")]),
        "plain": lambda: timed(lambda: plain(lvlm, folder, samples)),
        "medmim, none and swap": lambda: medmim([(GENERATE, "none"), (GENERATE, "swap")]),
        "plain, none and swap": lambda: timed(
            lambda: [*plain(lvlm, folder, samples), *plain(lvlm, folder, swapped, "swap")]
        ),
        "medmim, all probes": lambda: medmim(every),
    }
    for warm in (ways["medmim"], ways["plain"]):
        warm()
    profiled = nullcontext()
    if given.profile:
        import cProfile

        profiled = cProfile.Profile()  # type: ignore[assignment]
        with profiled:
            ways["medmim"]()
        profiled.print_stats("tottime")  # type: ignore[attr-defined]
        return
    runs: dict[str, list[tuple[list[str], float, float]]] = {name: [] for name in ways}
    for _ in range(given.repeat):
        for name, way in ways.items():
            runs[name].append(way())
    best = {name: (own[0][0], min(one[1] for one in own), min(one[2] for one in own)) for name, own in runs.items()}
    if given.peer:
        import lmms_eval

        with tempfile.TemporaryDirectory(prefix="speed-") as place:
            export(
                ws, asked.data, (TASK,), Path(place) / "export", limit=given.limit, max_new_tokens=TOKENS, in_house=True
            )
            found = lmms_eval.ask(checkpoint.resolve(asked.ref, ws), Path(place) / "export", interpreter=given.python)
        said = [text.strip() for text in found["answers"]]
        best["lmms-eval"] = (said, found["seconds"], found["cpu_seconds"])

    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("", "questions", "equal answers", "questions/s", "medmim is", "of CPU time", "medmim is"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    both = len(samples) + len(swapped)
    of_probe = {"none and swap": both, "all probes": sum(len(asking.questions_of(samples, p, h)) for h, p in every)}
    base = best["medmim"][0]
    different = 0
    for name, (texts, seconds, cpu) in best.items():
        what = name.partition(", ")[2]
        count = of_probe.get(what, len(samples))
        equal = sum(a == b for a, b in zip(texts, base, strict=False))
        different += len(samples) - equal
        own = best[f"medmim, {what}"] if what else best["medmim"]
        times = ("", "") if name.startswith("medmim") else (f"{seconds / own[1]:.2f}x", f"{cpu / own[2]:.2f}x")
        shown = f"{equal:,} of {len(samples):,}"
        table.add_row(name, f"{count:,}", shown, f"{count / seconds:,.1f}", times[0], f"{count / cpu:,.1f}", times[1])
    Console(width=120).print(table)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
