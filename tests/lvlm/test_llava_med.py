"""The weight names of the published checkpoint, against those that transformers loads."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, MistralConfig

from medmim.lvlm.llava_med import rename


@pytest.fixture(scope="module")
def model():
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=63))


def published_names(model):
    """The state dict as LLaVA-Med v1.5 names it: the official code's modules around the very same weights."""
    prefixes = (
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
        ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
        ("model.language_model.", "model."),
        ("lm_head.", "lm_head."),
    )
    found = {}
    for name, weight in model.state_dict().items():
        old, new = next(pair for pair in prefixes if name.startswith(pair[0]))
        found[new + name.removeprefix(old).removeprefix("vision_model.")] = weight
    return found


def test_every_weight_arrives_where_transformers_loads_it(model, tmp_path):
    from safetensors.torch import save_file

    published = published_names(model)
    published["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    published["model.image_newline"] = torch.ones(16)
    names = rename(published)
    assert not any("inv_freq" in new or "newline" in new for new in names.values())
    assert "vision_tower.vision_model.embeddings.class_embedding" in names.values()
    assert "language_model.model.embed_tokens.weight" in names.values()
    model.config.save_pretrained(tmp_path)
    save_file({new: published[old].clone() for old, new in names.items()}, tmp_path / "model.safetensors")
    loaded, report = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name


def test_a_name_of_another_checkpoint_is_an_error():
    with pytest.raises(KeyError, match=r"model\.qformer\.weight"):
        rename(["model.qformer.weight"])
