"""A tiny LVLM of the real architecture and random conversations about noise images."""

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from medmim.lvlm import tiny
from medmim.lvlm.encode import Encoded, encode
from medmim.lvlm.family import Turn
from medmim.lvlm.mantis import MANTIS
from medmim.lvlm.zoo import Lvlm

WORDS = ["does", "the", "mass", "grow", "shrink", "left", "right", "first", "second", "larger", "smaller", "same"]


def make_lvlm(seed: int = 0) -> Lvlm:
    """A fresh tiny Mantis, not yet saved."""
    tokenizer = tiny.train_tokenizer([" ".join(WORDS)] * 3, MANTIS, size=512)
    return Lvlm(tiny.build(MANTIS, tokenizer, seed), tokenizer, tiny.image_processor(MANTIS), MANTIS, Path(), "")


def make_encoded(lvlm: Lvlm, count: int, seed: int = 0) -> list[Encoded]:
    """Conversations of differing lengths on zero to three images."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        question = " ".join(rng.choices(WORDS, k=rng.randint(3, 20)))
        found.append(encode(lvlm, [Turn(question, rng.choice(WORDS))], rng.randint(0, 3)))
    return found


def make_pixels(encoded: Encoded) -> torch.Tensor | None:
    """Noise images, the same for the same conversation."""
    if not encoded.images:
        return None
    generator = torch.Generator().manual_seed(sum(encoded.ids))
    return torch.randn(encoded.images, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=generator)


def copy_of(lvlm: Lvlm) -> Lvlm:
    """The same weights in a model of their own."""
    import copy

    return dataclasses.replace(lvlm, model=copy.deepcopy(lvlm.model))


@pytest.fixture(scope="session")
def lvlm() -> Lvlm:
    """Shared: tests that train it take `copy_of(lvlm)`."""
    return make_lvlm()
