"""Which kernel a packed row takes: the flash kernel in half precision on a GPU, whatever dtype reaches us."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from medmim.finetune import attention, loop
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.attention import documented
from tests.support.finetune import batches, copy_of, losses, set_dropout

SETTINGS = Finetune(batch_size=8, max_tokens=10_000, lr=1e-3, freeze_vision=False, precision="bf16")
GPU = torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def train(lvlm: Lvlm, folder: Path, settings: Finetune = SETTINGS) -> tuple[list[float], int]:
    """The losses of two steps, and how many times attention was computed in them."""
    tuned = copy_of(lvlm)
    calls: list[int] = []
    for layer in tuned.model.model.language_model.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    loop.train(tuned, batches(tuned, settings), 2, settings, folder)
    return losses(folder), len(calls)


@pytest.mark.parametrize(("precision", "dropout"), [("bf16", 0.0), ("fp32", 0.0), ("bf16", 0.1)])
def test_under_autocast_every_layer_would_take_the_flash_kernel_of_a_gpu(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dropout: float
) -> None:
    real, on_gpu = attention.flash, []

    def flash(device: str, dtype: torch.dtype, dropout: float) -> bool:
        on_gpu.append(real("cuda", dtype, dropout))
        return real(device, dtype, dropout)

    monkeypatch.setattr(attention, "flash", flash)
    own = copy_of(lvlm)
    set_dropout(own, dropout)
    _, calls = train(own, tmp_path, SETTINGS.model_copy(update={"precision": precision}))
    assert calls == 2 * lvlm.model.config.text_config.num_hidden_layers
    assert on_gpu == [precision == "bf16" and not dropout] * calls


def test_the_flash_kernel_gets_what_its_documentation_asks_for(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a kernel of the documented meaning stands in for it: the losses are those of the other way."""
    want, calls = train(lvlm, tmp_path / "sdpa")
    taken = counted(monkeypatch, documented)
    monkeypatch.setattr(attention, "flash", lambda device, dtype, dropout: dtype == torch.bfloat16)
    assert train(lvlm, tmp_path / "flash")[0] == pytest.approx(want, rel=2e-2)
    assert len(taken) == calls


@pytest.mark.cuda
@pytest.mark.skipif(not GPU, reason="needs a GPU with bfloat16")
def test_on_a_gpu_every_layer_takes_the_flash_kernel(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = copy_of(lvlm)
    own.model.cuda()
    with monkeypatch.context() as patch:
        patch.setattr(attention, "flash", lambda *_: False)
        want, _ = train(own, tmp_path / "sdpa")
    taken = counted(monkeypatch, varlen.varlen_attn)
    found, calls = train(own, tmp_path / "flash")
    assert found == pytest.approx(want, rel=2e-2)
    assert len(taken) == calls


def counted(monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Any]) -> list[int]:
    """A list that gets longer by one with each call of the kernel."""
    taken: list[int] = []

    def count(*arguments: Any, **named: Any) -> Any:
        taken.append(1)
        return kernel(*arguments, **named)

    monkeypatch.setattr(varlen, "varlen_attn", count)
    return taken
