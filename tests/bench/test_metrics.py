"""Metrics of single answers: bounds, identities, and the status of an answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.bench import metrics
from medmim.bench.reader.reply import read
from medmim.sample import Sample


def sample(options=("stable", "worse"), answer="worse", gold=(1,)):
    return Sample(
        "temporal", "trend", "s", "test", False, ("p",), ("i", "j"), ("i", "j"), "How?", options, answer, gold
    )


text = st.text(max_size=40)


@given(text, text)
@settings(deadline=None)  # the first call imports the libraries
def test_open_metrics_lie_between_zero_and_one(said, gold):
    for metric in (metrics.token_f1, metrics.bleu, metrics.rouge_l):
        assert 0 <= metric(said, gold) <= 1 + 1e-9


@given(st.lists(st.sampled_from(["mass", "left", "lung", "grew", "nodule"]), min_size=1, max_size=9).map(" ".join))
def test_the_gold_itself_scores_one(gold):
    for metric in (metrics.token_f1, metrics.bleu, metrics.rouge_l):
        assert metric(gold, gold) == pytest.approx(1)


def test_token_f1_ignores_case_punctuation_and_articles():
    assert metrics.token_f1("The Mass, grew.", "mass grew") == 1
    assert metrics.token_f1("mass", "mass grew") == pytest.approx(2 / 3)
    assert metrics.token_f1("lung", "mass") == 0


def test_unparsed_counts_as_wrong_and_an_engine_error_does_not_count():
    unparsed = read(sample(), "none", "k", "no idea", None)
    broken = read(sample(), "none", "k", "", "timeout")
    assert (unparsed.status, metrics.score(sample(), unparsed)) == ("unparsed", {"accuracy": 0.0})
    assert (broken.status, broken.error, metrics.score(sample(), broken)) == ("error", "timeout", {})


def test_a_gold_under_two_letters_accepts_either():
    twice = sample(("cataract", "normal", "cataract"), "cataract", (0, 2))
    for text, right in (("A", 1.0), ("C", 1.0), ("B", 0.0), ("cataract", 1.0)):
        assert metrics.score(twice, read(twice, "none", "k", text, None)) == {"accuracy": right}


def test_an_empty_open_answer_is_unparsed_and_scores_nothing():
    asked = sample((), "the mass grew", ())
    assert read(asked, "none", "k", "  ", None).status == "unparsed"
    assert metrics.score(asked, read(asked, "none", "k", "The mass grew.", None))["token_f1"] == 1


def test_bleu_tells_capitals_apart_as_published():
    """sacreBLEU's default is cased: a lower-cased answer shares no word of four with "CT Of The Chest"."""
    gold = "CT Of The Chest"
    assert metrics.bleu(gold, gold) == pytest.approx(1)
    assert metrics.bleu(gold.lower(), gold) < 0.3
    assert metrics.bleu("a mass of 3 cm", "a mass of 3 cm in the left lung") < 1
