"""Abilities: every answer follows from the studies, and answers are balanced."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.data import split
from medmim.data.abilities import BY_NAME, PATIENTS, ask_all
from medmim.data.abilities.ask import FIXED_OPTIONS, Ask, balance, value
from medmim.data.seeds import stream
from medmim.data.sources import phantom
from medmim.sample import ABILITIES, Finding, Study

STUDIES = phantom.patients(600, 3)
SIZES = ("small", "medium", "large")


@pytest.fixture(scope="module")
def asks() -> list[Ask]:
    groups, _ = split.groups(split.by_split(STUDIES, 0, 0.1, 0.2), 0, 0.1, 0.2, {})
    asked = {name: ask_all(own, ABILITIES, phantom.FAMILIES, 0) for name, own in groups.items()}
    return [ask for own in balance(asked, 0)[0].values() for ask in own]


def study(patient: str = "p", time: float | None = 0.0, **more: Any) -> Study:
    return Study("s", patient, f"{patient}-{time}-{more}", more.pop("modality", "X-ray"), time, **more)


def shows(name: str, size: str | None = None, side: str | None = None) -> tuple[Finding, ...]:
    return (Finding(name, size, side),)


def test_every_ability_is_implemented() -> None:
    assert tuple(BY_NAME) == ABILITIES


def test_the_answer_is_always_offered_once(asks: list[Ask]) -> None:
    for ask in asks:
        assert ask.family == "describe" or ask.options.count(ask.answer) == 1
        assert len(set(ask.options)) == len(ask.options)


def test_every_answer_follows_from_what_the_images_show(asks: list[Ask]) -> None:
    seen = set()
    for ask in asks:
        seen.add(ask.family)
        first, last = ask.studies[0], ask.studies[-1]
        kind, _, attribute = ask.family.partition("_")
        if kind == "which":
            right = [f"image {i + 1}" for i, s in enumerate(ask.studies) if value(s, attribute) == ask.about["value"]]
            assert right == [ask.answer]
        elif kind == "what" and ask.ability != "single":
            assert value(ask.studies[int(ask.about["image"][-1]) - 1], attribute) == ask.answer
        elif kind == "what":
            assert value(first, attribute) == ask.answer
        elif ask.family == "same_finding":
            assert (value(first, "finding") == value(last, "finding")) == (ask.answer == "same")
        elif ask.family in ("change", "larger", "resection"):
            before, after = (SIZES.index(s.findings[0].size or "") if s.findings else -1 for s in (first, last))
            sign = (after > before) - (after < before)
            expected = {
                "change": ("stable", "worse", "improved"),
                "larger": ("same size", "image 2", "image 1"),
                "resection": ("unchanged", "", "resected" if after == -1 else "partial"),
            }
            assert ask.answer == expected[ask.family][sign]
        elif ask.family == "assessment":
            size, margin = value(first, "size"), value(first, "margin")
            table = {"smooth": ("benign", "indeterminate"), "spiculated": ("suspicious", "malignant")}
            assert ask.answer == (table[margin][size != "small"] if margin else "negative")
            assert {s.view for s in ask.studies} == {"CC", "MLO"}
    assert seen == set(phantom.FAMILIES)


def right(ask: Ask, studies: tuple[Study, ...]) -> str:
    """The right answer for these images, derived without the ability."""
    kind, _, attribute = ask.family.partition("_")
    if kind == "which":
        return next(f"image {i + 1}" for i, s in enumerate(studies) if value(s, attribute) == ask.about["value"])
    if kind == "what":
        return str(value(studies[int(ask.about["image"][-1]) - 1], attribute))
    if ask.family == "order":
        times = [s.time or 0.0 for s in studies]
        return f"image {times.index(min(times) if ask.about['value'] == 'first' else max(times)) + 1}"
    first, last = (SIZES.index(s.findings[0].size or "") for s in studies)
    words = {"change": ("stable", "worse", "improved"), "larger": ("same size", "image 2", "image 1")}
    return words[ask.family][(last > first) - (last < first)]


def test_the_swapped_answer_is_right_for_the_moved_images_and_moving_them_round_leads_back(asks: list[Ask]) -> None:
    seen = set()
    by_patient = [[s for s in STUDIES if s.patient == name] for name in {s.patient for s in STUDIES[:300]}]
    asked = (a for own in by_patient for a in BY_NAME["temporal"]([own], stream(0)))
    orders = [a for a in asked if a.family == "order"]  # phantoms ask none
    for ask in (*asks, *orders):
        if ask.swapped is not None:
            seen.add((ask.family, len(ask.studies)))
            moved = [(*ask.studies[-n:], *ask.studies[:-n]) for n in range(len(ask.studies) + 1)]
            answers = [right(ask, studies) for studies in moved]
            assert answers[:2] == [ask.answer, ask.swapped] and answers[-1] == ask.answer
            assert ask.swapped in ask.options
            assert len(set(answers)) == len(ask.studies)  # no answer that stays put is right in two orders
    assert {("order", 2), ("change", 2), ("larger", 2), ("which_finding", 3), ("what_caption", 3)} <= seen


def test_only_where_moving_the_images_changes_the_answer_is_there_a_swapped_one(asks: list[Ask]) -> None:
    for ask in asks:
        kind = ask.family.partition("_")[0]
        moves = kind in ("which", "what") and ask.ability != "single" or ask.family == "order"
        moves |= ask.family in ("change", "larger") and ask.answer not in ("stable", "same size")
        assert (ask.swapped is not None) == moves


def changes(**golds: int) -> list[Ask]:
    """Questions of change, as many of each right answer."""
    return [
        Ask("temporal", "change", (study(f"{gold}{i}"), study(f"{gold}{i}", 9.0)), FIXED_OPTIONS["change"], gold)
        for gold, number in golds.items()
        for i in range(number)
    ]


@given(st.fixed_dictionaries({gold: st.integers(0, 90) for gold in FIXED_OPTIONS["change"]}))
def test_a_frequent_answer_is_capped_and_the_others_are_kept(golds: dict[str, int]) -> None:
    asked = changes(**golds)
    kept, dropped = balance({"train": asked[::2], "test": asked[1::2]}, 0)
    left = Counter(ask.answer for own in kept.values() for ask in own)
    assert sum(dropped.values()) == len(asked) - left.total()
    assert set(left) == {gold for gold, number in golds.items() if number}
    numbers = sorted(number for number in golds.values() if number)
    median = numbers[(len(numbers) - 1) // 2] if numbers else 0
    for gold, number in golds.items():
        if number <= median:
            assert left[gold] == number
        if number > 60 and median:  # not by chance far above the cap
            assert left[gold] <= 1.25 * median + 2 * median**0.5 + 3 * number**0.5


def test_the_cap_is_a_quarter_above_the_median_and_chance() -> None:
    """1.25 x 1,000 + 2 x root of 1,000 = 1,313, which is 0.5^(6/4) of 3,714: a step of shares, so the cap itself."""
    left = Counter(
        ask.answer for ask in balance({"train": changes(improved=1000, stable=3714, worse=1000)}, 0)[0]["train"]
    )
    assert left["improved"] == left["worse"] == 1000
    assert abs(left["stable"] - 1313) < 3 * 1313**0.5


def test_an_answer_that_never_occurs_ends_no_family() -> None:
    kept, dropped = balance({"test": changes(improved=30, worse=30)}, 0)
    assert len(kept["test"]) == 60 and dropped == {}


def test_every_answer_of_every_split_is_kept_at_least_once() -> None:
    same = [Ask("comparison", "same_finding", (study(str(i)), study(f"{i}b")), ("same", "different"), answer)
            for i, answer in enumerate(["different"] + ["same"] * 400)]  # fmt: skip
    for seed in range(20):
        kept, dropped = balance({"train": same[:-3], "dev": same[-3:-2], "test": same[-2:]}, seed)
        assert len(kept["dev"]) == 1 and kept["test"]
        assert dropped["same_finding"] > 350


def test_no_answer_of_phantoms_is_right_much_more_often_than_a_guess() -> None:
    groups, _ = split.groups(split.by_split(STUDIES, 0, 0.0, 0.3), 0, 0.0, 0.3, {})
    kept, _ = balance({name: ask_all(own, ABILITIES, phantom.FAMILIES, 0) for name, own in groups.items()}, 0)
    for own in kept.values():
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for ask in own:
            if ask.family in FIXED_OPTIONS:
                counts[ask.family][ask.answer] += 1
        for family, golds in counts.items():
            assert set(golds) == set(FIXED_OPTIONS[family])
            assert max(golds.values()) / golds.total() < 1 / len(golds) + 0.1


def test_time_runs_forward_and_eyes_are_not_mixed_in_questions_of_change(asks: list[Ask]) -> None:
    for ask in asks:
        if ask.family == "change":
            first, second = ask.studies
            assert first.patient == second.patient
            assert (first.time or 0) < (second.time or 0)
            assert first.laterality == second.laterality


def test_composed_uses_each_image_of_another_patient(asks: list[Ask]) -> None:
    for ask in asks:
        if ask.ability == "composed":
            assert len({s.patient for s in ask.studies}) == len(ask.studies)
            assert all(s.caption for s in ask.studies)


def test_multi_image_abilities_show_two_or_three_images_and_single_shows_one(asks: list[Ask]) -> None:
    assert {len(a.studies) for a in asks if a.ability == "single"} == {1}
    assert {len(a.studies) for a in asks if a.ability != "single"} == {2, 3}


def test_families_that_a_source_cannot_answer_are_not_asked() -> None:
    cohort = [[s for s in STUDIES if s.patient == STUDIES[0].patient]]
    assert {a.family for a in ask_all([cohort], ABILITIES, ("describe",), 0)} == {"describe"}


def test_order_needs_two_known_times_and_names_the_right_image() -> None:
    patient = [study(time=30.0), study(time=0.0), study(time=None), study(patient="p", time=30.0, view="L")]
    asked = [a for a in BY_NAME["temporal"]([patient], stream(0)) if a.family == "order"]
    assert len(asked) == 1
    times = [s.time for s in asked[0].studies]
    wanted = min if asked[0].about["value"] == "first" else max
    assert asked[0].answer == f"image {times.index(wanted(t for t in times if t is not None)) + 1}"


def test_same_patient_pairs_are_never_compared_when_sides_or_findings_differ() -> None:
    patient = [
        study(time=0.0, findings=shows("opacity", "small", "left")),
        study(time=9.0, findings=shows("opacity", "large", "right")),
        study(time=19.0, findings=shows("effusion", "large", "left")),
        study(time=29.0, findings=(*shows("opacity", "large", "left"), *shows("effusion", "large", "left"))),
    ]
    families = {a.family for a in BY_NAME["temporal"]([patient], stream(0))}
    families |= {a.family for a in BY_NAME["comparison"]([patient], stream(0))}
    assert not families & {"change", "larger"}


def test_diagnosis_offers_the_findings_of_two_exams_and_shows_one_of_them() -> None:
    ill = [study("a", view=v, findings=shows("pneumonia")) for v in ("PA", "L")]
    well = [study("b", view=v) for v in ("PA", "L")]
    answers = set()
    for seed in range(20):
        (ask,) = [a for a in BY_NAME["reasoning"]([ill, well], stream(seed)) if a.family == "diagnosis"]
        assert set(ask.options) == {"pneumonia", "normal"}
        assert {s.patient for s in ask.studies} == ({"a"} if ask.answer == "pneumonia" else {"b"})
        answers.add(ask.answer)
    assert len(answers) == 2


def test_each_breast_is_asked_about_on_its_own() -> None:
    rows = [("CC", "left", "benign"), ("CC", "right", "malignant"), ("MLO", "right", "malignant"),
            ("MLO", "left", "benign")]  # fmt: skip
    patient = [study(view=view, laterality=side, rating=rating) for view, side, rating in rows]
    asked = list(BY_NAME["reasoning"]([patient], stream(0)))
    assert {(a.answer, {s.laterality for s in a.studies}.pop()) for a in asked} == {
        ("benign", "left"),
        ("malignant", "right"),
    }
    assert all(len({s.laterality for s in a.studies}) == 1 and len(a.studies) == 2 for a in asked)


def test_exams_of_one_day_are_apart_where_they_have_names_and_views_that_disagree_are_not_asked_about() -> None:
    patient = [study(view=view, exam=exam, rating=rating) for view, exam, rating in (
        ("CC", "a", "benign"), ("MLO", "b", "malignant"), ("MLO", "a", "benign"), ("CC", "c", "benign"),
        ("MLO", "c", "negative"))]  # fmt: skip
    (first, second) = [a for a in BY_NAME["reasoning"]([patient], stream(0)) if a.family == "assessment"]
    assert {s.exam for s in (*first.studies, *second.studies)} == {"a"} and first.answer == "benign"
    late = [replace(s, time=float(i)) for i, s in enumerate(patient) if s.exam == "a"]
    assert len(list(BY_NAME["reasoning"]([late], stream(0)))) == 2


def test_a_cohort_of_two_asks_nothing_that_one_of_them_would_do_for() -> None:
    groups, _ = split.groups(split.by_split(STUDIES, 0, 0.1, 0.2), 0, 0.1, 0.2, {})
    for ask in (a for own in groups["test"] for pair in combinations(own, 2) for name in ABILITIES
                if 2 in PATIENTS[name] for a in BY_NAME[name](pair, stream(1))):  # fmt: skip
        assert ask.ability == "single" or len({s.patient for s in ask.studies}) == 2 or ask.family == "diagnosis"


def test_without_captions_nothing_is_composed() -> None:
    cohort = [[replace(s, caption=None)] for s in STUDIES if s.caption][:3]
    assert not list(BY_NAME["composed"](cohort, stream(0)))
