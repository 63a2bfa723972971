"""A dry run: it counts what would be trained, and fetches neither weights nor pixels."""

import json
import math
import shutil
from pathlib import Path

import pytest

from medmim import shards, store
from medmim.errors import UserError
from medmim.finetune.plan import parameters, plan
from medmim.finetune.worker import Job
from medmim.lvlm import llava
from medmim.lvlm.encode import IGNORED, encode
from medmim.lvlm.family import Turn
from medmim.lvlm.importing import convert, layouts
from medmim.run.workspace import Workspace
from tests.support import originals
from tests.support.finetune import make_samples
from tests.support.finetune_run import check_reads, of_one_family, recipe
from tests.support.s3_proxy import Proxy


@of_one_family
def test_a_plan_counts_without_training(world: tuple[Workspace, str, str], bare: list[Job]) -> None:
    ws, data, base = world
    packed = plan(recipe(base, steps=None, epochs=2), ws, data)
    assert packed.samples == 30 and packed.steps == 8 and packed.quarantined == 0
    assert packed.filled == 1 and packed.trained_tokens < packed.tokens
    assert packed.trainable == packed.parameters
    padded = plan(recipe(base, packing=False, freeze_vision=True), ws, data)
    assert padded.filled < 1 and padded.trainable < padded.parameters
    assert bare == []


def test_a_plan_knows_the_model_and_reads_none_of_its_weights(
    world: tuple[Workspace, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, data, base = world
    model = llava.load(Path(base), "cpu").model
    frozen = sum(p.numel() for p in model.model.vision_tower.parameters())
    encoded = [
        encode(llava.load_text(Path(base)), [Turn(s.prompt, s.target)], len(s.images))
        for s in shards.read_samples(ws.fetch(data), "train")
    ]

    def load(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(llava, "load", load)
    for freeze, trainable in ((False, model.num_parameters()), (True, model.num_parameters() - frozen)):
        found = plan(recipe(base, freeze_vision=freeze), ws, data)
        assert (found.parameters, found.trainable) == (model.num_parameters(), trainable)
    assert found.tokens == sum(len(one.ids) for one in encoded)
    assert found.trained_tokens == sum(label != IGNORED for one in encoded for label in one.labels[1:])
    assert found.longest == max(len(one.ids) for one in encoded)


def test_a_plan_quarantines_what_the_base_cannot_read_whole_and_says_so(
    world: tuple[Workspace, str, str], tmp_path: Path
) -> None:
    ws, data, base = world
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    whole = plan(recipe(base), ws, data)
    assert (whole.limit, whole.limited_by) == (400, "finetune.max_tokens")
    for key, what in (("max_position_embeddings", "context"), ("sliding_window", "sliding window")):
        text = {**config["text_config"], key: whole.longest - 1}
        (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "text_config": text}))
        settings = recipe(str(tmp_path / "base"))
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"max_bad_fraction": 0.5})})
        found = plan(settings, ws, data)
        assert (found.limit, found.limited_by) == (whole.longest - 1, f"the {what} of the base")
        assert found.longest < whole.longest and found.samples + found.quarantined == whole.samples
        assert found.quarantined > 0


@pytest.mark.parametrize("which", sorted(originals.REAL_CONFIG))
def test_a_plan_counts_the_parameters_of_the_published_models(which: str, tmp_path: Path) -> None:
    """By the list of their tensors; a model of 34 GB would not fit here."""
    originals.write_sparse(tmp_path, which)
    (tmp_path / "config.json").write_text(json.dumps(originals.REAL_CONFIG[which]))
    layout = layouts.layout_of(tmp_path, None)
    rows = 32064 if which.startswith("llava-med") else 128258
    planned = convert.plan(convert.find(layout, tmp_path, "checkpoint"), layout.config, rows)
    layout.config.text_config.vocab_size = rows
    sizes = {weight.name: math.prod(weight.shape) for weight in planned}
    tower = sum(size for name, size in sizes.items() if name.startswith("vision_tower"))
    assert parameters(layout.config) == (sum(sizes.values()), tower)


@of_one_family
def test_a_dry_run_fetches_neither_weights_nor_pixels(
    world: tuple[Workspace, str, str], far: tuple[Workspace, store.Artifact, store.Artifact], proxy: Proxy
) -> None:
    ws, data, base = far
    proxy.reads.clear()
    assert plan(recipe(base.uri), ws, data.uri) == plan(recipe(world[2]), world[0], world[1])
    check_reads(proxy, data, base)


@of_one_family
def test_a_copy_that_is_at_hand_is_used_whole(
    far: tuple[Workspace, store.Artifact, store.Artifact], proxy: Proxy
) -> None:
    ws, data, base = far
    ws.fetch(data.uri), ws.fetch(base.uri)
    proxy.reads.clear()
    plan(recipe(base.uri), ws, data.uri)
    assert proxy.names() <= {"manifest.json", "config.json"}
    assert not list(ws.cache.glob("*-*")), "no second copy"


@of_one_family
def test_rows_whose_image_is_not_in_the_store_are_quarantined(
    far: tuple[Workspace, store.Artifact, store.Artifact], bucket: str, tmp_path: Path
) -> None:
    ws, _, base = far
    samples = make_samples(30)
    gone = samples[0].images[0]
    shards.write(tmp_path / "some", samples, [(f"i{i}", "", b"x") for i in range(10) if f"i{i}" != gone])
    data = store.publish(tmp_path / "some", bucket, "data", {}, {})
    settings = recipe(base.uri)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"max_bad_fraction": 0.9})})
    found = plan(settings, ws, data.uri)
    assert found.quarantined == sum(gone in sample.images for sample in samples) > 0
    shards.write(tmp_path / "none", samples, [])
    none = store.publish(tmp_path / "none", bucket, "data", {}, {})
    with pytest.raises(UserError, match="holds no images") as caught:
        plan(settings, ws, none.uri)
    assert "rows_only" in caught.value.reason
