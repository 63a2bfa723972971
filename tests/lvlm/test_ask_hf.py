"""Inference with a loaded model: equal text at any batch size, one reply for each question, in order."""

import pytest
from PIL import Image

from medmim.lvlm import ask_hf, checkpoint
from medmim.lvlm.ask import Question, key
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn


@pytest.fixture(scope="module")
def questions():
    """Of different lengths, with zero to three images."""
    found = []
    for i in range(33):
        images = [Image.linear_gradient("L").rotate(90 * j + i).convert("RGB") for j in range(i % 4)]
        found.append(Question("Which image shows the larger opacity?" + "\nA: image 1\nB: image 2" * (i % 3), images))
    return found


def test_replies_are_the_same_at_batch_1_and_32(lvlm, questions):
    one_by_one = list(ask_hf.ask(lvlm, questions, batch_size=1, max_new_tokens=6))
    together = list(ask_hf.ask(lvlm, questions, batch_size=32, max_new_tokens=6))
    assert one_by_one == together
    assert len({reply.key for reply in one_by_one}) == len(questions) - questions_asked_twice(questions)


def test_a_trained_model_gives_varied_answers_that_are_equal_at_any_batch_size(questions):
    shipped = checkpoint.load(checkpoint.resolve("tiny-mantis"), device="cpu")
    texts = [[r.text for r in ask_hf.ask(shipped, questions, size, max_new_tokens=6)] for size in (1, 7, 33)]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 2


def questions_asked_twice(questions):
    seen = [(q.prompt, tuple(i.tobytes() for i in q.images)) for q in questions]
    return len(seen) - len(set(seen))


def test_a_batch_gives_the_text_of_plain_greedy_decoding(lvlm, questions):
    import torch

    question = questions[3]
    reply = next(iter(ask_hf.ask(lvlm, [question], max_new_tokens=5)))
    ids = encode(lvlm, [Turn(question.prompt)], 3).ids
    values = ask_hf.pixels(lvlm, question.images)
    decoded = []
    for _ in range(5):
        with torch.no_grad():
            logits = lvlm.model(input_ids=torch.tensor([ids + decoded]), pixel_values=values).logits
        decoded.append(int(logits[0, -1].argmax()))
        if lvlm.tokenizer.decode(decoded[-1:]) in lvlm.family.stop:
            break
    assert reply.text == lvlm.tokenizer.decode(decoded, skip_special_tokens=True).strip()


def test_a_question_that_cannot_be_encoded_gets_its_error_and_the_others_are_answered(lvlm):
    bad = Question(f"say {lvlm.family.eos}")
    replies = list(ask_hf.ask(lvlm, [Question("one"), bad, Question("two")], max_new_tokens=3))
    assert [bool(reply.error) for reply in replies] == [False, True, False]
    assert lvlm.family.eos in replies[1].error
    assert replies[1].text == ""
    assert [r.error for r in ask_hf.ask(lvlm, [bad])] == [replies[1].error]


def test_progress_counts_every_question(lvlm, questions):
    done = []
    list(ask_hf.ask(lvlm, questions[:7], batch_size=3, max_new_tokens=1, on_done=done.append))
    assert done == [3, 3, 1]


def test_the_key_changes_with_everything_that_may_change_the_text():
    image = Image.new("RGB", (2, 2))
    other = Image.new("RGB", (2, 2), (0, 0, 1))
    keys = {
        key("w", "q", [image], 8),
        key("v", "q", [image], 8),
        key("w", "p", [image], 8),
        key("w", "q", [other], 8),
        key("w", "q", [image, image], 8),
        key("w", "q", [Image.new("RGB", (4, 1))], 8),
        key("w", "q", [image], 9),
    }
    assert len(keys) == 7
    assert key("w", "q", [image], 8) == key("w", "q", [image.copy()], 8)
