"""The original layouts: names, shapes and settings of the published checkpoints, and features that are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import checkpoint, llava, saving, weights
from medmim.lvlm.encode import encode, tokens_per_image
from medmim.lvlm.family import Family, Turn
from medmim.lvlm.features import pixels
from medmim.lvlm.importing import convert, layouts
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.workspace import Workspace
from tests.support import originals
from tests.support.finetune import make_lvlm
from tests.support.importing import BOTH, IMAGES, SIGLIP, edit, refused
from tests.support.originals import LLAVA_MED, QUESTION, write_original


@BOTH
def test_the_real_names_and_shapes_are_planned_whole(which: str, tmp_path: Path) -> None:
    """The list of the published checkpoint, as a file of its real size that takes no room."""
    originals.write_sparse(tmp_path, which)
    (tmp_path / "config.json").write_text(json.dumps(originals.REAL_CONFIG[which]))
    layout = layouts.layout_of(tmp_path, None)
    rows = 32064 if which == LLAVA_MED else 128258
    planned = convert.plan(convert.find(layout, tmp_path, "checkpoint"), layout.config, rows)
    assert len(planned) == len(list(originals.listed(which)))
    by_name = {weight.name: weight.shape for weight in planned}
    assert by_name["language_model.model.embed_tokens.weight"] == (rows, 4096)
    assert by_name["language_model.lm_head.weight"] == (rows, 4096)
    total = sum(np.prod(shape) for shape in by_name.values())
    assert total == pytest.approx(7.57e9 if which == LLAVA_MED else 8.48e9, rel=0.01)
    assert tokens_per_image(layout.config) == (576 if which == LLAVA_MED else 728)
    text = layout.config.text_config
    assert text.rope_parameters["rope_theta"] == (1e6 if which == LLAVA_MED else 5e5)
    assert text.num_key_value_heads == 8 and text.rms_norm_eps == 1e-5 and not layout.config.tie_word_embeddings
    assert layout.config.vision_feature_layer == -2
    vision = layout.config.vision_config
    assert vision.num_attention_heads == 16 and vision.layer_norm_eps == (1e-5 if which == LLAVA_MED else 1e-6)
    assert vision.hidden_act == ("quick_gelu" if which == LLAVA_MED else "gelu_pytorch_tanh")


@pytest.mark.parametrize("generation", ["transformers 4.52", "transformers 5"])
def test_every_generation_of_transformers_names_is_read(generation: str, ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, SIGLIP)
    first = import_base(str(folder), ws, Options())
    renamed = {}
    for name, tensor in tensors.items():
        if generation == "transformers 4.52":
            name = name.replace("language_model.lm_head", "lm_head") if "lm_head" in name else f"model.{name}"
            name = name.replace("model.language_model.model", "model.language_model")
        else:
            name = name.replace("vision_tower.vision_model", "vision_tower")
        renamed[name] = tensor
    renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(16)[None]
    renamed["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    for file in (*folder.glob("*.safetensors"), folder / weights.INDEX):
        file.unlink()
    save_file(renamed, folder / "model.safetensors")
    assert import_base(str(folder), ws, Options()).digest == first.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type is 'spatial_unpad'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"model_type": "llava_qwen2"}, "model_type 'llava_qwen2'"),
        ({"mm_vision_tower": "google/vit"}, "the vision tower 'google/vit' is not known"),
        ({"hidden_size": "wide"}, "not a configuration that transformers accepts"),
        ({"bos_token_id": 7}, "<s> is token 1 of the tokenizer and 7 of config.json"),
        ({"eos_token_id": 7}, "</s> is token 2 of the tokenizer and 7 of config.json"),
        ({"mm_vision_select_layer": -5}, "reads layer -5 of a vision tower of 3 layers"),
        ({"mm_vision_select_layer": 4}, "reads layer 4 of a vision tower of 3 layers"),
    ],
)
def test_another_llava_is_refused_by_its_feature(
    change: dict[str, Any], message: str, ws: Workspace, tmp_path: Path
) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    file = tmp_path / "original" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert message in str(refused(tmp_path / "original", ws))


@pytest.mark.parametrize(
    ("named", "fix"),
    [
        (
            "openai/clip-vit-large-patch14-336",
            "give --clip openai/clip-vit-large-patch14-336 and --hub; or, where there is a network: `hf download "
            "openai/clip-vit-large-patch14-336 --local-dir CLIP`, then give --clip CLIP",
        ),
        ("/data/clip of mine", "give --clip with a copy of /data/clip of mine"),
    ],
)
def test_a_stock_clip_that_is_only_named_has_its_option_in_the_fix(
    named: str, fix: str, ws: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "original"
    write_original(folder, LLAVA_MED)
    vision = layouts.read_config(folder / "clip")
    edit(folder / "config.json", {"mm_vision_tower": named, "vision_config": vision})
    error = refused(folder, ws, Options("stock"))
    assert error.fact == f"the stock vision tower {named} is not at hand" and error.fix == fix
    for file in folder.glob("*.safetensors"):
        rest = {n: t for n, t in load_file(file).items() if "vision_tower" not in n}
        save_file(rest, file)
    where = json.loads((folder / weights.INDEX).read_text())["weight_map"]
    kept = {name: file for name, file in where.items() if "vision_tower" not in name}
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": kept}))
    error = refused(folder, ws)
    assert "has no vision tower" in error.fact and error.fix == f"give --vision-tower stock, and {fix}"


@pytest.mark.parametrize("family", checkpoint.FAMILIES, ids=lambda family: str(family.name))
def test_what_transformers_saves_of_either_family_is_read_in_its_own_layout(
    family: Family, ws: Workspace, tmp_path: Path
) -> None:
    """As somebody saves a model that he tuned: a CLIP + Mistral in transformers' names is no `llava_mistral`."""
    made = saving.save(make_lvlm(family), tmp_path / "base")
    artifact = import_base(str(tmp_path / "base"), ws, Options())
    assert (artifact.counts["layout"], artifact.counts["family"]) == ("llava", family.name)
    lvlm = llava.load(store.fetch(artifact, ws.cache), "cpu", torch.float32)
    for (name, found), expected in zip(lvlm.model.named_parameters(), made.model.parameters(), strict=True):
        assert torch.equal(found, expected.to(torch.bfloat16).float()), name
    assert encode(lvlm, [Turn(QUESTION)], 2).ids == encode(made, [Turn(QUESTION)], 2).ids
    assert torch.equal(pixels(lvlm, IMAGES), pixels(made, IMAGES))
    with pytest.raises(UserError, match="has one vision tower, its own"):
        import_base(str(tmp_path / "base"), ws, Options("stock"))


def test_the_clip_that_is_given_goes_before_the_one_that_is_named_and_must_be_one(
    ws: Workspace, tmp_path: Path
) -> None:
    folder, given = tmp_path / "original", tmp_path / "given"
    write_original(folder, LLAVA_MED)
    shutil.copytree(folder / "clip", given)
    edit(given / "config.json", {"layer_norm_eps": 0.125})
    lvlm = llava.load(store.fetch(import_base(str(folder), ws, Options("checkpoint", str(given))), ws.cache), "cpu")
    assert lvlm.model.config.vision_config.layer_norm_eps == 0.125
    edit(given / "config.json", {"model_type": "siglip_vision_model"})
    with pytest.raises(UserError, match="is not a CLIP: its model_type is 'siglip_vision_model'") as caught:
        import_base(str(folder), ws, Options("checkpoint", str(given)))
    assert caught.value.fix
