"""Batches are what the checkpoint's own processor makes of the samples, whatever the number of threads."""

import dataclasses
import errno
import io
import random
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from medmim import shards
from medmim.errors import UserError
from medmim.finetune import loader as module
from medmim.finetune.batch import Batch
from medmim.finetune.examples import Examples, tokenize
from medmim.finetune.loader import loader
from medmim.finetune.worker import run_worker
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from medmim.sample import Sample
from tests.support.finetune import SETTINGS, make_data, make_job, make_samples, png

IMAGES = {f"i{i}": Image.open(io.BytesIO(png(i))).convert("RGB") for i in range(10)}
words = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=30)


def batches(
    lvlm: Lvlm, samples: list[Sample], images: Mapping[str, Any], settings: Finetune, steps: int, **options: Any
) -> list[Batch]:
    examples, bad = tokenize(lvlm, samples, frozenset(images), settings.max_tokens)
    assert not bad
    with loader(lvlm, examples, images, settings, **options) as batch_at:
        return [batch_at(step) for step in range(steps)]


def equal(a: list[Batch], b: list[Batch]) -> bool:
    """Whether all tensors of two lists of batches are equal to the bit."""
    return all(
        one.lengths == two.lengths
        and all(
            (x is y is None) or torch.equal(x, y)
            for x, y in (
                (one.input_ids, two.input_ids),
                (one.pixel_values, two.pixel_values),
                (one.predicts, two.predicts),
                (one.targets, two.targets),
            )
        )
        for left, right in zip(a, b, strict=True)
        for one, two in zip(left.rows, right.rows, strict=True)
    )


SAMPLE = make_samples(1)[0]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, words.filter(str.strip), st.integers(0, 4)), min_size=1, max_size=4), st.booleans())
def test_a_batch_is_what_the_checkpoints_own_processor_makes_of_the_samples(
    lvlm: Lvlm, processors: Mapping[Path, Any], texts: list[tuple[str, str, int]], packed: bool
) -> None:
    samples = [
        dataclasses.replace(
            SAMPLE, question=question, answer=answer, options=(), images=tuple(f"i{(row + k) % 10}" for k in range(n))
        )
        for row, (question, answer, n) in enumerate(texts)
    ]
    settings = SETTINGS.model_copy(update={"packing": packed, "max_tokens": 20_000, "batch_size": 8})
    (built,) = batches(lvlm, samples, IMAGES, settings, 1)
    wanted = sorted(map(repr, (_wanted(processors[lvlm.path], sample) for sample in samples)))
    found = []
    for row in built.rows:
        trained = dict(zip(row.predicts.tolist(), row.targets.tolist(), strict=True))
        flat, start, shown = row.input_ids.reshape(-1).tolist(), 0, 0
        for k, length in enumerate(row.lengths):
            start = sum(row.lengths[:k]) if packed else k * max(row.lengths)
            ids = flat[start : start + length]
            mask = [0, *(int(start + i in trained) for i in range(length - 1))]
            assert all(trained[start + i - 1] == ids[i] for i in range(length) if mask[i])
            images = ids.count(lvlm.config.image_token_id) // (
                sum(_wanted(processors[lvlm.path], dataclasses.replace(SAMPLE, images=("i0",)))[2])
            )
            pixels = [] if row.pixel_values is None else row.pixel_values[shown : shown + images].tolist()
            shown += images
            found.append(repr((ids, mask, [i == lvlm.config.image_token_id for i in ids], pixels)))
    assert sorted(found) == wanted


@pytest.fixture(scope="module")
def processors(lvlm: Lvlm) -> dict[Path, Any]:
    """The processor as others load it."""
    return {lvlm.path: AutoProcessor.from_pretrained(lvlm.path)}


