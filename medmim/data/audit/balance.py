"""What gives an answer away without a classifier: its letter, its length, and how often its label is right.

Each is a share minus what it would be by chance, which is one in the number of a row's options, with an interval
clustered by patient. Of several letters or labels, the one that is most surely too frequent is told. A type whose
options stand in all rows in one order has no letters and lengths of its own, only labels. A label's excess is told as a
share of the most that it could be: 1 is a label that is always right, whether there are two or twelve.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medmim import stats
from medmim.data.audit.check import Check
from medmim.data.audit.types import Type, unmeasured
from medmim.sample import LETTERS, Sample

POSITION, LENGTH, LABEL = "max_answer_position", "max_option_length", "max_label"
_MOSTLY = 0.25  # share of the rows from which one of many answers is a label, not a free text
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def checks(types: Sequence[Type]) -> list[Check]:
    """Checks of each type: answer position and option length where it has options, label balance where it has labels.

    A type has labels where its answers are few, or where one of many is the answer of a quarter of its rows.

    Types of fewer than 20 patients are named in one check without a value.
    """
    found: list[Check | None] = []
    for one in types:
        if one.is_small:
            continue
        labels = _labels(one)
        if one.is_closed and not one.has_order:
            found += [_position(one), _length(one)]
        if labels:
            found.append(_label(one, labels))
    told = [check for check in found if check is not None]
    if note := unmeasured("it", [one for one in types if one.is_small], "have too few patients"):
        told.append(Check("balance", "types left out", None, note=note))
    return told


def _position(one: Type) -> Check | None:
    """Whether a letter is right more often than the others."""
    most = max(len(sample.options) for sample in one.samples)
    named = []
    for letter in range(most):
        rows = [i for i, sample in enumerate(one.samples) if letter < len(sample.options)]
        hits = [float(letter in one.samples[i].gold) for i in rows]
        named.append((f"letter {LETTERS[letter]}", rows, hits))
    return _surest("answer-position", "the right answer stands more often than by chance under", POSITION, one, named)


def _length(one: Type) -> Check | None:
    """Whether the longest or the shortest option is right more often than others; of equally long ones, each counts."""
    rows = [i for i, sample in enumerate(one.samples) if len(set(map(len, sample.options))) > 1]
    if not rows:
        return None
    named = [
        (f"{what} option", rows, [_at_the_end(one.samples[i], end) for i in rows])
        for what, end in (("the longest", max), ("the shortest", min))
    ]
    return _surest("option-length", "the right answer is more often than by chance", LENGTH, one, named)


def _at_the_end(sample: Sample, end: Callable[[Sequence[int]], int]) -> float:
    lengths = [len(option) for option in sample.options]
    ends = [i for i, length in enumerate(lengths) if length == end(lengths)]
    return sum(i in sample.gold for i in ends) / len(ends)


def _labels(one: Type) -> tuple[str, ...]:
    if one.labels:
        return one.labels
    label, rows = Counter(sample.answer for sample in one.samples).most_common(1)[0]
    return (label,) if rows >= _MOSTLY * len(one.samples) else ()


def _label(one: Type, labels: Sequence[str]) -> Check | None:
    """Whether a label is right more often than the others that it stands beside."""
    named = []
    for label in labels:
        rows = [i for i, sample in enumerate(one.samples) if not sample.options or label in sample.options]
        named.append((f"'{label}'", rows, [float(one.samples[i].answer == label) for i in rows]))
    about = "of the excess over chance that is possible, how much the right answer has"
    return _surest("label-balance", about, LABEL, one, named, of_possible=True)


def _surest(
    name: str,
    about: str,
    key: str,
    one: Type,
    named: Sequence[tuple[str, Sequence[int], Sequence[float]]],
    of_possible: bool = False,
) -> Check | None:
    """The check of what is most surely too frequent; None where no interval can be given.

    Args:
        name: Of the check.
        about: What its value is.
        key: Of its limit.
        one: The type.
        named: What may be too frequent, its rows, and of each row whether it is right, 0..1.
        of_possible: Tell the excess as a share of what it would be if all rows were so.
    """
    labels = _labels_by_images(one)
    found = []
    for what, rows, hits in named:
        chance = np.array([_chance(one.samples[i], labels) for i in rows])
        excess = stats.difference(np.array(hits), chance, one.clusters.take(np.array(rows, dtype=np.int64)))
        most = 1 - float(chance.mean()) if of_possible else 1.0
        if excess.low is not None and excess.high is not None and most > 0:
            ends = (excess.low / most, min(excess.high / most, 1.0))
            found.append((excess, excess.value / most, ends, what, rows, hits))
    if not found:
        return None
    likely = stats.holm([excess.p for excess, *_ in found])
    at = max(range(len(found)), key=lambda i: (found[i][2][0], -i))
    excess, value, (low, high), what, rows, hits = found[at]
    listed = [i for i, hit in zip(rows, hits, strict=True) if hit] if low > 0 else []
    p = likely[at]
    return Check(
        f"{name}/{one.name}",
        f"{about} {what}" if name == "answer-position" else f"{about}: {what}",
        value,
        share=True,
        low=low,
        high=high,
        key=key,
        rows=one.rows(listed, f"its right answer is {what}" if name != "answer-position" else f"right: {what}"),
        note=f"{np.mean(hits):.1%} of {excess.n:,} rows of {excess.patients:,} patients, p {_p(p)} of {len(found)}",
    )


def _labels_by_images(one: Type) -> dict[int, int]:
    """Number of images -> number of labels: `image 3` is no answer to a question about two.

    Two where all have one answer: a question that has one is no question.
    """
    found: dict[int, set[str]] = defaultdict(set)
    for sample in one.samples:
        found[len(sample.images)].add(sample.answer)
    return {images: max(2, len(answers)) for images, answers in found.items()}


def _chance(sample: Sample, labels: Mapping[int, int]) -> float:
    return max(1, len(sample.gold)) / len(sample.options) if sample.options else 1 / labels[len(sample.images)]


def _p(p: float | None) -> str:
    return "unknown" if p is None else "below 0.001" if p < 0.001 else f"{p:.3f}"
