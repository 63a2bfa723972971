"""The canary's rule: numerical noise passes, a changed engine does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medmim.bench import probes
from medmim.nightly import canary
from medmim.nightly.canary import Canary
from medmim.sample import Answer

from tests.support.bench import samples  # isort: skip


def made(asked: int, changed: int) -> Canary:
    return Canary(asked, tuple(map(str, range(changed))))


def p(asked: int, changed: int, last: list[tuple[int, int]] | None = None, noise: float = 0.01) -> float:
    return canary.p_values({"base": made(asked, changed)}, {"base": last or []}, noise)["base"]


@given(st.integers(1, 300), st.integers(0, 300), st.floats(0, 0.5))
def test_nothing_changed_is_no_drift_and_more_changes_are_no_less_a_drift(asked: int, n: int, noise: float) -> None:
    changed = min(asked, n)
    assert p(asked, 0, noise=noise) == 1
    assert 0 <= p(asked, changed, noise=noise) <= 1
    assert p(asked, min(asked, changed + 1), noise=noise) <= p(asked, changed, noise=noise)


def test_noise_at_its_bound_is_seldom_taken_for_drift() -> None:
    """Exact: over all counts that noise can give tonight, with the nights before at their mean."""
    false = sum(binom.pmf(k, 100, 0.01) for k in range(101) if p(100, k, [(1300, 13)]) < 0.01)
    assert false < 0.01


def test_a_drift_of_a_tenth_is_seen_tonight_and_of_a_thirtieth_within_two_weeks() -> None:
    caught = sum(binom.pmf(k, 100, 0.1) for k in range(101) if p(100, k) < 0.01)
    assert caught > 0.9
    assert p(100, 3, [(100, 3)] * 13) < 0.01 < p(100, 3)


def test_without_noise_one_changed_byte_is_drift() -> None:
    assert p(100, 1, noise=0.0) == 0


def test_many_models_are_corrected_for() -> None:
    many = canary.p_values({str(i): made(100, 5) for i in range(10)}, {}, 0.01)
    assert min(many.values()) == pytest.approx(10 * p(100, 5))


def test_bytes_are_compared_and_an_engines_error_is_no_answer() -> None:
    def said(name: str, text: str, status: str = "parsed") -> Answer:
        return Answer(name, "none", "", text, None, status, "no" if status == "error" else None)  # type: ignore[arg-type]

    known = [said("a", "A"), said("b", "B"), said("c", "", "error"), said("d", "D")]
    anew = [said("a", "A "), said("b", "B"), said("c", "C"), said("d", "", "error")]
    assert canary.compare(known, anew) == Canary(2, ("a",))


def test_another_night_draws_other_questions_and_the_same_night_the_same() -> None:
    asked = samples()
    draws = [[s.id for s in probes.select(asked, probes.canary(f"2026-06-{day:02}", 10))] for day in range(1, 31)]
    assert all(len(draw) == 10 for draw in draws) and len({tuple(draw) for draw in draws}) == 30
    assert {name for draw in draws for name in draw} == {sample.id for sample in asked}
    assert probes.select(asked[::-1], probes.canary("2026-06-01", 10))[::-1] == probes.select(
        asked, probes.canary("2026-06-01", 10)
    )
    assert probes.select(asked, probes.canary("2026-06-01", 1000)) == asked
