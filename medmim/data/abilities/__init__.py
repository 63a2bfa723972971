"""Question generation: each ability turns the studies of a few patients into questions, which `wording` words."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from random import Random

from medmim.data import people
from medmim.data.abilities import (
    comparison,
    composed,
    coreference,
    eyes,
    figures,
    glioma,
    joined,
    mammography,
    progression,
    reasoning,
    single,
    temporal,
)
from medmim.data.abilities.ask import FIXED_OPTIONS, Ask, Cohort
from medmim.data.abilities.family import Family
from medmim.data.seeds import fraction, stream
from medmim.progress import bar

# An ability gets a cohort of as many patients as its questions are made from, and asks nothing that fewer of them would
# do for: then a patient who comes or goes changes no question that is made without them.
BY_NAME: dict[str, Callable[[Cohort, Random], Iterator[Ask]]] = {
    "temporal": temporal.ask,
    "reasoning": reasoning.ask,
    "comparison": comparison.ask,
    "coreference": coreference.ask,
    "composed": composed.ask,
    "single": single.ask,
}
PATIENTS = {
    "temporal": (1,), "reasoning": (1, 2), "comparison": (1, 2), "coreference": (1, 2), "composed": (2, 3),
    "single": (1, 2),
}  # fmt: skip
# Families of the real sources, each with a generator of its own: a further one changes no question of the others.
FAMILIES: dict[str, Family] = {
    **mammography.FAMILIES, **glioma.FAMILIES, **progression.FAMILIES, **eyes.FAMILIES, **joined.FAMILIES,
    **figures.FAMILIES,
}  # fmt: skip


def balanced(form: str) -> frozenset[str]:
    """Families of which no answer may be right far more often than the others, in a form (`data.form`)."""
    real = (name for name, one in FAMILIES.items() if one.options and (form == "strict" or one.as_published))
    return frozenset((*FIXED_OPTIONS, *real))


def ask_all(groups: Sequence[Cohort], names: Sequence[str], families: Sequence[str], seed: int) -> list[Ask]:
    """The questions of some abilities on every cohort within the groups of one split, not yet balanced.

    Args:
        groups: Patients that may be put into one question, each a list of studies.
        names: Abilities, of `sample.ABILITIES`.
        families: Question families that the images of the source can answer.
        seed: Decides which images are chosen.
    """
    asks: list[Ask] = []
    real = [name for name in families if name in FAMILIES and FAMILIES[name].ability in names]
    drawn = names if set(families) - FAMILIES.keys() else ()
    with bar("questions", len(groups), "groups of patients") as progress:
        for group in groups:
            keys = ["/".join(people.of(patient[0])) for patient in group]
            for name in drawn:
                for size in PATIENTS[name]:
                    for chosen in combinations(range(len(group)), size):
                        rng = stream(seed, name, *(keys[i] for i in chosen))
                        asks += (a for a in BY_NAME[name]([group[i] for i in chosen], rng) if a.family in families)
            for name in real:
                for size, share in FAMILIES[name].patients.items():
                    for chosen in combinations(range(len(group)), size):
                        who = [keys[i] for i in chosen]
                        if share == 1 or fraction(seed, "asked", name, *who) < share:
                            asks += FAMILIES[name].ask([group[i] for i in chosen], stream(seed, name, *who))
            progress.add()
    return asks
