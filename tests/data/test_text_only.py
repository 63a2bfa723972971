"""No phantom question can be answered from its text: a classifier on words, options and letters stays at chance."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from medmim.data.build import questions
from medmim.data.sources import phantom
from medmim.recipe.schema import Data
from medmim.sample import LETTERS, Sample

FIT = 2_000  # rows at least
TEST = 4_000  # rows at most
ALLOWED = 0.05
CASES = [
    ("temporal", False), ("reasoning", False), ("comparison", False), ("coreference", False), ("composed", False),
    ("single", False), ("temporal", True), ("comparison", True), ("coreference", True),
]  # fmt: skip


@pytest.fixture(scope="module")
def closed() -> dict[tuple[str, bool], list[Sample]]:
    """Closed questions by ability and domain, from as many patients as the classifier needs."""
    found = defaultdict(list)
    for kinds, patients, abilities in (
        (("chest", "breast", "brain"), 3_500, ("temporal", "reasoning", "comparison", "coreference")),
        (("figures",), 2_000, ("composed",)),
        (("chest", "breast", "brain", "figures"), 5_000, ("single",)),
        (("fundus", "fundus", "fundus", "radiology"), 4_000, ("temporal", "comparison", "coreference")),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phantom, "_TURNS", kinds)
            studies = phantom.patients(patients, len(kinds))
        data = Data(source="phantom", abilities=abilities, dev_fraction=0.0, test_fraction=0.05)
        for sample in questions(studies, phantom.FAMILIES, data):
            if sample.options:
                found[sample.ability, sample.held_out].append(sample)
    return found


@pytest.mark.parametrize(("ability", "held_out"), CASES)
def test_text_alone_does_not_predict_the_letter(closed: Any, ability: str, held_out: bool) -> None:
    low, high = _excess(closed[ability, held_out], _predict_letters)
    assert -ALLOWED < low <= high < ALLOWED


@pytest.mark.parametrize(("ability", "held_out"), CASES)
def test_text_alone_does_not_predict_the_option(closed: Any, ability: str, held_out: bool) -> None:
    low, high = _excess(closed[ability, held_out], _predict_options)
    assert -ALLOWED < low <= high < ALLOWED


def test_every_ability_is_covered(closed: Any) -> None:
    assert set(closed) == set(CASES)


def test_a_letter_that_is_right_too_often_would_be_found(closed: Any) -> None:
    rows = [_right_first(s) if i % 4 == 0 else s for i, s in enumerate(closed["temporal", False])]
    assert _excess(rows, _predict_options)[0] > ALLOWED


def test_a_word_that_gives_the_answer_away_would_be_found(closed: Any) -> None:
    rows = [
        replace(s, question=f"{s.question} Please." if s.answer == "worse" else s.question)
        for s in closed["temporal", False]
    ]
    assert _excess(rows, _predict_options)[0] > ALLOWED


def _right_first(sample: Sample) -> Sample:
    rest = [text for text in sample.options if text != sample.answer]
    return replace(sample, options=(sample.answer, *rest), gold=(0,))


Predict = Callable[[Sequence[Sample], Sequence[Sample]], np.ndarray]


def _excess(rows: Sequence[Sample], predict: Predict) -> tuple[float, float]:
    """95% interval, by resampling patients, of the classifier's accuracy minus chance.

    Chance is one in the number of a row's options: the best constant answer is right at least that often,
    so this is at least as strict as the majority rate, and it moves no interval by its own noise.
    """
    cluster = _clusters(rows)
    names = sorted(set(cluster))
    order = np.random.default_rng(0).permutation(len(names))
    place = {names[i]: rank / len(names) for rank, i in enumerate(order)}
    fit = [s for s, c in zip(rows, cluster, strict=True) if place[c] < 0.55]
    test = [(s, c) for s, c in zip(rows, cluster, strict=True) if place[c] >= 0.55][:TEST]
    assert len(fit) >= FIT
    held = [s for s, _ in test]
    gold = np.array([s.gold[0] for s in held])
    difference = (predict(fit, held) == gold) - np.array([1 / len(s.options) for s in held])
    sums, counts = defaultdict(float), Counter()
    for (_, c), d in zip(test, difference, strict=True):
        sums[c] += d
        counts[c] += 1
    keys = sorted(sums)
    total, size = np.array([sums[k] for k in keys]), np.array([counts[k] for k in keys])
    draws = np.random.default_rng(1).multinomial(len(keys), np.full(len(keys), 1 / len(keys)), 2_000)
    low, high = np.quantile(draws @ total / (draws @ size), (0.025, 0.975))
    return float(low), float(high)


def _clusters(rows: Sequence[Sample]) -> list[str]:
    """Patients that share a question, directly or through others, are one cluster."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for sample in rows:
        for other in sample.patients[1:]:
            parent[root(other)] = root(sample.patients[0])
    return [root(sample.patients[0]) for sample in rows]


def _predict_letters(fit: Sequence[Sample], test: Sequence[Sample]) -> np.ndarray:
    """Letters from the words of the prompt, pairs of words, and each option tied to its letter."""

    def text(sample: Sample) -> str:
        tied = [f"{LETTERS[i]}={option.replace(' ', '_')}" for i, option in enumerate(sample.options)]
        return " ".join([sample.prompt, *tied, f"options={len(sample.options)}"])

    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"[^\s]+", min_df=2)
    model = LogisticRegression(max_iter=300).fit(vectors.fit_transform(map(text, fit)), [s.gold[0] for s in fit])
    scores = model.predict_proba(vectors.transform(map(text, test)))
    for row, sample in enumerate(test):
        scores[row, [i for i, letter in enumerate(model.classes_) if letter >= len(sample.options)]] = -1
    return model.classes_[scores.argmax(axis=1)]


def _predict_options(fit: Sequence[Sample], test: Sequence[Sample]) -> np.ndarray:
    """Option texts: each option is judged with its place, the words of the question, and the other options."""

    def texts(sample: Sample) -> list[str]:
        found = []
        for i, option in enumerate(sample.options):
            name = option.replace(" ", "_")
            others = [f"{name}|not|{o.replace(' ', '_')}" for o in sample.options if o != option]
            asked = [f"{name}|{word}" for word in sample.question.split()]
            found.append(" ".join([name, f"place={i}", f"{name}|{i}", f"of={len(sample.options)}", *others, *asked]))
        return found

    vectors = TfidfVectorizer(analyzer=str.split, min_df=2)
    right = [i == s.gold[0] for s in fit for i in range(len(s.options))]
    model = LogisticRegression(max_iter=300).fit(vectors.fit_transform(t for s in fit for t in texts(s)), right)
    scores = model.predict_proba(vectors.transform(t for s in test for t in texts(s)))[:, 1]
    ends = np.cumsum([len(s.options) for s in test])
    return np.array([part.argmax() for part in np.split(scores, ends[:-1])])
