"""The training corpus of the tiny bases: text tasks (`corpus_text`), and captions and questions on single images.

There are never two images at once: the claim is that multi-image tuning adds that. Sample i of a phase is a pure
function of seed, phase and i.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from random import Random
from typing import Any

from medmim.data import wording
from medmim.data.abilities.ask import Ask, distinct, value
from medmim.data.seeds import stream
from medmim.data.sources.phantom_draw import CLASSES
from medmim.lvlm.family import Family, Turn
from medmim.sample import LETTERS, Study
from medmim.tiny.corpus_text import (  # fmt: skip
    ATTRIBUTES,
    EXTRA_TURNS,
    LETTER_KEYS,
    NUMBER_KEYS,
    STUDIES,
    Item,
    chain,
    copy,
    dense,
    look_up,
    look_up_turns,
    repeat,
    shuffled,
    text_larger,
    text_reference,
    text_reference_turns,
    text_same,
    turn_of,
)


def _any_scene(rng: Random) -> int:
    """The index of a random class: all modalities are equally likely, and all findings within one."""
    modality = rng.choice(sorted({scene.modality for scene in CLASSES}))
    finding = rng.choice(sorted({scene.finding for scene in CLASSES if scene.modality == modality}))
    return rng.choice([i for i, s in enumerate(CLASSES) if (s.modality, s.finding) == (modality, finding)])


def caption(rng: Random, family: Family) -> Item:
    """Describe one image."""
    i = _any_scene(rng)
    ask = Ask("single", "describe", (STUDIES[i],), (), "")
    question, _, answer, _ = wording.render(ask, rng)
    return Item((Turn(question, answer),), CLASSES[i])


def _on_image(rng: Random, study: Study, attribute: str) -> Turn:
    while True:
        # half of the time wrong options are of the same modality: findings of one organ must be distinguished
        among = [s for s in STUDIES if s.modality == study.modality] if rng.random() < 0.5 else STUDIES
        others = distinct([s for s in shuffled(rng, among)[:24] if value(s, attribute) != value(study, attribute)],
                          attribute, rng.choice((1, 1, 2, 3)), rng)  # fmt: skip
        if others is not None:
            break
    values = tuple(str(value(s, attribute)) for s in (study, *others))
    ask = Ask("single", f"what_{attribute}", (study,), values, values[0], {"image": "image 1"})
    text, options, answer, _ = wording.render(ask, rng)
    return turn_of(rng, text, options, answer)


def question(rng: Random, family: Family) -> Item:
    """One to three questions on one image."""
    i = _any_scene(rng)
    asked = dict.fromkeys(shuffled(rng, [a for a in ATTRIBUTES if value(STUDIES[i], a)]))  # each once
    turns = rng.randint(2, 3) if rng.random() < EXTRA_TURNS else 1
    return Item(tuple(_on_image(rng, STUDIES[i], attribute) for attribute in list(asked)[:turns]), CLASSES[i])


def phrases() -> Iterator[str]:
    """Further texts for the tokenizer: every template, and every word as an option and by itself."""
    yield from (line for lines in wording.TEMPLATES.values() for line in lines)
    for word in sorted({*wording.vocabulary(), *(str(n) for n in range(1, 10))}):
        yield f"A: {word}"
        yield word
    yield from (f"{letter}: image" for letter in LETTERS)


def key_tokens(tokenizer: Any) -> dict[str, int]:
    """The tokens of slot numbers and option letters."""
    keys = sorted(NUMBER_KEYS | LETTER_KEYS)
    return {key: tokenizer.encode(key, add_special_tokens=False)[-1] for key in keys}


TASKS: Mapping[str, Callable[[Random, Family], Item]] = {
    task.__name__: task
    for task in (
        repeat, dense, chain, copy, look_up, look_up_turns, text_reference, text_reference_turns, text_larger,
        text_same, caption, question,
    )
}  # fmt: skip


def item(diet: Mapping[str, float], family: Family, seed: int, phase: str, i: int) -> Item:
    """Sample `i` of a phase.

    Args:
        diet: Task name -> share; shares need not add up to 1.
        family: Its image markers surround the text slots.
        seed: Seed of the base.
        phase: Name of the phase.
        i: Number of the sample, from 0.
    """
    rng = stream(seed, "pretrain", phase, i)
    return TASKS[rng.choices(list(diet), cum_weights=list(accumulate(diet.values())))[0]](rng, family)
