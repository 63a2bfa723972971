"""Images of a benchmark are decoded and hashed once in a process, as far as memory allows."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest
from PIL import Image

from medmim import shards, store
from medmim.bench import answers, asking, pixels
from medmim.bench.likelihood import GENERATE, LIKELIHOOD
from medmim.bench.pixels import Pixels
from medmim.lvlm import ask as lvlm_ask
from medmim.lvlm.ask import Reply, pixel_digest
from medmim.recipe.schema import Bench
from medmim.run.workspace import workspace
from tests.support.bench import publish, samples

SIDE = 48  # of the images of the benchmark


class Counted(dict):
    """Images that take a while to decode, and how often each was."""

    decoded: Counter

    def __getitem__(self, name):
        self.decoded[name] += 1
        sleep(0.001)
        return super().__getitem__(name)


@pytest.fixture
def images():
    found = Counted({str(i): Image.new("RGB", (10, 10 + i), (i, i, i)) for i in range(8)})
    found.decoded = Counter()
    return found


def looking(log):
    """An engine that looks at the pixels of every question, and at their digests."""

    def ask(questions, *_):
        for question in questions:
            log.extend(zip(map(pixel_digest, question.images), question.pixels, strict=True))
            yield Reply("A", "k", prompt_tokens=7, new_tokens=2)

    return answers.Engine("ref", "digest", ask, compare=ask, inference=lambda: {"dtype": "float32"})


def test_each_image_is_decoded_and_hashed_once_for_all_models_and_probes(world, tmp_path, monkeypatch):
    decoded, hashed, log = Counter(), Counter(), []
    real = shards.Images.__getitem__
    monkeypatch.setattr(shards.Images, "__getitem__", lambda self, name: decoded.update([name]) or real(self, name))
    monkeypatch.setattr(lvlm_ask, "pixel_digest", lambda image: hashed.update([id(image)]) or pixel_digest(image))
    ws = workspace(tmp_path)
    data = store.get(publish(world, ws.store))
    sets = [(GENERATE, probe) for probe in ("none", "blind", "grey", "swap")]
    engine = looking(log)
    engine = replace(
        engine, compare=lambda questions, _: (replace(r, letters=(0.0, -1.0)) for r in engine.ask(questions))
    )
    for role in ("one", "two"):
        own = replace(engine, digest=role)
        answers.find_or_ask(ws, role, own, data, [*sets, (LIKELIHOOD, "none")], Bench(batch_size=5), None)
    shown = {name for sample in samples() for name in sample.images}
    assert decoded == Counter(shown)
    assert len(hashed) == len(shown) + 1 and set(hashed.values()) == {1}  # the mean image in its one size, too
    assert all(known == looked for looked, known in log) and len(log) > 6 * len(shown)


def test_threads_that_want_the_same_image_decode_it_once(images):
    shown = Pixels(images)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shown.__getitem__, [name for _ in range(16) for name in images]))
    assert images.decoded == Counter(list(images)) and found[0] is found[8]


def test_what_is_over_the_budget_is_decoded_again(images):
    shown = Pixels(images, room=3 * 10 * (10 + 11))
    for name in ("0", "1", "0", "1"):
        assert shown[name].size == (10, 10 + int(name))
    assert images.decoded == {"0": 1, "1": 1}
    for name in ("2", "0", "2"):  # 2 does not fit beside the others: both have to go
        assert shown[name].size == (10, 10 + int(name))
    assert images.decoded["0"] == 2 and images.decoded["2"] == 2
    with pytest.raises(KeyError):
        shown["absent"]
    assert "absent" not in shown and len(shown) == 8


def test_a_size_needs_no_pixels(world):
    stored = shards.Images(world.data)
    shown = Pixels(stored)
    name = next(iter(stored))
    assert shown.size(name) == (SIDE, SIDE) == stored[name].size


def test_what_asking_cost_survives_a_kill_and_is_in_no_digest(world, tmp_path):
    settings, one = Bench(batch_size=5), (GENERATE, "none")
    asked = [0]

    def collect(home, engine):
        found = answers.find_or_ask(
            ws := workspace(home), "r", engine, store.get(publish(world, ws.store)), [one], settings, None
        )
        return found[one]

    def killed(questions, *given):
        for reply in looking([]).ask(questions, *given):
            asked[0] += 1
            if asked[0] == 23:
                raise RuntimeError("killed")
            yield reply

    engine = looking([])
    with pytest.raises(RuntimeError):
        collect(tmp_path / "cut", replace(engine, ask=killed))
    assert asked[0] == 23
    cut, whole = collect(tmp_path / "cut", engine), collect(tmp_path / "whole", engine)
    free = collect(tmp_path / "free", replace(engine, ask=lambda questions, *_: (Reply("A", "k") for _ in questions)))
    assert (cut.counts["prompt_tokens"], cut.counts["new_tokens"]) == (7 * 48, 2 * 48)
    assert cut.counts == whole.counts and free.counts["prompt_tokens"] == 0
    assert cut.digest == whole.digest == free.digest
    for artifact in (cut, whole):
        assert json.loads((Path(artifact.uri) / store.PROVENANCE).read_text("utf-8"))["cost"]["seconds"] > 0


def test_equal_questions_cost_once(world, tmp_path):
    twins = [replace(sample, question="What changed?", options=("a", "b")) for sample in samples()]
    given = list(
        asking.ask(looking([]), asking.batches(twins, "blind", GENERATE, Bench()), {}, {}, "blind", GENERATE, Bench())
    )
    assert len(given) == len(twins) and sum(one.prompt_tokens for one in given) == 7


def test_the_images_of_a_data_set_are_the_same_for_all_who_ask(world):
    assert pixels.of(world.data) is pixels.of(world.data)
