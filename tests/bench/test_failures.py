"""Questions that ended in an error, and models that answer nothing, are told of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.bench import failures
from medmim.sample import Answer


def answer(error="", text="A"):
    return Answer("id", "none", "key", "" if error else text, None, "error" if error else "parsed", error)


def test_a_model_that_answers_everything_gives_no_row_and_no_warning():
    assert failures.summary("tuned", {"none": [answer(), answer(text="")], "blind": [answer(), None]}) == []
    assert failures.warnings({"leaderboard": []}) == []


@given(st.lists(st.sampled_from(["", *"abcdef"]), min_size=1), st.lists(st.sampled_from(["", *"abcdef"])))
def test_every_error_is_counted_and_the_most_frequent_reasons_come_first(asked, blind):
    rows = failures.summary("m", {"none": map(answer, asked), "blind": map(answer, blind)})
    errors = [error for error in [*asked, *blind] if error]
    assert bool(rows) == bool(errors)
    for row in rows:
        counts = [one["questions"] for one in row["reasons"]]
        assert (row["errors"], row["asked"], row["empty"]) == (len(errors), len(asked) + len(blind), False)
        assert counts == [errors.count(one["reason"]) for one in row["reasons"]] == sorted(counts, reverse=True)
        others = {errors.count(error) for error in set(errors) - {one["reason"] for one in row["reasons"]}}
        assert not others or max(others) <= min(counts)
        (warning,) = failures.warnings({"failures": rows})
        assert f"m: {len(errors)} of " in warning and all(f": {one['reason']}" in warning for one in row["reasons"])
        assert ("others" in warning) == bool(others)


def test_reasons_that_differ_in_their_numbers_only_are_one():
    errors = [answer(f"the question has {n:,} tokens") for n in (4100, 5200, 900)]
    (row,) = failures.summary("m", {"none": errors})
    assert row["reasons"] == [{"reason": "the question has 4,100 tokens", "questions": 3}]


@pytest.mark.parametrize(("texts", "empty"), [(["", " \n"], True), (["", "A"], False), ([], False)])
def test_only_a_model_that_answers_nothing_at_all_is_called_empty(texts, empty):
    rows = failures.summary("m", {"none": [answer("broken"), *(answer(text=text) for text in texts)]})
    assert [row["empty"] for row in rows] == [empty]
    assert any("every answer is empty" in warning for warning in failures.warnings({"failures": rows})) == empty
