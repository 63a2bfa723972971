"""Every engine, whatever the workers, packing and LoRA, takes the steps of the plain loop on single samples.

What it publishes is the same model, too: of LoRA, adapters without packing, and one merged model with it.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from medmim.finetune import validation
from medmim.finetune.validation import VALIDATION
from medmim.lvlm import adapters, checkpoint, llava
from tests.support import engines
from tests.support.engines import ALL, PAIRWISE, VALUES, Case
from tests.support.finetune import steps_of

pytestmark = pytest.mark.timeout(900)


def check(root: Path, cases: Sequence[Case]) -> None:
    references = {case.reference for case in cases}
    engines.make_bases(root)
    engines.run(root, [*references, *(case for case in cases if case not in references)])
    for case in cases:
        got, want = steps_of(root / case.name), steps_of(root / case.reference.name)
        assert len(got) == engines.STEPS
        for key, most in {"loss": 1e-5, "grad_norm": 1e-3, "lr": 0, "tokens": 0}.items():
            values = [step[key] for step in got]
            assert values == pytest.approx([step[key] for step in want], rel=most, abs=most), (case.name, key)
        model, goal = published(root, case), published(root, case.reference)
        assert model.keys() == goal.keys()
        far = {name: float((model[name] - goal[name]).abs().max()) for name in goal}
        most = 1e-5 if case.lora else 5e-4  # rounding moves a weight whose second moment is almost zero
        assert max(far.values()) < most, (case.name, max(far, key=lambda name: far[name]))
        base = llava.load(root / case.family, "cpu").model.state_dict()
        moved = {name for name in base if not torch.allclose(base[name], model[name], rtol=0, atol=1e-3)}
        assert {name.split(".")[1] for name in moved} >= {"language_model", "multi_modal_projector"}, case.name
        found, plain = (validation.read(root / name / VALIDATION) for name in (case.name, case.reference.name))
        assert [v.step for v in found] == [0, engines.STEPS // 2, engines.STEPS]
        assert [(v.accuracy, v.items, v.closed) for v in found] == [(v.accuracy, 9, 6) for v in plain], case.name
        assert [v.loss for v in found] == pytest.approx([v.loss for v in plain], rel=1e-5), case.name
    lost = steps_of(root / cases[0].name)
    assert lost[-1]["loss"] < 0.95 * lost[0]["loss"]


def published(root: Path, case: Case) -> dict[str, torch.Tensor]:
    """The weights of the model that a case left, with adapters added to their base."""
    folder, base = root / case.name, root / case.family
    assert adapters.are_in(folder) == (case.lora and not case.packing)
    if adapters.are_in(folder):
        adapters.record_base(folder, str(base), checkpoint.digest(base), "/elsewhere")
    weights: dict[str, torch.Tensor] = llava.load(folder, "cpu").model.state_dict()
    return weights


def test_the_pairwise_design_has_every_pair_of_values() -> None:
    for (a, in_a), (b, in_b) in itertools.combinations(VALUES.items(), 2):
        met = {(getattr(case, a), getattr(case, b)) for case in PAIRWISE}
        assert met == set(itertools.product(in_a, in_b)), f"{a} and {b}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainings of the pairwise design but for ZeRO of one worker, checked."""
    root = tmp_path_factory.mktemp("pairwise")
    check(root, [case for case in PAIRWISE if case.workers > 1 or not case.zero])
    return root


@pytest.mark.long
def test_zero_of_one_worker_takes_the_steps_of_the_plain_loop(tmp_path: Path) -> None:
    check(tmp_path, [case for case in PAIRWISE if case.workers == 1 and case.zero])


def seen(root: Path, name: str) -> list[Any]:
    """What two workers have seen; see `engines.main`."""
    return [json.loads((root / f"{name}-{rank}.json").read_text()) for rank in range(2)]


def test_an_engine_takes_the_steps_of_the_plain_loop_and_restores_what_it_has_gathered(trained: Path) -> None:
    for worker in seen(trained, "restored"):
        assert worker["restored"] == worker["saved"] != worker["moved"]


def test_a_worker_of_zero_3_reads_its_own_part_of_a_checkpoint_only(trained: Path) -> None:
    read, of_all = zip(*((worker["read"], worker["all"]) for worker in seen(trained, "restored")), strict=True)
    assert sum(read) == of_all[0] and max(read) < 0.51 * of_all[0]


def test_also_deepspeed_s_own_process_group_waits_an_hour(trained: Path) -> None:
    assert seen(trained, "timeouts") == [[3600, 3600]] * 2


def test_zero_3_holds_a_frozen_base_in_bf16_and_gathers_fp32_adapters_unrounded(trained: Path) -> None:
    for worker in seen(trained, "bf16"):
        assert worker == {"dtypes": [], "values": [], "rounded": []}


@pytest.mark.slow  # four minutes; the pairwise design above meets every two values
@pytest.mark.parametrize("family", VALUES["family"])
def test_all_combinations_take_the_steps_of_the_plain_loop(family: str, tmp_path: Path) -> None:
    check(tmp_path, [case for case in ALL if case.family == family])
