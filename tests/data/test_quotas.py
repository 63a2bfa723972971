"""Quotas: exact counts of train questions, chosen by each question alone."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import quotas
from medmim.recipe.schema import Data
from medmim.sample import Sample


def sample(number: int, ability: str, split: str = "train") -> Sample:
    paths = (f"{number}-a", f"{number}-b")
    return Sample(ability, "order", "s", split, False, (f"p{number}",), paths, paths, "Which?", ("a", "b"), "a", (0,))


def made(counts: dict[str, int], start: int = 0, split: str = "train") -> list[Sample]:
    return [sample(start + i, ability, split) for ability, n in counts.items() for i in range(n)]


def data(quota: dict[str, int | None], total: int | None = None) -> Data:
    return Data(source="phantom", quotas=quota, total=total)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(("temporal", "reasoning", "comparison")), st.integers(0, 40)),
    st.integers(0, 250),
    st.dictionaries(st.sampled_from(("temporal", "reasoning", "comparison")), st.integers(1, 30), min_size=1),
    st.integers(91, 200),
)
def test_each_ability_gets_its_quota_and_one_the_rest(
    counts: dict[str, int], composed: int, quota: dict[str, int | None], total: int
) -> None:
    counts = {**counts, "composed": composed}
    rows = made(counts)
    half = len(rows) // 2
    left, dropped = quotas.apply([rows[:half], rows[half:]], data({**quota, "composed": None}, total))
    found = Counter(s.ability for own in left for s in own)
    for ability, number in counts.items():
        if ability == "composed":
            others = sum(min(counts.get(name, 0), limit or 0) for name, limit in quota.items())
            assert found[ability] == min(number, total - others)
        else:
            assert found[ability] == min(number, quota.get(ability, number))
        assert dropped[ability] == number - found[ability]
    assert [s for own in left for s in own] == [s for s in rows if s in {x for own in left for x in own}]


def test_dev_and_test_questions_and_other_abilities_have_no_quota() -> None:
    rows = [
        *made({"temporal": 50}), *made({"temporal": 50}, 100, "test"), *made({"temporal": 9}, 200, "dev"),
        *made({"single": 40}, 300),
    ]  # fmt: skip
    (left,), dropped = quotas.apply([rows], data({"temporal": 10}))
    assert Counter((s.split, s.ability) for s in left) == {
        ("train", "temporal"): 10, ("test", "temporal"): 50, ("dev", "temporal"): 9, ("train", "single"): 40,
    }  # fmt: skip
    assert dropped == {"temporal": 40}


def test_without_quotas_nothing_is_dropped() -> None:
    rows = made({"temporal": 50})
    assert quotas.apply([rows, []], Data(source="phantom")) == ([rows, []], Counter())


def test_further_questions_replace_few_of_the_chosen_ones_and_their_order_decides_nothing() -> None:
    rows = made({"temporal": 2_000})
    recipe = data({"temporal": 1_000})
    (before,), _ = quotas.apply([rows], recipe)
    more = [*rows, *made({"temporal": 100}, 5_000)]
    random.Random(0).shuffle(more)  # noqa: S311  an order
    (after,), _ = quotas.apply([more], recipe)
    kept = len({s.id for s in before} & {s.id for s in after})
    assert kept >= 930  # 1,000 x 2,000 / 2,100 = 952 expected
    other = Data(source="phantom", quotas={"temporal": 1_000}, seed=1)
    (elsewhere,), _ = quotas.apply([rows], other)
    assert {s.id for s in elsewhere} != {s.id for s in before}


def test_each_family_keeps_its_share() -> None:
    rows = [replace(s, family="change") if i % 4 == 0 else s for i, s in enumerate(made({"temporal": 4_000}))]
    (left,), _ = quotas.apply([rows], data({"temporal": 1_000}))
    assert 190 < sum(s.family == "change" for s in left) < 310
