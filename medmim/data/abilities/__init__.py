"""Question generation: each ability turns the studies of a few patients into questions, which `wording` words."""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from medmim.data.abilities import comparison, composed, coreference, reasoning, single, temporal
from medmim.data.abilities.ask import Ask, Cohort, balance
from medmim.data.seeds import stream
from medmim.progress import bar

BY_NAME: dict[str, Callable[[Cohort, Random], Iterator[Ask]]] = {
    "temporal": temporal.ask,
    "reasoning": reasoning.ask,
    "comparison": comparison.ask,
    "coreference": coreference.ask,
    "composed": composed.ask,
    "single": single.ask,
}


def ask_all(cohorts: Sequence[Cohort], names: Sequence[str], families: Sequence[str], seed: int) -> list[Ask]:
    """The questions of some abilities on some cohorts of one split, balanced, in the order of the cohorts.

    Args:
        cohorts: Patients that may be put into one question, each a list of studies.
        names: Abilities, of `sample.ABILITIES`.
        families: Question families that the images of the source can answer.
        seed: Decides which images are chosen.
    """
    asks: list[Ask] = []
    with bar("questions", len(cohorts), "groups of patients") as progress:
        for cohort in cohorts:
            patients = [patient[0].patient for patient in cohort]
            for name in names:
                found = BY_NAME[name](cohort, stream(seed, name, *patients))
                asks += (ask for ask in found if ask.family in families)
            progress.add()
    return balance(asks, stream(seed, "balance"))
