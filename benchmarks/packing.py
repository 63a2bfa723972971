"""Compares packed with padded rows: tokens per second of the training loop on a shipped base.

    python benchmarks/packing.py [--base tiny-mantis] [--threads 2] [--steps 10] [--max-tokens 4096]

Lengths are distributed like those of Med-MIM (two or three images, a question, options) and, in a second pair of rows,
with a long tail. Padding does not count as tokens, so that the figures are comparable.
"""

import argparse
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from medmim.finetune import batch, loop, packing, record
from medmim.lvlm import checkpoint
from medmim.lvlm.encode import Encoded, tokens_per_image
from medmim.recipe.schema import Finetune

SPREADS = {"Med-MIM": (40, 90), "long tail": (20, 400)}  # text tokens of a sample


def draw(lvlm: checkpoint.Lvlm, count: int, shortest: int, longest: int) -> list[Encoded]:
    """Samples of random tokens; the last quarter of the text is trained. Short ones are more frequent."""
    rng = random.Random(0)
    image, vocabulary = lvlm.config.image_token_id, lvlm.config.text_config.vocab_size
    words = [token for token in range(vocabulary) if token != image]
    found = []
    for _ in range(count):
        images = rng.choice([2, 2, 3])
        text = rng.choices(words, k=shortest + int((longest - shortest) * rng.random() ** 2))
        ids = np.array([image] * images + text, np.int32)
        trained = np.arange(len(ids)) >= len(ids) - len(text) // 4
        found.append(Encoded(ids, trained, images, image, tokens_per_image(lvlm.config)))
    return found


def measure(base: Path, packed: bool, spread: tuple[int, int], steps: int, max_tokens: int) -> record.TrainResult:
    """Train a fresh copy for some steps."""
    lvlm = checkpoint.load(base, dtype=torch.float32)
    samples = draw(lvlm, 64 * 4, *spread)
    size = lvlm.config.vision_config.image_size
    picture = torch.randn(3, 3, size, size)
    plan = packing.plan([len(s) for s in samples], max_tokens, 64, 0, 0)

    def batch_at(step: int) -> batch.Batch:
        chosen = [samples[i] for i in plan[step % len(plan)]]
        return batch.build(chosen, lambda i: picture[: chosen[i].images], max_tokens=max_tokens, packed=packed)

    settings = Finetune(packing=packed, max_tokens=max_tokens, optimizer="muon", lr=1e-4, save_every=steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(lvlm, batch_at, 2, settings, Path(folder) / "warm")
        return loop.train(lvlm, batch_at, steps, settings, Path(folder) / "timed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny-mantis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=4096)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table("lengths", "rows", "tokens/s", "MFU", title=f"{args.base}, {args.threads} threads")
    for name, spread in SPREADS.items():
        for packed in (True, False):
            result = measure(checkpoint.resolve(args.base), packed, spread, args.steps, args.max_tokens)
            mfu = "" if result.mfu is None else f"{result.mfu:.0%}"
            table.add_row(name, "packed" if packed else "padded", f"{result.tokens_per_s:,.0f}", mfu)
    Console().print(table)


if __name__ == "__main__":
    main()
