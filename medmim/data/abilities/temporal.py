"""Temporal: how a patient's finding changed, and which image was taken first."""

import random
from collections.abc import Iterator

from medmim.data.abilities.ask import FIXED_OPTIONS, OPPOSITE, Ask, Cohort, pairs, size_step


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `change` (a finding's size at two visits) and `order` (which of two visits is the earlier or later)."""
    for patient in cohort:
        for first, second in pairs(patient):
            if first.time is None or second.time is None or first.time == second.time:
                continue
            if first.laterality != second.laterality:
                continue
            step = size_step(first, second)
            if step is not None and first.rating is second.rating is None:
                outcome = "stable" if step == 0 else "worse" if step > 0 else "improved"
                about = {"finding": first.findings[0].name}
                opposite = OPPOSITE.get(outcome)
                yield Ask("temporal", "change", (first, second), FIXED_OPTIONS["change"], outcome, about, opposite)
            if (first.modality, first.view) == (second.modality, second.view):
                when, reverse = rng.choice(("first", "last")), rng.random() < 0.5
                images = (second, first) if reverse else (first, second)
                wanted = first if when == "first" else second
                answer = f"image {images.index(wanted) + 1}"
                about = {"value": when}
                yield Ask("temporal", "order", images, ("image 1", "image 2"), answer, about, OPPOSITE[answer])
