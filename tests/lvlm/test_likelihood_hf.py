"""Likelihoods of options: those of plain forward passes, at any batch size, with the images encoded once a question."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image

from medmim.errors import UserError
from medmim.lvlm import ask_hf, checkpoint, likelihood_hf, llava
from medmim.lvlm.ask import Question
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn
from medmim.lvlm.features import pixels
from medmim.lvlm.llava import Lvlm
from medmim.sample import lettered, with_options

OPTIONS = ("left", "left side", "image 1", "same size", "", "image 2", "left", "radiography: large opacity")


def question(i: int) -> Question:
    """With zero to three images and two to eight options: one inside another, one empty, two alike."""
    images = [Image.linear_gradient("L").rotate(90 * j + i).convert("RGB") for j in range(i % 4)]
    options = OPTIONS[: 2 + i % 7]
    return Question(with_options("Which?" + " The larger opacity." * (i % 3), options), images, options)


QUESTIONS = [question(i) for i in range(11)]


def plainly(lvlm: Lvlm, asked: Question) -> tuple[list[float], list[float], list[int]]:
    """By one full forward pass for each answer: letters, texts, tokens of the texts."""
    shown = pixels(lvlm, asked.images).to(lvlm.model.dtype) if asked.images else None

    def ids(answer: str | None) -> list[int]:
        return encode(lvlm, [Turn(asked.prompt, answer)], len(asked.images)).ids

    def values(tokens: list[int]) -> list[float]:
        """The log-likelihood of each token but the first, given those before it."""
        with torch.no_grad():
            logits = lvlm.model(input_ids=torch.tensor([tokens]), pixel_values=shown).logits[0].float()
        return logits[:-1].log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()

    def common(first: list[int], second: list[int]) -> int:
        return next(i for i, (a, b) in enumerate(zip([*first, -1], [*second, -2], strict=False)) if a != b)

    answers = [ids(answer) for answer in lettered(asked.options)]
    at = common(answers[0], answers[1])
    prompt, texts = ids(None), [ids(text) for text in asked.options]
    begins = [common(prompt, text) for text in texts]
    return (
        [values(answer)[at - 1] for answer in answers],
        [sum(values(text)[begin - 1 :]) for text, begin in zip(texts, begins, strict=True)],
        [len(text) - begin for text, begin in zip(texts, begins, strict=True)],
    )


def test_likelihoods_are_those_of_plain_forward_passes_at_any_batch_size(lvlm: Lvlm) -> None:
    wanted = [plainly(lvlm, asked) for asked in QUESTIONS]
    replies = [reply for size in (1, 4, 11) for reply in likelihood_hf.compare(lvlm, QUESTIONS, size)]
    for reply, (letters, texts, tokens) in zip(replies, 3 * wanted, strict=True):
        assert reply.letters == pytest.approx(letters, abs=1e-4)
        assert reply.texts == pytest.approx(texts, abs=1e-4)
        assert list(reply.tokens) == tokens
        assert not reply.error and not reply.text


@pytest.mark.parametrize("base", ["tiny-mantis", "tiny-llava-med"])
def test_a_trained_model_begins_with_the_letter_that_is_the_likeliest(base: str) -> None:
    trained = llava.load(checkpoint.resolve(base), device="cpu")
    said = [reply.text for reply in ask_hf.ask(trained, QUESTIONS, 11, 4)]
    compared = [reply.letters for reply in likelihood_hf.compare(trained, QUESTIONS, 11)]
    begun = [
        (text[0], "ABCDEFGH"[letters.index(max(letters))])
        for text, letters, asked in zip(said, compared, QUESTIONS, strict=True)
        if text[:2] in [f"{letter}:" for letter in "ABCDEFGH"[: len(asked.options)]]
    ]
    assert len(begun) > 2 and all(letter == likeliest for letter, likeliest in begun)


def test_bf16_gives_nearly_the_same_with_logits_in_fp32(lvlm: Lvlm) -> None:
    half = replace(lvlm, model=copy.deepcopy(lvlm.model).to(torch.bfloat16))
    exact = list(likelihood_hf.compare(lvlm, QUESTIONS, 4))
    rounded = list(likelihood_hf.compare(half, QUESTIONS, 4))
    for one, other in zip(exact, rounded, strict=True):
        assert other.letters == pytest.approx(one.letters, abs=0.25)
        assert other.texts == pytest.approx(one.texts, rel=0.05, abs=0.5)
        assert one.key != other.key
    letters = likelihood_hf._encode(half, QUESTIONS[6]).letters
    with torch.no_grad():  # letters whose logits differ by less than bf16 can tell
        half.model.lm_head.weight = torch.nn.Parameter(half.model.lm_head.weight.clone())
        for i, letter in enumerate(letters):
            half.model.lm_head.weight[letter] = 0.5
            half.model.lm_head.weight[letter, :4] = 0.5 + i / 128
    (close,) = likelihood_hf.compare(half, QUESTIONS[6:7])
    assert len(set(close.letters)) == len(letters) == 8, close


def test_an_image_is_encoded_once_however_many_questions_and_options_it_has(
    lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, read = [], []
    tower, decoder = lvlm.model.model.vision_tower, lvlm.model.model.language_model
    plain, text = tower.forward, decoder.forward
    monkeypatch.setattr(tower, "forward", lambda pixels, **kw: shown.append(len(pixels)) or plain(pixels, **kw))
    monkeypatch.setattr(decoder, "forward", lambda **kw: read.append(kw["inputs_embeds"].shape[1]) or text(**kw))
    list(likelihood_hf.compare(lvlm, QUESTIONS, 11))
    assert shown == [1] * len({image.tobytes() for asked in QUESTIONS for image in asked.images})
    assert len(read) == 2 and read[1] < 80 < read[0]  # the options alone


def test_what_cannot_be_asked_is_its_own_error_and_no_others(lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [
        replace(QUESTIONS[1], options=()),
        replace(QUESTIONS[1], options=("left", f"say {lvlm.family.eos}")),
        Question("a \ud83d", options=("left", "right")),
        Question("long " * 3000, options=("left", "right")),
    ]
    alone = list(likelihood_hf.compare(lvlm, QUESTIONS[2:4], 8))
    replies = list(likelihood_hf.compare(lvlm, [bad[0], QUESTIONS[2], *bad[1:], QUESTIONS[3]], 8))
    assert [bool(reply.error) for reply in replies] == [True, False, True, True, True, False]
    words = ("no options", lvlm.family.eos, "surrogate", "context")
    for reply, word in zip([replies[0], *replies[2:5]], words, strict=True):
        assert word in reply.error and not reply.letters
    for reply, other in zip((replies[1], replies[5]), alone, strict=True):
        assert reply.letters == pytest.approx(other.letters, abs=1e-4) and reply.key == other.key
    assert [bool(one.error) for one in likelihood_hf.compare(lvlm, bad)] == [True] * 4


def test_the_longest_option_counts_in_the_context(lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = QUESTIONS[6]
    needed = max(len(encode(lvlm, [Turn(asked.prompt, text)], len(asked.images)).ids) for text in asked.options)
    for room, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(lvlm.model.config.text_config, "max_position_embeddings", room)
        (reply,) = likelihood_hf.compare(lvlm, [asked])
        assert (reply.error == "") == fits


def test_likelihoods_that_are_not_finite_are_an_error(lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = copy.deepcopy(lvlm.model)
    with torch.no_grad():
        broken.lm_head.weight = torch.nn.Parameter(broken.lm_head.weight.clone())
        broken.lm_head.weight[7] = float("nan")
    (reply,) = likelihood_hf.compare(replace(lvlm, model=broken), QUESTIONS[:1])
    assert "not finite" in reply.error and not reply.letters


def test_memory_that_runs_out_is_reported_with_what_to_lower(lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(**_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    monkeypatch.setattr(lvlm.model.model, "forward", forward)
    with pytest.raises(UserError, match="ran out of memory while 2 questions") as caught:
        list(likelihood_hf.compare(lvlm, QUESTIONS[:2]))
    assert "bench.batch_size" in caught.value.fix


def test_other_options_give_another_key(lvlm: Lvlm) -> None:
    asked = [QUESTIONS[0], replace(QUESTIONS[0], options=("left", "right"))]
    keys = {reply.key for reply in likelihood_hf.compare(lvlm, asked)}
    generated = {reply.key for reply in ask_hf.ask(lvlm, asked, max_new_tokens=1)}
    assert len(keys | generated) == 3
