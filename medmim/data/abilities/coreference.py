"""Co-reference: which image shows something, and what a given image shows."""

import random
from collections.abc import Iterator, Sequence

from medmim.data.abilities.ask import Ask, Cohort, distinct, value
from medmim.sample import Study

_WEIGHTS = {"finding": 4, "size": 3, "modality": 1, "view": 1, "side": 1, "margin": 1}  # questions tried in a cohort


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `which_X` and `what_X` for X in finding, size, modality, view, side, margin."""
    studies = [study for patient in cohort for study in patient]
    for attribute, tries in _WEIGHTS.items():
        for _ in range(tries):
            yield from refer("coreference", studies, attribute, rng)


def refer(ability: str, studies: Sequence[Study], attribute: str, rng: random.Random) -> Iterator[Ask]:
    """At most one question on two or three images that differ in an attribute."""
    images = distinct(studies, attribute, rng.choice((2, 2, 3)), rng)
    if images is None:
        return
    asked = rng.randrange(len(images))
    values = [str(value(study, attribute)) for study in images]
    names = tuple(f"image {i + 1}" for i in range(len(images)))
    if rng.random() < 0.5:
        about = {"value": values[asked]}
        after = names[(asked + 1) % len(names)]
        yield Ask(ability, f"which_{attribute}", tuple(images), names, names[asked], about, after)
    else:
        about = {"image": names[asked]}
        after = values[asked - 1]  # the image before it is in its position then
        yield Ask(ability, f"what_{attribute}", tuple(images), tuple(values), values[asked], about, after)
