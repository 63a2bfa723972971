"""Can questions be answered from their text alone? A classifier that sees no image, against the best constant guess.

It judges each option by its words, its place, the other options and the words of the question; of an open question
whose answers are a few labels, the label by the words of the question. It is fitted on some patients and asked about
others: no patient is on both sides. The guess that it is compared with is fitted in the same way: the letter or label
that was right most often. Where even that difference is above 0, a model can gain without looking.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmim import stats
from medmim.data.audit.check import Check
from medmim.data.audit.types import Type, unmeasured
from medmim.errors import require
from medmim.sample import Sample

LIMIT = "max_text_only"
FOLDS = 5
MOST_ROWS = 2_000  # of a type: more make the interval narrower than any limit asks for
_HALVINGS = 8  # where patients stand in many questions together, how often they are halved
_ONE_GROUP = 0.4  # share of the rows above which groups cannot be folds
_FEWEST_FITTED = 40  # rows
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def checks(types: Sequence[Type]) -> list[Check]:
    """A check for each type with options, or with a few labels as answers: how far its text alone goes above a guess.

    Types of fewer than 20 patients, and those with free answers, are named in one check without a value.
    """
    found, small, free = [], [], []
    for one in types:
        if not one.is_closed and not one.labels:
            free.append(one)
            continue
        check = None if one.is_small else _check(one)
        if check is None:
            small.append(one)
        else:
            found.append(check)
    notes = [unmeasured("it", small, "have too few patients"), unmeasured("it", free, "have free answers")]
    if any(notes):
        found.append(Check("text-only", "types left out", None, note="; ".join(filter(None, notes))))
    return found


def _check(one: Type) -> Check | None:
    """The check of a type; None where its patients cannot be parted."""
    chosen = _some(one)
    part = Type(one.name, [one.samples[i] for i in chosen])
    tested, right, guessed = _asked(part)
    if len(tested) == 0:
        return None
    patients = part.clusters.take(tested)
    gain = stats.difference(right, guessed, patients)
    if gain.low is None:
        return None
    surely = chosen[tested[right > guessed]] if gain.low > 0 else ()
    return Check(
        f"text-only/{one.name}",
        "above the best constant guess, from the text alone",
        gain.value,
        share=True,
        low=gain.low,
        high=gain.high,
        key=LIMIT,
        rows=one.rows(surely, "answered from its text alone, where the best constant guess was wrong"),
        note=f"{np.mean(right):.1%} against {np.mean(guessed):.1%} of {gain.n:,} rows of {gain.patients:,} patients",
    )


def _some(one: Type) -> Ints:
    """Rows to measure: all, or those of so many patients that they are enough."""
    everyone = np.arange(len(one.samples))
    if len(everyone) <= MOST_ROWS:
        return everyone
    first = [own[0] for own in one.patients]
    order = {name: rank for rank, name in enumerate(np.random.default_rng(0).permutation(sorted(set(first))))}
    ranks = np.array([order[name] for name in first])
    by_rank = np.argsort(ranks, kind="stable")
    last = ranks[by_rank[MOST_ROWS]]
    return np.flatnonzero(ranks < last) if last else np.sort(by_rank[:MOST_ROWS])


def folds(patients: Sequence[Sequence[str]]) -> Iterator[tuple[Ints, Ints]]:
    """Rows to fit on and rows to ask, with no patient in both; every row is asked about equally often.

    Patients that share a question go together. Where that joins most of them, they are halved at random instead: asked
    are the questions whose patients are all of one half, fitted are those of the other.

    Args:
        patients: Of each row.
    """
    groups = _groups(patients)
    names, of_row, counts = np.unique(groups, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(0)
    if counts.max() <= _ONE_GROUP * len(patients):
        model_selection = require("sklearn.model_selection", "data")
        number = min(FOLDS, len(names))
        shuffled = rng.permutation(len(names))[of_row]
        yield from model_selection.GroupKFold(number).split(shuffled, groups=shuffled)
        return
    everyone = sorted({name for own in patients for name in own})
    for _ in range(_HALVINGS):
        half = set(np.array(everyone)[rng.permutation(len(everyone))[: len(everyone) // 2]].tolist())
        inside = np.array([sum(name in half for name in set(own)) for own in patients])
        first, second = np.flatnonzero(inside == [len(set(own)) for own in patients]), np.flatnonzero(inside == 0)
        yield first, second
        yield second, first


def _groups(patients: Sequence[Sequence[str]]) -> list[str]:
    """One name for all patients that share a row, directly or through others."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for own in patients:
        for other in own[1:]:
            parent[root(other)] = root(own[0])
    return [root(own[0]) for own in patients]


