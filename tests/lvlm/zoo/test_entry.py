"""What the files of the zoo declare holds: of each other, of the terms, of the processors at their published sizes."""

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from medmim.errors import UserError
from medmim.lvlm.importing.source import TERMS
from medmim.lvlm.zoo import entry, processors
from medmim.terms import PUBLISHED
from tests.support import zoo_models


def test_there_are_ten_and_each_medical_one_stands_beside_a_general_one() -> None:
    named = {one.name: one for one in entry.entries()}
    assert len(named) == 10 and {one.classes[0] for one in named.values()} >= {"llava", "qwen2_5_vl", "gemma3"}
    assert {one.adapter for one in named.values()} == set(entry.ADAPTERS)
    for one in named.values():
        assert named[one.sibling].medical != one.medical, one.name
        assert one.terms in PUBLISHED or one.terms == "unknown", one.name
        assert TERMS.get(one.hub, one.terms) == one.terms
        assert (one.terms == "unknown") == ("check the hub" in one.licence)


def test_models_of_one_class_are_asked_alike() -> None:
    """So that a tuned one can be compared with the one it was tuned from."""
    for one in entry.entries():
        if one.format is None:
            assert {kind: entry.asking_of(kind) for kind in one.classes} == dict.fromkeys(one.classes, one.asking)
            assert all(kind in one.adapter.types for kind in one.classes)


def test_every_proven_class_has_its_settings() -> None:
    proven = {kind for adapter in entry.ADAPTERS for kind in adapter.types}
    assert proven == set(zoo_models.CLASSES)
    declared = {kind for one in entry.entries() for kind in one.classes}
    assert proven == declared


def published(kind: str) -> Any:
    """What counts the tokens of an image, at the sizes of the published checkpoints."""
    if kind in ("qwen2_5_vl", "qwen3_vl"):  # with the bounds of the hub, which the entry's must overrule
        patch = 14 if kind == "qwen2_5_vl" else 16
        made = zoo_models.image_processor("qwen2_vl", patch_size=patch, min_pixels=3136, max_pixels=12845056)
        return SimpleNamespace(image_processor=made)
    if kind == "internvl":
        size = {"height": 448, "width": 448}
        return SimpleNamespace(image_processor=zoo_models.image_processor("got_ocr2", size=size), image_seq_length=256)
    if kind == "gemma3":
        return SimpleNamespace(image_seq_length=256)
    if kind == "smolvlm":
        sizes = {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}
        return SimpleNamespace(image_processor=zoo_models.image_processor("smolvlm", **sizes), image_seq_len=81)
    words = zoo_models.tokenizer(["<image>", "<video>"], {"image_token": "<image>", "video_token": "<video>"})
    grid = [[rows * 384, columns * 384] for rows in range(1, 7) for columns in range(1, 7)]
    reader = zoo_models.image_processor(kind, size={"height": 384, "width": 384}, image_grid_pinpoints=grid)
    return processors.class_of(kind)(reader, words, num_image_tokens=729, vision_feature_select_strategy="full")


TOWERS = {"mantis-8b": ("siglip_vision_model", 384), "llava-med-7b": ("clip_vision_model", 336)}


@pytest.mark.parametrize("one", entry.entries(), ids=lambda one: one.name)
def test_the_declared_tokens_are_those_of_the_processor(one: entry.Entry) -> None:
    config, processor = None, None
    if one.name in TOWERS:
        kind, size = TOWERS[one.name]
        tower = SimpleNamespace(image_size=size, patch_size=14, model_type=kind)
        config = SimpleNamespace(vision_config=tower, vision_feature_select_strategy="default")
    else:
        processor = published(one.classes[0])
    used = one.adapter.settings(processor, one.pixels, 1)
    assert one.adapter.features is not None and len(one.tokens_at) >= 4
    counted = {
        text: one.adapter.features(processor, config, [tuple(map(int, text.split("x")))], used)[0]  # type: ignore[list-item]
        for text in one.tokens_at
    }
    assert counted == one.tokens_at


def test_several_images_have_a_smaller_budget_where_one_would_fill_the_context() -> None:
    internvl, smolvlm = entry.find("internvl3.5-8b"), entry.find("smolvlm2-2.2b")
    tiles = [internvl.adapter.settings(None, internvl.pixels, images)["max_patches"] for images in (0, 1, 2, 4, 24, 99)]
    assert tiles == [12, 12, 12, 6, 1, 1]
    reader = published("smolvlm")
    edges = [smolvlm.adapter.settings(reader, smolvlm.pixels, n)["size"]["longest_edge"] for n in (1, 2, 5)]
    assert edges == [1536, 768, 768]


@pytest.mark.parametrize(
    ("name", "closest"), [("qwen2.5-vl", "qwen2.5-vl-7b"), ("MedGemma", "medgemma-4b"), ("zzz", "")]
)
def test_an_unknown_name_gets_the_closest_one(name: str, closest: str) -> None:
    with pytest.raises(UserError, match="no model") as caught:
        entry.find(name)
    assert (f"did you mean '{closest}'" in caught.value.fix) == bool(closest)
    assert "lingshu-7b" in caught.value.fix


def test_a_recorded_template_changes_nothing_else() -> None:
    one = entry.find("gemma-3-4b")
    before, after = (yaml.safe_load(one.with_template(text)) for text in ("null", "ab" * 32))
    assert before["template"] is None and after == {**before, "template": "ab" * 32}
    assert entry.Entry(**after, name=one.name) == one.model_copy(update={"template": "ab" * 32})
