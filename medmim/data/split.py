"""Train, dev and test splits by patient, and the cohorts of patients that one question may combine.

The split of a patient is a hash of seed, source and patient, so it stays when other patients are added. Questions on
several patients are made within one split only, so no image is in two splits.
"""

from collections import defaultdict
from collections.abc import Sequence

from medmim.data.seeds import fraction, stream
from medmim.sample import Study

_COHORT = 3  # patients; small, so that intervals clustered by patient stay narrow


def assign(seed: int, source: str, patient: str, dev: float, test: float) -> str:
    """The split of a patient: `train`, `dev` or `test`."""
    position = fraction(seed, "split", source, patient)
    return "test" if position < test else "dev" if position < test + dev else "train"


def by_split(studies: Sequence[Study], seed: int, dev: float, test: float) -> dict[str, list[list[Study]]]:
    """Patients of each split, each as the list of all their studies; held-out domains are `test`."""
    patients: dict[tuple[str, str], list[Study]] = defaultdict(list)
    for study in studies:
        patients[study.source, study.patient].append(study)
    splits: dict[str, list[list[Study]]] = {"train": [], "dev": [], "test": []}
    for (source, name), own in patients.items():
        split = "test" if own[0].held_out else assign(seed, source, name, dev, test)
        splits[split].append(own)
    return splits


def cohorts(patients: Sequence[list[Study]], seed: int) -> list[list[list[Study]]]:
    """Disjoint groups of patients; a question on several patients stays within one group.

    Captioned figures, held-in patients and held-out patients are in separate groups. Half of the held-in groups are of
    one source, for contrasts within a domain, the others are mixed; held-out groups are of one source.
    """
    pools: dict[tuple[str, ...], list[list[Study]]] = defaultdict(list)
    for own in patients:
        first = own[0]
        if first.caption:
            pool: tuple[str, ...] = ("figures",)
        elif first.held_out or fraction(seed, "within", first.source, first.patient) < 0.5:
            pool = ("within", first.source, str(first.held_out))
        else:
            pool = ("mixed",)
        pools[pool].append(own)
    groups = []
    for key in sorted(pools):
        shuffled = sorted(pools[key], key=lambda own: fraction(seed, "cohort", own[0].source, own[0].patient))
        groups += [shuffled[i : i + _COHORT] for i in range(0, len(shuffled), _COHORT)]
    return stream(seed, "cohorts").sample(groups, len(groups))