def _asked(one: Type) -> tuple[Ints, Floats, Floats]:
    """Rows that were asked about; how often the classifier, and how often the guess, was right about each, 0..1."""
    matrix, starts, right = _options(one)
    asked, hits, guesses = (np.zeros(len(one.samples)) for _ in range(3))
    for fit, test in folds(one.patients):
        if len(fit) < _FEWEST_FITTED or len(test) == 0:
            continue
        asked[test] += 1
        hits[test] += _classified(matrix, starts, right, fit, test)
        guesses[test] += _guessed([one.samples[i] for i in fit], [one.samples[i] for i in test])
    tested = np.flatnonzero(asked)
    return tested, hits[tested] / asked[tested], guesses[tested] / asked[tested]


def _options(one: Type) -> tuple[Any, Ints, NDArray[np.bool_]]:
    """Every option of every row: its words, where each row's begin and the last one's end, whether it is right."""
    text = require("sklearn.feature_extraction.text", "data")
    words, right, counts = [], [], []
    for sample in one.samples:
        options = sample.options or one.labels
        words += _words(sample, options)
        right += [i in sample.gold if sample.options else option == sample.answer for i, option in enumerate(options)]
        counts.append(len(options))
    vectors = text.TfidfVectorizer(analyzer=_as_they_are, min_df=2, dtype=np.float32)
    return vectors.fit_transform(words), np.cumsum([0, *counts]), np.array(right)


def _as_they_are(words: list[str]) -> list[str]:
    return words


def _words(sample: Sample, options: Sequence[str]) -> list[list[str]]:
    asked = list(dict.fromkeys(sample.question.lower().split()))
    lengths = [len(option) for option in options]
    found = []
    for i, option in enumerate(options):
        others = [f"{option}|not|{other}" for other in options if other != option]
        length = [f"longer={sum(n < lengths[i] for n in lengths)}", f"of={len(options)}"]
        inside = [f"has|{word}" for word in option.lower().split()]
        tied = [f"{option}|{word}" for word in asked]
        placed = [f"{i}|{word}" for word in asked]
        found.append([option, f"place={i}", f"{option}|{i}", *length, *others, *inside, *tied, *placed])
    return found


def _classified(matrix: Any, starts: Ints, right: NDArray[np.bool_], fit: Ints, test: Ints) -> Floats:
    linear_model = require("sklearn.linear_model", "data")
    fitted = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in fit])
    if right[fitted].all():  # all have one answer, and no other is known
        return np.array([float(right[starts[i] : starts[i + 1]].all()) for i in test])
    if not right[fitted].any():
        return np.zeros(len(test))
    model = linear_model.LogisticRegression(solver="liblinear", C=10.0).fit(matrix[fitted], right[fitted])
    scores = model.decision_function(matrix[np.concatenate([np.arange(starts[i], starts[i + 1]) for i in test])])
    ends = np.cumsum([starts[i + 1] - starts[i] for i in test])
    return np.array(
        [float(right[starts[i] + part.argmax()]) for i, part in zip(test, np.split(scores, ends[:-1]), strict=True)]
    )


def _guessed(fit: Sequence[Sample], test: Sequence[Sample]) -> Floats:
    """Of each row asked about, whether the constant answer that was right most often in the others is right, too."""
    letters = Counter(i for sample in fit for i in sample.gold)
    texts = Counter(sample.answer for sample in fit)
    letter, by_letter = letters.most_common(1)[0] if letters else (0, 0)
    label, by_text = texts.most_common(1)[0]
    if by_text > by_letter:
        return np.array([float(sample.answer == label) for sample in test])
    return np.array([float(letter in sample.gold) for sample in test])
