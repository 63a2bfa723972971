"""Co-reference: which image shows something, and what a given image shows."""

import random
from collections.abc import Iterator, Sequence

from medmim.data.abilities.ask import Ask, Cohort, distinct, of_all, tries, value
from medmim.sample import Study

# Questions tried, by the number of patients.
_TRIES = {
    1: {"finding": 0.4, "size": 0.4, "view": 0.4, "side": 0.5, "margin": 0.6},
    2: {"finding": 1.2, "size": 0.9, "modality": 0.4, "view": 0.4, "side": 0.3, "margin": 0.6},
}


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `which_X` and `what_X` for X in finding, size, modality, view, side, margin."""
    studies = [study for patient in cohort for study in patient]
    for attribute in tries(_TRIES[len(cohort)], rng):
        yield from (a for a in refer("coreference", studies, attribute, rng) if of_all(a.studies, cohort))


def refer(ability: str, studies: Sequence[Study], attribute: str, rng: random.Random) -> Iterator[Ask]:
    """At most one question on two or three images that differ in an attribute."""
    images = distinct(studies, attribute, rng.choice((2, 2, 3)), rng)
    if images is not None:
        yield about_one(ability, images, attribute, rng)


def about_one(ability: str, images: Sequence[Study], attribute: str, rng: random.Random) -> Ask:
    """A question on one of some images, of `distinct`: which of them it is, or what it shows."""
    asked = rng.randrange(len(images))
    values = [str(value(study, attribute)) for study in images]
    names = tuple(f"image {i + 1}" for i in range(len(images)))
    if rng.random() < 0.5:
        about = {"value": values[asked]}
        after = names[(asked + 1) % len(names)]
        return Ask(ability, f"which_{attribute}", tuple(images), names, names[asked], about, after)
    about = {"image": names[asked]}
    after = values[asked - 1]  # the image before it is in its position then
    return Ask(ability, f"what_{attribute}", tuple(images), tuple(values), values[asked], about, after)
