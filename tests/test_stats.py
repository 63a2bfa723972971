"""Intervals and p values agree, and hold their level where the answers of a patient are correlated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim import stats

SEEDS = st.integers(0, 2**32 - 1)


def drawn(rng, lowest):
    """Random items of random patients, from nearly all alike to half and half; 0/1, -1/0/1 or fractions."""
    items, people = int(rng.integers(20, 200)), int(rng.integers(20, 60))
    first = np.concatenate([np.arange(people), rng.integers(0, people, items)])[: max(items, people)]
    patients = tuple(
        (f"p{one}",) if rng.random() < 0.7 else (f"p{one}", f"p{rng.integers(0, people)}") for one in first
    )
    up, down = rng.random() ** 3, rng.random() ** 3
    at = rng.random(len(first))
    values = (at < up).astype(float) + lowest * ((at >= up) & (at < up + down))
    if rng.random() < 0.3:
        values = values * rng.choice([0.25, 0.5, 1.0], len(first))
    return values, patients


def correlated(rng, trials, people, each, spread):
    """0/1 answers, shape (trials, people * each), whose chance is 0.5 plus or minus `spread` for a patient."""
    chance = 0.5 + spread * rng.choice([-1, 1], (trials, people))
    return (rng.random((trials, people * each)) < np.repeat(chance, each, axis=1)).astype(float)


def one_each(people, each):
    return tuple((f"p{i}",) for i in range(people) for _ in range(each))


@settings(max_examples=200)
@given(SEEDS, st.sampled_from([0.0, -1.0]))
def test_p_is_below_a_twentieth_just_where_the_interval_excludes_nought(seed, lowest):
    values, patients = drawn(np.random.default_rng(seed), lowest)
    low, high, p = stats.intervals(values[None], stats.design(patients), lowest)
    assert (p[0] < 0.05) == (low[0] > 0 or high[0] < 0)
    assert lowest <= low[0] <= values.mean() + 1e-9 and values.mean() - 1e-9 <= high[0] <= 1
    assert low[0] < high[0]


@settings(max_examples=100)
@given(SEEDS)
def test_exchanging_the_models_mirrors_the_interval(seed):
    values, patients = drawn(np.random.default_rng(seed), -1.0)
    zero = np.zeros(len(values))
    ours, theirs = stats.difference(values, zero, patients), stats.difference(zero, values, patients)
    assert (ours.value, ours.low, ours.high) == pytest.approx((-theirs.value, -theirs.high, -theirs.low))
    assert ours.p == pytest.approx(theirs.p)


@settings(max_examples=100)
@given(SEEDS, st.sampled_from([0.0, -1.0]))
def test_no_answers_are_surer_to_be_good_than_all_right(seed, lowest):
    values, patients = drawn(np.random.default_rng(seed), lowest)
    ends = np.array([values, np.ones(len(values)), np.full(len(values), lowest)])
    low, high, _ = stats.intervals(ends, stats.design(patients), lowest)
    assert low[0] <= low[1] < 1 == high[1] and high[0] >= high[2] > lowest == low[2]


@pytest.mark.parametrize(("people", "each"), [(25, 8), (20, 50), (200, 1), (200, 5)])
def test_one_more_right_answer_is_never_worse_at_the_edge(people, each):
    patients, right = one_each(people, each), np.ones(people * each)
    lows = []
    for wrong in range(12):
        lows.append(stats.estimate(right, patients).low)
        right[wrong * each] = 0
    assert lows == sorted(lows, reverse=True)


def test_faults_that_tell_how_they_cluster_give_no_better_end_than_no_faults():
    patients, right = one_each(25, 40), np.ones(1000)
    never = stats.estimate(right, patients)
    right[:200:40] = 0  # five patients, a fault each: about uncorrelated
    seldom = stats.estimate(right, patients)
    assert seldom.low <= never.low


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_a_column_of_equal_values_is_not_certain(constant):
    found = stats.estimate(np.full(200, constant), one_each(25, 8))
    assert found.high - found.low > 0.03


def test_models_with_the_same_answers_differ_by_nought_give_or_take_equally_much():
    same = np.arange(200) % 3 / 2
    found = stats.difference(same, same, one_each(25, 8))
    assert found.low == pytest.approx(-found.high) and found.high > 0.01
    assert (found.value, found.p) == (0.0, 1.0)


def test_always_worse_is_worse_beyond_doubt_and_not_certain():
    found = stats.difference(np.zeros(200), np.ones(200), one_each(25, 8))
    assert (found.value, found.low) == (-1.0, -1.0) and -0.95 < found.high < -0.5 and found.p < 1e-6


@pytest.mark.parametrize("people", [20, 25, 200])
@pytest.mark.parametrize("skewed", [False, True])
def test_p_is_uniform_where_nothing_differs_and_patients_are_correlated(people, skewed):
    """Two models of equal accuracy, each better on patients of its own: two-sided, and each side by itself."""
    rng, trials = np.random.default_rng(people), 12_000
    each = 4
    values = correlated(rng, trials, people, each, 0.4) - correlated(rng, trials, people, each, 0.4)
    patients = one_each(people, each)
    if skewed:
        kept = np.array([rank < 1 + 3 * (person % 2) for person in range(people) for rank in range(each)])
        values, patients = values[:, kept], tuple(own for own, keep in zip(patients, kept, strict=True) if keep)
    low, high, p = stats.intervals(values, stats.design(patients), -1.0)
    assert 0.028 < np.mean(p < 0.05) < 0.0565  # 0.05 and three standard errors; 20 patients are less sure
    assert np.mean(p < 0.01) < 0.0137
    assert 0.43 < np.mean(p < 0.5) < 0.53
    assert np.mean(low > 0) == pytest.approx(np.mean(high < 0), abs=0.008)


def test_few_patients_of_unequal_size_leave_few_degrees_of_freedom():
    """A fifth of 20 patients has 16 questions each, all others one, and those of a patient are answered alike.

    Student's t with the number of questions would give p < 0.01 three times too often.
    """
    sizes = np.repeat([16, 1], [4, 16])
    values = np.repeat(np.random.default_rng(0).uniform(-1, 1, (6000, 20)), sizes, axis=1)
    patients = tuple((f"p{i}",) for i, size in enumerate(sizes) for _ in range(size))
    p = stats.intervals(values, stats.design(patients), -1.0)[2]
    assert np.mean(p < 0.05) < 0.0565 and np.mean(p < 0.01) < 0.0137


def test_treating_answers_of_a_patient_as_independent_would_reject_far_too_often():
    values = correlated(np.random.default_rng(1), 2000, 40, 8, 0.4) - 0.5
    alone = tuple((f"row{i}",) for i in range(320))
    assert np.mean(stats.intervals(values, stats.design(alone), -1.0)[2] < 0.05) > 0.25
    assert np.mean(stats.intervals(values, stats.design(one_each(40, 8)), -1.0)[2] < 0.05) < 0.07


@pytest.mark.parametrize("spread", [0.0, 0.35])
def test_items_of_two_patients_are_covered_neither_too_seldom_nor_too_often(spread):
    """Each of 60 patients changes the chance of its items by half of `spread`, up or down."""
    rng, people, trials = np.random.default_rng(3), 60, 4000
    first = np.repeat(np.arange(people), 5)
    second = (first + rng.integers(1, people, len(first))) % people
    effect = spread * rng.choice([-1, 1], (trials, people))
    chance = 0.5 + (effect[:, first] + effect[:, second]) / 2
    values = (rng.random(chance.shape) < chance).astype(float)
    patients = tuple((f"p{a}", f"p{b}") for a, b in zip(first, second, strict=True))
    low, high, _ = stats.intervals(values, stats.design(patients), 0.0)
    assert 0.94 < np.mean((low <= 0.5) & (high >= 0.5)) < 0.98


@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("shown", [1, 2])
def test_a_design_expects_the_products_and_the_variance_that_are_seen(rho, shown):
    """Normal items: an effect of each patient, in equal parts of an item's patients, and noise; 12 unequal patients."""
    rng, trials = np.random.default_rng(8), 20_000
    first = np.repeat(np.arange(12), np.arange(1, 13))
    second = (first + rng.integers(1, 12, len(first))) % 12 if shown == 2 else first
    of = stats.design(tuple((f"{a}", f"{b}") for a, b in zip(first, second, strict=True)))
    effect = rng.standard_normal((trials, 12))
    own = effect[:, first] if shown == 1 else (effect[:, first] + effect[:, second]) / np.sqrt(2)
    values = np.sqrt(rho) * own + np.sqrt(1 - rho) * rng.standard_normal(own.shape)
    deviations = values - values.mean(axis=1, keepdims=True)
    products = 0.0
    for patient in range(12):
        shows = (first == patient) | (second == patient)
        products = products + deviations[:, shows].sum(axis=1) ** 2 - (deviations[:, shows] ** 2).sum(axis=1)
    expected = (1 - rho) * of.products[0] + rho * of.products[1]
    assert expected == pytest.approx(products.mean(), abs=4 * products.std() / np.sqrt(trials))
    joined = of.items + rho * (of.joined - of.items)
    assert values.sum(axis=1).var() == pytest.approx(joined, rel=0.05)


