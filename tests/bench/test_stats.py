"""Intervals have their nominal coverage when the answers of a patient are correlated."""

import numpy as np
import pytest

from medmim.bench import stats


def clustered(rng, people, each, spread):
    """Right and wrong answers whose chance differs by patient; the true mean is 0.6."""
    effect = np.clip(0.6 + spread * rng.standard_normal(people), 0, 1)
    who = np.repeat(np.arange(people), each)
    return (rng.random(people * each) < effect[who]).astype(float), [(f"p{i}",) for i in who]


def coverage(patients_of, trials=300):
    rng = np.random.default_rng(7)
    truth = float(np.mean(np.clip(0.6 + 0.25 * rng.standard_normal(200_000), 0, 1)))
    hits = 0
    for trial in range(trials):
        values, patients = clustered(rng, 40, 8, 0.25)
        found = stats.estimate(values, patients_of(patients), 400, seed=trial)
        hits += found.low <= truth <= found.high
    return hits / trials


def test_the_clustered_interval_has_its_nominal_coverage():
    # 300 trials of probability 0.95 leave [0.912, 0.988] once in about 400 tries
    assert 0.912 <= coverage(lambda patients: patients) <= 0.988


def test_treating_rows_of_a_patient_as_independent_would_not():
    assert coverage(lambda patients: [(f"row{i}",) for i in range(len(patients))]) < 0.88


def test_items_of_several_patients_are_covered_at_least_as_often():
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(300):
        effect = 0.2 * rng.standard_normal(50)
        pairs = [rng.choice(50, 2, replace=False) for _ in range(200)]
        values = np.array([0.5 + effect[pair].mean() + 0.3 * rng.standard_normal() for pair in pairs])
        found = stats.estimate(values, [(f"p{a}", f"p{b}") for a, b in pairs], 400, seed=trial)
        hits += found.low <= 0.5 <= found.high
    assert hits / 300 >= 0.93


def test_with_one_item_per_patient_it_is_the_plain_bootstrap():
    values = np.random.default_rng(1).random(60)
    names = [f"p{i:02}" for i in range(60)]
    ours = stats.draws(values, [(name,) for name in names], 500, seed=5)
    drawn = np.random.default_rng([5, 60]).integers(0, 60, (500, 60))
    assert ours == pytest.approx(values[drawn].mean(axis=1), abs=1e-12)


def test_with_one_patient_per_item_it_is_the_cluster_bootstrap():
    rng = np.random.default_rng(2)
    who = np.sort(rng.integers(0, 25, 100))
    values = rng.random(100)
    present = np.unique(who)
    ours = stats.draws(values, [(f"p{w:02}",) for w in who], 200, seed=1)
    drawn = np.random.default_rng([1, len(present)]).integers(0, len(present), (200, len(present)))
    plain = [np.concatenate([values[who == present[i]] for i in row]).mean() for row in drawn]
    assert ours == pytest.approx(plain, abs=1e-12)


def test_the_order_of_the_rows_changes_nothing():
    rng = np.random.default_rng(4)
    values = rng.random(200)
    patients = [tuple({f"p{a}", f"p{b}"}) for a, b in rng.integers(0, 40, (200, 2))]
    order = rng.permutation(200)
    first = stats.estimate(values, patients)
    second = stats.estimate(values[order], [patients[i][::-1] for i in order])
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)
    assert (first.p, first.patients) == (second.p, second.patients)


@pytest.mark.parametrize(("people", "each", "known"), [(19, 50, False), (20, 1, True)])
def test_no_interval_under_twenty_patients(people, each, known):
    values, patients = clustered(np.random.default_rng(0), people, each, 0.1)
    found = stats.estimate(values, patients)
    assert ((found.low, found.high, found.p) == (None, None, None)) != known
    assert found.patients == people


def test_few_items_of_many_patients_have_no_interval_either():
    values = np.arange(8) % 2.0
    found = stats.estimate(values, [tuple(f"p{i}-{k}" for k in range(3)) for i in range(8)])
    assert found.patients == 24
    assert found.low is None


def test_all_right_is_not_certain():
    found = stats.estimate(np.ones(40), [(f"p{i}",) for i in range(40)])
    assert found.low == pytest.approx(0.025 ** (1 / 40))  # Clopper-Pearson at 40 of 40
    assert found.high == 1.0


def test_pairing_beats_two_intervals_when_models_agree():
    rng = np.random.default_rng(9)
    theirs, patients = clustered(rng, 60, 5, 0.3)
    ours = np.maximum(theirs, rng.random(300) < 0.1)
    found = stats.difference(ours, theirs, patients)
    unpaired = stats.estimate(ours, patients)
    assert found.low > 0 and found.p < 0.01
    assert found.high - found.low < unpaired.high - unpaired.low


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(11)
    small = 0
    for trial in range(300):
        ours, patients = clustered(rng, 40, 4, 0.0)
        theirs, _ = clustered(rng, 40, 4, 0.0)
        small += stats.difference(ours, theirs, patients, 400, seed=trial).p < 0.05
    assert small / 300 < 0.09


def test_holm_keeps_none_where_there_is_no_p_value():
    assert stats.holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert stats.holm([None]) == [None]
