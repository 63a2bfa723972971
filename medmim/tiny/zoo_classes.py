"""Tiny random models of the zoo's classes with tokenizer, processor and chat template, built from nothing of a hub."""

import importlib
from pathlib import Path
from typing import Any

from medmim.errors import require
from medmim.lvlm import llava
from medmim.lvlm.zoo import processors
from medmim.lvlm.zoo.model import save_parts

CLASSES = (
    "llava",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "gemma3",
    "llava_onevision",
    "idefics3",
    "smolvlm",
)
# As published ones write it: roles, an end-of-turn token, images before the text, the prompt of an answer.
TEMPLATE = (
    "{BOS}{% for m in messages %}{{ '<a>' if m.role == 'assistant' else '<u>' }}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "<end>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def build(kind: str, folder: Path, seed: int = 0) -> Path:
    """Save a model of about 100 thousand random parameters, whose logits depend on all it reads.

    Args:
        kind: One of `CLASSES`.
        folder: Gets the checkpoint.
        seed: Decides every weight.
    """
    return save(*_parts(kind), folder, seed)


def save(processor: Any, config: Any, name: str, folder: Path, seed: int) -> Path:
    """Draw the weights of a configuration and save them with a processor; `name` is the class of transformers."""
    torch = require("torch", "finetune")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = getattr(llava.quiet_transformers(), name)(config)
        for key, weight in model.named_parameters():
            if key.endswith("_gate"):  # zero in a new Mllama: it would be blind
                weight.fill_(1.0)
            elif key.endswith("mm_input_projection_weight"):  # likewise in a new Gemma 3
                weight.normal_(0, 0.1)
            if weight.dim() > 1:
                weight.mul_(4)  # logits apart
    model.generation_config.eos_token_id = 1
    model.generation_config.pad_token_id = 0
    save_parts(model, processor, folder)
    return folder


def tokenizer(specials: list[str], names: dict[str, str], bos: str | None = None) -> Any:
    """Bytes and special tokens; `names` are the attributes that a processor looks for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<pad>", "<eos>", *([bos] if bos else []), *specials, "<u>", "<a>", "<end>"]
    vocabulary = {word: i for i, word in enumerate([*words, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(words)
    return llava.quiet_transformers().PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=words[0],
        eos_token=words[1],
        bos_token=bos,
        padding_side="right",  # as many are published: what asks them must not rely on it
        extra_special_tokens=names,
    )


def decoder(size: int, **more: Any) -> dict[str, Any]:
    """The configuration of a decoder with a vocabulary of that size."""
    return dict(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, **more,
    )  # fmt: skip


def _tower(**more: Any) -> dict[str, Any]:
    return dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8,
        **more,
    )  # fmt: skip


def image_processor(module: str, **settings: Any) -> Any:
    """A PIL image processor of a module of transformers: `qwen2_vl`."""
    found = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    (name,) = [name for name in found.__all__ if name.endswith("ImageProcessorPil")]
    return getattr(found, name)(**settings)


def with_template(kind: str, reader: Any, words: Any, image: str, **settings: Any) -> Any:
    """The processor of a class with `TEMPLATE` as its chat template; `image` is what stands for one in it."""
    template = TEMPLATE.replace("IMAGE", image).replace("{BOS}", words.bos_token or "")
    return processors.class_of(kind)(reader, words, chat_template=template, **settings)


def _parts(kind: str) -> tuple[Any, Any, str]:
    """(processor, config, name of the model's class)."""
    hf = llava.quiet_transformers()
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        names = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
        words = tokenizer(names, {"image_token": names[0], "video_token": names[3]})
        ids = dict(
            zip(("image", "vision_start", "vision_end", "video"), words.convert_tokens_to_ids(names), strict=True)
        )
        ids = {f"{name}_token_id": token for name, token in ids.items()}
        patch = 16 if kind == "qwen3_vl" else 14
        reader = image_processor("qwen2_vl", patch_size=patch, size={"shortest_edge": 28 * 28, "longest_edge": 64 * 64})
        tower: dict[str, Any] = dict(
            depth=2, num_heads=4, patch_size=patch, spatial_merge_size=2, temporal_patch_size=2, hidden_size=32
        )
        rope = {**ROPE, "mrope_section": [2, 1, 1]}
        more: dict[str, Any] = {}
        if kind == "qwen2_vl":
            tower |= dict(embed_dim=32, mlp_ratio=2)
        elif kind == "qwen2_5_vl":
            tower |= dict(out_hidden_size=32, intermediate_size=64, fullatt_block_indexes=[1], window_size=56)
        else:
            tower |= dict(
                out_hidden_size=32, intermediate_size=64, num_position_embeddings=64, deepstack_visual_indexes=[0]
            )
            more, rope = {"head_dim": 8}, {**rope, "mrope_interleaved": True}
        name = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[kind]
        text = decoder(len(words), rope_parameters=rope, **more)
        config = getattr(hf, f"{name}Config")(text_config=text, vision_config=tower, **ids)
        image = "<|vision_start|><|image_pad|><|vision_end|>"
        return with_template(kind, reader, words, image), config, f"{name}ForConditionalGeneration"
    if kind == "internvl":
        names = ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"]
        keys: tuple[str, ...] = ("context_image_token", "start_image_token", "end_image_token", "video_token")
        words = tokenizer(names, dict(zip(keys, names, strict=True)))
        reader = image_processor("got_ocr2", size={"height": 32, "width": 32})
        tower = _tower() | {"image_size": [32, 32], "patch_size": [4, 4]}
        config = hf.InternVLConfig(
            text_config=dict(model_type="qwen2", **decoder(len(words))), vision_config=tower,
            image_token_id=words.context_image_token_id, image_seq_length=16, downsample_ratio=0.5,
        )  # fmt: skip
        made = with_template(kind, reader, words, "<IMG_CONTEXT>\n", image_seq_length=16)
        return made, config, "InternVLForConditionalGeneration"
    if kind in ("idefics3", "smolvlm"):
        places = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
        names = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
        keys = ("image_token", "fake_image_token", "end_of_utterance_token", "global_image_token")
        words = tokenizer([*names, *places], dict(zip(keys, names, strict=True)))
        name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[kind]
        reader = image_processor(kind, size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
        config = getattr(hf, f"{name}Config")(
            text_config=dict(model_type="llama", **decoder(len(words))), vision_config=_tower(), scale_factor=2,
            image_token_id=words.image_token_id,
        )  # fmt: skip
        made = with_template(kind, reader, words, "<image>", image_seq_len=4)
        return made, config, f"{name}ForConditionalGeneration"
    if kind == "gemma3":
        names = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
        keys = ("boi_token", "eoi_token", "image_token")
        words = tokenizer([*names, "<end_of_turn>"], dict(zip(keys, names, strict=True)), bos="<bos>")
        reader = image_processor("gemma3", size={"height": 32, "width": 32})
        config = hf.Gemma3Config(
            text_config=decoder(
                len(words), head_dim=8, sliding_window=16, bos_token_id=2, query_pre_attn_scalar=8,
                layer_types=["sliding_attention", "full_attention"],
            ),
            vision_config=_tower(vision_use_head=False), mm_tokens_per_image=4, boi_token_index=words.boi_token_id,
            eoi_token_index=words.eoi_token_id, image_token_index=words.image_token_id,
        )  # fmt: skip
        made = with_template(kind, reader, words, "<start_of_image>", image_seq_length=4)
        return made, config, "Gemma3ForConditionalGeneration"
    if kind == "llava":  # CLIP + Llama, as LLaVA-1.5: not one of our families
        words = tokenizer(["<image>"], {"image_token": "<image>"})
        reader = image_processor("clip", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        config = hf.LlavaConfig(
            text_config=dict(model_type="llama", **decoder(len(words))),
            vision_config=_tower(model_type="clip_vision_model", projection_dim=32),
            image_token_index=words.image_token_id, image_token_id=words.image_token_id,
            vision_feature_select_strategy="default", vision_feature_layer=-2,
        )  # fmt: skip
        made = with_template(
            kind, reader, words, "<image>",
            patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        )  # fmt: skip
        return made, config, "LlavaForConditionalGeneration"
    if kind == "llava_onevision":
        words = tokenizer(["<image>", "<video>"], {"image_token": "<image>", "video_token": "<video>"})
        grid = [[32, 64], [64, 32], [64, 64]]
        reader = image_processor(kind, size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
        config = hf.LlavaOnevisionConfig(
            text_config=dict(model_type="qwen2", **decoder(len(words))),
            vision_config=_tower(model_type="siglip_vision_model", vision_use_head=False),
            image_token_id=words.image_token_id, video_token_id=words.video_token_id, image_grid_pinpoints=grid,
            vision_feature_select_strategy="full", vision_feature_layer=-1,
        )  # fmt: skip
        made = with_template(kind, reader, words, "<image>", num_image_tokens=16, vision_feature_select_strategy="full")
        return made, config, "LlavaOnevisionForConditionalGeneration"
    raise ValueError(kind)