@pytest.mark.parametrize("shown", [1, 2])
def test_degrees_of_freedom_are_those_of_the_dense_quadratic_form(shown, monkeypatch):
    """12 unequal patients: twice the squared mean of the estimated variance over its variance, by full matrices."""
    rng, rho = np.random.default_rng(8), 0.3
    monkeypatch.setattr(stats, "_WORKING", rho)
    first = np.repeat(np.arange(12), np.arange(1, 13))
    second = (first + rng.integers(1, 12, len(first))) % 12 if shown == 2 else first
    stats.designed.cache_clear()
    of = stats.design(tuple((f"{a}", f"{b}") for a, b in zip(first, second, strict=True)))
    stats.designed.cache_clear()
    people, size = np.arange(12), len(first)
    shows = ((first[:, None] == people) | (second[:, None] == people)).astype(float)
    alone, centred = np.eye(size), np.eye(size) - 1 / size
    shared = shows @ shows.T / shown
    products = shows @ shows.T - shown * alone
    means = [[np.trace(form @ centred @ c @ centred) for form in (alone, products)] for c in (alone, shared)]
    a, b = np.linalg.solve(means, [size, shared.sum()])
    form = centred @ (a * alone + b * products) @ centred @ ((1 - rho) * alone + rho * shared)
    assert of.freedom == pytest.approx(np.trace(form) ** 2 / np.trace(form @ form), rel=1e-9)


