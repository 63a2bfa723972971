"""The simulations of docs/statistics.md, in small: their goals can be missed, and are met."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medmim import stats


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


coverage, gate_power = script("coverage"), script("gate_power")


def test_the_simulated_chances_have_the_mean_and_the_correlation_that_they_are_named_by() -> None:
    means = np.array([0.1, 0.2, 0.7])
    drawn = coverage._dirichlet(np.random.default_rng(0), 4000, 20, means, 0.3)
    assert drawn.mean(axis=(0, 1)) == pytest.approx(means, abs=0.005)
    assert drawn[..., 0].var() == pytest.approx(0.3 * 0.1 * 0.9, rel=0.05)


def test_a_row_meets_its_goals_and_misses_them_with_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = list(coverage._cells(50, False, 1, 0.3, 400))
    assert not [goal for cell in cells for goal in cell.missed()]
    monkeypatch.setattr(stats, "_correlation", lambda deviations, squares, sums, of: np.zeros(len(squares)))
    cells = list(coverage._cells(50, False, 1, 0.3, 400))
    assert {goal for cell in cells for goal in cell.missed()} == {"under 93%", "size over 5.5%"}


def test_a_cell_is_judged_beyond_its_simulation_error() -> None:
    cell = coverage.Cell(200, False, 1, 0.1, "accuracy", 0.5, 0.95, 0.0, 20_000)
    assert list(cell.missed()) == [] == list(replace(cell, covered=0.929).missed())
    assert list(replace(cell, covered=0.92).missed()) == ["under 93%"]
    assert not cell.wide and replace(cell, covered=0.98).wide
    assert not any(replace(cell, covered=0.98, **other).wide for other in ({"share": 0.05}, {"patients": 20}))
    assert list(replace(cell, kind="null", rejected=0.065).missed()) == ["size over 5.5%"]


def test_the_gate_promotes_a_gain_and_neither_an_equal_model_nor_a_loss() -> None:
    rates = {
        name: gate_power.promoted(np.random.default_rng(3), 60, *candidate[:3])["interval"]
        for name, candidate in gate_power.CANDIDATES.items()
    }
    assert rates.pop("gains 8") > 0.75
    assert max(rates.values()) < 0.15


def test_the_nightly_alarm_sees_a_loss_and_not_the_noise() -> None:
    assert gate_power.alarms(np.random.default_rng(0), 10, 0, gate_power.GAIN) == 1
    assert gate_power.alarms(np.random.default_rng(0), 10, 0, 0.0) == 0
