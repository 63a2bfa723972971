"""The text tasks of the corpus, from which a tiny base learns look-up: words take the place of images.

The words are in slots, between the same markers as images. The decoder learns to bind a slot's number to its content,
an option to its letter, and then one to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from medmim.data import wording
from medmim.data.abilities.ask import FIXED_OPTIONS, Ask, value
from medmim.data.abilities.coreference import refer
from medmim.data.sources.phantom_draw import CLASSES, NORMAL, SIZES, Scene
from medmim.lvlm.family import Family, Turn
from medmim.sample import LETTERS, Finding, Study, with_options

T = TypeVar("T")
OPEN = 0.3  # share of questions without options
EXTRA_TURNS = 0.4  # share of questions that follow one or two others on the same slots or image
_INDICES = ("1", "2", "3")
NUMBER_KEYS = frozenset(f" {index}" for index in _INDICES)
LETTER_KEYS = frozenset(f"{letter}:" for letter in LETTERS)
_QUERIES = 8  # look-ups in one dense answer
ATTRIBUTES = ("finding", "finding", "size", "modality", "view", "side", "margin")


@dataclass(frozen=True)
class Item:
    """A conversation to train on.

    Attributes:
        turns: The conversation, with every answer.
        scene: The image shown with it; None for text only.
        keys: The words of the answer that are trained, where the others are random; if empty, all are trained.
    """

    turns: tuple[Turn, ...]
    scene: Scene | None = None
    keys: frozenset[str] = frozenset()


def study_of(scene: Scene) -> Study:
    """The study of a phantom scene."""
    shown = () if scene.finding == NORMAL else (Finding(scene.finding, scene.size, scene.side, scene.margin),)
    return Study("phantom", "", "", scene.modality, view=scene.view, laterality=scene.laterality, findings=shown)


STUDIES = tuple(study_of(scene) for scene in CLASSES)


def _words_of(study: Study) -> list[str]:
    parts = [study.modality, study.view, *(value(study, a) for a in ("size", "finding", "side", "margin"))]
    return [wording.word(part) for part in parts if part]


WORDS = tuple(
    sorted(
        {word for study in STUDIES for word in _words_of(study)}
        | {word for options in FIXED_OPTIONS.values() for option in options for word in option.split()}
        - {*_INDICES, "image"}
    )
)


def turn_of(rng: Random, question: str, options: Sequence[str], answer: str) -> Turn:
    """A question with its options, or, with probability `OPEN`, without."""
    if rng.random() < OPEN:
        return Turn(question, answer)
    return _closed(question, options, answer)


def _closed(question: str, options: Sequence[str], answer: str) -> Turn:
    return Turn(with_options(question, options), f"{LETTERS[list(options).index(answer)]}: {answer}")


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """All of them, in random order."""
    return rng.sample(items, len(items))


def _shown(family: Family, slots: Sequence[Sequence[str]]) -> str:
    shown = "".join(family.slot(i + 1, "".join(f" {word}" for word in words)) for i, words in enumerate(slots))
    return shown.replace("  ", " ")  # a marker may include a space


def _about(rng: Random, slots: Sequence[Sequence[str]]) -> Turn | None:
    """Which slot holds a word, or which of some words a slot holds; None if the drawn slot has no word of its own.

    The answer is in that slot only. Where slots share words, as described images do, a wrong option may be in the slot
    too; the shipped bases were trained that way.
    """
    asked = rng.randrange(len(slots))
    own = [word for word in slots[asked] if sum(word in words for words in slots) == 1]
    if not own:
        return None
    name, word = f"image {asked + 1}", rng.choice(own)
    if rng.random() < 0.5:
        question = rng.choice(wording.TEMPLATES["which_finding"]).format(value=word)
        return turn_of(rng, question, shuffled(rng, [f"image {i + 1}" for i in range(len(slots))]), name)
    question = rng.choice(wording.TEMPLATES["what_finding"]).format(image=name)
    options = shuffled(rng, sorted({word, *(rng.choice(words) for words in slots if words is not slots[asked])}))
    return _closed(question, options, word)  # without options the answer would be random: a slot holds several words


def _earlier_turns(rng: Random, slots: Sequence[Sequence[str]], count: int) -> list[Turn]:
    """Questions on text slots: those of `_about`, or for all words of a slot."""
    turns = []
    for _ in range(count):
        turn = _about(rng, slots) if rng.random() < 0.7 else None
        if turn is None:
            asked = rng.randrange(len(slots))
            question = rng.choice(wording.TEMPLATES["describe"][:2]).replace("image 1", f"image {asked + 1}")
            turn = Turn(question, " ".join(slots[asked]))
        turns.append(turn)
    return turns


def _on_slots(rng: Random, family: Family, slots: Sequence[Sequence[str]], turns: list[Turn]) -> Item:
    first = Turn(_shown(family, slots) + turns[0].question, turns[0].answer)
    return Item((first, *turns[1:]))


def _with_extra(rng: Random, family: Family, slots: Sequence[Sequence[str]], turn: Turn) -> Item:
    extra = _earlier_turns(rng, slots, rng.randint(1, 2)) if rng.random() < EXTRA_TURNS else []
    return _on_slots(rng, family, slots, [*extra, turn])


def _random_slots(rng: Random) -> list[list[str]]:
    count, each = rng.randint(2, 3), rng.randint(1, 3)
    words = rng.sample(WORDS, count * each)
    return [words[i * each : (i + 1) * each] for i in range(count)]


def repeat(rng: Random, family: Family) -> Item:
    """Repeat a random sequence."""
    words = rng.sample([*WORDS, *_INDICES, *(f"{letter}:" for letter in LETTERS[:6])], rng.randint(5, 14))
    text = "Repeat: " + " ".join(words)
    return Item((Turn(text, text),))


def dense(rng: Random, family: Family) -> Item:
    """Many look-ups in one answer: from words to the numbers of their slots, or to the letters of their options.

    The key is right behind the word, as a letter is right before its option: look-up forms within 500 steps that way,
    and not at all with a space between (measured).
    """
    if rng.random() < 0.5:
        slots = _random_slots(rng)
        key = {word: f" {i + 1}" for i, words in enumerate(slots) for word in words}
        question = _shown(family, slots) + "Find:"
    else:
        options = rng.sample(WORDS, rng.randint(2, 6))
        key = {word: f"{LETTERS[i]}:" for i, word in enumerate(options)}
        question = with_options("Find:", options)
    asked = rng.choices(list(key), k=_QUERIES)
    answer = "Found:" + "".join(f" {word}{key[word]}" for word in asked)
    return Item((Turn(question, answer),), keys=frozenset(key.values()))


def chain(rng: Random, family: Family) -> Item:
    """Many two-step look-ups in one answer: from a word to its slot to the letter of the option that names the slot.

    Or from a slot number to the letter of the option whose word is in that slot. A question with options needs the same
    steps, but trains one letter where this trains eight; without this task they form late or never (measured).
    """
    slots = _random_slots(rng)
    order = shuffled(rng, range(len(slots)))
    if rng.random() < 0.5:
        options = [f"image {i + 1}" for i in order]
        key = {word: f"{LETTERS[order.index(i)]}:" for i, words in enumerate(slots) for word in words}
    else:
        options = [rng.choice(slots[i]) for i in order]
        key = {str(i + 1): f"{LETTERS[order.index(i)]}:" for i in range(len(slots))}
    asked = rng.choices(list(key), k=_QUERIES)
    question = _shown(family, slots) + with_options("Find:", options)
    return Item((Turn(question, "Found:" + "".join(f" {name}{key[name]}" for name in asked)),), keys=LETTER_KEYS)


def copy(rng: Random, family: Family) -> Item:
    """Find a word among the options."""
    options = rng.sample([*WORDS, "image 1", "image 2", "image 3"], rng.randint(2, 5))
    answer = rng.choice(options)
    return Item((Turn(with_options(f"Find: {answer}", options), f"{LETTERS[options.index(answer)]}: {answer}"),))


def look_up(rng: Random, family: Family) -> Item:
    """Which slot holds a word, or which of some words a slot holds; slots of random words."""
    slots = _random_slots(rng)
    turn = _about(rng, slots)
    assert turn is not None  # noqa: S101  random slots have no word in common
    return _with_extra(rng, family, slots, turn)


def look_up_turns(rng: Random, family: Family) -> Item:
    """Four questions in a row on slots of random words."""
    slots = _random_slots(rng)
    return _on_slots(rng, family, slots, _earlier_turns(rng, slots, 4))


def _described(rng: Random, studies: Sequence[Study]) -> list[list[str]]:
    """Slots that describe in words what the images show, sometimes in another order than a caption."""
    slots = [_words_of(study) for study in studies]
    return [shuffled(rng, words) if rng.random() < 0.3 else words for words in slots]


def _refer(rng: Random) -> Ask:
    while True:
        for ask in refer("coreference", rng.sample(STUDIES, 24), rng.choice(ATTRIBUTES), rng):
            return ask


def text_reference(rng: Random, family: Family) -> Item:
    """The questions of co-reference, on words instead of images."""
    ask = _refer(rng)
    question, options, answer, _ = wording.render(ask, rng)
    return _with_extra(rng, family, _described(rng, ask.studies), turn_of(rng, question, options, answer))


def text_reference_turns(rng: Random, family: Family) -> Item:
    """Four questions in a row on described images."""
    slots = _described(rng, _refer(rng).studies)
    return _on_slots(rng, family, slots, _earlier_turns(rng, slots, 4))


def text_larger(rng: Random, family: Family) -> Item:
    """Which of two described findings is larger."""
    scene = rng.choice([s for s in CLASSES if s.size])
    answer = rng.choice(FIXED_OPTIONS["larger"])
    small, large = sorted(rng.sample(range(3), 2))
    sizes = {"image 1": (large, small), "image 2": (small, large), "same size": (small, small)}[answer]
    if answer == "same size":
        sizes = (rng.randrange(3),) * 2
    fields = {name: getattr(scene, name) for name in Scene.__slots__}
    studies = tuple(study_of(Scene(**{**fields, "size": SIZES[size]})) for size in sizes)
    ask = Ask("comparison", "larger", studies, FIXED_OPTIONS["larger"], answer, {"finding": scene.finding})
    question, options, answer, _ = wording.render(ask, rng)
    return _with_extra(rng, family, _described(rng, studies), turn_of(rng, question, options, answer))


def text_same(rng: Random, family: Family) -> Item:
    """Whether two described images show the same finding."""
    answer = rng.choice(FIXED_OPTIONS["same_finding"])
    while True:
        first = rng.choice(CLASSES)
        alike = [s for s in CLASSES if s.modality == first.modality and s.view == first.view]
        fitting = [s for s in alike if (s.finding == first.finding) == (answer == "same")]
        if fitting:
            break
    studies = (study_of(first), study_of(rng.choice(fitting)))
    ask = Ask("comparison", "same_finding", studies, FIXED_OPTIONS["same_finding"], answer)
    question, options, answer, _ = wording.render(ask, rng)
    return _with_extra(rng, family, _described(rng, studies), turn_of(rng, question, options, answer))
