"""Which optimizer gets which parameters, and the learning-rate schedules."""

import pytest

from medmim.finetune import optim
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.finetune import copy_of


def test_muon_gets_the_block_matrices_and_adamw_the_rest(lvlm: Lvlm) -> None:
    model = copy_of(lvlm).model
    adamw, muon = optim.optimizers(model, Finetune(optimizer="muon", lr=1e-3))
    names = {p: n for n, p in model.named_parameters()}
    inner = {names[p] for g in muon.param_groups for p in g["params"]}
    rest = {names[p] for g in adamw.param_groups for p in g["params"]}
    assert inner | rest == set(names.values()) and not inner & rest
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in inner
    assert "model.multi_modal_projector.linear_1.weight" in inner
    assert "model.language_model.embed_tokens.weight" in rest
    assert muon.param_groups[0]["lr"] == 2e-3


def test_weight_decay_does_not_apply_to_norms_and_biases(lvlm: Lvlm) -> None:
    (adamw,) = optim.optimizers(copy_of(lvlm).model, Finetune(weight_decay=0.1))
    assert {g["weight_decay"]: {p.ndim > 1 for p in g["params"]} for g in adamw.param_groups} == {
        0.1: {True},
        0.0: {False},
    }


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedules_warm_up_reach_the_peak_and_end_near_zero(schedule: str) -> None:
    settings = Finetune(schedule=schedule, warmup=0.1, decay_fraction=0.5)
    factors = [optim.factor(step, 100, settings) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] <= 0.02


def test_a_single_step_trains_at_full_rate() -> None:
    assert optim.factor(0, 1, Finetune()) == 1
