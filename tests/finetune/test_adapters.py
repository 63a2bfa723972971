"""What a training with LoRA writes: adapters, or one model with them added."""

import warnings
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import LlavaForConditionalGeneration

from medmim.finetune import loop, trainable
from medmim.finetune.engines.plain import Plain
from medmim.finetune.loss import row_loss
from medmim.lvlm import adapters, checkpoint, llava, weights
from medmim.lvlm.llava import Lvlm
from medmim.lvlm.mantis import MANTIS
from medmim.recipe.schema import Finetune, Lora
from tests.support.finetune import batches


def settings(merge: bool, precision: str, projector: bool = True) -> Finetune:
    lora = Lora(rank=4, alpha=12, dropout=0.0, targets=("q_proj", "up_proj"), merge=merge, train_projector=projector)
    return Finetune.model_validate(
        {"steps": 2, "batch_size": 2, "max_tokens": 400, "lr": 0.02, "precision": precision, "lora": lora}
    )


def train(lvlm: Lvlm, chosen: Finetune, folder: Path) -> Lvlm:
    """Train from the base of a test; returns the model as training leaves it, with peft's modules."""
    held = trainable.load(lvlm.path, chosen, "cpu")
    loop.train(held, batches(held, chosen), 2, chosen, folder)
    if adapters.are_in(folder):
        adapters.record_base(folder, str(lvlm.path), checkpoint.digest(lvlm.path), "/elsewhere")
    return held


def losses(lvlm: Lvlm, model: torch.nn.Module) -> list[float]:
    """Of rows with pictures, whose sum over all logits is what is compared."""
    with torch.no_grad():
        return [float(row_loss(model, row)) for row in batches(lvlm, settings(False, "fp32"))(0).rows]


def test_what_training_holds_is_what_stock_peft_loads(lvlm: Lvlm, tmp_path: Path) -> None:
    projector = lvlm.family is MANTIS  # with and without
    held = train(lvlm, settings(False, "fp32", projector), tmp_path / "a")
    base = LlavaForConditionalGeneration.from_pretrained(lvlm.path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "a").eval()
    goal = losses(lvlm, held.model)
    assert losses(lvlm, theirs.get_base_model()) == goal
    assert losses(lvlm, llava.load(tmp_path / "a", "cpu").model) == pytest.approx(goal, rel=1e-5)
    assert losses(lvlm, lvlm.model) != pytest.approx(goal, rel=1e-3)
    names = weights.tensors(tmp_path / "a" / adapters.WEIGHTS).keys()
    assert any("multi_modal_projector" in name for name in names) == projector


@pytest.mark.parametrize("family", [MANTIS], indirect=True)  # bf16 is slow on a CPU
def test_of_a_training_in_bf16_one_model_is_bf16_and_what_adapters_make_of_the_base(lvlm: Lvlm, tmp_path: Path) -> None:
    for merge in (False, True):
        train(lvlm, settings(merge, "bf16"), tmp_path / str(merge))
    stored = weights.tensors(tmp_path / "True" / "model.safetensors")
    assert {one.dtype for one in stored.values()} == {"BF16"}
    assert llava.load_text(tmp_path / "True").config.dtype == torch.bfloat16
    one, other = (llava.load(tmp_path / name, "cpu", torch.bfloat16).model.state_dict() for name in ("True", "False"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {one.dtype for one in weights.tensors(tmp_path / "False" / adapters.WEIGHTS).values()} == {"F32"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_take_their_inputs_as_they_are_and_compute_the_same(lvlm: Lvlm, precision: str) -> None:
    chosen = settings(False, precision)
    held = trainable.load(lvlm.path, chosen, "cpu")
    trainable.prepare(held.model, chosen)
    engine = Plain(held.model, chosen, bf16=precision == "bf16")
    layers = [module for module in held.model.modules() if isinstance(module, LoraLayer)]
    kinds: set[torch.dtype] = set()
    for layer in layers:
        layer.lora_A["default"].register_forward_hook(lambda _, given, __: kinds.add(given[0].dtype))
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    batch = batches(held, chosen)(0)

    def gradients() -> list[torch.Tensor]:
        loss, _ = engine.gradients(batch)
        found = [torch.tensor(loss), *(p.grad.clone() for p in engine.params if p.grad is not None)]
        held.model.zero_grad()
        return found

    got = gradients()
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
    for layer in layers:
        layer.cast_input_dtype_enabled = True  # as peft does
    assert all(torch.equal(a, b) for a, b in zip(got, gradients(), strict=True)) and len(got) > len(layers)
