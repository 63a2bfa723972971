"""Inference with a loaded model: equal text at any batch size, one reply for each question, in order."""

import copy
import errno
from dataclasses import replace

import pytest
import torch
from PIL import Image

from medmim.errors import UserError
from medmim.lvlm import ask_hf, checkpoint, decoding, likelihood_hf, llava
from medmim.lvlm.ask import Question, key, pixel_digest
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn
from medmim.lvlm.features import Features, pixels


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
    shipped = llava.load(checkpoint.resolve("tiny-mantis"), device="cpu")
    texts = [[r.text for r in ask_hf.ask(shipped, questions, size, max_new_tokens=6)] for size in (1, 7, 33)]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 2


def questions_asked_twice(questions):
    seen = [(q.prompt, tuple(i.tobytes() for i in q.images)) for q in questions]
    return len(seen) - len(set(seen))


def test_a_batch_gives_the_text_of_plain_greedy_decoding(lvlm, questions):

    question = questions[3]
    reply = next(iter(ask_hf.ask(lvlm, [question], max_new_tokens=5)))
    ids = encode(lvlm, [Turn(question.prompt)], 3).ids
    values = pixels(lvlm, question.images)
    decoded = []
    for _ in range(5):
        with torch.no_grad():
            logits = lvlm.model(input_ids=torch.tensor([ids + decoded]), pixel_values=values).logits
        decoded.append(int(logits[0, -1].argmax()))
        if lvlm.tokenizer.decode(decoded[-1:]) in lvlm.family.stop:
            break
    assert reply.text == lvlm.tokenizer.decode(decoded, skip_special_tokens=True).strip()


def plainly(lvlm, questions, new_tokens):
    """What `generate` writes, all in one left-padded batch, up to the token that ends an answer."""
    stop = llava.stop_tokens(lvlm.tokenizer, lvlm.family)
    ids, mask = ask_hf.left_padded(lvlm, [encode(lvlm, [Turn(q.prompt)], len(q.images)).ids for q in questions])
    values = torch.cat([pixels(lvlm, question.images) for question in questions if question.images])
    output = lvlm.model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=values, do_sample=False, max_new_tokens=new_tokens,
        eos_token_id=stop, pad_token_id=lvlm.tokenizer.pad_token_id,
    )  # fmt: skip
    rows = output[:, ids.shape[1] :].tolist()
    ends = [next((at + 1 for at, token in enumerate(row) if token in stop), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)], ids.shape[1]


OPTIONS = ((), ("image 1", "image 2"), ("image 1 and much more than that", "image 22"), ("no", "same size", "image 3"))


@pytest.mark.parametrize("name", ["tiny-mantis", "tiny-llava-med"])
def test_tokens_are_those_of_generate_while_answers_of_other_lengths_leave_the_batch(name, monkeypatch):
    shipped = llava.load(checkpoint.resolve(name), device="cpu")
    images = [Image.linear_gradient("L").rotate(90 * i).resize((64, 64)).convert("RGB") for i in range(4)]
    questions = [
        Question(
            "Which image shows the larger opacity?\nA: image 1\nB: image 2"[: 37 + 11 * (i % 3)],
            images[: i % 4],
            OPTIONS[i % 4],
        )
        for i in range(11)
    ]
    written, sizes = [], []
    greedy, forward = decoding.greedy, shipped.model.lm_head.forward
    monkeypatch.setattr(decoding, "greedy", lambda *given: written.append(greedy(*given)) or written[-1])
    wanted, longest = plainly(shipped, questions, 12)
    monkeypatch.setattr(shipped.model.lm_head, "forward", lambda x: sizes.append(tuple(x.shape[:2])) or forward(x))
    replies = list(ask_hf.ask(shipped, questions, len(questions), 12))
    ((tokens, invalid),) = written
    assert tokens == wanted and not any(invalid)
    assert [reply.new_tokens for reply in replies] == [len(row) for row in wanted]
    assert max(reply.prompt_tokens for reply in replies) == longest
    assert len({len(row) for row in wanted}) > 1 and sizes[0] == (11, 1) and sizes[-1][0] <= 5  # half of them left
    assert max(read for _, read in sizes) > 1 and len(sizes) <= max(map(len, wanted))  # some were drafted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_goes_through_the_tower_once_and_its_company_changes_no_digit(lvlm, monkeypatch, dtype):
    """Of a set of questions and of the same with the images moved on, written and compared."""
    asked = replace(lvlm, model=copy.deepcopy(lvlm.model).to(dtype))
    images = [Image.linear_gradient("L").rotate(90 * i).convert("RGB") for i in range(4)]
    rows = [images[:3], images[1:3], images[2:]]
    none = [Question("Which?\nA: one\nB: two", row, ("one", "two")) for row in rows]
    swap = [replace(question, images=[*question.images[-1:], *question.images[:-1]]) for question in none]
    alone = [[*ask_hf.ask(asked, part, 2, 4), *likelihood_hf.compare(asked, part, 2)] for part in (swap, none)]
    passes = []
    tower = asked.model.model.vision_tower
    forward = tower.forward
    monkeypatch.setattr(
        tower, "forward", lambda *given, **named: passes.append(len(given[0])) or forward(*given, **named)
    )
    features = Features(asked)
    together = [
        [*ask_hf.ask(asked, part, 2, 4, features=features), *likelihood_hf.compare(asked, part, 2, features=features)]
        for part in (none, swap)
    ]
    assert together == alone[::-1]
    # in fp32, what is written reads images of other passes than what is compared
    assert passes == ([1, 1, 1, 1] if dtype == torch.bfloat16 else [3, 1, 1, 1, 1, 1])


