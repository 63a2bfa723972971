"""What the passes of a training keep in memory, found by making one pass on tensors without values.

The pass is the one that is trained with (`row_loss`), on torch's fake tensors: no formula has to follow what
transformers, peft or autocast change. Memory grows by the same amount with each layer, so two short models are enough.
"""

import copy
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medmim.finetune import attention, trainable
from medmim.finetune.batch import Row
from medmim.finetune.loss import row_loss
from medmim.lvlm import llava
from medmim.recipe.schema import Finetune

_SHORT, _LONGER = 1, 2  # layers of the models that are tried


@dataclass(frozen=True)
class Pass:
    """The shape of a row.

    Attributes:
        lengths: Tokens of its samples, the longest first where they are padded.
        images: Its images.
        trained: Its trained tokens.
        packed: Whether the samples are concatenated.
    """

    lengths: tuple[int, ...]
    images: int
    trained: int
    packed: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of its token ids."""
        return (1, sum(self.lengths)) if self.packed else (len(self.lengths), max(self.lengths))


def of_pass(config: Any, settings: Finetune, row: Pass, bf16: bool, flash: bool) -> int:
    """Most bytes that are allocated at once by forward and backward of a row, beside weights and gradients.

    Args:
        config: A `LlavaConfig`.
        settings: What is trained, and activation checkpointing.
        row: Its shape.
        bf16: Whether to compute in bf16.
        flash: Whether packed attention takes the flash kernel.
    """
    relevant = settings.model_dump_json(include={"lora", "activation_checkpointing", "freeze_vision"})
    return _of_pass(json.dumps(config.to_dict(), sort_keys=True, default=str), relevant, row, bf16, flash)


@lru_cache(maxsize=64)
def _of_pass(config: str, settings: str, row: Pass, bf16: bool, flash: bool) -> int:
    whole = llava.quiet_transformers().LlavaConfig.from_dict(json.loads(config))
    given = Finetune.model_validate_json(settings)
    text, tower = int(whole.text_config.num_hidden_layers), int(whole.vision_config.num_hidden_layers)
    if max(text, tower) <= _LONGER:
        return max(_phases(whole, given, row, bf16, flash))
    phases = [
        _phases(_with_layers(whole, *layers), given, row, bf16, flash)
        for layers in ((_SHORT, _SHORT), (_LONGER, _SHORT), (_SHORT, _LONGER))
    ]
    peak: int = max(
        short + (text - _SHORT) * (deeper - short) + (tower - _SHORT) * (more_tower - short)
        for short, deeper, more_tower in zip(*phases, strict=True)
    )
    return peak


def model_of(config: Any, settings: Finetune, bf16: bool) -> Any:
    """The model as `trainable` prepares it, without memory.

    Args:
        config: A `LlavaConfig`.
        settings: What is trained.
        bf16: Whether passes are computed in bf16.
    """
    model = llava.without_memory(config)
    model.to(torch.bfloat16 if bf16 and settings.lora else torch.float32)  # whatever the files have
    trainable.prepare(model, settings)
    return model


def _with_layers(config: Any, text: int, tower: int) -> Any:
    found = copy.deepcopy(config)
    found.text_config.num_hidden_layers, found.vision_config.num_hidden_layers = text, tower
    if getattr(found.text_config, "layer_types", None):
        found.text_config.layer_types = [found.text_config.layer_types[0]] * text
    return found


def _phases(config: Any, settings: Finetune, row: Pass, bf16: bool, flash: bool) -> list[int]:
    """Peaks of the tower's forward, the decoder's, the decoder's backward and the tower's."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = model_of(config, settings, bf16)
    side = config.vision_config.image_size
    with FakeTensorMode():
        _fill(model)
        model.train()
        inputs = Row(
            torch.zeros(row.shape, dtype=torch.int64),
            torch.zeros(row.images, config.vision_config.num_channels, side, side) if row.images else None,
            row.lengths,
            torch.zeros(row.trained, dtype=torch.int64),
            torch.zeros(row.trained, dtype=torch.int64),
            row.packed,
        )
        # which tokens are images is read from their values, which there are none of
        mask = torch.zeros(*row.shape, config.text_config.hidden_size, dtype=torch.bool)
        model.model.get_placeholder_mask = lambda *_, **__: mask
        kernel = attention.flash_attention if flash else attention.packed_attention
        packed = attention.packed(model, kernel) if row.packed else nullcontext()
        autocast: Any = torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()
        kept = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters() if p.grad is not None)]
        with _watching(kept) as live, packed:

            def begin_backward_of_tower(gradient: Tensor) -> None:
                live.next_phase()

            def leave_tower(_: Any, __: Any, features: Tensor) -> None:
                live.next_phase()
                if features.requires_grad:
                    features.register_hook(begin_backward_of_tower)  # type: ignore[no-untyped-call]

            model.model.multi_modal_projector.register_forward_hook(leave_tower)
            with autocast:
                loss = row_loss(model, inputs) / 2
            live.next_phase()
            torch.autograd.backward(loss)
            live.next_phase()
    return (live.peaks + [0] * 4)[:4]


def _fill(model: nn.Module) -> None:
    """Replace parameters and buffers on `meta` by fake ones of a device, and add gradients, as after a first row."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new: Tensor = torch.empty(old.shape, dtype=old.dtype)
                    if isinstance(old, nn.Parameter):
                        new = nn.Parameter(new, requires_grad=old.requires_grad)
                        new.grad = torch.empty_like(new) if old.requires_grad else None
                    made[id(old)] = new
                held[name] = made[id(old)]


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that exist, beside those of some tensors."""

    def __init__(self, besides: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.peaks: list[int] = []
        self.sizes: dict[int, int] = {t.untyped_storage()._cdata: 0 for t in besides}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, storage._cdata)
        return out

    def _freed(self, key: int) -> None:
        self.now -= self.sizes.pop(key)

    def next_phase(self) -> None:
        self.peaks.append(self.peak)
        self.peak = self.now


@contextmanager
def _watching(besides: list[Tensor]) -> Iterator[_Live]:
    live = _Live(besides)
    with live:
        yield live