def test_faults_of_few_patients_leave_a_wider_interval_than_many_degrees_of_freedom_would():
    values = np.ones(1600)
    values[:32] = 0  # all of four patients; of 200
    found = stats.estimate(values, one_each(200, 8))
    sandwich = np.sqrt(np.sum((values - values.mean()).reshape(200, 8).sum(axis=1) ** 2)) / 1600
    assert found.high - found.low > 1.2 * 2 * 1.96 * sandwich


def test_the_longer_end_points_to_where_the_faults_are():
    worse = np.zeros(1600)
    worse[::160] = -1
    found = stats.difference(worse, np.zeros(1600), one_each(200, 8))
    assert found.value - found.low > 1.15 * (found.high - found.value)


def test_with_many_patients_it_is_the_cluster_sandwich():
    """Sizes from 1 to 9, more correlated in the larger ones: what the sandwich allows, no model of the correlation."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 10, 4000)
    who = np.repeat(np.arange(4000), sizes)
    own = 0.02 * sizes * rng.standard_normal(4000)
    values = np.clip(0.5 + own[who] + 0.15 * rng.standard_normal(len(who)), 0, 1)
    sums = np.bincount(who, values - values.mean())
    found = stats.estimate(values, tuple((f"p{w}",) for w in who))
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(np.sum(sums**2)) / len(who), rel=0.01)


def test_one_item_a_patient_is_student_s_interval():
    """But for the pseudo-items, whose part shrinks with the number of items."""
    values = np.random.default_rng(1).random(2000)
    found = stats.estimate(values, one_each(2000, 1))
    half = 1.961 * values.std(ddof=1) / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-4)


def test_a_patient_shown_twice_in_an_item_is_one():
    values = np.random.default_rng(5).random(80)
    patients = one_each(40, 2)
    assert stats.estimate(values, [own * 2 for own in patients]) == stats.estimate(values, patients)


def test_the_order_of_the_rows_changes_nothing():
    rng = np.random.default_rng(4)
    values = rng.random(200)
    patients = [tuple({f"p{a}", f"p{b}"}) for a, b in rng.integers(0, 40, (200, 2))]
    order = rng.permutation(200)
    first = stats.estimate(values, patients)
    second = stats.estimate(values[order], [patients[i][::-1] for i in order])
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)
    assert first.p == pytest.approx(second.p) and first.patients == second.patients


def test_items_that_all_show_all_patients_have_a_wide_interval():
    """Their correlation cannot be told from each other: there is one cluster."""
    everyone = [tuple(f"p{i}" for i in range(20))] * 30
    found = stats.estimate(np.arange(30) % 2.0, everyone)
    assert found.high - found.low > 0.5


@pytest.mark.parametrize(("people", "each", "known"), [(19, 50, False), (20, 1, True)])
def test_no_interval_under_twenty_patients(people, each, known):
    found = stats.estimate(np.arange(people * each) % 2.0, one_each(people, each))
    assert ((found.low, found.high, found.p) == (None, None, None)) != known
    assert found.patients == people


def test_few_items_of_many_patients_have_no_interval_either():
    values = np.arange(8) % 2.0
    found = stats.estimate(values, [tuple(f"p{i}-{k}" for k in range(3)) for i in range(8)])
    assert found.patients == 24
    assert found.low is None


def test_pairing_beats_two_intervals_when_models_agree():
    rng = np.random.default_rng(9)
    theirs = correlated(rng, 1, 60, 5, 0.3)[0]
    ours = np.maximum(theirs, rng.random(300) < 0.1)
    found = stats.difference(ours, theirs, one_each(60, 5))
    unpaired = stats.estimate(ours, one_each(60, 5))
    assert found.low > 0 and found.p < 0.05
    assert found.high - found.low < unpaired.high - unpaired.low


def test_holm_keeps_none_where_there_is_no_p_value():
    assert stats.holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert stats.holm([None]) == [None]


def test_holm_never_ranks_a_larger_p_before_a_smaller_one():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 0.04 alone would be 0.04


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    corrected = stats.holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected, ordered = 0, sorted(p_values)
        while rejected < len(ordered) and ordered[rejected] * (len(ordered) - rejected) < level:
            rejected += 1
        assert sum(p < level for p in corrected) == rejected


def test_items_of_several_patients_who_share_none_are_independent() -> None:
    several = [3, 3, 2, 2, 1, 1, 1, 1, 4, 3, 4, 3, 3, 4, 3, 3, 3, 3, 4, 2, 4, 3, 1, 2, 4, 3, 1, 4, 3, 4, 1, 1, 4, 1, 3]
    patients = [[f"{item}-{i}" for i in range(count)] for item, count in enumerate([*several, 1, 2])]
    values = np.arange(len(patients)) % 2 * 1.0
    alone = stats.estimate(values, [[own[0]] for own in patients])
    found = stats.estimate(values, patients)
    assert found.low == pytest.approx(alone.low, abs=0.02)  # but for the degrees of freedom
    assert found.patients == sum(several) + 3