def test_features_over_the_budget_are_computed_again(lvlm):
    image, other = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (9, 9, 9))
    questions = [Question("one", [image], pixels=["a"]), Question("two", [other], pixels=["b"])] * 2
    small = Features(lvlm, room=1)
    assert list(ask_hf.ask(lvlm, questions, 1, 2, features=small)) == list(ask_hf.ask(lvlm, questions, 1, 2))


class Broken(list):
    """Images of which the second cannot be decoded, or read."""

    error = OSError("the image is torn")

    def __getitem__(self, index):
        if index == 1:
            raise self.error
        return super().__getitem__(index)

    def __iter__(self):
        return (self[index] for index in range(len(self)))


def test_an_image_that_cannot_be_decoded_is_the_error_of_its_question(lvlm):
    image = Image.new("RGB", (8, 8))
    questions = [Question("one", [image]), Question("two", Broken([image, image])), Question("three", [image])]
    replies = list(ask_hf.ask(lvlm, questions, 2, 3))
    assert [reply.error for reply in replies] == ["", "the image is torn", ""]
    assert [replies[0], replies[2]] == list(ask_hf.ask(lvlm, [questions[0], questions[2]], 2, 3))


@pytest.mark.parametrize("count", [1, 3])
def test_a_disk_that_does_not_answer_ends_the_asking_and_is_no_answer(lvlm, count):
    """Recorded as the question's error, it would be in the cache for good."""
    unread = Broken([Image.new("RGB", (8, 8))] * 2)
    unread.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output error"):
        list(ask_hf.ask(lvlm, [Question("two", unread)] * count, 2, 3))


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
        key("w", "q", Question("", [image]), "8"),
        key("v", "q", Question("", [image]), "8"),
        key("w", "p", Question("", [image]), "8"),
        key("w", "q", Question("", [other]), "8"),
        key("w", "q", Question("", [image, image]), "8"),
        key("w", "q", Question("", [Image.new("RGB", (4, 1))]), "8"),
        key("w", "q", Question("", [image]), "9"),
        key("w", "q", Question("", [image]), "8", "bfloat16"),
    }
    assert len(keys) == 8
    known = Question("", [image], pixels=[pixel_digest(image)])
    assert key("w", "q", Question("", [image]), "8") == key("w", "q", Question("", [image.copy()]), "8")
    assert key("w", "q", known, "8") == key("w", "q", Question("", [image]), "8")


def changed(lvlm, name):
    """The same model, asked in another way."""
    if name == "dtype":
        return replace(lvlm, model=copy.deepcopy(lvlm.model).to(torch.bfloat16))
    if name == "chat format":
        return replace(lvlm, family=replace(lvlm.family, stop=(*lvlm.family.stop, "\n")))
    if name == "pixels":
        processor = copy.deepcopy(lvlm.image_processor)
        processor.image_mean = [0.1, 0.2, 0.3]
        return replace(lvlm, image_processor=processor)
    processor = type("Other", (type(lvlm.image_processor),), {})(**lvlm.image_processor.to_dict())
    return replace(lvlm, image_processor=processor)


@pytest.mark.parametrize("name", ["dtype", "chat format", "pixels", "image processor"])
def test_the_key_changes_with_how_the_model_is_asked(lvlm, questions, name):
    before, after = (
        [reply.key for reply in ask_hf.ask(model, questions[:4], 2, 2)] for model in (lvlm, changed(lvlm, name))
    )
    assert not set(before) & set(after)


def test_the_batch_is_in_the_key_where_it_may_change_the_text(lvlm, questions):
    def keys(model, size):
        return [reply.key for reply in ask_hf.ask(model, questions[:4], size, 1)]

    assert keys(lvlm, 2) == keys(lvlm, 3)
    half = changed(lvlm, "dtype")
    assert not set(keys(half, 2)) & set(keys(half, 3))


