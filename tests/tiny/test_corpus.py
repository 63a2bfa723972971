"""The corpus of the tiny bases: reproducible, with right answers, and never two images at once."""

import inspect
import re

import pytest

from medmim.data.seeds import stream
from medmim.data.sources.phantom_draw import CLASSES, Scene
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.sample import IMAGE, LETTERS
from medmim.tiny import corpus
from medmim.tiny.corpus import TASKS, item
from medmim.tiny.corpus_text import Item
from medmim.tiny.pool import Pool

FAMILIES = pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda f: f.name)
DIET = dict.fromkeys(TASKS, 1.0)


def drawn(task, family, count=200):
    return [TASKS[task](stream(task, i), family) for i in range(count)]


@FAMILIES
def test_a_sample_depends_on_seed_phase_and_number_only(family):
    forward = [item(DIET, family, 1, "text", i) for i in range(100)]
    backward = [item(DIET, family, 1, "text", i) for i in reversed(range(100))]
    assert forward == backward[::-1]
    assert forward != [item(DIET, family, 2, "text", i) for i in range(100)]
    assert forward != [item(DIET, family, 1, "images", i) for i in range(100)]


@FAMILIES
@pytest.mark.parametrize("task", TASKS)
def test_no_sample_shows_more_than_one_image(task, family):
    assert inspect.signature(Item).parameters["scene"].annotation == Scene | None
    for made in drawn(task, family):
        rendered = "".join(s.text for s in family.render(made.turns, int(made.scene is not None)))
        assert rendered.count(IMAGE) == int(made.scene is not None)
        assert (made.scene is not None) == (task in ("caption", "question"))
        assert made.scene is None or made.scene in CLASSES


@FAMILIES
@pytest.mark.parametrize("task", ["copy", "look_up", "text_reference", "text_larger", "text_same", "question"])
def test_a_closed_answer_is_an_option_under_its_own_letter(task, family):
    letters = set()
    for made in drawn(task, family):
        question, answer = made.turns[-1].question, made.turns[-1].answer
        options = dict(re.findall(r"^([A-H]): (.*)$", question, re.M))
        if options:
            assert options[answer[0]] == answer[3:]
            letters.add(answer[0])
    assert {"A", "B"} <= letters


def slots(text):
    return [found.split() for found in re.findall(r"\(image \d: <Image>(.*?)</Image>\)", text)]


def test_look_up_is_answered_with_the_slot_that_holds_the_word():
    checked = 0
    for made in drawn("look_up", MANTIS, 400):
        shown = slots(made.turns[0].question)
        question, answer = made.turns[-1].question, made.turns[-1].answer
        answer = answer[3:] if answer[1:2] == ":" else answer
        stem = question.rsplit(")", 1)[-1].split("\n")[0]
        asked = re.search(r"image (\d)", stem)
        if asked:
            assert answer in shown[int(asked[1]) - 1]
        else:
            held = [i for i, words in enumerate(shown) if set(words) & set(re.findall(r"[\w-]+", stem))]
            assert int(answer[-1]) - 1 in held
        checked += 1
    assert checked == 400


def test_dense_keys_are_the_slots_or_letters_of_their_words():
    for made in drawn("dense", MANTIS, 300):
        turn = made.turns[0]
        shown = slots(turn.question)
        options = re.findall(r"^([A-H]): (.*)$", turn.question, re.M)
        found = re.findall(r" ([A-Za-z]+?) ?([1-3](?= |$)|[A-H]:)", turn.answer.removeprefix("Found:"))
        assert len(found) == 8
        for word, key in found:
            assert word in shown[int(key) - 1] if shown else (key[0], word) in options
        assert made.keys and made.keys <= {*(f" {n}" for n in (1, 2, 3)), *(f"{letter}:" for letter in LETTERS)}


def test_a_chain_ends_at_the_option_that_names_the_slot_or_is_in_it():
    directions = set()
    for made in drawn("chain", MANTIS, 300):
        turn = made.turns[0]
        shown = slots(turn.question)
        options = dict(re.findall(r"^([A-H]:) (.*)$", turn.question, re.M))
        found = re.findall(r" ([A-Za-z]+?|[1-3])([A-H]:)(?= |$)", turn.answer.removeprefix("Found:"))
        assert len(found) == 8
        for name, letter in found:
            directions.add(name.isdigit())
            if name.isdigit():
                assert options[letter] in shown[int(name) - 1]
            else:
                assert name in shown[int(options[letter][-1]) - 1]
        assert made.keys == {f"{letter}:" for letter in LETTERS}  # numbers and words are random
    assert directions == {True, False}


