"""The stage `finetune`: a base and the train split -> a tuned model."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim import progress, shards, store
from medmim.errors import UserError
from medmim.finetune.record import TrainResult
from medmim.lvlm import checkpoint
from medmim.recipe.schema import Recipe
from medmim.run.cache import cached_step, step_key
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import Sample

REVISION = 1
_CURVE = 200  # points of the loss curve in the record; `losses.jsonl` has every step


def run(recipe: Recipe, ws: Workspace, data: str, base: str | None = None) -> Outcome:
    """Fine-tune the recipe's base on the train split of a data set, or find it done.

    `Outcome.facts`: steps, samples, tokens, loss (mean of the last tenth), quarantined (reason -> count), workers,
    seconds, tokens_per_s, mfu, and losses, the curve as `[step, loss]`.

    Args:
        recipe: Its sections `finetune` and `platform`.
        ws: The workspace.
        data: URI of a data set.
        base: The base where it is resolved already; else the recipe's.

    Raises:
        UserError: No such base or data set, nothing to train on, or the training diverged.
    """
    with stage(ws, "finetune") as outcome:
        ref = base or recipe.finetune.base
        folder = checkpoint.resolve(ref, ws)
        checkpoint.family_of(folder)
        artifact = _data(data)
        section = {
            **recipe.finetune.model_dump(mode="json", exclude={"base", "save_every"}),
            "workers": recipe.platform.workers,
            "max_bad_fraction": recipe.data.max_bad_fraction,
        }
        parents = {"data": artifact.digest, "base": checkpoint.digest(folder)}
        made, cached = cached_step(
            ws, "finetune", REVISION, section, parents,
            lambda goal: _train(recipe, ws, ref, artifact, goal), kind="model", recipe=recipe,
        )  # fmt: skip
        if recipe.platform.ray != "local":
            from medmim.finetune.ray import exchange

            key = step_key("finetune", REVISION, section, parents)
            exchange.clear(exchange.shared_folder(ws, f"finetune-{key[:16]}"))
        outcome.of(made, cached)
        outcome.facts = {**made.counts, "losses": _curve(ws.fetch(made.uri) / "losses.jsonl")}
        return outcome


def _data(uri: str) -> store.Artifact:
    artifact = store.get(uri)
    if artifact.kind != "data":
        raise UserError(
            f"{uri} is not a data set",
            reason=f"it is an artifact of kind '{artifact.kind}'",
            fix="give the URI that `medmim data build` printed",
        )
    return artifact


def _train_split(data: Path) -> list[Sample]:
    samples = shards.read_samples(data, "train")
    if not samples:
        raise UserError(f"{data} has no train rows", fix="lower data.test_fraction and data.dev_fraction, build again")
    return samples


def _train(recipe: Recipe, ws: Workspace, base: str, data: store.Artifact, folder: Path) -> Mapping[str, Any]:
    from medmim.finetune import feed, lengths
    from medmim.finetune.ray import exchange
    from medmim.finetune.worker import EXAMPLES

    local = recipe.platform.ray == "local"
    shared = exchange.shared_folder(ws, folder.name)
    prepared, quarantine = folder / EXAMPLES, folder / "quarantine.jsonl"
    if not local and not prepared.is_file():
        exchange.download_examples(folder, shared)
    if not prepared.is_file():
        path = store.fetch(data, ws.cache)
        samples = _train_split(path)
        images: Mapping[str, Any] = shards.Images(path) if any(s.images for s in samples) else {}
        lvlm = checkpoint.load(checkpoint.resolve(base, ws), "cpu")
        examples, bad = lengths.prepare(lvlm, samples, images, recipe.finetune.max_tokens)
        lengths.refuse_too_many_bad(bad, len(samples), recipe.data.max_bad_fraction)
        quarantine.write_text("".join(json.dumps(asdict(row)) + "\n" for row in bad))
        examples.save(prepared)
    kept = len(lengths.Examples.load(prepared).encoded)
    workers = recipe.platform.workers
    steps = feed.steps(recipe.finetune, kept)
    progress.say(f"finetune: {kept:,} samples, {steps:,} steps of {recipe.finetune.batch_size}")
    if not local:
        exchange.upload_examples(folder, shared)
    result = (_here if local else _across)(recipe, ws, base, data, folder)
    reasons: dict[str, int] = {}
    for line in quarantine.read_text().splitlines():
        reason = json.loads(line)["reason"]
        reasons[reason] = reasons.get(reason, 0) + 1
    return {
        "steps": result.steps,
        "samples": kept,
        "tokens": result.tokens,
        "loss": result.loss,
        "quarantined": reasons,
        "workers": workers,
        "seconds": round(result.seconds, 1),
        "tokens_per_s": round(result.tokens_per_s),
        "mfu": None if result.mfu is None else round(result.mfu, 3),
    }


def _here(recipe: Recipe, ws: Workspace, base: str, data: store.Artifact, folder: Path) -> TrainResult:
    """Train on this machine."""
    from medmim.finetune.ray.local import launch
    from medmim.finetune.worker import Job, cores

    workers = recipe.platform.workers
    job = Job(
        str(checkpoint.resolve(base, ws)),
        str(store.fetch(data, ws.cache)),
        str(folder),
        recipe.finetune.model_dump_json(),
        recipe.platform.threads or max(1, cores() // workers),
    )
    return launch(job, ws.home, workers)


def _across(recipe: Recipe, ws: Workspace, base: str, data: store.Artifact, folder: Path) -> TrainResult:
    """Train on the nodes of a running Ray cluster."""
    from medmim.finetune.ray import cluster, exchange

    job = exchange.SharedJob(
        checkpoint.upload_if_local(base, ws),
        data.uri,
        exchange.shared_folder(ws, folder.name),
        recipe.finetune.model_dump_json(),
        recipe.platform.threads or 1,
    )
    return cluster.launch(job, folder, recipe.platform.workers, recipe.platform.ray)


def _curve(path: Path) -> list[list[float]]:
    lines = path.read_text().splitlines()
    every = -(-len(lines) // _CURVE)
    points = [json.loads(line) for line in lines]
    return [[p["step"], p["loss"]] for i, p in enumerate(points) if i % every == 0 or i + 1 == len(points)]


@dataclass(frozen=True)
class Plan:
    """What a training would do.

    Attributes:
        samples: That can be trained on.
        quarantined: Rows that cannot.
        tokens: Of one epoch.
        trained_tokens: Of one epoch, those that carry the loss.
        longest: Tokens of the longest sample.
        steps: Optimizer steps.
        rows: Forward passes of one epoch, over all workers.
        filled: Share of the rows' room, padding included, that is tokens.
        parameters: Of the model.
        trainable: Of them, trained.
        memory_gib: Of a worker: weights, gradients, optimizer state, and about what a row of `max_tokens` needs.
    """

    samples: int
    quarantined: int
    tokens: int
    trained_tokens: int
    longest: int
    steps: int
    rows: int
    filled: float
    parameters: int
    trainable: int
    memory_gib: float


def plan(recipe: Recipe, ws: Workspace, data: str, base: str | None = None) -> Plan:
    """Plan a training without running it: encodes the train split, looks at its images.

    Raises:
        UserError: As `run` does.
    """
    from medmim.finetune import feed, lengths, packing
    from medmim.lvlm.encode import IGNORED

    settings = recipe.finetune
    folder = ws.fetch(_data(data).uri)
    lvlm = checkpoint.load(checkpoint.resolve(base or settings.base, ws), "cpu")
    samples = _train_split(folder)
    images: Mapping[str, Any] = shards.Images(folder) if any(s.images for s in samples) else {}
    examples, bad = lengths.prepare(lvlm, samples, images, settings.max_tokens)
    lengths.refuse_too_many_bad(bad, len(samples), recipe.data.max_bad_fraction)
    sizes = examples.lengths
    rows = room = 0
    for chosen in packing.plan(sizes, settings.max_tokens, settings.batch_size, settings.seed, 0):
        of_step = [sizes[i] for i in chosen]
        for row in packing.rows(of_step, settings.max_tokens, recipe.platform.workers, settings.packing):
            rows += 1
            inside = [of_step[i] for i in row]
            room += sum(inside) if settings.packing else len(inside) * max(inside)
    frozen = sum(p.numel() for p in lvlm.model.model.vision_tower.parameters()) if settings.freeze_vision else 0
    total = lvlm.model.num_parameters()
    return Plan(
        len(sizes), len(bad), sum(sizes), sum(label != IGNORED for e in examples.encoded for label in e.labels[1:]),
        max(sizes), feed.steps(settings, len(sizes)), rows, round(sum(sizes) / room, 3), total, total - frozen,
        round(_memory(lvlm.model.config, total, total - frozen, settings.max_tokens) / 2**30, 2),
    )  # fmt: skip


def _memory(config: Any, total: int, trainable: int, tokens: int) -> float:
    """Bytes: fp32 weights, gradients and two moments, and what the decoder's layers keep for the backward pass.

    About 34 numbers of the hidden size a token and layer, attention scores not stored (Korthikanti et al.,
    arXiv 2205.05198, section 4).
    """
    text = config.text_config
    return float(4 * total + 12 * trainable + 34 * 2 * tokens * text.hidden_size * text.num_hidden_layers)
