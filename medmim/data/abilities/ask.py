"""`Ask`, a question before it is worded, and the helpers that choose images for one."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from medmim.sample import Study

NORMAL = "normal"
FIXED_OPTIONS = {
    "change": ("improved", "stable", "worse"),
    "assessment": ("negative", "benign", "indeterminate", "suspicious", "malignant"),
    "resection": ("resected", "partial", "unchanged"),
    "larger": ("image 1", "image 2", "same size"),
    "same_finding": ("same", "different"),
}
# The right answer after two images are exchanged; an answer that is not listed stays right.
OPPOSITE = {"improved": "worse", "worse": "improved", "image 1": "image 2", "image 2": "image 1"}
_SIZES = ("small", "medium", "large")

Cohort = Sequence[Sequence[Study]]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question on images before it is worded.

    Attributes:
        ability: One of `sample.ABILITIES`.
        family: Kind of question; the key of its wording.
        studies: The images, in prompt order.
        options: The possible answers as plain values, in no particular order.
        answer: The right one.
        about: Values that the question mentions: `image` (1-based position), `value`, `finding`.
        swapped: The right one once every image has moved one place on (image 1 becomes image 2, ..., the last becomes
            image 1); None where that is undefined or changes nothing.
    """

    ability: str
    family: str
    studies: tuple[Study, ...]
    options: tuple[str, ...]
    answer: str
    about: dict[str, str] = field(default_factory=dict)
    swapped: str | None = None


def value(study: Study, attribute: str) -> str | None:
    """The value of an attribute of an image; None where it has none or more than one."""
    if attribute in ("modality", "view", "rating", "caption"):
        shown: str | None = getattr(study, attribute)
        return shown
    if attribute == "finding" and not study.findings:
        return NORMAL
    if len(study.findings) != 1:
        return None
    finding = study.findings[0]
    return finding.name if attribute == "finding" else getattr(finding, attribute)


def size_step(first: Study, second: Study) -> int | None:
    """By how many sizes `second` exceeds `first`; None unless both show one finding that may differ in size only."""
    if len(first.findings) != 1 or len(second.findings) != 1:
        return None
    a, b = first.findings[0], second.findings[0]
    alike = (a.name, a.side, first.modality, first.view) == (b.name, b.side, second.modality, second.view)
    if not alike or a.size is None or b.size is None:
        return None
    return _SIZES.index(b.size) - _SIZES.index(a.size)


def pairs(studies: Sequence[Study]) -> list[tuple[Study, Study]]:
    """Every two images of one patient, the earlier first; images of equal or unknown time keep their order."""
    ordered = sorted(studies, key=lambda s: s.time or 0.0)
    return list(combinations(ordered, 2))


def distinct(studies: Sequence[Study], attribute: str, count: int, rng: random.Random) -> list[Study] | None:
    """Images that all differ in an attribute, in random order; half of the time all of one modality.

    The image to ask about must be drawn from the result, uniformly: then the values, which become the options, reveal
    nothing about the answer.
    """
    within = attribute != "modality" and rng.random() < 0.5
    modality = rng.choice(studies).modality if within else None
    found: dict[str, Study] = {}
    for study in rng.sample(studies, len(studies)):
        shown = value(study, attribute)
        if shown is not None and (modality is None or study.modality == modality):
            found.setdefault(shown, study)
    if len(found) < count:
        return None
    chosen = list(found.values())[:count]
    return rng.sample(chosen, count)  # common values are found first: no position must reveal them


def balance(asks: Sequence[Ask], rng: random.Random) -> list[Ask]:
    """Remove surplus questions so that, among those of equal text, each fixed option is right equally often."""
    groups: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    dropped: set[int] = set()
    for i, ask in enumerate(asks):
        if ask.family in FIXED_OPTIONS:
            groups[ask.family, ask.studies[0].source, *sorted(ask.about.values())][ask.answer].append(i)
    for key, golds in groups.items():
        keep = min(len(golds[option]) for option in FIXED_OPTIONS[key[0]])
        for indices in golds.values():
            dropped.update(rng.sample(indices, len(indices) - keep))
    return [ask for i, ask in enumerate(asks) if i not in dropped]
