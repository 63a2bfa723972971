"""What a model is asked for, and how its reply is read."""

import pytest

from medmim.data.words import prompt
from medmim.data.words.facts import Facts

CLOSED = Facts(
    "change", 2, "How did the mass change from image 1 to image 2?", ("worse", "stable"), "worse", {"finding": "mass"}
)
OPEN = Facts("what_finding", 1, "What does image 1 show?", (), "a bleed", {"image": "image 1"})


def test_a_model_is_not_told_what_it_must_not_give_away() -> None:
    text = prompt.of(CLOSED, 0)
    assert "worse" not in text and "stable" not in text and '"answer"' not in text
    assert "Answer: a bleed" in prompt.of(OPEN, 0) and '"answer"' in prompt.of(OPEN, 0)


def test_each_way_to_say_it_is_another_request() -> None:
    assert len({prompt.of(CLOSED, way) for way in range(prompt.VARIANTS)}) == prompt.VARIANTS


@pytest.mark.parametrize(
    "text",
    ['{"question": "What?"}', '```json\n{"question": "What?"}\n```', 'Sure! {"question": "What?", "note": 1} Done.'],
)
def test_json_is_read_also_with_words_around_it(text: str) -> None:
    assert prompt.read(text, writes_answer=False).question == "What?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("What?", "no JSON object"), ("", "no JSON object"), ("}{", "no JSON object"), ('{"question": 5}', "question"),
        ('{"query": "What?"}', "question"), ('{"question": "What', "no JSON object"), ('{"question": "W" "a"}', "it"),
    ],
)  # fmt: skip
def test_what_is_not_the_form_says_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prompt.read(text, writes_answer=False)
    with pytest.raises(ValueError, match="answer: it is missing"):
        prompt.read('{"question": "What?"}', writes_answer=True)
