"""How many train questions of each ability a recipe wants at most (`data.quotas`, `data.total`).

Benchmark and dev questions have no quota: a benchmark that stays must not lose a question to a new one. Which train
questions go depends on a hash of each alone, so among more questions most of the chosen ones are chosen again, and each
source and family keeps its share.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from medmim.data.seeds import fraction
from medmim.recipe.schema import Data
from medmim.sample import Sample


def apply(made: Sequence[Sequence[Sample]], data: Data) -> tuple[list[list[Sample]], Counter[str]]:
    """Drop the train questions above the quotas.

    Args:
        made: The questions of each source; `images` are the source's own paths.
        data: The recipe's section.

    Returns:
        The questions left, in their order, and how many were dropped of each ability.
    """
    if not data.quotas:
        return [list(own) for own in made], Counter()
    places: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
    for number, own in enumerate(made):
        for row, sample in enumerate(own):
            if sample.split == "train" and sample.ability in data.quotas:
                places[sample.ability].append((_place(data.seed, sample), number, row))
    limits = {ability: quota for ability, quota in data.quotas.items() if quota is not None}
    if data.total is not None:
        rest = next(ability for ability, quota in data.quotas.items() if quota is None)
        limits[rest] = data.total - sum(min(limit, len(places[ability])) for ability, limit in limits.items())
    dropped: set[tuple[int, int]] = set()
    counts: Counter[str] = Counter()
    for ability, limit in limits.items():
        over = sorted(places[ability])[limit:]
        dropped.update((number, row) for _, number, row in over)
        counts[ability] = len(over)
    left = [[s for row, s in enumerate(own) if (number, row) not in dropped] for number, own in enumerate(made)]
    return left, counts


def _place(seed: int, sample: Sample) -> float:
    return fraction(seed, "quota", sample.family, *sample.images, sample.question)
