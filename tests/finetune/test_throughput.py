"""FLOPs of a step agree with what torch counts, and the peak of an unknown device is not guessed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medmim.finetune import batch, throughput
from medmim.finetune.engines.plain import Plain
from medmim.lvlm.checkpoint import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.finetune import copy_of, make_encoded, make_pixels


@pytest.mark.parametrize("frozen", [True, False])
def test_flops_of_a_step_agree_with_a_count_of_its_matrix_products(lvlm: Lvlm, frozen: bool) -> None:
    model = copy_of(lvlm).model
    model.model.vision_tower.requires_grad_(not frozen)
    encoded = make_encoded(lvlm, 8)
    built = batch.build(encoded, lambda i: make_pixels(encoded[i]), max_tokens=10_000, packed=False)
    engine = Plain(model, Finetune(), bf16=False)
    with FlopCounterMode(display=False) as counter:
        engine.gradients(built)
    padding = built.rows[0].input_ids.numel() / built.tokens  # torch counts the padding, we do not
    ours = throughput.step_flops(model.config, built, frozen)
    assert 0.75 * counter.get_total_flops() / padding < ours < 1.1 * counter.get_total_flops()


def test_an_unknown_gpu_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Nothing 1")
    assert throughput.peak_flops(torch.device("cuda"), True) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert throughput.peak_flops(torch.device("cuda"), True) == 989e12
    assert throughput.peak_flops(torch.device("cuda"), False) is None


def test_a_cpus_peak_is_measured() -> None:
    peak = throughput.peak_flops(torch.device("cpu"), False)
    assert peak is not None and peak > 1e8