@FAMILIES
@pytest.mark.parametrize("task", ["look_up_turns", "text_reference_turns", "look_up"])
def test_every_turn_on_slots_of_words_is_answered_with_a_word_of_the_slot(task, family):
    for made in drawn(task, family):
        shown = [words for words in found_slots(made.turns[0].question, family) if words]
        for turn in made.turns:
            stem, *lines = turn.question.rsplit(")", 1)[-1].strip().split("\n")
            options = dict(line.split(": ", 1) for line in lines)
            answer = turn.answer
            if options:
                assert options[answer[0]] == answer[3:]
                answer = answer[3:]
            asked = re.search(r"image (\d)", stem)
            if options and asked:
                assert [i + 1 for i, words in enumerate(shown) if answer in words] == [int(asked[1])]
                fitting = [option for option in options.values() if option in shown[int(asked[1]) - 1]]
                assert fitting == [answer] or task == "text_reference_turns"  # described images share words
            elif asked:
                assert answer.split() == shown[int(asked[1]) - 1]  # a description


def found_slots(text, family):
    content = r"<Image>(.*?)</Image>" if family is MANTIS else r"(.*?) image \d"
    return [words.split() for words in re.findall(rf"\(image \d: {content}\)", text)]


def test_an_image_is_asked_about_each_attribute_once():
    for made in drawn("question", MANTIS, 500):
        stems = [turn.question.split("\n")[0] for turn in made.turns]
        assert len(set(stems)) == len(stems) <= 3
    assert any(len(made.turns) > 1 for made in drawn("question", MANTIS))


def test_repeat_is_answered_with_the_question():
    assert all(made.turns[0].question == made.turns[0].answer for made in drawn("repeat", MANTIS))


def test_every_class_of_phantom_is_asked_about():
    shown = {made.scene for made in drawn("question", MANTIS, 3000)}
    assert len(shown) > 0.9 * len(CLASSES)


def test_about_a_third_of_the_questions_is_open():
    answers = [made.turns[-1].answer for made in drawn("question", MANTIS, 1000)]
    share = sum(answer[:1] in LETTERS and answer[1:2] == ":" for answer in answers) / len(answers)
    assert 0.62 < share < 0.78


@FAMILIES
def test_numbers_and_letters_are_single_tokens_and_the_only_keys(family):
    from medmim.tiny import architecture

    texts = [*corpus.phrases(), *(t.question for task in TASKS for m in drawn(task, family, 50) for t in m.turns)]
    tokenizer = architecture.train_tokenizer(texts, family)
    keys = corpus.key_tokens(tokenizer)
    texts = [*(f" {n}" for n in (1, 2, 3)), *(f"{letter}:" for letter in LETTERS[:6])]  # what dense look-ups use
    single = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert all(len(tokens) == 1 for tokens in single)
    used = {tokens[0] for tokens in single}
    assert used <= set(keys.values())
    made = next(m for m in drawn("dense", family) if "\nA:" in m.turns[0].question)
    ids = tokenizer.encode(made.turns[0].answer, add_special_tokens=False)
    assert sum(i in used for i in ids) == 8
    assert len(ids) <= 2 + 3 * 8  # words are whole: no byte pieces


def test_drawings_are_fixed_by_seed_class_and_number():
    import torch

    from medmim.tiny import architecture

    processor = architecture.image_processor(MANTIS)

    def pool(seed):
        return Pool(2, seed, lambda images: processor(images, return_tensors="pt")["pixel_values"])

    first, other = pool(1), pool(2)
    later = first.pick(CLASSES[5], 1)
    assert later.shape == (1, 3, 48, 48)
    assert torch.equal(later, pool(1).pick(CLASSES[5], 1))
    assert not torch.equal(later, first.pick(CLASSES[5], 0))
    assert not torch.equal(later, other.pick(CLASSES[5], 1))
    assert torch.equal(later[:, 0], later[:, 2])
