"""Validation while a model is trained: loss and accuracy on dev items, and which step was the best.

Accuracy compares likelihoods: an item is right if, of its options, the letter of a right one is the likeliest begin of
the answer. No text is generated, so none has to be read; all the numbers of an item come from one forward pass.

`validation.jsonl` has a line for each validation. It is content of the model: a resumed training writes the same bytes.
The steps depend on the recipe alone, not on when checkpoints are written, which may depend on time.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import progress
from medmim.lvlm.encode import right_share

if TYPE_CHECKING:
    from torch import Tensor

    from medmim.finetune.batch import Batch, Row
    from medmim.finetune.engines.engine import Engine
    from medmim.recipe.schema import Finetune

VALIDATION = "validation.jsonl"
_EVERY = 100  # steps
_COST = 0.02  # largest share of the time of training, where the recipe does not say how often
_FORWARD = 1 / 3  # of the time of a pass forward and back


@dataclass(frozen=True)
class Validated:
    """A line of `validation.jsonl`.

    Attributes:
        step: Optimizer steps done; 0 is the base.
        loss: Mean over the trained tokens of all items.
        accuracy: Share of the closed items with a right option as the likeliest; of several that are equally likely,
            each counts as chosen in part. None without closed items.
        items: Items measured.
        closed: Those whose options were compared.
    """

    step: int
    loss: float
    accuracy: float | None
    items: int
    closed: int


def interval(settings: "Finetune") -> int:
    """Steps between two validations."""
    items = settings.validation.items
    return settings.validation.every or max(_EVERY, math.ceil(items * _FORWARD / (settings.batch_size * _COST)))


def is_due(step: int, steps: int, settings: "Finetune") -> bool:
    """Whether to validate after `step` of `steps` steps: also before the first and after the last."""
    return step % interval(settings) == 0 or step == steps


def excluded(settings: "Finetune") -> set[str]:
    """Keys of `finetune` that do not change the weights: what is only measured does not."""
    return set() if settings.keep == "best" else {"keep", "validation"}


def measure(
    engine: "Engine", batch_at: "Callable[[int], Batch]", batches: int, step: int, rank: int = 0, world: int = 1
) -> Validated:
    """Measure the model on the dev items; every worker calls this, and gets the same.

    Args:
        engine: Holds the model.
        batch_at: Number -> this worker's share of that many-th batch of dev items.
        batches: How many there are, on every worker.
        step: Optimizer steps done.
        rank: This worker.
        world: Number of workers.
    """
    from medmim.finetune import distributed

    sums = [0.0] * 5
    shown = progress.bar("validation", batches, "batches") if rank == 0 else nullcontext()
    with ThreadPoolExecutor(1, "dev") as loader, shown as bar:
        following = loader.submit(batch_at, 0)
        for number in range(batches):
            batch = following.result()
            if number + 1 < batches:
                following = loader.submit(batch_at, number + 1)
            for row, losses in zip(batch.rows, engine.losses(batch), strict=True):
                sums = [a + b for a, b in zip(sums, _sums(row, losses), strict=True)]
            if bar is not None:
                bar.add()
    if world > 1:
        sums = distributed.sum_numbers(sums, engine.device)
    loss, trained, items, right, closed = sums
    return Validated(step, loss / max(trained, 1), right / closed if closed else None, int(items), int(closed))


def _sums(row: "Row", losses: "Tensor") -> list[float]:
    """Of a row: loss, trained tokens, samples, right ones, questions."""
    values = losses.double().tolist()
    right = 0.0
    for question in row.questions:
        of_options = values[question.begin : question.begin + len(question.right)]
        right += right_share([-loss for loss in of_options], question.right)
    return [sum(values[: row.trained]), row.trained, len(row.lengths), right, len(row.questions)]


def read(path: Path) -> list[Validated]:
    """What `validation.jsonl` holds, in order; nothing where there is no file. A torn last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [Validated(**json.loads(line)) for line in lines if line.endswith("\n")]


def until(path: Path, step: int, truncate: bool) -> list[Validated]:
    """The validations up to the checkpoint of `step`; none where a training begins, at 0.

    Args:
        path: The file.
        step: Optimizer steps done.
        truncate: Remove from the file what a killed process wrote later.
    """
    kept = [one for one in read(path) if one.step <= step and step]
    if truncate and path.is_file():
        part = path.with_name(".part-validation")
        part.write_text("".join(map(_line, kept)), encoding="utf-8")
        part.replace(path)
    return kept


def append(path: Path, validated: Validated) -> None:
    """Add a line, which is on the disk then: a checkpoint that follows may outlive a crash of the machine."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(validated))
        file.flush()
        os.fsync(file.fileno())


def best(found: Sequence[Validated]) -> Validated | None:
    """The validation with the lowest loss, of equals the earliest; that of the base, at step 0, does not count."""
    return min((one for one in found if one.step), key=lambda one: (one.loss, one.step), default=None)


def facts(found: Sequence[Validated], kept: int) -> Mapping[str, object]:
    """What a record says of the validations.

    Args:
        found: All of them.
        kept: The step of the model that came out.
    """
    of_model = next((one for one in found if one.step == kept), None)
    return {
        "kept_step": kept,
        "dev_loss": of_model and of_model.loss,
        "dev_accuracy": of_model and of_model.accuracy,
        "dev_items": of_model.items if of_model else 0,
    }


def _line(validated: Validated) -> str:
    return json.dumps(asdict(validated)) + "\n"