def _wanted(processor: Any, sample: Sample) -> tuple[list[int], list[int], list[bool], list[Any]]:
    """Token ids, trained tokens, image tokens and pixels of a sample, by the processor alone."""
    shown = [{"type": "image", "image": IMAGES[name]} for name in sample.images]
    messages = [
        {"role": "user", "content": [*shown, {"type": "text", "text": sample.prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": sample.target}]},
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, pixels = inputs["input_ids"][0], inputs.get("pixel_values", [])
    pixels = [torch.as_tensor(p).tolist() for p in pixels]
    return ids, [0, *inputs["assistant_masks"][0][1:]], [i == processor.image_token_id for i in ids], pixels


class Counted(Mapping[str, Image.Image]):
    """Images that count how often each is decoded, and by how many threads."""

    def __init__(self) -> None:
        self.decoded: Counter[str] = Counter()
        self.threads: set[str] = set()
        self.lock = threading.Lock()

    def __getitem__(self, name: str) -> Image.Image:
        with self.lock:
            self.decoded[name] += 1
            self.threads.add(threading.current_thread().name)
        return IMAGES[name]

    def __iter__(self) -> Any:
        return iter(IMAGES)

    def __len__(self) -> int:
        return len(IMAGES)


@pytest.mark.parametrize("world", [1, 2])
def test_batches_do_not_depend_on_the_threads_or_on_the_cache(
    lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    samples = make_samples(40)
    want = batches(lvlm, samples, IMAGES, SETTINGS, 12, world=world)
    for threads in (2, 5):
        assert equal(batches(lvlm, samples, IMAGES, SETTINGS, 12, world=world, threads=threads), want)
    monkeypatch.setattr(module, "_PIXEL_CACHE", 0)
    assert equal(batches(lvlm, samples, IMAGES, SETTINGS, 12, world=world, threads=3), want)


def test_an_image_is_decoded_once_for_a_step_and_not_by_the_calling_thread(
    lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = make_samples(24)
    images = Counted()
    batches(lvlm, samples, images, SETTINGS, 6, threads=3)
    assert set(images.decoded.values()) == {1}  # all ten are in the cache
    assert threading.current_thread().name not in images.threads
    monkeypatch.setattr(module, "_PIXEL_CACHE", 0)
    images = Counted()
    (built,) = batches(lvlm, samples, images, SETTINGS.model_copy(update={"batch_size": 24}), 1)
    assert set(images.decoded.values()) == {1} and built.trained > 0


def test_a_worker_decodes_the_images_of_its_own_samples_only(lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIXEL_CACHE", 0)
    names = iter(random.Random(0).sample(sorted(IMAGES), 10))
    samples = [dataclasses.replace(s, images=(next(names), next(names))) for s in make_samples(5)]
    decoded = []
    for rank in range(2):
        images = Counted()
        batches(lvlm, samples, images, SETTINGS, 1, rank=rank, world=2)
        decoded.append(set(images.decoded))
    assert decoded[0] and decoded[1] and not decoded[0] & decoded[1] and decoded[0] | decoded[1] == set(IMAGES)


def test_an_image_that_does_not_decode_ends_the_training_with_image_sample_data_set_and_fix(
    tmp_path: Path, family: Family
) -> None:
    settings = SETTINGS.model_copy(update={"steps": 6, "batch_size": 30})
    job = make_job(tmp_path, family, settings)
    samples = shards.read_samples(tmp_path / "data", "train")
    broken = [(f"i{i}", f"i{i}.png", png(i)[: 100 if i == 3 else None]) for i in range(10)]
    shards.write(tmp_path / "data", samples, broken)
    with pytest.raises(UserError) as caught:
        run_worker(job)
    owners = [s.id for s in samples if "i3" in s.images]
    assert caught.value.fact.startswith("image i3 of sample ") and str(tmp_path / "data") in caught.value.fact
    assert any(f"sample {owner} in" in caught.value.fact for owner in owners)
    assert "build the data set again" in caught.value.fix and caught.value.reason


class Broken(Counted):
    """Of whose images one raises an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def __getitem__(self, name: str) -> Image.Image:
        if name == "i3":
            raise self.error
        return super().__getitem__(name)


@pytest.mark.parametrize(
    "error",
    [SyntaxError("broken PNG"), struct.error("short"), EOFError(), OSError("truncated"), KeyError("i3")],
    ids=repr,
)
def test_whatever_a_decoder_raises_names_the_image(lvlm: Lvlm, error: Exception) -> None:
    samples = make_samples(30)
    with pytest.raises(UserError, match=r"image i3 of sample \w{20} in DATA does not decode"):
        batches(lvlm, samples, Broken(error), SETTINGS.model_copy(update={"batch_size": 30}), 1, threads=4, data="DATA")


def test_a_disk_that_does_not_answer_is_no_broken_image(lvlm: Lvlm) -> None:
    """It is tried again, where a data set that was built again would be as it is."""
    broken = Broken(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        batches(lvlm, make_samples(30), broken, SETTINGS.model_copy(update={"batch_size": 30}), 1, threads=4)


def test_examples_of_a_killed_worker_are_mapped_by_the_next(tmp_path: Path, family: Family) -> None:
    """Two readers of one file see the same samples, and neither writes into it."""
    job = make_job(tmp_path, family)
    file = Path(job.folder) / ".examples.safetensors"
    before = file.read_bytes()
    one, two = Examples.load(file), Examples.load(file)
    one.tokens[:] = 0
    assert two.tokens.any() and file.read_bytes() == before


def test_data_of_text_only_needs_no_images(lvlm: Lvlm, tmp_path: Path) -> None:
    samples = [dataclasses.replace(s, images=(), paths=()) for s in make_samples(9)]
    make_data(tmp_path, samples)
    (built,) = batches(lvlm, samples, {}, SETTINGS.model_copy(update={"batch_size": 16}), 1)
    assert all(row.pixel_values is None for row in built.rows)
