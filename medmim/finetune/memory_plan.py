"""What a worker of a training needs, part by part, on its device and in host memory: from the configuration alone.

Weights, gradients and optimizer are counted; what a pass keeps is found by `memory_trace`. What DeepSpeed holds follows
its 0.19 (`stage_1_and_2.py`, `stage3.py`) with the sizes of `engines.zero_sizes`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medmim.errors import UserError
from medmim.finetune import memory_trace, optim
from medmim.finetune.engines import zero_sizes
from medmim.finetune.memory_trace import Pass
from medmim.recipe.schema import Finetune, Lora

GIB = 2**30
LIBRARIES = 900 * 2**20  # of a worker, with Ray and DeepSpeed: 660 MiB were measured on a CPU
_READERS = 4  # tensors that transformers reads at once
_SUMMED = 1 << 25  # numbers that `distributed` sums at once


@dataclass(frozen=True)
class Part:
    """Bytes of one purpose.

    Attributes:
        name: Of the purpose.
        device: Bytes on the device of the worker.
        host: Bytes in host memory.
        passing: Whether it is held for a moment only. No two passing parts are held at once.
        first: Whether only the first worker holds it.
    """

    name: str
    device: int
    host: int = 0
    passing: bool = False
    first: bool = False


@dataclass(frozen=True)
class Need:
    """What one worker needs, the one that needs most."""

    parts: tuple[Part, ...]

    @property
    def device(self) -> int:
        """Most bytes on the device at once."""
        return _most([(part, part.device) for part in self.parts])

    @property
    def host(self) -> int:
        """Most bytes of host memory at once, beside those of a device that is the host itself."""
        return self.host_of(1)

    def host_of(self, workers: int) -> int:
        """The same for several workers of one machine, the first of all among them."""
        return _most([(part, part.host * (1 if part.first else workers)) for part in self.parts])


def _most(held: Sequence[tuple[Part, int]]) -> int:
    """All that lasts, and the largest of what is held for a moment."""
    lasting = sum(size for part, size in held if not part.passing)
    return lasting + max((size for part, size in held if part.passing), default=0)


@dataclass(frozen=True)
class Room:
    """What there is for one worker, in bytes; None where that is not known.

    Attributes:
        device: Of a GPU.
        host: Of host memory.
        says: What has it, for the error.
    """

    device: int | None
    host: int | None
    says: str


@dataclass(frozen=True)
class Sizes:
    """A model as training holds it, in bytes unless said otherwise.

    Attributes:
        weights: Of all weights.
        frozen: Of those that are not trained.
        trained: Numbers that are trained.
        state: What the optimizer keeps.
        small: Of the weights that ZeRO-3 leaves whole on every worker.
        largest: Of the largest weight.
        largest_trained: Numbers of the largest weight that is trained.
        published: Of the files of the model that comes out.
    """

    weights: int
    frozen: int
    trained: int
    state: int
    small: int
    largest: int
    largest_trained: int
    published: int


def sizes(config: Any, settings: Finetune, bf16: bool) -> Sizes:
    """Count the weights of a model that has no memory.

    Args:
        config: A `LlavaConfig`.
        settings: What is trained, and the optimizer.
        bf16: Whether passes are computed in bf16.
    """
    named = list(memory_trace.model_of(config, settings, bf16).named_parameters())
    size = {name: p.numel() * p.element_size() for name, p in named}
    trained = [(name, p) for name, p in named if p.requires_grad]
    whole = [p for name, p in named if ".lora_" not in name and ".original_module." not in name]
    published = (2 if bf16 else 4) * sum(p.numel() for p in whole)
    if settings.lora and not settings.lora.merge:
        published = sum(size[name] for name, _ in trained)
    return Sizes(
        weights=sum(size.values()),
        frozen=sum(size[name] for name, p in named if not p.requires_grad),
        trained=sum(p.numel() for _, p in trained),
        state=sum((4 if optim.in_muon(name, p, settings) else 8) * p.numel() for name, p in trained),
        small=sum(size[name] for name, p in named if p.numel() <= zero_sizes.WHOLE),
        largest=max(size.values()),
        largest_trained=max((p.numel() for _, p in trained), default=0),
        published=published,
    )


def need(
    config: Any, settings: Finetune, workers: int, row: Pass, *, gpu: bool, bf16: bool, quick: bool = False
) -> Need:
    """What one of the workers needs.

    Args:
        config: A `LlavaConfig`.
        settings: The recipe's.
        workers: How many share the training.
        row: The largest row.
        gpu: Whether the device is a GPU; else all is in host memory.
        bf16: Whether passes are computed in bf16.
        quick: Take a bound for the passes, several times what they need, instead of making one.

    Returns:
        Its parts. On a CPU, `host` of a part is beside `device`, in the same memory.
    """
    flash = gpu and bf16 and settings.packing and not getattr(config.text_config, "attention_dropout", 0.0)
    passes = _bound(config, row) if quick else memory_trace.of_pass(config, settings, row, bf16, flash)
    return _with_passes(passes, config, settings, workers, row, gpu, bf16)


def _with_passes(passes: int, config: Any, settings: Finetune, workers: int, row: Pass, gpu: bool, bf16: bool) -> Need:
    """What a worker needs whose passes keep that many bytes."""
    of = sizes(config, settings, bf16)
    parts = [
        *_held(of, settings, workers, bf16),
        Part("activations of a row", passes + _pixels(config, row.images), 0, True),
    ]
    gathered = 3 * of.largest if settings.zero == 3 else 0
    parts.append(Part("saving the model", gathered, of.largest if gpu else 0, True))
    if gpu:
        # files are mapped, not read: host memory only has the tensors that are on their way, in the dtype of training
        read = of.largest if settings.zero == 3 else min(of.weights, _READERS * of.largest)
        parts.append(Part("loading the base", 0, read, True, first=settings.zero == 3))
    parts.append(Part("writing a checkpoint", 0, (4 * of.trained + of.state) // workers))  # while training goes on
    parts.append(Part("libraries", 0, LIBRARIES))
    parts.append(
        Part("pictures of two steps", 0, 2 * _pixels(config, row.images * max(1, _rows(settings, workers, row))))
    )
    return Need(tuple(parts))


def _held(of: Sizes, settings: Finetune, workers: int, bf16: bool) -> Iterator[Part]:
    """Weights, gradients and optimizer, and what DeepSpeed adds to them."""
    share, stage = math.ceil(of.trained / workers), settings.zero
    state = math.ceil(of.state / workers) if stage else of.state
    masters = 4 * share if stage else 0  # also in fp32, where weights and masters are of one type
    weights = of.weights if stage < 3 else of.small + math.ceil((of.weights - of.small) / workers)
    yield Part("weights, trained", weights - _frozen(of, stage, workers))
    yield Part("weights, frozen", _frozen(of, stage, workers))
    if settings.offload == "none":
        yield Part("gradients", 4 * (share if stage else of.trained))
        yield Part("optimizer", state + masters)
    else:
        yield Part("gradients", 0, 4 * share)
        yield Part("optimizer", 0, state + masters + 4 * share)
    if stage == 0 and workers > 1:
        yield Part("summing gradients", 4 * (min(of.trained, _SUMMED + of.largest_trained)), 0, True)
    if stage:
        bucket = min(zero_sizes.BUCKET, of.trained)
        yield Part("buckets of ZeRO", bucket * (4 + 2 if bf16 else 4))
        yield Part("update of ZeRO", 4 * share, passing=True)
        # a full bucket is copied to be sent, and what comes back is beside it
        width = 2 if bf16 and settings.lora else 4  # bytes of a weight: of LoRA's, almost all are frozen
        exchanged = 4 * bucket if stage == 2 else _exchanged(of, workers, width)
        yield Part("exchange of ZeRO", exchanged, passing=True)
    if stage == 3:
        live = width * (zero_sizes.REUSE // 2 + zero_sizes.PREFETCH) + of.largest
        yield Part("gathered weights", min(of.weights - of.small, live))


def _exchanged(of: Sizes, workers: int, width: int) -> int:
    """What gathering a group of weights takes beside them: those of all workers in one piece, and the own part."""
    group = max(min(width * zero_sizes.PREFETCH, of.weights - of.small), of.largest)
    return group + math.ceil(group / workers)


def _frozen(of: Sizes, stage: int, workers: int) -> int:
    return math.ceil(of.frozen / workers) if stage == 3 else of.frozen


def _pixels(config: Any, images: int) -> int:
    vision = config.vision_config
    return int(images * vision.num_channels * vision.image_size**2 * 4)


def _rows(settings: Finetune, workers: int, row: Pass) -> int:
    """Rows of a worker's share of a step, about."""
    return math.ceil(settings.batch_size / max(1, len(row.lengths)) / workers)


