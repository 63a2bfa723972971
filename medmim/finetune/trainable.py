"""The base as training holds it: which weights are trained, in what precision, split over the workers or not."""

import difflib
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from medmim.errors import UserError
from medmim.lvlm import llava
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune, Lora

_PROJECTOR = "multi_modal_projector"


def computes_in_bf16(settings: Finetune, device: torch.device | str) -> bool:
    """Whether passes are computed in bf16 on a device."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()


def load(path: Path, settings: Finetune, device: str) -> Lvlm:
    """Load a base to train it; with `zero: 3` a worker gets its part of each weight.

    Weights that are trained are fp32: bf16 would round away the small updates of a fine-tuning. Those that are frozen
    under LoRA are bf16 where the passes are.

    Raises:
        UserError: As `llava.load` does.
    """
    bf16 = computes_in_bf16(settings, device)
    split: Any = nullcontext()
    if settings.zero == 3:
        from medmim.finetune.engines.deepspeed import partitioned

        split = partitioned(settings, bf16)
    with split:
        return llava.load(path, device, torch.bfloat16 if bf16 and settings.lora else torch.float32)


def prepare(model: Any, settings: Finetune) -> Any:
    """Choose what is trained of a model: in place.

    Args:
        model: `LlavaForConditionalGeneration`.
        settings: LoRA, frozen tower, activation checkpointing, seed.

    Returns:
        With LoRA, the `PeftModel` around the same model; else None.

    Raises:
        UserError: `finetune.lora.targets` names no layer.
    """
    if settings.freeze_vision:
        model.model.vision_tower.requires_grad_(False)
    adapted = None if settings.lora is None else _with_adapters(model, settings.lora, settings.seed)
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # transformers makes embeddings and pixels ask for gradients, as only the reentrant kind needs it: a frozen
        # tower would be computed again, and passed backwards through
        model.disable_input_require_grads()
    return adapted


def _with_adapters(model: Any, lora: Lora, seed: int) -> Any:
    import peft
    from peft.tuners.lora import LoraLayer

    layers = [
        name
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, torch.nn.Linear) and name
    ]
    known = sorted({name.rpartition(".")[2] for name in layers})
    absent = [target for target in lora.targets if target not in known]
    if absent:
        problems = [
            f"{target}: did you mean {' or '.join(near)}?" if near else f"{target}: no layer has a similar name"
            for target in absent
            for near in [difflib.get_close_matches(target, known, 3)]
        ]
        raise UserError(
            "finetune.lora.targets names layers that the decoder does not have",
            reason=f"its layers are: {', '.join(known)}",
            fix="correct finetune.lora.targets",
            problems=problems,
        )
    torch.manual_seed(seed)  # equal adapters on all workers, and after a resume
    targets = "|".join(re.escape(target) for target in lora.targets)
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=rf".*language_model\..*\.({targets})",
            modules_to_save=[_PROJECTOR] if lora.train_projector else None,
        ),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in adapted.modules():
        if isinstance(module, LoraLayer):  # else each input is widened to fp32, for autocast to narrow it again
            module.cast_input_dtype_enabled = False
    return adapted
