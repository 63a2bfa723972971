"""Inference with the zoo: equal replies at any batch size, likelihoods of plain passes, errors by question."""

import copy
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from medmim.errors import UserError
from medmim.lvlm.ask import Question, Reply
from medmim.lvlm.zoo import asking
from medmim.lvlm.zoo import model as zoo
from medmim.lvlm.zoo.model import Model
from medmim.sample import lettered, with_options

OPTIONS = ("left", "left side", "same size", "")


def question(i: int) -> Question:
    """With zero to three images, and two to four options: one inside another, one empty."""
    images = [
        Image.linear_gradient("L").rotate(90 * j + i).resize((40 + 9 * i, 50)).convert("RGB") for j in range(i % 4)
    ]
    options = OPTIONS[: 2 + i % 3]
    return Question(with_options("Which?" + " The larger opacity." * (i % 3), options), images, options)


QUESTIONS = [question(i) for i in range(5)]


def test_replies_are_the_same_alone_and_in_a_batch(model: Model) -> None:
    alone = list(asking.ask(model, QUESTIONS, 1, 5))
    together = list(asking.ask(model, QUESTIONS, len(QUESTIONS), 5))
    assert alone == together and not any(reply.error for reply in alone)
    assert len({reply.key for reply in alone}) == len(QUESTIONS)
    assert len({reply.text for reply in alone}) > 1


def plainly(model: Model, asked: Question, answer: str, lead: str = "") -> list[float]:
    """The log-likelihood of each token of an answer and its end, by one pass over what the processor makes of both.

    `lead` is what its chat template writes in front of an answer that is there, and not where one is asked for.
    """
    turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    made = model.processor.apply_chat_template(
        [[*zoo.conversation(model, asked), turn]],
        tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"images_kwargs": zoo.settings(model, len(asked.images))},
    )  # fmt: skip
    with torch.no_grad():
        logits = model.model(**made).logits[0].float().log_softmax(-1)
    ids = made["input_ids"][0]
    answered = len(model.tokenizer(f"{lead}{answer}<end>", add_special_tokens=False)["input_ids"])
    return logits[:-1].gather(1, ids[1:, None])[-answered:, 0].tolist()


def test_likelihoods_in_a_batch_of_answers_are_those_of_plain_forward_passes(model: Model) -> None:
    model.model.generation_config.eos_token_id = [1, model.tokenizer.convert_tokens_to_ids("<end>")]
    model = replace(model)  # its stop tokens are read anew
    for one, reply in zip(QUESTIONS[1:3], asking.compare(model, QUESTIONS[1:3], 5), strict=True):
        texts = [plainly(model, one, text) for text in one.options]
        letters = [plainly(model, one, text)[0] for text in lettered(one.options)]
        assert not reply.error and not reply.text
        assert reply.letters == pytest.approx(letters, abs=1e-4)
        assert reply.texts == pytest.approx([sum(values) for values in texts], abs=1e-4)
        assert list(reply.tokens) == [len(values) for values in texts]


def test_what_a_template_writes_in_front_of_an_answer_counts_to_its_text_and_leads_to_its_letter(qwen: Model) -> None:
    """As SmolVLM's: `Assistant:` asks, and `Assistant: B` is an answer."""
    processor = copy.copy(qwen.processor)
    processor.chat_template = processor.chat_template.replace("'<a>' if", "'<a> ' if")
    spaced = replace(qwen, processor=processor, asking=replace(qwen.asking, stop=("<end>",)))
    assert zoo.answered(spaced, QUESTIONS[1], "left") == " left<end>"
    for one, reply in zip(QUESTIONS[1:3], asking.compare(spaced, QUESTIONS[1:3], 5), strict=True):
        texts = [plainly(spaced, one, text, " ") for text in one.options]
        assert reply.letters == pytest.approx(
            [plainly(spaced, one, text)[0] for text in lettered(one.options)], abs=1e-4
        )
        assert reply.texts == pytest.approx([sum(values) for values in texts], abs=1e-4)
        assert list(reply.tokens) == [len(values) for values in texts]


