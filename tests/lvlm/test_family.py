"""The chat formats, byte for byte."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medmim.errors import UserError
from medmim.lvlm.family import Segment, Turn
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS

SYSTEM = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "You are a pirate chatbot who always responds in pirate speak!<|eot_id|>"
)


def text(segments):
    return "".join(segment.text for segment in segments)


def trained(segments):
    return "".join(segment.text for segment in segments if segment.trained)


def test_mantis_writes_two_images_as_its_processor_does():
    written = MANTIS.render([Turn("Which is larger?\nA: image 1\nB: image 2", "B: image 2")], 2)
    assert text(written) == (
        SYSTEM + "<|start_header_id|>user<|end_header_id|>\n\n"
        "(image 1: <Image><image></Image>)(image 2: <Image><image></Image>)"
        "Which is larger?\nA: image 1\nB: image 2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nB: image 2<|eot_id|>"
    )
    assert trained(written) == "<|start_header_id|>assistant<|end_header_id|>\n\nB: image 2<|eot_id|>"


def test_mantis_prompt_ends_where_the_answer_begins_and_trains_nothing():
    written = MANTIS.render([Turn("q1", "a1"), Turn("q2")], 1)
    assert text(written) == (
        SYSTEM + "<|start_header_id|>user<|end_header_id|>\n\n(image 1: <Image><image></Image>)q1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nq2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert not written[-1].trained


def test_llava_med_writes_one_image_as_published():
    written = LLAVA_MED.render([Turn("What is it?", "a nevus"), Turn("Sure?", "yes")], 1)
    assert text(written) == "<s>[INST] <image>\nWhat is it? [/INST] a nevus </s>[INST] Sure? [/INST] yes </s>"
    assert trained(written) == " a nevus </s> yes </s>"


def test_llava_med_writes_several_images_between_their_numbers():
    written = LLAVA_MED.render([Turn("Which?")], 2)
    assert text(written) == ("<s>[INST] (image 1: <image> image 1)(image 2: <image> image 2)\nWhich? [/INST]")


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda f: f.name)
@given(st.integers(0, 8), st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20)), min_size=1, max_size=3))
def test_every_image_stands_once_and_every_answer_is_trained(family, images, pairs):
    turns = [Turn(question, answer) for question, answer in pairs]
    assume(not any(token in q + "|" + a for token in family.reserved for q, a in pairs))
    written = family.render(turns, images)
    assert text(written).count("<image>") == images
    for _, answer in pairs:
        assert any(s.trained and answer in s.text for s in written)
    assert not any(s.trained and "<image>" in s.text for s in written)


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda f: f.name)
def test_the_blind_form_shows_no_marker(family):
    assert "image" not in text(family.render([Turn("Which?")], 0)).lower()


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda f: f.name)
@pytest.mark.parametrize("where", ["question", "answer"])
def test_a_reserved_token_in_the_text_is_refused(family, where):
    for token in (*family.special, *family.stop):
        turn = Turn(f"a{token}b", "c") if where == "question" else Turn("c", f"a{token}b")
        with pytest.raises(UserError, match="contains"):
            family.render([turn], 1)


def test_an_open_answer_before_the_last_turn_is_refused():
    with pytest.raises(UserError):
        MANTIS.render([Turn("q"), Turn("q", "a")], 1)
    with pytest.raises(UserError):
        MANTIS.render([], 1)


def test_the_template_digest_differs_by_format_and_stays():
    assert MANTIS.template_digest != LLAVA_MED.template_digest
    assert MANTIS.template_digest.startswith("33984765f1e224a5")
    assert LLAVA_MED.template_digest.startswith("4b2812b4f1d5f405")


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda family: family.name)
def test_the_template_digest_depends_on_all_that_is_written_and_on_what_ends_an_answer(family):
    def changed(when, trained=False):
        more = Segment(" ", trained)
        return lambda turns, images: family.write(turns, images) + [more] * bool(when(turns, images))

    others = [
        replace(family, write=changed(lambda turns, images: turns[-1].answer is None)),
        replace(family, write=changed(lambda turns, images: images == 3)),
        replace(family, write=changed(lambda turns, images: len(turns) == 2 and images == 0)),
        replace(family, write=changed(lambda turns, images: images == 3, trained=True)),
        replace(family, stop=family.stop[1:]),
        replace(family, eos="<|other|>"),
    ]
    assert len({one.template_digest for one in (family, *others)}) == 1 + len(others)
