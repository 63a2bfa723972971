"""Checkpoints in the original layouts, small or at their real size, and the forward pass by the original formula.

Names come from the lists in tests/lvlm/data, which were read from upstream's modules; medmim's are not known here.
"""

import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from medmim.lvlm.mantis import MANTIS as FAMILY
from medmim.tiny import architecture

LISTS = Path(__file__).parents[1] / "lvlm" / "data"
MANTIS, LLAVA_MED = "mantis-8b-siglip-llama3", "llava-med-v1.5-mistral-7b"
WORDS = (
    "which", "image", "shows", "the", "larger", "opacity", "left", "right", "small", "same", "size", "mass", "is",
    "what", "does", "now", "and", "none",
)  # fmt: skip
QUESTION = "which image shows the larger opacity\nA: image 1\nB: image 2"

# Real size -> small size, for each of the lists: what a shape of the list becomes.
SMALL = {
    MANTIS: {1152: 24, 4304: 40, 729: 16, 3456: 72, 4096: 32, 1024: 16, 14336: 48, 128258: None, 14: 4},
    LLAVA_MED: {1024: 24, 4096: 40, 577: 17, 32000: None, 14336: 48, 14: 4},
}
SHAPES = Path(__file__).parents[2] / "benchmarks" / "shapes"  # config.json as published
REAL_CONFIG: dict[str, dict[str, Any]] = {
    which: json.loads((SHAPES / f"{which}.json").read_text()) for which in (LLAVA_MED, MANTIS)
}


def listed(which: str, layers: int | None = None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a list; with `layers`, only so many layers of tower and decoder."""
    for line in (LISTS / f"{which}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, *shape = line.split()
        found = re.search(r"\{0\.\.(\d+)\}", name)
        count = 1 if not found else int(found[1]) + 1 if layers is None else layers
        for i in range(count):
            yield re.sub(r"\{.*\}", str(i), name), tuple(map(int, shape))


def small_config(which: str, vocabulary: int, layers: int = 3) -> dict[str, Any]:
    """The published config.json with small numbers."""
    config: dict[str, Any] = json.loads(json.dumps(REAL_CONFIG[which]))
    if which == LLAVA_MED:
        config |= {
            "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": vocabulary, "mm_hidden_size": 24, "mm_vision_tower": "clip",
            "max_position_embeddings": 512, "rope_theta": 10000.0,
        }  # fmt: skip
    else:
        config["text_config"] |= {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 512,
        }  # fmt: skip
        config["vision_config"] |= {
            "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": layers, "num_attention_heads": 4,
            "image_size": 16, "patch_size": 4,
        }  # fmt: skip
    return config


CLIP_CONFIG = {
    "model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": 16, "patch_size": 4, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "projection_dim": 16,
}  # fmt: skip


def small_tensors(which: str, vocabulary: int, layers: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under the original names; narrow in bf16, so that converting loses nothing."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in listed(which, layers):
        small = tuple(SMALL[which].get(n, n) or vocabulary for n in shape)
        if which == LLAVA_MED:  # its decoder is as wide as the tower's feed-forward part: 4096
            small = _llava_med_shape(name, small)
        values = rng.normal(size=small, scale=0.3)
        if re.search(r"(norm\d?|layernorm)\.weight$", name):
            values += 1
        found[name] = torch.from_numpy(values).to(torch.bfloat16)
    return found


def _llava_med_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if re.search(r"layers\.\d+\.self_attn\.[kv]_proj\.weight", name) and "vision" not in name:
        return (20, 40)
    return shape


def write_sparse(folder: Path, which: str, dtype: str = "BF16", layers: int | None = None) -> None:
    """A checkpoint of the real size, all zeros, that takes no room on the disk."""
    size = {"BF16": 2, "F32": 4}[dtype]
    header, end = {}, 0
    for name, shape in listed(which, layers):
        begin, end = end, end + math.prod(shape) * size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def pieces(data: bytes) -> int:
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(data)
    return len(proto.pieces)


def add_bos(file: Path, bos: str) -> None:
    """Give a tokenizer.json the post-processor of Llama 3's, which puts its first token before each text."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, tokenizer.token_to_id(bos))],
            ),
        ]
    )
    tokenizer.save(str(file))


