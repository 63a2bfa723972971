"""DeepSpeed's ZeRO: every worker holds a part of the optimizer (stage 2), and of the weights too (stage 3).

ZeRO: arXiv 1910.02054. Rows are passed one by one with a gradient accumulation of 1 and a boundary that we set, since
DeepSpeed would divide the gradients by the number of rows, and the mean is to be over tokens.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medmim.finetune import distributed, optim
from medmim.finetune.batch import Batch, Row, with_blank_image
from medmim.finetune.engines import zero_sizes
from medmim.finetune.engines.engine import WEIGHT, Fragment, Whole
from medmim.finetune.loss import evaluating, row_loss
from medmim.lvlm import soundness
from medmim.recipe.schema import Finetune


class Zero:
    """See `Engine`; `model` is split over the workers, in place. Needs a process group, of one worker or more.

    Args:
        model: `LlavaForConditionalGeneration`; for stage 3, loaded within `partitioned`.
        settings: Stage, offloading, optimizer, clipping.
        bf16: Whether to compute in bf16 under autocast; weights are exchanged in bf16 then, too.
        rank: This worker.
        world: Number of workers.
    """

    def __init__(self, model: Any, settings: Finetune, bf16: bool, rank: int, world: int) -> None:
        deepspeed = _quiet_deepspeed()
        self.model, self.stage, self.rank, self.world = model, settings.zero, rank, world
        (optimizer,) = optim.optimizers(model, settings)
        self.device = next(model.parameters()).device
        self.engine, *_ = deepspeed.initialize(
            model=_Forward(model),
            model_parameters=optimizer.param_groups,
            optimizer=optimizer,
            config=_config(settings, bf16),
        )
        self.zero = self.engine.optimizer
        # DeepSpeed has made a group of its own, with torch's ten minutes for NCCL
        dist.distributed_c10d._set_pg_timeout(distributed.TIMEOUT, self.zero.dp_process_group)

    def gradients(self, batch: Batch) -> tuple[float, int]:
        """See `Engine`; every worker makes as many passes as the one with most rows."""
        (trained, tokens), most = distributed.sum_counts([batch.trained, batch.tokens], self.device), len(batch.rows)
        if self.world > 1:
            most = distributed.largest(most, self.device)
        loss = torch.zeros((), device=self.device)
        for i, row in enumerate(_filled(batch.rows, most, self.model.config)):
            # ZeRO takes the mean over the workers
            share = self.world / max(trained, 1) if i < len(batch.rows) else 0.0
            self.engine.set_gradient_accumulation_boundary(i + 1 == most)
            part = self.engine(row.to(self.device), share)
            self.engine.backward(part)
            loss += part.detach() / self.world
            if i + 1 < most:
                self.engine.step()
        dist.all_reduce(loss)
        return float(loss), tokens

    def losses(self, batch: Batch) -> list[Tensor]:
        """See `Engine`; every worker makes as many passes as the one with most rows."""
        most = distributed.largest(len(batch.rows), self.device)
        with evaluating(self.engine):
            found = [self.engine(row.to(self.device)) for row in _filled(batch.rows, most, self.model.config)]
        return found[: len(batch.rows)]

    def update(self, share: float) -> tuple[float, float]:
        """See `Engine`: ZeRO skips a step whose gradient is not finite, and has no norm then."""
        lr = optim.set_lr([self.zero.optimizer], share)
        self.engine.step()
        return lr, float("inf") if self.zero.overflow else float(self.engine.get_global_grad_norm())

    def fragments(self) -> Iterable[Fragment]:
        """See `Engine`; read where they are, without asking the other workers."""
        for name, p in self._trained():
            start, weight = self._mine(p)
            if not len(weight):
                continue
            state = self._state(p)
            fields = {field: self._mine(p, field)[1] for field, value in state.items() if value.ndim}
            counts = {field: float(value) for field, value in state.items() if not value.ndim}
            yield Fragment(name, start, {WEIGHT: weight, **fields}, counts)

    def restore(self, read: Callable[[str], Whole]) -> None:
        """See `Engine`."""
        if self.stage == 3:  # what is still gathered from the last pass would be taken for the new values
            self.zero._partition_all_parameters()
        with torch.no_grad():
            for name, p in self._trained():
                whole = read(name)
                self._allocate(p, whole)
                for field, value in whole.fields.items():
                    start, mine = self._mine(p, None if field == WEIGHT else field)
                    mine.copy_(value[start : start + len(mine)])
                if self._flat(p) is not None:  # else other workers hold all of it
                    for field, count in whole.counts.items():
                        self._state(p)[field].fill_(count)
                local = self._mine(p)[1]
                if self.stage == 3:
                    p.ds_tensor.data[: len(local)].copy_(local)
                else:
                    p.copy_(whole.fields[WEIGHT][:].view_as(p))

    def not_finite(self) -> list[str]:
        """See `Engine`."""
        if self.stage < 3:
            return soundness.not_finite(self.model)
        named = list(self.model.named_parameters())
        bad = [not bool(torch.isfinite(p.ds_tensor).all()) for _, p in named]
        found = distributed.sum_counts([int(b) for b in bad], self.device)
        return [name for (name, _), count in zip(named, found, strict=True) if count]

    def whole(self, name: str) -> Tensor:
        """See `Engine`."""
        found: Any = self.model.state_dict(keep_vars=True)[name]
        if not hasattr(found, "ds_id"):
            return cast("Tensor", found.detach())
        # of the workers' own parts: what the last pass has gathered was rounded to bf16 on its way
        part = found.ds_tensor.detach()
        values = part.new_empty(self.world * part.numel())
        dist.all_gather_into_tensor(values, part)
        return cast("Tensor", values[: found.ds_numel].view(found.ds_shape))

    def _trained(self) -> Iterator[tuple[str, Any]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _flat(self, p: Any) -> Any:
        """The flat fp32 tensor whose part is this worker's fragment of a parameter: what the optimizer works on."""
        if self.stage == 3:
            return self.zero.fp32_partitioned_groups_flat[self.zero.grad_position[self.zero.get_param_id(p)][0]]
        return None if p._hp_mapping is None else self.zero.single_partition_of_fp32_groups[self._group(p)]

    def _group(self, p: Any) -> int:
        index: int = p._hp_mapping.param_group_index
        return index

    def _state(self, p: Any) -> dict[str, Tensor]:
        flat = self._flat(p)
        return {} if flat is None else self.zero.optimizer.state.get(flat, {})

    def _mine(self, p: Any, field: str | None = None) -> tuple[int, Tensor]:
        """(start, view) of this worker's fragment of a parameter, or of a field of its optimizer state."""
        if self.stage == 3:
            _, offset, length = self.zero.grad_position[self.zero.get_param_id(p)]
            flat = self._flat(p) if field is None else self._state(p)[field]
            start = self.rank * length
            # the last workers' parts may be filled up
            return start, flat.detach()[offset : offset + max(0, min(length, p.ds_numel - start))]
        mapping = p._hp_mapping
        if mapping is None:
            return 0, torch.empty(0)
        at = mapping.hp_fragment_address
        flat = self._flat(p) if field is None else self._state(p)[field]
        return mapping.lp_fragment_address.start, flat.detach()[at.start : at.start + at.numel]

    def _allocate(self, p: Any, whole: Whole) -> None:
        """The optimizer state of a parameter, which ZeRO allocates in the first step."""
        flat = self._flat(p)
        if flat is None:
            return
        state = self.zero.optimizer.state[flat]
        for field in whole.fields.keys() - {WEIGHT} - state.keys():
            state[field] = torch.zeros_like(flat)
        for field in whole.counts.keys() - state.keys():
            state[field] = torch.zeros((), device=flat.device)