def long_question(words):
    return Question("Which image shows the larger opacity? " + "left side " * words)


def test_a_question_beyond_the_context_is_its_own_error_and_pads_no_other(lvlm, monkeypatch):
    asked = []
    greedy = decoding.greedy
    monkeypatch.setattr(decoding, "greedy", lambda *given: asked.append(given[1].shape) or greedy(*given))
    context = ask_hf.context_length(lvlm)
    questions = [Question("one"), long_question(context), Question("two"), long_question(10 * context)]
    replies = list(ask_hf.ask(lvlm, questions, max_new_tokens=3))
    assert [bool(reply.error) for reply in replies] == [False, True, False, True]
    assert f"context of {context:,}" in replies[1].error and replies[1].text == ""
    (shape,) = asked
    assert shape[0] == 2 and shape[1] < 200
    alone = list(ask_hf.ask(lvlm, [questions[0], questions[2]], max_new_tokens=3))
    assert alone == [replies[0], replies[2]]


def test_images_and_the_answer_count_in_the_context(lvlm, monkeypatch):
    image = Image.new("RGB", (8, 8))
    question = Question("What?", [image, image])
    needed = len(encode(lvlm, [Turn("What?")], 2).ids)
    for new_tokens, room, fits in ((4, needed + 4, True), (5, needed + 4, False), (4, needed + 3, False)):
        monkeypatch.setattr(lvlm.model.config.text_config, "max_position_embeddings", room)
        (reply,) = ask_hf.ask(lvlm, [question], max_new_tokens=new_tokens)
        assert (reply.error == "") == fits, (new_tokens, room)


def test_an_answer_as_long_as_the_context_is_refused(lvlm):
    with pytest.raises(UserError, match="leaves no tokens for a question") as caught:
        list(ask_hf.ask(lvlm, [Question("one")], max_new_tokens=ask_hf.context_length(lvlm)))
    assert "--max-new-tokens" in caught.value.fix


def test_a_reply_is_cut_unless_a_stop_token_ended_it(lvlm, monkeypatch):
    stop = llava.stop_tokens(lvlm.tokenizer, lvlm.family)[0]
    word = lvlm.tokenizer.encode("left", add_special_tokens=False)[:1]
    written = ([[*word, stop], [*word, *word, *word]], [False, False])
    monkeypatch.setattr(decoding, "greedy", lambda *_: written)
    replies = list(ask_hf.ask(lvlm, [Question("one"), Question("two")], max_new_tokens=3))
    assert [reply.cut for reply in replies] == [False, True]
    assert [reply.new_tokens for reply in replies] == [2, 3]


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB"), "GPU"),
        (MemoryError(), "machine"),
        (torch.AcceleratorError("CUDA error: out of memory"), "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GPU"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "GPU"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), "machine"),
    ],
)
def test_memory_that_runs_out_is_reported_with_what_to_lower(lvlm, monkeypatch, error, where):
    def greedy(*_):
        raise error

    monkeypatch.setattr(decoding, "greedy", greedy)
    with pytest.raises(UserError, match=f"the {where} ran out of memory while 2 questions") as caught:
        list(ask_hf.ask(lvlm, [Question("one"), Question("two")], max_new_tokens=3))
    assert "bench.batch_size" in caught.value.fix and caught.value.reason and caught.value.exit_code == 2
    with pytest.raises(UserError, match="1 question was") as caught:
        list(ask_hf.ask(lvlm, [Question("one")], max_new_tokens=3))
    assert "fewer images" in caught.value.fix


def test_another_runtime_error_is_not_called_memory(lvlm, monkeypatch):
    def greedy(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(decoding, "greedy", greedy)
    with pytest.raises(RuntimeError, match="shapes"):
        list(ask_hf.ask(lvlm, [Question("one")], max_new_tokens=3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_not_an_empty_answer(lvlm, monkeypatch, value):
    forward = lvlm.model.lm_head.forward

    def broken(hidden):
        logits = forward(hidden)
        logits[1:, -1, 5] = value  # of the second question only
        return logits

    monkeypatch.setattr(lvlm.model.lm_head, "forward", broken)
    replies = list(ask_hf.ask(lvlm, [Question("one"), Question("two")], max_new_tokens=2))
    assert [bool(reply.error) for reply in replies] == [False, True]
    assert "not finite" in replies[1].error


@pytest.mark.parametrize("prompt", ["a \ud83d", "\udcff", "x\ude00y"])
def test_a_question_that_is_no_text_is_its_own_error(lvlm, prompt):
    replies = list(ask_hf.ask(lvlm, [Question(prompt), Question("one")], max_new_tokens=2))
    assert "surrogate" in replies[0].error and not replies[1].error
