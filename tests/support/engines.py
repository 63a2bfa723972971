"""Trainings with every engine: the plain one of one worker here, others in processes of torchrun, as `main`."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medmim.finetune import attention, batch, distributed, loop, trainable, validation
from medmim.finetune import checkpoint as training_checkpoint
from medmim.finetune.batch import Batch
from medmim.finetune.distributed import process_group
from medmim.finetune.engines import zero_sizes
from medmim.finetune.engines.deepspeed import Zero
from medmim.finetune.engines.engine import WEIGHT, Engine
from medmim.finetune.validation import Validated
from medmim.lvlm import saving
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.encode import Options
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune, Lora, Validation
from tests.support.finetune import make_encoded, make_lvlm, make_pixels

STEPS = 8  # twice the four kinds of `batches`
VALUES = {
    "family": tuple(family.name for family in FAMILIES),
    "zero": (0, 2, 3),
    "workers": (1, 2),
    "packing": (True, False),
    "lora": (False, True),
}


@dataclass(frozen=True)
class Case:
    """One training."""

    family: str
    zero: int
    workers: int
    packing: bool
    lora: bool

    @property
    def name(self) -> str:
        return "-".join(map(str, asdict(self).values()))

    @property
    def reference(self) -> "Case":
        """The same weights trained by the plain engine of one worker, sample by sample."""
        return Case(self.family, 0, 1, False, self.lora)


ALL = [Case(*values) for values in itertools.product(*VALUES.values())]  # type: ignore[arg-type]
PAIRWISE = [
    Case("mantis", 0, 2, True, True),
    Case("mantis", 2, 2, True, False),
    Case("mantis", 3, 2, False, True),
    Case("mantis", 3, 1, True, False),
    Case("llava-med", 0, 1, True, False),
    Case("llava-med", 2, 1, False, True),
    Case("llava-med", 3, 2, True, True),
    Case("llava-med", 0, 2, False, False),
]


def settings(case: Case) -> Finetune:
    """Two rates, decay and clipping, so that what is left out of one engine shows."""
    return Finetune(
        batch_size=8, max_tokens=400, lr=1e-3, projector_lr=3e-3, weight_decay=0.1, clip=1.0, freeze_vision=case.lora,
        zero=case.zero, packing=case.packing, precision="fp32", save_every=STEPS,
        validation=Validation(every=STEPS // 2),
        lora=Lora(rank=4, alpha=8, dropout=0, merge=case.packing) if case.lora else None,
    )  # fmt: skip


def batches(lvlm: Lvlm, case: Case, rank: int, world: int) -> Callable[[int], Batch]:
    """Step -> batch: one worker has texts only, then has nothing, then both have what comes."""
    encoded = make_encoded(lvlm, 48)
    shown = [sample for sample in encoded if sample.images]
    texts = [sample for sample in encoded if not sample.images]
    limit = 400

    def share(samples: Sequence[object], rank: int, world: int) -> Batch:
        chosen = list(samples)
        return batch.build(
            chosen,  # type: ignore[arg-type]
            lambda i: make_pixels(chosen[i]),  # type: ignore[arg-type]
            max_tokens=limit,
            packed=case.packing,
            rank=rank,
            world=world,
        )

    def batch_at(step: int) -> Batch:
        mine = [shown[(3 * step + i) % len(shown)] for i in range(3)]
        yours = [texts[(2 * step + i) % len(texts)] for i in range(2)] if step % 4 else []
        if step % 2:
            return share([*mine, *yours], rank, world)
        parts = [share(mine, 0, 1), share(yours, 0, 1)] if yours else [share(mine, 0, 1), Batch(())]
        return parts[rank] if world == 2 else Batch((*parts[0].rows, *parts[1].rows))

    return batch_at


def validate(lvlm: Lvlm, case: Case, rank: int, world: int) -> Callable[[Engine, int], Validated]:
    """Validation on nine conversations, of which some ask which of three words, any of the vocabulary, is likelier."""
    encoded = [
        replace(one, options=Options(2, np.array([i, 7, 100 + i], np.int32), np.array([False, True, i % 2 == 0])))
        if i % 3
        else one
        for i, one in enumerate(make_encoded(lvlm, 9, seed=1))
    ]

    def batch_at(number: int) -> Batch:
        chosen = encoded[5 * number : 5 * number + 5]
        return batch.build(
            chosen, lambda i: make_pixels(chosen[i]), max_tokens=200, packed=case.packing, rank=rank, world=world
        )

    return lambda engine, step: validation.measure(engine, batch_at, 2, step, rank, world)


def make_bases(root: Path) -> None:
    """A base of each family."""
    for family in FAMILIES:
        saving.save(make_lvlm(family), root / family.name)


def run(root: Path, cases: Sequence[Case]) -> None:
    """Train all cases into `root/NAME`: those of the plain loop here, others of one number of workers in one group."""
    alone = [case for case in cases if case.workers == 1 and not case.zero]
    for case in alone:
        _train(root, case, 0, 1)
    for workers in sorted({case.workers for case in cases if case not in alone}):
        mine = [asdict(case) for case in cases if case.workers == workers and case not in alone]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
        done = subprocess.run(
            [*command, "-m", "tests.support.engines", str(root), json.dumps(mine)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _train(root: Path, case: Case, rank: int, world: int) -> None:
    chosen = settings(case)
    lvlm = trainable.load(root / case.family, chosen, "cpu")
    loop.train(
        lvlm,
        batches(lvlm, case, rank, world),
        STEPS,
        chosen,
        root / case.name,
        validate=validate(lvlm, case, rank, world),
        rank=rank,
        world=world,
    )


def main(root: Path, cases: Sequence[Case]) -> None:
    torch.set_num_threads(1)
    with process_group(always=True) as (rank, world):
        for case in cases:
            _train(root, case, rank, world)
        if world > 1:
            (root / f"restored-{rank}.json").write_text(json.dumps(_restored(root, rank, world)))
            (root / f"timeouts-{rank}.json").write_text(json.dumps(_timeouts()))
            (root / f"bf16-{rank}.json").write_text(json.dumps(_zero_3_in_bf16(root, rank, world)))


def _restored(root: Path, rank: int, world: int) -> dict[str, Any]:
    """A ZeRO-3 engine restores a checkpoint right after a pass: the losses before and after, and how much it reads."""
    case = Case("mantis", 3, world, True, False)
    lvlm = trainable.load(root / case.family, settings(case), "cpu")
    trainable.prepare(lvlm.model, settings(case))
    engine = Zero(lvlm.model, settings(case), False, rank, world)
    numbers = sum(p.ds_numel for p in lvlm.model.parameters() if p.requires_grad)
    batch_at = batches(lvlm, case, rank, world)
    lvlm.model.train()

    def losses() -> list[float]:
        return [float(loss) for losses in engine.losses(batch_at(1)) for loss in losses]

    def step() -> None:
        engine.gradients(batch_at(1))
        engine.update(1.0)

    count = [0]
    with attention.packed(lvlm.model):
        step()
        folder = training_checkpoint.save(root / "restore" / "resume", 1, engine.fragments(), rank, world)
        distributed.wait_for_all()
        saved = losses()
        step()
        moved = losses()
        with pytest.MonkeyPatch.context() as patch, training_checkpoint.reader(folder) as read:
            patch.setattr(training_checkpoint._InFiles, "__getitem__", _counting(count))
            engine.restore(read)
        restored = losses()
    return {"saved": saved, "moved": moved, "restored": restored, "read": count[0], "all": 3 * numbers}


def _counting(count: list[int]) -> Callable[[Any, slice], torch.Tensor]:
    """What reads a part of a checkpoint, and counts the values."""
    real = training_checkpoint._InFiles.__getitem__

    def read(values: Any, wanted: slice) -> torch.Tensor:
        found = real(values, wanted)
        count[0] += len(found)
        return found

    return read


def _timeouts() -> list[float]:
    """Seconds after which a collective operation fails, of each process group that there is by now."""
    groups = torch.distributed.distributed_c10d._world.pg_map
    return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]  # type: ignore[attr-defined]


def _zero_3_in_bf16(root: Path, rank: int, world: int) -> dict[str, list[str]]:
    """LoRA in bf16: what ZeRO-3 holds otherwise than the plain engine, and what it has rounded after a validation."""
    case = Case("mantis", 3, world, True, True)
    chosen = settings(case).model_copy(update={"precision": "bf16"})
    plain = trainable.load(root / case.family, chosen.model_copy(update={"zero": 0}), "cpu").model
    trainable.prepare(plain, chosen)
    goal = dict([*plain.named_parameters(), *plain.named_buffers()])
    lvlm = trainable.load(root / case.family, chosen, "cpu")
    trainable.prepare(lvlm.model, chosen)
    lvlm.model.train()
    whole, zero_sizes.WHOLE = zero_sizes.WHOLE, 100  # so that the weights of a small model are split, too
    try:
        engine = Zero(lvlm.model, chosen, True, rank, world)
    finally:
        zero_sizes.WHOLE = whole
    held = dict(lvlm.model.named_buffers()) | {name: engine.whole(name) for name, _ in plain.named_parameters()}
    dtypes = [name for name in goal if held[name].dtype != goal[name].dtype]
    values = [name for name in goal if not torch.equal(held[name].to(goal[name].dtype), goal[name])]
    with attention.packed(lvlm.model):
        batch_at = batches(lvlm, case, rank, world)
        engine.gradients(batch_at(1))
        engine.update(1.0)
        engine.losses(batch_at(1))
    rounded = []
    for fragment in engine.fragments():
        mine = fragment.fields[WEIGHT]
        if not torch.equal(engine.whole(fragment.name).flatten()[fragment.start :][: len(mine)], mine):
            rounded.append(fragment.name)
    return {"dtypes": dtypes, "values": values, "rounded": rounded}


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Case(**values) for values in json.loads(sys.argv[2])])