def write_original(folder: Path, which: str, shards: int = 2) -> dict[str, torch.Tensor]:
    """A small checkpoint as it was published; returns its tensors."""
    folder.mkdir(parents=True)
    if which == LLAVA_MED:
        data = sentencepiece_model()
        (folder / "tokenizer.model").write_bytes(data)
        vocabulary = pieces(data)
        (folder / "clip").mkdir()
        (folder / "clip" / "config.json").write_text(json.dumps(CLIP_CONFIG))
    else:
        tokenizer = architecture.train_tokenizer([QUESTION, *WORDS], FAMILY, size=512)
        tokenizer.save_pretrained(folder)
        add_bos(folder / "tokenizer.json", "<|begin_of_text|>")
        vocabulary = len(tokenizer)
    config = small_config(which, vocabulary)
    if which == MANTIS:
        config["image_token_index"] = tokenizer.convert_tokens_to_ids("<image>")
        settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}}
        settings |= {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "MLlavaProcessor"}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps(config))
    tensors = small_tensors(which, vocabulary)
    names = sorted(tensors)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    where = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        save_file({n: tensors[n] for n in names if where[n] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return tensors


# ------------------------------------------------------------------ the original formula


def logits(which: str, config: dict[str, Any], tensors: dict[str, Tensor], ids: list[int], pixels: Tensor) -> Tensor:
    """Logits `[tokens, vocabulary]` in float32, by the formula of the original code.

    Args:
        which: The layout.
        config: Its config.json.
        tensors: Under the original names.
        ids: Token ids; each image is one -200, as in LLaVA's code.
        pixels: `[images, 3, side, side]`.
    """
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    if which == LLAVA_MED:
        tower, decoder, vision = "model.vision_tower.vision_tower.vision_model.", "model.", CLIP_CONFIG
        first, second, head, text = "model.mm_projector.0", "model.mm_projector.2", "lm_head.weight", config
    else:
        tower, decoder, vision = "vision_tower.vision_model.", "language_model.model.", config["vision_config"]
        first, second = "multi_modal_projector.linear_1", "multi_modal_projector.linear_2"
        head, text = "language_model.lm_head.weight", config["text_config"]
    if which == LLAVA_MED:
        layer, whole = config["mm_vision_select_layer"], config["mm_vision_select_feature"] == "cls_patch"
    else:
        layer, whole = config["vision_feature_layer"], config["vision_feature_select_strategy"] == "full"
    # as published, both drop the first position of the layer before the last
    seen = _tower(weights, tower, vision, pixels, layer)[:, 0 if whole else 1 :]
    seen = linear(seen, weights[f"{first}.weight"], weights[f"{first}.bias"])
    seen = linear(gelu(seen), weights[f"{second}.weight"], weights[f"{second}.bias"])
    images = iter(seen)
    table = weights[f"{decoder}embed_tokens.weight"]
    hidden = torch.cat([next(images) if i == -200 else table[i][None] for i in ids])
    return _decoder(weights, decoder, text, hidden) @ (table if config.get("tie_word_embeddings") else weights[head]).T


def _tower(weights: dict[str, Tensor], at: str, config: dict[str, Any], pixels: Tensor, layer: int) -> Tensor:
    """Hidden states of a layer, counted from the last, which is -1: `[images, positions, width]`."""
    clip, width = config["model_type"] == "clip_vision_model", config["hidden_size"]
    patches = torch.nn.functional.conv2d(
        pixels, weights[f"{at}embeddings.patch_embedding.weight"],
        weights.get(f"{at}embeddings.patch_embedding.bias"), stride=config["patch_size"],
    ).flatten(2).transpose(1, 2)  # fmt: skip
    if clip:
        start = weights[f"{at}embeddings.class_embedding"].expand(len(pixels), 1, width)
        patches = torch.cat([start, patches], 1)
    hidden = patches + weights[f"{at}embeddings.position_embedding.weight"]
    eps = 1e-5 if clip else 1e-6
    if clip:
        hidden = layer_norm(hidden, (width,), *_pair(weights, f"{at}pre_layrnorm"), eps)
    for i in range(config["num_hidden_layers"] + 1 + layer):
        module = f"{at}encoder.layers.{i}."
        x = layer_norm(hidden, (width,), *_pair(weights, f"{module}layer_norm1"), eps)
        q, k, v = (
            linear(x, *_pair(weights, f"{module}self_attn.{p}_proj")).unflatten(-1, (config["num_attention_heads"], -1))
            for p in "qkv"
        )
        x = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        hidden = hidden + linear(x.transpose(1, 2).flatten(2), *_pair(weights, f"{module}self_attn.out_proj"))
        x = linear(
            layer_norm(hidden, (width,), *_pair(weights, f"{module}layer_norm2"), eps),
            *_pair(weights, f"{module}mlp.fc1"),
        )
        x = x * torch.sigmoid(1.702 * x) if clip else gelu(x, approximate="tanh")
        hidden = hidden + linear(x, *_pair(weights, f"{module}mlp.fc2"))
    return hidden


def _pair(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _decoder(weights: dict[str, Tensor], at: str, config: dict[str, Any], hidden: Tensor) -> Tensor:
    heads, groups, eps = config["num_attention_heads"], config["num_key_value_heads"], config["rms_norm_eps"]
    width = hidden.shape[-1] // heads
    angles = torch.arange(len(hidden))[:, None] / config["rope_theta"] ** (torch.arange(0, width, 2) / width)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    for i in range(config["num_hidden_layers"]):
        layer = f"{at}layers.{i}."
        x = _rms(hidden, weights[f"{layer}input_layernorm.weight"], eps)
        q = rotate((x @ weights[f"{layer}self_attn.q_proj.weight"].T).unflatten(-1, (heads, width)))
        k = rotate((x @ weights[f"{layer}self_attn.k_proj.weight"].T).unflatten(-1, (groups, width)))
        v = (x @ weights[f"{layer}self_attn.v_proj.weight"].T).unflatten(-1, (groups, width))
        k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) / width**0.5
        scores = scores.masked_fill(torch.ones(len(hidden), len(hidden)).triu(1).bool(), -torch.inf)
        x = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
        hidden = hidden + x @ weights[f"{layer}self_attn.o_proj.weight"].T
        x = _rms(hidden, weights[f"{layer}post_attention_layernorm.weight"], eps)
        x = silu(x @ weights[f"{layer}mlp.gate_proj.weight"].T) * (x @ weights[f"{layer}mlp.up_proj.weight"].T)
        hidden = hidden + x @ weights[f"{layer}mlp.down_proj.weight"].T
    return _rms(hidden, weights[f"{at}norm.weight"], eps)


# ------------------------------------------------------------------ SentencePiece


def sentencepiece_model() -> bytes:
    """A small `tokenizer.model`: Llama's kind, BPE with byte fallback, over `WORDS`."""
    from transformers.convert_slow_tokenizer import import_protobuf

    pb = import_protobuf()
    proto = pb.ModelProto()
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False

    def add(piece: str, kind: int, score: float = 0.0) -> None:
        proto.pieces.add(piece=piece, type=kind, score=score)

    for piece, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        add(piece, kind)
    for byte in range(256):
        add(f"<0x{byte:02X}>", 6)
    merged: list[str] = []
    for word in WORDS:
        for n in range(2, len(word) + 2):
            if (piece := f"\u2581{word}"[:n]) not in merged:
                merged.append(piece)
    merged += [p for p in ("in", "th", "er", "\u2581[", "IN", "ST", "INST") if p not in merged]
    for rank, piece in enumerate(merged):
        add(piece, 1, -float(rank))
    alphabet = sorted({c for piece in merged for c in piece} | set("[]/?:ABCDEIMNST0123456789.,"))
    for rank, char in enumerate(c for c in alphabet if c not in merged):
        add(char, 1, -float(len(merged) + rank))
    data: bytes = proto.SerializeToString()
    return data


def sentencepiece_ids(data: bytes, text: str) -> list[int]:
    """What SentencePiece's own encoder gives: the pair with the best score is merged first, the rest are bytes."""
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(data)
    known = {piece.piece: (index, piece.score) for index, piece in enumerate(proto.pieces)}
    if not text:
        return []
    parts = list("\u2581" + text.replace(" ", "\u2581"))
    while True:
        pairs = [
            (known[a + b][1], -i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in known
        ]
        if not pairs:
            break
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    found = []
    for part in parts:
        found += [known[part][0]] if part in known else [known[f"<0x{b:02X}>"][0] for b in part.encode()]
    return found
