"""FLOPs of a step agree with what torch counts, and the peak of an unknown device is not guessed."""

import time
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from medmim.finetune import attention, batch, throughput, trainable
from medmim.finetune.engines.plain import Plain
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune, Lora
from tests.support.finetune import copy_of, make_encoded, make_pixels

LORA = Lora(rank=16)


def products(lvlm: Lvlm, settings: Finetune) -> tuple[dict[str, Any], float]:
    """FLOPs of a step: as torch counts its matrix products, module by module, and as we say."""
    model = copy_of(lvlm).model
    trainable.prepare(model.train(), settings)
    encoded = [one for one in make_encoded(lvlm, 8) if one.images]
    built = batch.build(encoded, lambda i: make_pixels(encoded[i]), max_tokens=10_000)
    engine = Plain(model, settings, bf16=False)
    # torch knows the products of this kernel only, of those that a CPU has
    with sdpa_kernel(SDPBackend.MATH), attention.packed(model), FlopCounterMode(display=False) as counter:
        engine.gradients(built)
    return counter.get_flop_counts(), throughput.step_flops(model.config, built, settings)


def counted(lvlm: Lvlm, settings: Finetune) -> tuple[int, float]:
    """FLOPs of a step, as torch counts them and as we say."""
    found, ours = products(lvlm, settings)
    scores = torch.ops.aten.bmm
    elsewhere = sum(found[f"LlavaModel.{name}"].get(scores, 0) for name in ("vision_tower", "multi_modal_projector"))
    # half of what that kernel computes of a causal score is thrown away
    return sum(found["Global"].values()) - (found["Global"][scores] - elsewhere) // 2, ours


@pytest.mark.parametrize("lora", [None, LORA, Lora(rank=8, targets=("q_proj", "down_proj"))])
@pytest.mark.parametrize("frozen", [True, False])
def test_flops_of_a_step_are_those_of_the_products_that_autograd_needs(
    lvlm: Lvlm, frozen: bool, lora: Lora | None
) -> None:
    found, ours = counted(lvlm, Finetune(freeze_vision=frozen, lora=lora))
    assert ours == found


def test_without_a_trained_projector_only_the_first_layer_is_counted_too_high(lvlm: Lvlm) -> None:
    found, ours = counted(lvlm, Finetune(lora=LORA.model_copy(update={"train_projector": False})))
    assert found < ours < 1.05 * found  # one of two layers


@pytest.mark.parametrize("lora", [None, LORA])
def test_activation_checkpointing_repeats_the_decoder_only_and_is_not_counted(lvlm: Lvlm, lora: Lora | None) -> None:
    plain, ours = products(lvlm, Finetune(lora=lora))
    again, same = products(lvlm, Finetune(lora=lora, activation_checkpointing=True))
    assert ours == same
    assert again["LlavaModel.vision_tower"] == plain["LlavaModel.vision_tower"]
    assert sum(again["Global"].values()) > 1.2 * sum(plain["Global"].values())


def test_an_unknown_gpu_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Nothing 1")
    assert throughput.peak_flops(torch.device("cuda"), True) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert throughput.peak_flops(torch.device("cuda"), True) == 989e12
    assert throughput.peak_flops(torch.device("cuda"), False) is None


@pytest.mark.parametrize("bf16", [False, True])
def test_a_cpus_peak_is_measured_at_once_also_without_instructions_for_bf16(bf16: bool) -> None:
    throughput._measured_peak.cache_clear()
    begin = time.process_time()
    peak = throughput.peak_flops(torch.device("cpu"), bf16)
    assert peak is not None and peak > 1e8
    assert time.process_time() - begin < 3
