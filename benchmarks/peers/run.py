"""Asks the same tiny models the same questions by medmim and by the real lmms-eval, and compares answers and scores.

    make peers            (or: python benchmarks/peers/run.py [--home DIR] [--limit N] [--python PYTHON])

The data set and the tuned model are the demo's: found where `make demo` has run in the same home, else made (4
minutes). Beside it, the shipped base of the other family. The questions are the first N held-in ones of the test split,
written by `medmim bench export`; lmms-eval loads that folder unmodified. Both use one thread; medmim asks batches of
64, lmms-eval single questions, as its guide recommends and its adapter demands. Loading and imports are not timed,
reading images and preprocessing is; the CPU time holds where other programs use the cores as well. Ends with 1 where
an answer or a score differs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before torch is imported
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from medmim import shards, store
from medmim.bench import answers, metrics, tasks
from medmim.bench.engines import engine
from medmim.bench.export.run import export
from medmim.bench.likelihood import GENERATE
from medmim.data import build
from medmim.finetune import run as finetune
from medmim.lvlm import checkpoint, llava, saving
from medmim.recipe import loading
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace

TASK, TOKENS, BATCH = "held_in", 16, 64
OTHER = "tiny-mantis"  # the demo tunes tiny-llava-med


def ours(ref: str, ws: Workspace, data: str, limit: int, home: Path) -> dict[str, Any]:
    """Medmim's answers to the questions, in their order, and what asking took.

    Args:
        ref: The model.
        ws: Where the data set is.
        data: URI of the data set.
        limit: How many questions.
        home: An empty folder, in which no answer is known.
    """
    model = engine(ref, ws)
    folder = store.fetch(store.get(data), ws.cache)
    items, images = tasks.select(folder, [TASK], limit), shards.Images(folder)
    settings = Bench(batch_size=BATCH, max_new_tokens=TOKENS, probes=())
    fresh = replace(ws, home=home, store=str(home / "store"))
    warm = replace(items, samples=items.samples[:1], groups=items.groups[:1], clusters=items.clusters[:1])
    plain = (GENERATE, "none")
    answers.collect(fresh, "loading", model, warm, images, "warm", [plain], settings)
    start, cpu = time.perf_counter(), time.process_time()
    found = answers.collect(fresh, "medmim", model, items, images, "asked", [plain], settings)[plain]
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    given = answers.load(store.fetch(found, fresh.cache))
    scored = [metrics.score(sample, answer) for sample, answer in zip(items.samples, given, strict=True)]
    names = ("accuracy", "token_f1")
    means = {name: float(np.mean(own)) for name in names if (own := [one[name] for one in scored if name in one])}
    model.release()
    return {"answers": [one.text for one in given], "scores": means, **took, "rate": len(given) / took["seconds"]}


def as_published(ref: str, ws: Workspace, folder: Path) -> Path:
    """A folder with the model in the layout that others load: the shipped bases have no chat template in theirs."""
    found = checkpoint.resolve(ref, ws)
    if (found / "chat_template.jinja").exists():
        return found
    saved: Path = saving.save(llava.load(found), folder).path
    return saved


def row(name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """What both said of a model, side by side."""
    pairs = list(zip(mine["answers"], theirs["answers"], strict=True))
    return {
        "model": name,
        "questions": len(pairs),
        "equal": sum(a.strip() == b.strip() for a, b in pairs),
        "scores": {metric: (value, theirs["scores"].get(metric)) for metric, value in mine["scores"].items()},
        "rates": (mine["rate"], theirs["rate"]),
        "cpu": (mine["cpu_seconds"], theirs["cpu_seconds"]),
        "version": theirs["version"],
    }


def agree(found: dict[str, Any]) -> bool:
    """Whether all answers are equal, and all scores to nine digits."""
    same = all(b is not None and abs(a - b) < 1e-9 for a, b in found["scores"].values())
    return found["equal"] == found["questions"] and same


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("model", "equal answers", "metric", "medmim", "lmms-eval", "times"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("model", "metric") else "right")
    for found in rows:
        equal = f"{found['equal']:,} of {found['questions']:,}"
        for metric, (a, b) in found["scores"].items():
            table.add_row(found["model"], equal, metric, f"{a:.4f}", "-" if b is None else f"{b:.4f}", "")
        (a, b), (ours_cpu, their_cpu) = found["rates"], found["cpu"]
        table.add_row(found["model"], equal, "questions/s", f"{a:,.1f}", f"{b:,.1f}", f"{a / b:.1f}")
        of_cpu = (f"{found['questions'] / cpu:,.1f}" for cpu in (ours_cpu, their_cpu))
        table.add_row(found["model"], equal, "questions/s of CPU time", *of_cpu, f"{their_cpu / ours_cpu:.1f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"lmms-eval and transformers there: {rows[0]['version']}; one thread each", highlight=False)


def main() -> None:
    """The command line."""
    import lmms_eval  # beside this file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default=".medmim")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--python")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    lmms_eval.python(given.python)
    torch.set_num_threads(1)
    recipe = loading.load("demo")
    ws = workspace(Path(given.home), recipe, "peers")
    data = build.run(recipe, ws).uri
    models = {"tuned tiny-llava-med": finetune.run(recipe, ws, data).uri, OTHER: OTHER}
    rows = []
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        place = Path(name)
        export(ws, data, (TASK,), place / "export", limit=given.limit, max_new_tokens=TOKENS, in_house=True)
        for number, (title, ref) in enumerate(models.items()):
            mine = ours(ref, ws, data, given.limit, place / f"home{number}")
            theirs = lmms_eval.ask(
                as_published(ref, ws, place / f"model{number}"), place / "export", interpreter=given.python
            )
            rows.append(row(title, mine, theirs))
    if given.json:
        print(json.dumps(rows))
    else:
        show(rows)
    sys.exit(0 if all(map(agree, rows)) else 1)


if __name__ == "__main__":
    main()
