"""`medmim finetune --dry-run`: steps, tokens, rows and memory of a training, without training."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from medmim import shards, store
from medmim.finetune.run import data_artifact
from medmim.lvlm import adapters, checkpoint
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace


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
        memory_gib: Memory of a worker: weights, gradients, optimizer state, and about what a row of `max_tokens` needs.
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

    config = checkpoint.load_text(path).config
    limited_by, limit = min(limits(config, settings.max_tokens).items(), key=lambda entry: entry[1])
    total, of_tower = parameters(config)
    trainable = total - (of_tower if settings.freeze_vision else 0)
    memory = _memory(config, total, trainable, settings.max_tokens)
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
        memory_gib=round(memory / 2**30, 2),
    )


def parameters(config: Any) -> tuple[int, int]:
    """Parameters of a model of this configuration, and those of its vision tower; the model has no memory."""
    model = checkpoint.without_memory(config)
    return model.num_parameters(), sum(weight.numel() for weight in model.model.vision_tower.parameters())


def _memory(config: Any, total: int, trainable: int, tokens: int) -> float:
    """Bytes: fp32 weights, gradients and two moments, and what the decoder's layers keep for the backward pass.

    About 34 numbers of the hidden size per token and layer, without attention scores (Korthikanti et al.,
    arXiv 2205.05198, section 4).
    """
    text = config.text_config
    return float(4 * total + 12 * trainable + 34 * 2 * tokens * text.hidden_size * text.num_hidden_layers)
