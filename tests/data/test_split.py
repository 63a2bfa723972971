"""Splits by patient, and the cohorts of patients that a question may combine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.data import split
from medmim.data.sources import phantom
from medmim.sample import Study

STUDIES = phantom.patients(400, 1)
DRAWN = {  # second letter of each split
    "covid-chestxray": "eeerrerreeeeeerreeerrrreereeer",
    "phantom-chest": "eereeeeeeerererreerereererrrrr",
}


@given(
    st.integers(0, 99), st.text(max_size=8), st.text(max_size=8), st.tuples(*[st.floats(0, 0.5)] * 2), st.floats(0, 0.5)
)
def test_a_larger_share_takes_patients_in_and_lets_none_go(
    seed: int, source: str, patient: str, tests: tuple[float, float], dev: float
) -> None:
    smaller, larger = sorted(tests)
    names = ("test", "dev", "train")  # from where a larger share takes first
    before, after = (split.assign(seed, source, patient, dev, test) for test in (smaller, larger))
    assert names.index(after) <= names.index(before)
    assert split.assign(seed, source, patient, 0, 0) == "train" and split.assign(seed, source, patient, 0, 1) == "test"


def test_seeds_draw_different_patients() -> None:
    drawn = [[split.assign(seed, "s", str(i), 0.2, 0.3) for i in range(50)] for seed in range(4)]
    assert len({tuple(own) for own in drawn}) == 4


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


def test_each_patient_is_in_one_group_and_kinds_are_not_mixed() -> None:
    splits = split.by_split(STUDIES, 0, 0.1, 0.2)
    groups, _ = split.groups(splits, 0, 0.1, 0.2, {})
    for name, patients in splits.items():
        assert sorted(o[0].patient for g in groups[name] for o in g) == sorted(o[0].patient for o in patients)
        for group in groups[name]:
            assert len({own[0].held_out for own in group}) == 1
            assert len({bool(own[0].caption) for own in group}) == 1


def test_groups_hold_contrasts_within_and_across_domains() -> None:
    groups, _ = split.groups(split.by_split(STUDIES, 0, 0.1, 0.2), 0, 0.1, 0.2, {})
    sources = [len({own[0].source for own in group}) for group in groups["train"] if len(group) > 1]
    assert sources.count(1) > 10
    assert sum(n > 1 for n in sources) > 10


@pytest.mark.parametrize("count", [32, 63, 64, 700])
def test_groups_are_small_and_few_patients_are_alone(count: int) -> None:
    studies = [Study("s", str(i), f"{i}.png", "CT") for i in range(count)]
    groups, sizes = split.groups(split.by_split(studies, 0, 0.0, 0.0), 0, 0.0, 0.0, {})
    assert sizes == {"s": 1 << (count.bit_length() - 1)}
    assert 2 < count / len(groups["train"]) < 6
    assert sum(len(group) for group in groups["train"] if len(group) == 1) < 0.2 * count


@given(st.data())
def test_who_joins_or_leaves_moves_nobody_to_another_group(data: st.DataObject) -> None:
    ids = data.draw(st.sets(st.integers(0, 999), min_size=2, max_size=60))
    gone = data.draw(st.sampled_from(sorted(ids)))
    sized = {"s": 32}

    def together(names: set[int]) -> set[frozenset[str]]:
        studies = [Study("s", str(i), f"{i}.png", "CT") for i in names]
        groups, _ = split.groups(split.by_split(studies, 0, 0.1, 0.2), 0, 0.1, 0.2, sized)
        return {frozenset(own[0].patient for own in group) - {str(gone)} for own in groups.values() for group in own}

    assert together(ids) - {frozenset()} == together(ids - {gone})


def test_a_patient_of_mimic_is_in_one_split_whatever_set_names_them() -> None:
    for number in range(10_000_000, 10_000_200):
        own = {
            split.assign(0, source, patient, 0.2, 0.3)
            for source, patient in (("MS_CXR_T", f"p{number}"), ("ms_cxr_t", str(number)), ("mmxu", f"{number}"))
        }
        assert len(own) == 1
    both = [Study("ms_cxr_t", "10000001", "a", "X-ray"), Study("MIMIC-CXR-JPG", "p10000001", "b", "X-ray")]
    assert sorted(len(own) for patients in split.by_split(both, 0, 0.1, 0.2).values() for own in patients) == [2]


def test_who_is_held_out_by_another_source_is_in_test() -> None:
    studies = [Study("mmxu", str(i), f"{i}.png", "CT") for i in range(40)]
    splits = split.by_split(studies, 0, 0.1, 0.2, {("mimic", "7"), ("mimic", "8")})
    assert {"7", "8"} <= {own[0].patient for own in splits["test"]} and len(splits["test"]) < 20


def test_patients_of_the_first_sources_stay_in_the_split_in_which_they_were() -> None:
    """Split of the first patients, as drawn before there were populations."""
    drawn = {source: "".join(split.assign(0, source, str(i), 0.2, 0.3)[1] for i in range(30))
             for source in ("covid-chestxray", "phantom-chest")}  # fmt: skip
    assert drawn == DRAWN
