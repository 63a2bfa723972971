"""Tokenizers and initial weights of the tiny models."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.tiny import architecture

relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@relaxed
@given(st.text(max_size=80))
def test_any_text_encodes_without_loss(lvlm, text):
    ids = lvlm.tokenizer(text, add_special_tokens=False).input_ids
    assert lvlm.tokenizer.decode(ids) == text


@pytest.mark.parametrize("piece", [" opacity", " large", " 1", "A:", ": <Image>", "</Image>)", "<|eot_id|>", "<image>"])
def test_corpus_words_and_markers_are_one_token_each(folders, piece):
    from medmim.lvlm import llava

    tokenizer = llava.load(folders["mantis"], device="cpu").tokenizer
    assert len(tokenizer(piece, add_special_tokens=False).input_ids) == 1


def test_an_option_letter_is_the_same_token_in_the_option_and_in_the_answer(lvlm):
    from medmim.lvlm.encode import encode
    from medmim.lvlm.family import Turn

    encoded = encode(lvlm, [Turn("Which image?\nA: image 1\nB: image 2", "B: image 2")], 2)
    letter = lvlm.tokenizer.convert_tokens_to_ids("B:")
    assert encoded.ids.count(letter) == 2


def test_the_vocabulary_is_not_larger_than_its_size():
    words = [" ".join(f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(600))]
    assert len(architecture.train_tokenizer(words, MANTIS, size=500)) <= 500


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda f: f.name)
def test_equal_seeds_give_equal_weights_and_do_not_touch_the_global_generator(family, corpus):
    tokenizer = architecture.train_tokenizer(corpus, family)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, second, other = (architecture.build(family, tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", [MANTIS, LLAVA_MED], ids=lambda f: f.name)
def test_a_tiny_model_has_one_to_five_million_parameters(family, corpus):
    model = architecture.build(family, architecture.train_tokenizer(corpus, family), 0)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 5e6


def test_the_first_two_heads_attend_one_and_two_tokens_back(lvlm):
    """The purpose of the initial weights in both families: with a bias, and with a constant direction instead."""
    decoder = lvlm.model.model.language_model
    tokens = torch.randint(20, len(lvlm.tokenizer), (1, 24), generator=torch.Generator().manual_seed(0))
    lvlm.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            weights = decoder(tokens, output_attentions=True).attentions[0][0]  # [heads, to, from]
    finally:
        lvlm.model.set_attn_implementation("sdpa")
    rows = torch.arange(8, 24)
    for head, offset in ((0, 1), (1, 2)):
        by_offset = [float(weights[head][rows, rows - o].mean()) for o in range(8)]
        assert by_offset.index(max(by_offset)) == offset
        assert by_offset[offset] > 2 * float((1 / (rows + 1)).mean())  # twice uniform attention


def test_mean_grey_becomes_zero_and_real_images_get_the_same_shape(lvlm):
    from PIL import Image

    from medmim.lvlm.features import pixels

    grey = pixels(lvlm, [Image.new("RGB", (96, 96), (102, 102, 102))])
    assert grey.shape == (1, 3, 48, 48)
    assert grey.abs().max() < 1e-5
    assert pixels(lvlm, [Image.new("L", (500, 313), 255)]).shape == (1, 3, 48, 48)
