"""Single: one image at a time, so that tuning on several images does not unlearn it. Used for training only."""

import random
from collections.abc import Iterator

from medmim.data.abilities.ask import Ask, Cohort, distinct, value

_WEIGHTS = {"finding": 2, "size": 1, "modality": 1, "view": 1, "side": 1, "margin": 1}  # questions tried in a cohort
_DESCRIBE = 2  # captions per cohort


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `what_X` on a single image, and `describe`, which has no options."""
    studies = [study for patient in cohort for study in patient]
    for study in rng.sample(studies, min(_DESCRIBE, len(studies))):
        yield Ask("single", "describe", (study,), (), "")
    for attribute in [name for name, tries in _WEIGHTS.items() for _ in range(tries)]:
        images = distinct(studies, attribute, rng.choice((2, 2, 3)), rng)
        if images is None:
            continue
        values = [str(value(study, attribute)) for study in images]
        asked = rng.randrange(len(images))
        yield Ask("single", f"what_{attribute}", (images[asked],), tuple(values), values[asked], {"image": "image 1"})
