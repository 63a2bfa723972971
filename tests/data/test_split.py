"""Splits by patient, and the cohorts of patients that a question may combine."""

from hypothesis import given
from hypothesis import strategies as st

from medmim.data import split
from medmim.data.sources import phantom

STUDIES = phantom.patients(400, 1)


@given(st.integers(0, 99), st.text(max_size=8), st.text(max_size=8), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_split_of_a_patient_depends_on_nothing_else(
    seed: int, source: str, patient: str, dev: float, test: float
) -> None:
    first = split.assign(seed, source, patient, dev, test)
    assert first == split.assign(seed, source, patient, dev, test)
    assert first in ("train", "dev", "test")
    if test == 0:
        assert first != "test"


def test_adding_patients_changes_no_split() -> None:
    few, many = split.by_split(STUDIES[:800], 0, 0.1, 0.2), split.by_split(STUDIES, 0, 0.1, 0.2)
    last = STUDIES[799].patient  # cut in two by the slice
    for name, patients in few.items():
        names = {own[0].patient for own in many[name]}
        assert {own[0].patient for own in patients} - {last} <= names


def test_shares_are_about_the_configured_fractions() -> None:
    splits = split.by_split(phantom.patients(3_000, 0), 0, 0.05, 0.15)
    held_in = {name: sum(not own[0].held_out for own in patients) for name, patients in splits.items()}
    total = sum(held_in.values())
    assert abs(held_in["dev"] / total - 0.05) < 0.02
    assert abs(held_in["test"] / total - 0.15) < 0.02


def test_held_out_patients_are_in_test_only() -> None:
    splits = split.by_split(STUDIES, 0, 0.1, 0.2)
    assert not any(own[0].held_out for name in ("train", "dev") for own in splits[name])
    assert any(own[0].held_out for own in splits["test"])


def test_each_patient_is_in_one_cohort_and_kinds_are_not_mixed() -> None:
    patients = split.by_split(STUDIES, 0, 0.1, 0.2)["test"]
    groups = split.cohorts(patients, 0)
    assert sorted(own[0].patient for group in groups for own in group) == sorted(own[0].patient for own in patients)
    for group in groups:
        assert 1 <= len(group) <= 3
        assert len({own[0].held_out for own in group}) == 1
        assert len({bool(own[0].caption) for own in group}) == 1


def test_cohorts_hold_contrasts_within_and_across_domains() -> None:
    groups = split.cohorts(split.by_split(STUDIES, 0, 0.1, 0.2)["train"], 0)
    sources = [len({own[0].source for own in group}) for group in groups if len(group) == 3]
    assert sources.count(1) > 10
    assert sum(n > 1 for n in sources) > 10
