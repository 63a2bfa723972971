"""`Family`, one kind of question on the images of the real sources, and what several of them share."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medmim.data.abilities.ask import Ask, Cohort
from medmim.sample import Study


@dataclass(frozen=True)
class Family:
    """How a kind of question is made.

    Attributes:
        ability: One of `sample.ABILITIES`.
        patients: Number of patients in a cohort -> the share of such cohorts that are asked. A question is about every
            patient of its cohort, so a patient who comes or goes changes no question that is made without them.
        ask: A cohort and its own random generator -> questions.
        options: All answers that there can be, where every question of the family offers the same ones: then no answer
            may be right far more often than the others (see `ask.balance`). Empty where the options differ.
        as_published: Whether Med-MIM kept the answers of this family about even, too.
    """

    ability: str
    patients: Mapping[int, float]
    ask: Callable[[Cohort, random.Random], Iterator[Ask]]
    options: tuple[str, ...] = ()
    as_published: bool = False


ALONE: Mapping[int, float] = {1: 1.0}


def positions(images: Sequence[Study]) -> tuple[str, ...]:
    """The images by their places: `image 1`, `image 2`, ..."""
    return tuple(f"image {number + 1}" for number in range(len(images)))


def which(ability: str, family: str, images: Sequence[Study], right: Study, about: dict[str, str]) -> Ask:
    """The question which of some images is the one; once all move one place on, it is the next place."""
    names = positions(images)
    place = next(number for number, image in enumerate(images) if image is right)
    return Ask(ability, family, tuple(images), names, names[place], about, names[(place + 1) % len(names)])
