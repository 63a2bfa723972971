"""The memory plan beside measured memory, part by part: `python benchmarks/memory.py [--sizes 30 135] [--zero 0 3]`.

Random LLaVAs are trained on a CPU for three steps. Measured is the growth of a worker's resident memory, after what the
libraries take when they are first used. Parts under 20 MB are printed, but malloc and pages are as large.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MB = 1e6
SHAPES = {  # million parameters -> width, layers, feed-forward, heads, vocabulary; width and layers of the tower
    "30": (384, 8, 1024, 6, 16000, 256, 6),
    "135": (768, 12, 2048, 12, 24000, 512, 6),
}
LENGTHS, IMAGES, TRAINED = (256, 256), 12, 100
LORA = {"lora": {"rank": 16, "alpha": 32}}
WAYS: dict[str, dict[str, Any]] = {
    "full": {"freeze_vision": False},
    "checkpointing": {"freeze_vision": False, "activation_checkpointing": True},
    "lora": LORA,
    "lora, checkpointing": {**LORA, "activation_checkpointing": True},
}


def main() -> None:
    """Print a row for each part of each training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["30"], choices=["1.6", *SHAPES])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--zero", nargs="+", type=int, default=[0, 2, 3])
    parser.add_argument(
        "--published", action="store_true", help="Print the plans of the shipped recipes, measure none."
    )
    given = parser.parse_args()
    if given.published:
        _published()
        return
    print("| model | training | part | predicted MB | measured MB | difference |\n|---|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for size in given.sizes:
            base = _base(size, Path(scratch))
            for way in given.ways:
                for zero in given.zero:
                    _row(size, base, way, zero, Path(scratch))


def _published() -> None:
    """Predicted, not run: a worker of the recipes at the shapes of the published models."""
    import gpu_cases

    from medmim.finetune import memory_plan
    from medmim.recipe import loading

    shapes = {
        "med-mantis": "mantis-8b-siglip-llama3",
        "mim-llava-med": "llava-med-v1.5-mistral-7b",
    }
    print("| recipe | workers | part | GPU GiB | host GiB |\n|---|---:|---|---:|---:|")
    for name, shape in shapes.items():
        for recipe in (loading.load(name), loading.load(f"{name}-lora")):
            config, workers = gpu_cases.config_of(shape, tiny=False), recipe.platform.workers
            row = memory_plan.usual_row(config, recipe.finetune)
            needed = memory_plan.need(config, recipe.finetune, workers, row, gpu=True, bf16=True)
            for part in needed.parts:
                label = f"{part.name}{' (for a moment)' if part.passing else ''}"
                device, host = part.device / memory_plan.GIB, part.host / memory_plan.GIB
                print(f"| {recipe.name} | {workers} | {label} | {device:.2f} | {host:.2f} |")
            device, host = needed.device / memory_plan.GIB, needed.host / memory_plan.GIB
            print(f"| {recipe.name} | {workers} | **most at once** | **{device:.1f}** | **{host:.1f}** |", flush=True)


def _row(size: str, base: Path, way: str, zero: int, scratch: Path) -> None:
    settings = {**WAYS[way], "zero": zero, "max_tokens": sum(LENGTHS)}
    workers = 2 if zero else 1
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    own = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    out = scratch / "measured.json"
    done = subprocess.run(
        [*command, __file__, "--worker", str(base), json.dumps(settings), str(out)],
        env={**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        sys.exit(done.stderr)
    for part, (predicted, measured) in json.loads(out.read_text(encoding="utf-8")).items():
        gap = f"{(predicted - measured) / measured:+.0%}" if measured > 20 * MB else "too small to measure"
        name = f"zero {zero}, {workers} workers" if zero else "zero 0"
        print(
            f"| {size}M | {way}, {name} | {part} | {predicted / MB:,.0f} | {measured / MB:,.0f} | {gap} |", flush=True
        )


def _base(size: str, scratch: Path) -> Path:
    """A random LLaVA on disk; of 1.6M, a shipped one."""
    import torch
    from transformers import LlavaForConditionalGeneration

    from medmim.lvlm import checkpoint, saving
    from medmim.lvlm.llava import Lvlm
    from medmim.lvlm.mantis import MANTIS
    from medmim.tiny import architecture

    if size not in SHAPES:
        return checkpoint.resolve("tiny-mantis")
    width, layers, inner, heads, words, tower, tower_layers = SHAPES[size]
    tokenizer = architecture.train_tokenizer(["which image shows the larger opacity"], MANTIS, size=512)
    config = architecture.config(MANTIS, tokenizer)
    config.tie_word_embeddings = False
    config.text_config.update(
        {
            "hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": words,
            "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": width // heads,
            "tie_word_embeddings": False,
        }
    )  # fmt: skip
    config.vision_config.update(
        {"hidden_size": tower, "intermediate_size": 4 * tower, "num_hidden_layers": tower_layers}
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    lvlm = Lvlm(model, tokenizer, architecture.image_processor(MANTIS), MANTIS, Path())
    return saving.save(lvlm, scratch / f"base-{size}").path


def _resident(key: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@contextmanager
def _growth() -> Iterator[dict[str, int]]:
    """How much more memory is resident: `peak` within the block, `after` it."""
    gc.collect()
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    found: dict[str, int] = {}
    yield found
    found["peak"] = _resident("VmHWM") - before
    gc.collect()
    found["after"] = _resident() - before


def _worker(base: Path, settings: str, out: Path) -> None:
    import torch

    from medmim.finetune import memory_plan
    from medmim.finetune.distributed import process_group
    from medmim.finetune.memory_trace import Pass
    from medmim.lvlm import checkpoint, llava
    from medmim.recipe.schema import Finetune

    torch.set_num_threads(1)
    given = Finetune.model_validate_json(settings)
    with process_group(always=bool(given.zero)) as (rank, world):
        _train(checkpoint.resolve("tiny-mantis"), given, rank, world)  # what libraries load when first used
        found = _train(base, given, rank, world)
    if rank:
        return
    row = Pass(LENGTHS, IMAGES, TRAINED)
    config = llava.load_config(base)
    needed = memory_plan.need(config, given, world, row, gpu=False, bf16=False)
    part = {one.name: one.device for one in needed.parts}
    weights = part["weights, trained"] + part["weights, frozen"]
    at_work = max(part["activations of a row"], part.get("exchange of ZeRO", 0)) + part.get("gathered weights", 0)
    held = part["gradients"] + part["optimizer"] + part.get("buckets of ZeRO", 0)
    if given.zero == 2:
        # a new bucket for each step, whose pages come as gradients do, while activations go; a GPU has it whole
        held -= part["buckets of ZeRO"]
        at_work = max(part["activations of a row"], part["buckets of ZeRO"] + part["exchange of ZeRO"])
    report = {"weights": (weights, found["weights"])}
    if not given.zero:
        report["gradients"] = (part["gradients"], found["gradients"])
        report["optimizer"] = (part["optimizer"], found["held"] - found["gradients"])
    else:
        report["gradients, optimizer, buckets"] = (held, found["held"])
        report["update"] = (part["update of ZeRO"], found["update"])
    report["pass: activations, gathered weights"] = (at_work, found["pass"])
    out.write_text(json.dumps(report), encoding="utf-8")


def _train(base: Path, settings: Any, rank: int, world: int) -> dict[str, int]:
    import torch

    from medmim.finetune import attention, trainable
    from medmim.finetune.batch import Batch, Row
    from medmim.finetune.engines.deepspeed import Zero
    from medmim.finetune.engines.plain import Plain

    found: dict[str, int] = {}
    with _growth() as grown:
        model = trainable.load(base, settings, "cpu").model
    found["weights"] = grown["after"]
    config = model.config
    side, tokens = config.vision_config.image_size, sum(LENGTHS)
    ids = torch.ones(1, tokens, dtype=torch.int64)
    ids[0, : IMAGES * (side // config.vision_config.patch_size) ** 2] = config.image_token_id
    places = torch.arange(tokens - TRAINED - 1, tokens - 1)
    row = Row(ids, torch.randn(IMAGES, 3, side, side), LENGTHS, places, torch.ones(TRAINED, dtype=torch.int64), True)
    model.train()
    with _growth() as all_held:
        trainable.prepare(model, settings)
        kind = Zero if settings.zero else Plain
        engine = kind(model, settings, False, rank, world)
        with attention.packed(model):
            engine.gradients(Batch((row,)))
            engine.update(1.0)
            with _growth() as gradients:
                engine.gradients(Batch((row,)))
            with _growth() as updated:
                engine.update(1.0)
            engine.gradients(Batch((row,)))
    engine.update(1.0)
    with attention.packed(model), _growth() as second:
        engine.gradients(Batch((row, row)))  # the second row finds gradients of the first
    return {
        **found,
        "held": all_held["after"],
        "gradients": gradients["after"],
        "update": updated["peak"],
        "pass": second["peak"] - second["after"],
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    else:
        main()