def test_a_token_that_spans_question_and_answer_is_asked_for_as_a_whole(
    folder_of: Callable[[str], Path], qwen: Model, tmp_path: Path
) -> None:
    words = json.loads((folder_of("qwen2_5_vl") / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["xl"] = vocabulary.pop("ÿ")  # of a byte that no text has
    words["model"]["merges"] = [["x", "l"]]
    folder = Path(shutil.copytree(folder_of("qwen2_5_vl"), tmp_path / "copy"))
    (folder / "tokenizer.json").write_text(json.dumps(words))
    (folder / "chat_template.jinja").write_text(qwen.processor.chat_template.replace("<a>", "<a>x"))
    merged = zoo.load(folder, "cpu")
    merged = replace(merged, asking=replace(merged.asking, stop=("<end>",)))
    asked = replace(QUESTIONS[1], options=("left", "same size"))
    (reply,) = asking.compare(merged, [asked])
    texts = [plainly(merged, asked, text, "x") for text in asked.options]
    assert [len(values) for values in texts] == [5, 11] == list(reply.tokens)
    assert reply.texts == pytest.approx([sum(values) for values in texts], abs=1e-4)
    assert reply.letters == pytest.approx(
        [plainly(merged, asked, text)[0] for text in lettered(asked.options)], abs=1e-4
    )


def test_images_and_the_answer_count_in_the_context(qwen: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = len(zoo.read(qwen, QUESTIONS[2]))
    for new_tokens, room, fits in ((4, needed + 4, True), (5, needed + 4, False), (4, needed + 3, False)):
        monkeypatch.setattr(qwen.config.get_text_config(), "max_position_embeddings", room)
        (reply,) = asking.ask(qwen, QUESTIONS[2:3], 1, new_tokens)
        assert (reply.error == "") == fits, (new_tokens, room)


@pytest.fixture
def qwen(model_of: Callable[[str], Model]) -> Model:
    return model_of("qwen2_5_vl")


Asker = Callable[[Model, list[Question]], list[Reply]]


@pytest.mark.parametrize(
    "asked", [lambda m, q: list(asking.ask(m, q, 8, 3)), lambda m, q: list(asking.compare(m, q, 8))]
)
def test_a_question_that_cannot_be_asked_is_its_own_error(qwen: Model, asked: Asker) -> None:
    thin = Image.new("RGB", (1, 600))
    good = QUESTIONS[1]
    bad = {
        "contains <eos>": replace(good, prompt="say <eos>"),
        "surrogate": replace(good, prompt="\ud83d"),
        "aspect ratio": replace(good, images=[thin]),
        "context of 4,096": replace(good, prompt="word " * 2000),
    }
    replies = asked(qwen, [good, *bad.values(), QUESTIONS[2]])
    assert not replies[0].error and not replies[-1].error
    for reply, words in zip(replies[1:-1], bad, strict=True):
        assert words in reply.error and not reply.text
    assert [reply.error for reply in asked(qwen, list(bad.values()))] == [reply.error for reply in replies[1:-1]]
    assert asked(qwen, [good, QUESTIONS[2]]) == [replies[0], replies[-1]]


def test_options_that_cannot_be_compared_are_an_error(qwen: Model) -> None:
    none, special = replace(QUESTIONS[1], options=()), replace(QUESTIONS[1], options=("a", "<eos>"))
    replies = list(asking.compare(qwen, [none, special]))
    assert "has no options" in replies[0].error and "contains <eos>" in replies[1].error


def test_an_answer_as_long_as_the_context_is_refused(qwen: Model) -> None:
    with pytest.raises(UserError, match="leaves no tokens for a question"):
        list(asking.ask(qwen, QUESTIONS, max_new_tokens=zoo.context_length(qwen)))


@pytest.mark.parametrize("how", [asking.ask, asking.compare])
def test_few_batches_wait_with_their_pixels_however_many_cores_there_are(
    how: Callable[..., Iterator[Reply]], qwen: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], zoo.read
    monkeypatch.setattr("joblib.cpu_count", lambda: 64)
    monkeypatch.setattr(zoo, "read", lambda model, one: [read.append(one), real(model, one)][1])
    replies = how(qwen, [QUESTIONS[0]] * 12, 1)
    next(replies)
    time.sleep(0.5)
    assert len(read) <= 3
    assert len(list(replies)) == 11


def test_the_questions_of_a_batch_are_read_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a tokenizer whose file asks for padding, which the first reader would switch off under the others."""
    alone = list(asking.ask(model, QUESTIONS, 5, 1))
    monkeypatch.setattr("joblib.cpu_count", lambda: 10)
    fresh = zoo.load(model.path, "cpu")
    fresh.tokenizer.backend_tokenizer.enable_padding()
    fresh = replace(fresh)
    reader = type(fresh.processor.image_processor)
    meet, real = threading.Barrier(3, timeout=20), reader.preprocess

    def preprocess(*given: Any, **more: Any) -> Any:
        meet.wait()
        return real(*given, **more)

    monkeypatch.setattr(reader, "preprocess", preprocess)  # of the three questions with images
    assert list(asking.ask(fresh, QUESTIONS, 5, 1)) == alone


def test_progress_counts_every_question(qwen: Model) -> None:
    done: list[int] = []
    list(asking.ask(qwen, QUESTIONS, 2, 1, done.append))
    list(asking.compare(qwen, QUESTIONS[:3], 2, done.append))
    assert done == [2, 2, 1, 2, 1]


def test_the_key_holds_budget_backend_form_template_and_dtype(folder_of: Callable[[str], Path], qwen: Model) -> None:
    def key(model: Model) -> str:
        (reply,) = asking.ask(model, [QUESTIONS[2]], 1, 1)
        return reply.key

    asked = qwen.asking
    others = [
        replace(qwen, asking=replace(asked, pixels={**asked.pixels, "max_pixels": 100_000})),
        replace(qwen, asking=replace(asked, backend="torchvision")),
        replace(qwen, asking=replace(asked, stop=())),
        replace(qwen, asking=replace(asked, before="")),
        zoo.load(folder_of("qwen2_5_vl"), "cpu", torch.bfloat16),
        zoo.load(folder_of("qwen2_5_vl"), "cpu", torch.float16),
    ]
    assert len({key(model) for model in (qwen, *others)}) == 7
    assert key(qwen) == key(zoo.load(folder_of("qwen2_5_vl"), "cpu"))


def test_a_reply_is_cut_unless_a_stop_token_ended_it(qwen: Model) -> None:
    (cut,) = asking.ask(qwen, [QUESTIONS[1]], 1, 3)
    first = int(qwen.model(**zoo.batch(qwen, [zoo.read(qwen, QUESTIONS[1])])).logits[0, -1].argmax())
    ended = replace(qwen, asking=replace(qwen.asking, stop=(qwen.tokenizer.convert_ids_to_tokens(first),)))
    (whole,) = asking.ask(ended, [QUESTIONS[1]], 1, 3)
    assert cut.cut and cut.text and not whole.cut


def test_logits_that_are_not_finite_are_an_error(folder_of: Callable[[str], Path]) -> None:
    broken = zoo.load(folder_of("qwen2_5_vl"), "cpu")
    with torch.no_grad():
        broken.model.lm_head.weight[5] = float("nan")
    replies = [*asking.ask(broken, QUESTIONS[:1], 1, 2), *asking.compare(broken, QUESTIONS[:1], 1)]
    assert ["not finite" in reply.error for reply in replies] == [True, True]
