"""Every engine, whatever the workers, packing and LoRA, takes the steps of the plain loop on single samples."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import engines
from tests.support.engines import ALL, PAIRWISE, VALUES, Case
from tests.support.finetune import steps_of


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
    lost = steps_of(root / cases[0].name)
    assert lost[-1]["loss"] < 0.9 * lost[0]["loss"]


def test_the_pairwise_design_has_every_pair_of_values() -> None:
    for (a, in_a), (b, in_b) in itertools.combinations(VALUES.items(), 2):
        met = {(getattr(case, a), getattr(case, b)) for case in PAIRWISE}
        assert met == set(itertools.product(in_a, in_b)), f"{a} and {b}"


def test_an_engine_takes_the_steps_of_the_plain_loop(tmp_path: Path) -> None:
    check(tmp_path, PAIRWISE)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_combinations_take_the_steps_of_the_plain_loop(tmp_path: Path) -> None:
    check(tmp_path, ALL)
