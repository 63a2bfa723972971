"""For tests of training: a tiny LVLM, conversations on noise images, and a small training on disk."""

import copy
import dataclasses
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medmim import shards
from medmim.finetune import batch, packing
from medmim.finetune.batch import Batch
from medmim.finetune.examples import prepare_dev, tokenize
from medmim.finetune.record import LOSSES
from medmim.finetune.worker import DEV, EXAMPLES, Job
from medmim.lvlm import llava, saving
from medmim.lvlm.encode import Encoded, encode
from medmim.lvlm.family import Family, Turn
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from medmim.sample import Sample
from medmim.tiny import architecture

WORDS = ["does", "the", "mass", "grow", "shrink", "left", "right", "first", "second", "larger", "smaller", "same"]


def make_lvlm(family: Family, seed: int = 0, layers: int = 2) -> Lvlm:
    """A fresh tiny model, not yet saved, of few layers: each takes its time in every training of the tests."""
    tokenizer = architecture.train_tokenizer([" ".join(WORDS)] * 3, family, size=512)
    model = architecture.build(family, tokenizer, seed)
    for part, config in (
        (model.model.language_model, model.config.text_config),
        (model.model.vision_tower.encoder, model.config.vision_config),
    ):
        del part.layers[layers:]
        config.num_hidden_layers = len(part.layers)
    return Lvlm(model, tokenizer, architecture.image_processor(family), family, Path())


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
    return torch.randn(encoded.images, 3, architecture.IMAGE_SIZE, architecture.IMAGE_SIZE, generator=generator)


def copy_of(lvlm: Lvlm) -> Lvlm:
    """A copy of the model with the same weights."""
    return dataclasses.replace(lvlm, model=copy.deepcopy(lvlm.model))


SETTINGS = Finetune(
    steps=12, batch_size=8, max_tokens=400, optimizer="muon", lr=1e-3, save_every=4, freeze_vision=False
)


def png(seed: int) -> bytes:
    """A noise picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def make_samples(count: int, split: str = "train") -> list[Sample]:
    """Samples on one or two of ten images."""
    rng = random.Random(split)
    found = []
    for _ in range(count):
        names = tuple(f"i{rng.randrange(10)}" for _ in range(rng.randint(1, 2)))
        options = ("grow", "shrink")
        gold = rng.randrange(2)
        question = " ".join(rng.choices(WORDS, k=rng.randint(3, 12)))
        found.append(
            Sample("temporal", "t", "s", split, False, ("p",), names, names, question, options, options[gold], (gold,))
        )
    return found


def make_data(folder: Path, samples: list[Sample]) -> Path:
    """Write a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    shards.write(folder, samples, [(f"i{i}", f"i{i}.png", png(i)) for i in range(10)])
    return folder


def batches(lvlm: Lvlm, settings: Finetune, rank: int = 0, world: int = 1) -> Callable[[int], Batch]:
    """Step -> batch, over 24 conversations on noise images."""
    encoded = make_encoded(lvlm, 24)
    plan = packing.plan([len(e.ids) for e in encoded], settings.max_tokens, settings.batch_size, settings.seed, 0)

    def batch_at(step: int) -> Batch:
        chosen = [encoded[i] for i in plan[step % len(plan)]]
        return batch.build(
            chosen,
            lambda i: make_pixels(chosen[i]),
            max_tokens=settings.max_tokens,
            packed=settings.packing,
            rank=rank,
            world=world,
        )

    return batch_at


def set_dropout(lvlm: Lvlm, share: float) -> None:
    """Set the attention dropout of the language model."""
    lvlm.model.config.text_config.attention_dropout = share
    for layer in lvlm.model.model.language_model.layers:
        layer.self_attn.attention_dropout = share


def steps_of(folder: Path) -> list[dict[str, float]]:
    """The lines of `losses.jsonl`."""
    return [json.loads(line) for line in (folder / LOSSES).read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [step["loss"] for step in steps_of(folder)]


def make_dev() -> list[Sample]:
    """Dev samples with none to four options, on zero to two images; some have two right options."""
    options = ("grow", "shrink", "same", "larger mass")
    found = []
    for i, sample in enumerate(make_samples(14, "dev")):
        shown = options[: (2, 3, 4, 0)[i % 4]]
        gold = (i % 3 % len(shown),) if shown else ()
        gold = (1, 3) if i == 2 else gold
        images = sample.images if i % 5 else ()
        found.append(
            dataclasses.replace(
                sample,
                ability=("temporal", "single")[i % 3 == 0],
                options=shown,
                gold=gold,
                answer=shown[gold[0]] if shown else "no change",
                images=images,
                paths=images,
            )
        )
    return found


def make_job(root: Path, family: Family, settings: Finetune = SETTINGS, out: str = "out", dev: bool = False) -> Job:
    """A job that trains into `root/OUT`; base and data are created below `root` unless they exist.

    Args:
        root: The folder.
        family: Of the base.
        settings: The training.
        out: Name of the folder of the model.
        dev: Whether to validate, on `make_dev`.
    """
    base, data, folder = root / "base", root / "data", root / out
    if not base.is_dir():
        saving.save(make_lvlm(family), base)
        make_data(data, [*make_samples(30), *make_dev()])
    folder.mkdir()
    if dev:
        items, bad = prepare_dev(base, data, 400, 0.0, 200, 0)
        assert items is not None and not bad
        items.save(folder / DEV)
    examples, bad = tokenize(llava.load(base, "cpu"), shards.read_samples(data, "train"), shards.Images(data), 400)
    assert not bad
    examples.save(folder / EXAMPLES)
    return Job(str(base), str(data), str(folder), settings.model_dump_json(), threads=1)
