"""The weight names of the published checkpoint, by its list: see tests/lvlm/data."""

import pytest

from medmim.lvlm.llava_med import rename
from tests.support.originals import LLAVA_MED, listed


def test_every_listed_name_becomes_a_published_one_and_buffers_are_left_out():
    names = [name for name, _ in listed(LLAVA_MED)]
    renamed = rename([*names, "model.layers.0.self_attn.rotary_emb.inv_freq", "model.image_newline"])
    assert list(renamed) == names and len(set(renamed.values())) == len(names) == 291 + 391 + 4
    assert renamed["model.mm_projector.2.bias"] == "multi_modal_projector.linear_2.bias"
    assert renamed["model.norm.weight"] == "language_model.model.norm.weight"
    assert renamed["lm_head.weight"] == "language_model.lm_head.weight"
    tower = [new for old, new in renamed.items() if "vision_tower" in old]
    assert len(tower) == 391 and all(new.startswith("vision_tower.vision_model.") for new in tower)


def test_a_name_of_another_checkpoint_is_an_error():
    with pytest.raises(KeyError, match=r"model\.qformer\.weight"):
        rename(["model.qformer.weight"])