def _bound(config: Any, row: Pass) -> int:
    """Bytes that no pass exceeds: with LoRA, in fp32 and without checkpointing it keeps half of them."""
    text, vision = config.text_config, config.vision_config
    tokens = row.shape[0] * row.shape[1]
    decoder = tokens * (text.num_hidden_layers + 2) * (48 * text.hidden_size + 24 * text.intermediate_size)
    patches = row.images * (1 + (vision.image_size // vision.patch_size) ** 2)
    tower = patches * (vision.num_hidden_layers + 2) * (48 * vision.hidden_size + 24 * vision.intermediate_size)
    return int(4 * (decoder + tower + 8 * row.trained * text.vocab_size) + 2**28)


def usual_row(config: Any, settings: Finetune) -> Pass:
    """A row full of images, of whose tokens one in sixteen is trained: where the data are not known yet."""
    from medmim.lvlm.encode import tokens_per_image

    images = max(1, settings.max_tokens // tokens_per_image(config))
    return Pass((settings.max_tokens,), images, max(1, settings.max_tokens // 16), settings.packing)


def largest_row(examples: Any, settings: Finetune, workers: int) -> Pass:
    """The row of the first epoch with most positions, with the most images and trained tokens that any row has.

    Args:
        examples: `Examples`.
        settings: How samples share rows.
        workers: Number of workers.
    """
    import numpy as np

    from medmim.finetune import packing

    lengths = examples.lengths
    images = np.diff(examples.image_offsets)
    trained = np.add.reduceat(examples.trained.astype(np.int64), examples.offsets[:-1])
    best, most_images, most_trained = Pass((1,), 0, 1, settings.packing), 0, 1
    for chosen in packing.plan(lengths, settings.max_tokens, settings.batch_size, settings.seed, epoch=0):
        for row in packing.rows([lengths[i] for i in chosen], settings.max_tokens, workers, settings.packing):
            mine = [chosen[i] for i in row]
            found = Pass(tuple(lengths[i] for i in mine), 0, 1, settings.packing)
            if math.prod(found.shape) > math.prod(best.shape):
                best = found
            most_images = max(most_images, int(images[mine].sum()))
            most_trained = max(most_trained, int(trained[mine].sum()))
    return replace(best, images=most_images, trained=most_trained)


def check(
    config: Any, settings: Finetune, workers: int, row: Pass, room: Room, *, gpu: bool, bf16: bool, sharing: int = 1
) -> None:
    """Refuse a training that does not fit.

    Args:
        config: As for `need`.
        settings: As for `need`.
        workers: As for `need`.
        row: As for `need`.
        room: What there is for all that share it.
        gpu: As for `need`.
        bf16: As for `need`.
        sharing: Workers that share the host memory.

    Raises:
        UserError: It would run out of memory; with the parts, and the nearest setting that fits.
    """
    if lacking(need(config, settings, workers, row, gpu=gpu, bf16=bf16, quick=True), room, gpu, sharing) is None:
        return
    needed = need(config, settings, workers, row, gpu=gpu, bf16=bf16)
    lack = lacking(needed, room, gpu, sharing)
    if lack is None:
        return
    raise UserError(
        f"this training does not fit: {lack}",
        reason="predicted from the recipe and the base's configuration, for a worker; "
        "the plan of finetune (--dry-run) shows the whole table",
        fix=nearest(config, settings, workers, row, room, gpu=gpu, bf16=bf16, sharing=sharing),
        problems=described(needed, gpu),
    )


def lacking(needed: Need, room: Room, gpu: bool, sharing: int = 1) -> str | None:
    """What is too little, in words; None where it fits."""
    if gpu and room.device is not None and needed.device > room.device:
        return f"a worker needs {gib(needed.device)} of GPU memory, and {room.says} has {gib(room.device)}"
    host = needed.host_of(sharing) + (0 if gpu else needed.device * sharing)
    if room.host is not None and host > room.host:
        who = "a worker needs" if sharing == 1 else f"{sharing} workers need"
        return f"{who} {gib(host)} of host memory, and {room.says} has {gib(room.host)}"
    return None


def nearest(
    config: Any, settings: Finetune, workers: int, row: Pass, room: Room, *, gpu: bool, bf16: bool, sharing: int = 1
) -> str:
    """The setting nearest to the recipe's that fits, in words; arguments as for `check`."""
    for change, more, words in _alternatives(settings, workers, row):
        other = settings.model_copy(update=change)
        smaller = _shortened(row, other.max_tokens) if "max_tokens" in change else row
        shared = sharing if more == workers or sharing == 1 else more
        least = _with_passes(0, config, other, more, smaller, gpu, bf16)
        if lacking(least, room, gpu, shared):
            continue  # whatever its passes keep: making one takes a second and more
        needed = need(config, other, more, smaller, gpu=gpu, bf16=bf16)
        if lacking(needed, room, gpu, shared) is None:
            total = needed.device if gpu else needed.device + needed.host
            return f"set {words}: {gib(total)} a worker"
    return "take a larger device or a smaller base: neither ZeRO, LoRA, checkpointing nor shorter rows suffice"


def _alternatives(settings: Finetune, workers: int, row: Pass) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Changes of the recipe, from the mildest: (settings, workers, words)."""
    again: dict[str, Any] = {"activation_checkpointing": True}
    shorter = settings.max_tokens
    while shorter // 2 >= max(row.lengths):
        shorter //= 2
    steps: list[tuple[dict[str, Any], int]] = []
    if not settings.activation_checkpointing:
        steps.append((again, workers))
    if workers > 1:
        steps += [
            ({"zero": stage, **extra}, workers) for stage in (2, 3) if stage > settings.zero for extra in ({}, again)
        ]
    if shorter < settings.max_tokens:
        steps.append((again | {"max_tokens": shorter}, workers))
    if workers > 1:
        steps.append((again | {"zero": 3, "offload": "optimizer"}, workers))
    if not settings.lora:
        steps += [({"lora": Lora(), **extra}, workers) for extra in ({}, again)]
        if workers > 1:
            steps.append((again | {"lora": Lora(), "zero": 3}, workers))
    steps += [(again | {"zero": 3}, more) for more in (2, 4, 8, 16, 32, 64) if more > workers]
    for change, more in steps:
        if change.get("zero") and settings.optimizer == "muon":
            change = change | {"optimizer": "adamw"}
        words = [f"finetune.{key}: {_shown(value)}" for key, value in change.items() if getattr(settings, key) != value]
        yield change, more, " and ".join([*words, *([f"platform.workers: {more}"] if more != workers else [])])


def _shown(value: object) -> str:
    return "{}" if isinstance(value, Lora) else str(value).lower() if isinstance(value, bool) else str(value)


def _shortened(row: Pass, tokens: int) -> Pass:
    """A row of fewer tokens, with the same share of images and trained tokens."""
    lengths: list[int] = []
    for length in row.lengths:
        if sum(lengths) + length <= tokens or not lengths:
            lengths.append(length)
    share = sum(lengths) / sum(row.lengths)
    return replace(
        row, lengths=tuple(lengths), images=math.ceil(row.images * share), trained=math.ceil(row.trained * share)
    )


def described(needed: Need, gpu: bool) -> Sequence[str]:
    """Its parts, a line each."""
    found = []
    for part in needed.parts:
        if part.device or part.host:
            where = [gib(part.device) + (" GPU" if gpu else "")] if part.device else []
            where += [gib(part.host) + " host"] if part.host else []
            found.append(f"{part.name}: {', '.join(where)}{' for a moment' if part.passing else ''}")
    return found


def gib(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / GIB:.3g} GiB" if size < 1000 * GIB else f"{size / GIB:,.0f} GiB"
