"""Train, dev and test splits by patient, and the groups of patients that one question may combine.

The split of a patient is a hash of seed and identity, so it stays when other patients are added. Questions on several
patients are made within one split only, so no image is in two splits.

Groups are buckets of a hash. Whether some patients of a group are asked about together depends on them alone, so a new
patient adds questions to one group and changes none. The number of buckets follows the number of patients in powers of
two, since the questions of a group grow with the square of its size: between two powers no old question changes; at a
power each group is cut in two, and about half of the questions on several patients make room for new ones. The recipe's
`data.sized_for` holds the number of buckets fixed.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from medmim.data import people
from medmim.data.seeds import fraction
from medmim.sample import SPLITS, Study

Patient = Sequence[Study]
Group = Sequence[Patient]

# Patients of a group at a power of two, twice as many before the next; small, so that intervals stay narrow. A patient
# is asked about with more others where there are few.
_GROUP = {"train": 2.5, "dev": 6, "test": 3.5}
# Names under which patients were drawn before there were populations: nobody moves from test to train. A phantom is of
# one source only, and drawn by it.
_DRAWN_AS = {"covid": "covid-chestxray"}
_WITHIN = 0.5  # share of the patients in groups of one source, where there are several


def assign(seed: int, source: str, patient: str, dev: float, test: float) -> str:
    """The split of a patient: `train`, `dev` or `test`; the same for every source of a population."""
    population, name = people.identity(source, patient)
    drawn_as = source if population == "phantom" else _DRAWN_AS.get(population, population)
    position = fraction(seed, "split", drawn_as, name)
    return "test" if position < test else "dev" if position < test + dev else "train"


def by_split(
    studies: Iterable[Study], seed: int, dev: float, test: float, held_out: Collection[people.Identity] = ()
) -> dict[str, list[Patient]]:
    """Patients of each split, each as all their studies, in an order that is not that of the studies.

    Who is in `held_out`, or has a study of a held-out domain, is in `test`.
    """
    patients: dict[people.Identity, list[Study]] = defaultdict(list)
    for study in studies:
        patients[people.of(study)].append(study)
    splits: dict[str, list[Patient]] = {name: [] for name in SPLITS}
    for identity in sorted(patients):
        own = sorted(patients[identity], key=_order)
        apart = identity in held_out or _held_out(own)
        splits["test" if apart else assign(seed, own[0].source, own[0].patient, dev, test)].append(own)
    return splits


def groups(
    splits: Mapping[str, Sequence[Patient]], seed: int, dev: float, test: float, sized_for: Mapping[str, int]
) -> tuple[dict[str, list[Group]], dict[str, int]]:
    """Disjoint groups of the patients of each split; a question on several patients stays within one group.

    Patients with captions, held-in and held-out patients are in separate groups, and so are those of different
    populations. Where held-in patients are of several sources, half of the groups are of one source, for contrasts
    within a domain, the others are mixed; held-out groups are of one source.

    Args:
        splits: From `by_split`.
        seed: Decides who is in a group with whom.
        dev: Share of the held-in patients that are `dev`.
        test: Likewise for `test`.
        sized_for: Pool -> the number of patients to make its groups for, instead of the power of two.

    Returns:
        The groups of each split, and for how many patients those of each pool were made.
    """
    pools = _pools([own for patients in splits.values() for own in patients])
    everybody = Counter(pool for names in pools.values() for pool in names)
    sizes = {pool: sized_for.get(pool, 1 << (count.bit_length() - 1)) for pool, count in everybody.items()}
    shares = {"train": 1 - dev - test, "dev": dev, "test": test}
    found: dict[str, list[Group]] = {}
    for split, patients in splits.items():
        buckets: dict[tuple[str, int], list[Patient]] = defaultdict(list)
        for own in patients:
            who = people.of(own[0])
            names = pools[who]
            within = fraction(seed, "within", *who) < _WITHIN
            pool = names[0] if within else names[-1]
            share = (1.0 if _held_out(own) else shares[split]) * (1.0 if len(names) == 1 else _WITHIN)
            count = max(1, round(sizes[pool] * share / _GROUP[split]))
            buckets[pool, int(fraction(seed, "group", *who) * count)].append(own)
        found[split] = [buckets[name] for name in sorted(buckets)]
    return found, dict(sorted(sizes.items()))


def _pools(patients: Sequence[Patient]) -> dict[people.Identity, tuple[str, ...]]:
    """The pools whose groups each patient may be in: one, or that of the source and the mixed one."""
    pools: dict[people.Identity, tuple[str, ...]] = {}
    several: dict[str, set[str]] = defaultdict(set)
    for own in patients:
        who, source = people.of(own[0]), min(study.source for study in own)
        if any(study.caption for study in own):
            pools[who] = (f"{who[0]}-captioned",)
        elif _held_out(own):
            pools[who] = (f"{source}-held-out",)
        else:
            pools[who] = (source,)
            several[who[0]].add(source)
    return {
        who: (*names, mixed(who[0])) if names[0] in several[who[0]] and len(several[who[0]]) > 1 else names
        for who, names in pools.items()
    }


def mixed(population: str) -> str:
    """The source of a question on images of several sources."""
    return f"{population}-mixed"


def _held_out(own: Patient) -> bool:
    return any(study.held_out for study in own)


def _order(study: Study) -> tuple[object, ...]:
    """By time, unknown times last; two images are never equal, so the source's order does not matter."""
    return (study.time is None, study.time or 0.0, study.image, repr(study))