@contextmanager
def partitioned(settings: Finetune, bf16: bool) -> Iterator[None]:
    """Within the block transformers loads models split over the workers, tensor by tensor, where the stage is 3."""
    if settings.zero < 3:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    _quiet_deepspeed()
    # `zero.Init` takes the dtype of the weights from here, not from transformers
    narrow = {"bf16": {"enabled": bf16 and settings.lora is not None}}
    kept = HfDeepSpeedConfig(_config(settings, bf16) | narrow)  # transformers has a weak reference to it
    try:
        yield
    finally:
        del kept
        unset_hf_deepspeed_config()


class _Forward(nn.Module):
    """The whole forward pass, loss included, as one module: stage 3 gathers weights when a module is called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, row: Row, share: float | None = None) -> Tensor:
        """The loss of each target, or a share of their sum."""
        kind = row.input_ids.device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):  # as in `plain`
            return row_loss(self.model, row, reduction="none") if share is None else row_loss(self.model, row) * share


def _config(settings: Finetune, bf16: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": settings.zero,
        "contiguous_gradients": True,
        "reduce_bucket_size": zero_sizes.BUCKET,
        "stage3_prefetch_bucket_size": zero_sizes.PREFETCH,
        "stage3_max_reuse_distance": zero_sizes.REUSE,
        "stage3_param_persistence_threshold": zero_sizes.WHOLE,
    }
    if settings.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "gradient_clipping": settings.clip,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
        # torch's AdamW: DeepSpeed's own is compiled on the machine, and the image has no compiler
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def _filled(rows: Sequence[Row], count: int, config: Any) -> list[Row]:
    """`count` rows, all with images: those given, and rows of two tokens for passes that count nothing."""
    tokens, first = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    nothing = Row(tokens, None, (2,), first, first, packed=True)
    return [with_blank_image(row, config) for row in [*rows, *[nothing] * (count - len(rows))]]


def _quiet_deepspeed() -> Any:
    """Import DeepSpeed without its log lines, and so that it compiles nothing."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it warns that it found none
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    ops: Mapping[str, bool] = deepspeed.ops.__compatible_ops__
    ops["deepspeed_shm_comm"] = False  # type: ignore[index]
    return deepspeed
