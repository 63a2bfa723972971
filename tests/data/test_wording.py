"""Wording: every question is filled in, and neither phrasing nor option order depends on the answer."""

from collections import Counter

import pytest

from medmim.data import split, wording
from medmim.data.abilities import ask_all
from medmim.data.abilities.ask import FIXED_OPTIONS, Ask
from medmim.data.seeds import stream
from medmim.data.sources import phantom
from medmim.sample import ABILITIES, Finding, Study, split_options


@pytest.fixture(scope="module")
def asks() -> list[Ask]:
    groups, _ = split.groups(split.by_split(phantom.patients(300, 2), 0, 0.0, 0.2), 0, 0.0, 0.2, {})
    return ask_all(groups["train"], ABILITIES, phantom.FAMILIES, 0)


def test_a_family_has_at_least_two_phrasings() -> None:
    assert all(len(lines) == len(set(lines)) >= 2 for lines in wording.TEMPLATES.values())


def test_every_blank_is_filled(asks: list[Ask]) -> None:
    for i, ask in enumerate(asks):
        question, options, answer, gold = wording.render(ask, stream(i))
        assert "{" not in question and "None" not in question
        assert answer and all(options)
        assert [options[g] for g in gold] == ([answer] if options else [])


def test_an_open_question_has_no_options(asks: list[Ask]) -> None:
    for i, ask in enumerate(asks[:200]):
        _, options, answer, gold = wording.render(ask, stream(i), closed=False)
        assert (options, gold) == ((), ()) and answer


def test_every_option_comes_under_every_letter(asks: list[Ask]) -> None:
    ask = next(a for a in asks if a.family == "assessment")
    letters = Counter(wording.render(ask, stream(i))[3][0] for i in range(1_000))
    assert len(letters) == 5
    assert min(letters.values()) > 140


def test_phrasing_and_order_depend_only_on_the_stream(asks: list[Ask]) -> None:
    assert wording.render(asks[0], stream("a")) == wording.render(asks[0], stream("a"))


def test_a_rendered_question_is_split_like_a_published_row(asks: list[Ask]) -> None:
    for i, ask in enumerate(asks):
        question, options, _, _ = wording.render(ask, stream(i))
        text = "\n".join([question, *(f"{'ABCDEFGH'[n]}: {o}" for n, o in enumerate(options))])
        assert split_options(text) == (question, options)


def test_a_caption_states_everything_that_the_image_shows() -> None:
    mass = Finding("mass", "large", None, "spiculated")
    study = Study("s", "p", "i", "mammography", view="CC", findings=(mass,))
    assert wording.caption(study) == "mammography CC view: large mass, spiculated margin."
    assert wording.caption(Study("s", "p", "i", "X-ray")) == "radiography: normal."
    two = (Finding("opacity", "small", "left"), Finding("effusion"))
    assert wording.caption(Study("s", "p", "i", "X-ray", findings=two)) == (
        "radiography: small opacity, left side; effusion."
    )


def test_the_vocabulary_covers_every_phantom_question(asks: list[Ask]) -> None:
    known = set(wording.vocabulary())
    for i, ask in enumerate(asks):
        question, options, answer, _ = wording.render(ask, stream(i))
        words = {w.strip(".,:;?") for text in (question, *options, answer) for w in text.split()}
        assert words <= known, words - known


def test_values_in_questions_are_single_words() -> None:
    scenes = phantom.CLASSES
    values = {v for s in scenes for v in (s.modality, s.finding, s.size, s.side, s.margin, s.view) if v}
    values |= {o for family, options in FIXED_OPTIONS.items() if family != "larger" for o in options}
    assert all(len(wording.word(value).split()) == 1 for value in values)
