"""What the tests of several workers train, with the two workers of torchrun: `run` starts them, `main` is a worker."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

import torch

from medmim.errors import UserError
from medmim.finetune import batch, checkpoint, distributed, loop
from medmim.finetune.distributed import check_gpus, process_group
from medmim.finetune.engines.engine import WEIGHT, Fragment
from medmim.finetune.pace import Pace
from medmim.finetune.saving import Saves
from medmim.finetune.worker import Job, run_worker
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune, Validation
from tests.support.finetune import SETTINGS, batches, make_encoded, make_lvlm, make_pixels, set_dropout

SHORT = SETTINGS.model_copy(update={"steps": 3, "optimizer": "adamw", "validation": Validation(every=2)})
UNEVEN = Finetune(batch_size=23, max_tokens=10_000, lr=1e-3, freeze_vision=False)
"""Of 24 samples, so that the second step has one for two workers."""
BAD = Finetune(batch_size=8, max_tokens=10_000, lr=1e-3, freeze_vision=False, save_every=1)
POISONED = {
    "adamw": "model.language_model.embed_tokens.weight",
    "muon": "model.language_model.layers.0.self_attn.q_proj.weight",
}


def run(root: Path, jobs: dict[str, Job]) -> list[dict[str, Any]]:
    """Run `main` in two workers of torchrun, with a job for each family; returns what each has seen."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = json.dumps({name: asdict(job) for name, job in jobs.items()})
    done = subprocess.run(
        [*command, "-m", "tests.support.two_workers", str(root), given],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((root / f"seen-{rank}.json").read_text()) for rank in range(2)]


def main(root: Path, jobs: dict[str, Job]) -> None:
    """Train all that is looked at, in one process group: to start one takes longest."""
    torch.set_num_threads(1)
    seen: dict[str, Any] = {}
    with process_group() as (rank, world):
        gloo = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))  # type: ignore[union-attr]
        for family in FAMILIES:
            folder = root / family.name
            run_worker(jobs[family.name])
            lvlm = make_lvlm(family)
            uneven = batches(lvlm, UNEVEN, rank, world)
            loop.train(lvlm, uneven, 3, UNEVEN, folder / "uneven", rank=rank, world=world)
            of_family = seen[family.name] = {"timeout": gloo.options._timeout.total_seconds()}
            for share in (0.0, 0.5):
                of_family[f"dropout {share}"] = _outputs_of_equal_rows(family, folder / str(share), share, rank, world)
            for optimizer, name in POISONED.items():
                of_family[optimizer] = _poisoned(family, folder / optimizer, optimizer, name, rank, world)
        seen["pace"] = _pace(rank, world)
        seen["kinds"] = _mixed_gpus(rank)
        seen["whole"] = _late_writer(root / "late", rank, world)
    (root / f"seen-{rank}.json").write_text(json.dumps(seen))


def _mixed_gpus(rank: int) -> dict[str, Any]:
    """What a worker is told where the second one has another GPU."""
    before = torch.cuda.get_device_name
    torch.cuda.get_device_name = lambda _: f"GPU of {rank}"  # type: ignore[assignment,misc]
    try:
        check_gpus("cuda:0")
    except UserError as error:
        return error.as_dict()
    finally:
        torch.cuda.get_device_name = before  # type: ignore[assignment]
    return {}


def _outputs_of_equal_rows(family: Family, folder: Path, dropout: float, rank: int, world: int) -> list[float]:
    """Both workers train on the same sample: the sum of the last hidden states in each step."""
    lvlm = make_lvlm(family)
    set_dropout(lvlm, dropout)
    sample = make_encoded(lvlm, 1)[0]
    same = batch.build([sample], lambda _: make_pixels(sample), max_tokens=10_000)
    sums: list[float] = []
    lvlm.model.lm_head.register_forward_hook(lambda _, given, __: sums.append(float(given[0].detach().double().sum())))
    loop.train(lvlm, lambda step: same, 3, BAD, folder, rank=rank, world=world)
    return sums


def _poisoned(family: Family, folder: Path, optimizer: str, name: str, rank: int, world: int) -> dict[str, Any]:
    """The gradient of one matrix becomes infinite on the second worker alone, in step 3, which would be saved."""
    lvlm = make_lvlm(family)
    settings = BAD.model_copy(update={"optimizer": optimizer})
    weight = dict(lvlm.model.named_parameters())[name]
    done: list[int] = []
    values: set[float] = set()

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        values.add(float(weight.detach().double().sum()))  # another one in each step
        return torch.full_like(gradient, float("inf")) if rank == 1 and len(values) == 3 else gradient

    weight.register_hook(poison)
    error = None
    try:
        loop.train(
            lvlm, batches(lvlm, settings, rank, world), 5, settings, folder,
            on_save=lambda step, _: done.append(step), rank=rank, world=world,
        )  # fmt: skip
    except UserError as raised:
        error = raised.as_dict()
    trained = [name for name, p in lvlm.model.named_parameters() if p.requires_grad]
    return {"error": error, "saved": done, "weights": _sums(lvlm), "trained": trained}


def _pace(rank: int, world: int) -> dict[str, tuple[bool, bool]]:
    """What the workers decide where one of them alone is late or told to stop."""
    seen = {}
    for chosen, name in enumerate(("first", "second")):
        pace = Pace(Finetune(save_every="2h"), 100, Event(), rank, world, torch.device("cpu"))
        pace.saved_at -= 7200 * (rank == chosen)
        seen[f"late by its own clock: the {name}"] = pace.after(1)
    stop = Event()
    pace = Pace(Finetune(save_every="2h"), 100, stop, rank, world, torch.device("cpu"))
    if rank == 1:
        stop.set()
    seen["told to stop: the second"] = pace.after(1)
    return seen


def _late_writer(folder: Path, rank: int, world: int) -> list[bool]:
    """Whether a checkpoint is whole where one worker has written and the other waits for its disk; then it writes."""
    disk, real = Event(), checkpoint.save

    def save(*given: Any) -> Path:
        assert rank == 0 or disk.wait(120)
        return real(*given)

    checkpoint.save = save
    try:
        with Saves(folder, None, lambda *_: None, "", torch.device("cpu"), rank, world) as saves:
            saves.begin(1, [Fragment(str(rank), 0, {WEIGHT: torch.ones(2)}, {})], {})
            if rank == 0 and saves.writing is not None:
                saves.writing.result()
            state, seen = checkpoint.path_of(folder, 1) / checkpoint.STATE, []
            for _ in range(2):
                saves.look()
                distributed.wait_for_all()
                seen.append(state.exists())
            disk.set()
            saves.finish()
            distributed.wait_for_all()
            return [*seen, state.exists()]
    finally:
        checkpoint.save = real


def _sums(lvlm: Lvlm) -> dict[str, float]:
    return {name: float(p.detach().double().sum()) for name, p in lvlm.model.named_parameters()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: Job(**job) for name, job in json.loads(sys.argv[2]).items()})
