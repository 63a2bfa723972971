"""How well questions can be answered from their text alone: a classifier on words, options and letters."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from medmim.sample import LETTERS, Sample

FIT = 2_000  # rows at least
TEST = 4_000  # rows at most

Predict = Callable[[Sequence[Sample], Sequence[Sample]], np.ndarray]


def excess(rows: Sequence[Sample], predict: Predict, at_least: int = FIT) -> tuple[float, float]:
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
    assert len(fit) >= at_least
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


def predict_letters(fit: Sequence[Sample], test: Sequence[Sample]) -> np.ndarray:
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


def predict_options(fit: Sequence[Sample], test: Sequence[Sample]) -> np.ndarray:
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
