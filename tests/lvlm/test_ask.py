"""Questions and replies: text that UTF-8 cannot hold is replaced where it comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.lvlm.ask import Question, Reply, refusal, writable

anything = st.text(st.characters(), max_size=20)  # halves of surrogate pairs among them


def plain(text):
    """The characters that no half of a pair can become."""
    return [c for c in text if ord(c) < 0xD800 or 0xE000 <= ord(c) < 0x10000 and c != "\ufffd"]


@given(anything)
def test_any_text_becomes_one_that_can_be_written_and_no_other_character_changes(text):
    found = writable(text)
    assert found.encode().decode() == found
    assert writable(found) == found
    assert plain(found) == plain(text)


@given(st.text(max_size=20))
def test_text_that_can_be_written_stays(text):
    assert writable(text) == text and refusal(Question(text)) == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B: image 2 \ud83d", "B: image 2 \ufffd"),
        ("\ud83dB", "\ufffdB"),
        ("\ude00", "\ufffd"),
        ("a\udcffb", "a\ufffdb"),
        ("\ud83d" + "\ude00", "\U0001f600"),
        ("\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
    ],
)
def test_halves_of_a_pair_are_joined_or_replaced(text, wanted):
    assert writable(text) == wanted
    reply = Reply(text, "k", text)
    assert (reply.text, reply.error) == (wanted, wanted)


@pytest.mark.parametrize("prompt", ["Is the \ud83d mark left?", "\udcff", "a\udfffb"])
def test_a_question_with_half_a_pair_is_refused_in_words(prompt):
    assert "half a surrogate pair" in refusal(Question(prompt))
    assert refusal(Question(prompt)).encode()
