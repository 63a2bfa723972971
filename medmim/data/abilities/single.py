"""Single: one image at a time, so that tuning on several images does not unlearn it. Used for training only."""

import random
from collections.abc import Iterator

from medmim.data.abilities.ask import Ask, Cohort, distinct, of_all, tries, value

# Questions tried, by the number of patients whose values are options.
_TRIES = {
    1: {"finding": 0.3, "size": 0.3, "view": 0.3, "side": 0.3, "margin": 0.5},
    2: {"finding": 0.6, "size": 0.3, "modality": 0.3, "view": 0.5, "side": 0.3, "margin": 0.4},
}
_DESCRIBE = 0.75  # share of the patients with a caption


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `what_X` on a single image, and `describe`, which has no options."""
    studies = [study for patient in cohort for study in patient]
    if len(cohort) == 1 and rng.random() < _DESCRIBE:
        yield Ask("single", "describe", (rng.choice(studies),), (), "")
    for attribute in tries(_TRIES[len(cohort)], rng):
        images = distinct(studies, attribute, rng.choice((2, 2, 3)), rng)
        if images is None or not of_all(images, cohort):
            continue
        values = [str(value(study, attribute)) for study in images]
        asked = rng.randrange(len(images))
        yield Ask("single", f"what_{attribute}", (images[asked],), tuple(values), values[asked], {"image": "image 1"})
