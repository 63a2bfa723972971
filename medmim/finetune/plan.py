"""`medmim finetune --dry-run`: steps, tokens, rows and memory of a training, without training."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medmim import shards, store
from medmim.finetune import memory_plan
from medmim.finetune.memory_trace import Pass
from medmim.finetune.run import data_artifact
from medmim.lvlm import adapters, checkpoint, llava
from medmim.recipe.schema import Finetune, Lora, Recipe
from medmim.run.workspace import Workspace

ZERO = (0, 2, 3)


@dataclass(frozen=True)
class Plan:
    """What a training would do.

    Attributes:
        samples: Samples that can be trained on.
        quarantined: Rows that cannot.
        tokens: Tokens of one epoch.
        trained_tokens: Tokens of one epoch that the loss is taken over.
        longest: Tokens of the longest sample.
        limit: Tokens that a sample may have; a longer one is quarantined.
        limited_by: What sets the limit: `finetune.max_tokens`, or context or sliding window of the base.
        steps: Optimizer steps.
        rows: Forward passes of one epoch, over all workers.
        filled: Share of the rows' positions, padding included, that are tokens.
        parameters: Parameters of the model.
        trainable: Those of them that are trained.
        memory_gib: Memory of a worker on its device; on a CPU, with what else its process holds.
        host_gib: Host memory of a worker; on a CPU the same.
        device: `gpu` or `cpu`: what the memory is planned for.
        workers: Number of workers.
        checkpoint_gib: Of all files of one training checkpoint.
        model_gib: Of the weights that come out.
        memory: For each way to train (`zero`, `lora`, `ours` for the recipe's own): `device_gib`, `host_gib`, and the
            `parts`, each with its name, `device_gib`, `host_gib` and whether it is `passing`.
    """

    samples: int
    quarantined: int
    tokens: int
    trained_tokens: int
    longest: int
    limit: int
    limited_by: str
    steps: int
    rows: int
    filled: float
    parameters: int
    trainable: int
    memory_gib: float
    host_gib: float
    device: str
    workers: int
    checkpoint_gib: float
    model_gib: float
    memory: tuple[dict[str, Any], ...]


def plan(recipe: Recipe, ws: Workspace, data: str, base: str | None = None) -> Plan:
    """Plan a training without running it: tokenizes the train split; fetches no weights and no images.

    Args:
        recipe: Its sections `finetune` and `platform`.
        ws: The workspace.
        data: URI of a data set.
        base: The base where it is resolved already; else the recipe's.

    Raises:
        UserError: As `finetune.run.run` does.
    """
    from medmim.finetune import loader, packing
    from medmim.finetune.examples import limits, prepare

    settings = recipe.finetune
    ref, artifact = base or settings.base, data_artifact(data)
    path = checkpoint.resolve_text(ref, ws)
    adapters.refuse_as_base(path)
    checkpoint.check_weights_of(ref, path)
    tables = store.fetch(artifact, ws.cache, [shards.SAMPLES])
    examples, bad = prepare(path, tables, settings.max_tokens, recipe.data.max_bad_fraction, artifact)

    lengths, starts = examples.lengths, examples.offsets[:-1]
    rows = positions = 0
    for chosen in packing.plan(lengths, settings.max_tokens, settings.batch_size, settings.seed, epoch=0):
        of_step = [lengths[i] for i in chosen]
        for row in packing.rows(of_step, settings.max_tokens, recipe.platform.workers, settings.packing):
            rows += 1
            of_row = [of_step[i] for i in row]
            positions += sum(of_row) if settings.packing else len(of_row) * max(of_row)

    config = llava.load_text(path).config
    limited_by, limit = min(limits(config, settings.max_tokens).items(), key=lambda entry: entry[1])
    total, of_tower = parameters(config)
    trainable = total - (of_tower if settings.freeze_vision else 0)
    workers = recipe.platform.workers
    gpu = on_gpu(recipe)
    bf16 = trainable_in_bf16(recipe, gpu)
    largest = memory_plan.largest_row(examples, settings, workers)
    memory = [
        _described(config, settings, workers, largest, gpu, bf16, zero, lora)
        for lora in (None, settings.lora or Lora())
        for zero in ZERO
    ]
    ours = next(way for way in memory if way["ours"])
    of = memory_plan.sizes(config, settings, bf16)
    return Plan(
        samples=len(lengths),
        quarantined=len(bad),
        tokens=sum(lengths),
        # an image token is in no answer, and nothing predicts the first token of a sample
        trained_tokens=int(np.count_nonzero(examples.trained) - np.count_nonzero(examples.trained[starts])),
        longest=max(lengths),
        limit=limit,
        limited_by=limited_by,
        steps=loader.total_steps(settings, len(lengths)),
        rows=rows,
        filled=round(sum(lengths) / positions, 3),
        parameters=total,
        trainable=trainable,
        memory_gib=ours["device_gib"],
        host_gib=ours["host_gib"],
        device="gpu" if gpu else "cpu",
        workers=workers,
        checkpoint_gib=_gib(4 * of.trained + of.state),
        model_gib=_gib(of.published),
        memory=tuple(memory),
    )


def on_gpu(recipe: Recipe) -> bool:
    """Whether workers have GPUs: those of this machine, or of the pods; on another cluster they are taken to have."""
    import torch

    if recipe.platform.ray == "rayjob":
        return recipe.platform.pods.gpus > 0
    return recipe.platform.ray != "local" or torch.cuda.is_available()


def trainable_in_bf16(recipe: Recipe, gpu: bool) -> bool:
    """Whether passes will be computed in bf16."""
    return recipe.finetune.precision == "bf16" or recipe.finetune.precision == "auto" and gpu


def _described(
    config: Any, settings: Finetune, workers: int, row: Pass, gpu: bool, bf16: bool, zero: int, lora: Lora | None
) -> dict[str, Any]:
    ours = zero == settings.zero and bool(lora) == bool(settings.lora)
    change: dict[str, Any] = {"zero": zero, "lora": lora}
    if not ours:  # DeepSpeed takes no Muon, and the plain engine offloads nothing
        change |= {"optimizer": "adamw"} if zero else {"offload": "none"}
    needed = memory_plan.need(config, settings.model_copy(update=change), workers, row, gpu=gpu, bf16=bf16)
    return {
        "zero": zero,
        "lora": bool(lora),
        "ours": ours,
        "device_gib": _gib(needed.device if gpu else needed.device + needed.host),
        "host_gib": _gib(needed.host if gpu else needed.device + needed.host),
        "parts": [
            {
                "name": part.name,
                "device_gib": _gib(part.device),
                "host_gib": _gib(part.host),
                "passing": part.passing,
            }
            for part in needed.parts
        ],
    }


def _gib(size: float) -> float:
    return round(size / memory_plan.GIB, 3)


def parameters(config: Any) -> tuple[int, int]:
    """Parameters of a model of this configuration, and those of its vision tower; the model has no memory."""
    model = llava.without_memory(config)
    return model.num_parameters(), sum(weight.numel() for weight in model.model.vision_tower.parameters())
