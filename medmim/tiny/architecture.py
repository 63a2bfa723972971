"""The tiny models: tokenizer, image processor, configuration and initial weights, 1.6 M parameters each.

Their architectures are the real ones: SigLIP + Llama (Mantis) and CLIP + Mistral (LLaVA-Med). With ordinary initial
weights a decoder this small needs ten minutes of text to learn look-up; with those of this file, three. Each choice was
measured; the functions describe them.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from medmim.lvlm.family import Family, Turn
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.sample import IMAGE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

WIDTH = 128
IMAGE_SIZE, PATCH = 48, 16
MEAN, STD = 0.4, 0.3  # of the phantoms' grey values; 0 after normalisation is what `grey` shows
_WEIGHT_STD = 0.08
_PEAK = 1.5  # amplitude of the previous-token heads, per rotary frequency
_CONSTANT = 0.5  # value of the constant residual direction, for decoders without attention bias
# A word, a digit, a run of line breaks, an option letter with its colon: each is one piece. `A:` is the same piece in
# an option and in an answer, and a digit the same in `(image 2:` and in an option: copying needs equal tokens.
# A letter right behind a word is a piece of its own too: the dense look-ups of the corpus put the key behind the word.
_PIECES = (
    r" ?\p{L}+?(?=[A-H]:(?:\s|$))|[A-H]:(?=\s|$)| (?=[A-H]: )"
    r"| ?\p{L}+(?:-\p{L}+)*| ?\p{N}|\n+| ?[^\s\p{L}\p{N}]|\s"
)


def train_tokenizer(texts: Iterable[str], family: Family, size: int = 1024) -> "PreTrainedTokenizerFast":
    """Train a fast tokenizer: its vocabulary is the words of the corpus, and bytes for everything else.

    Encoding is lossless for any text: a piece that is not in the vocabulary is encoded as its UTF-8 bytes.

    Args:
        texts: The corpus.
        family: Its special tokens and phrases become one token each.
        size: Most tokens of the vocabulary; the most frequent pieces are taken, ties in alphabetic order.
    """
    from collections import Counter

    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(piece for text in texts for piece, _ in split.pre_tokenize_str(text))
    frame = "".join(segment.text for segment in family.write([Turn("", "")], 2))
    for fragment in re.split("|".join(map(re.escape, (*family.special, *family.phrases))), frame):
        counts.update({piece: 1_000_000 for piece, _ in split.pre_tokenize_str(fragment)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    free = size - len(alphabet) - len(family.special) - len(family.phrases)
    words = sorted((w for w in counts if len(w) > 1), key=lambda w: (-counts[w], w))[:free]
    vocabulary = {token: i for i, token in enumerate((*family.special, *alphabet, *words))}
    # ignore_merges: a piece that is in the vocabulary is one token, any other (there are no merges) is encoded in bytes
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in family.special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in family.phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        additional_special_tokens=[*family.control, IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def image_processor(family: Family) -> Any:
    """The stock image processor of the family, at the tiny size (Pillow backend)."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    common = {"do_convert_rgb": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3}
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if family is MANTIS:
        return SiglipImageProcessorPil(size=square, **common)
    return CLIPImageProcessorPil(size=square, do_center_crop=False, **common)


def config(family: Family, tokenizer: "PreTrainedTokenizerFast") -> "LlavaConfig":
    """The stock configuration of the family, at the tiny size."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, MistralConfig, SiglipVisionConfig

    mantis = family is MANTIS
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "layer_norm_eps": 1e-5,
    }
    decoder = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "initializer_range": _WEIGHT_STD,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }
    return LlavaConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **tower) if mantis else CLIPVisionConfig(**tower),
        text_config=LlamaConfig(attention_bias=True, **decoder)
        if mantis
        else MistralConfig(sliding_window=None, **decoder),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(IMAGE_SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full" if mantis else "default",
        tie_word_embeddings=True,
    )


def build(family: Family, tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlavaForConditionalGeneration":
    """A tiny model with initial weights from which it learns look-up within minutes.

    Args:
        family: `MANTIS` or `LLAVA_MED`.
        tokenizer: From `train_tokenizer`.
        seed: Decides every weight.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config(family, tokenizer))
        with torch.no_grad():
            _draw(model)
            if family is LLAVA_MED:
                g = _look_back_by_constant(model.model.language_model)
                _constant_in_images(model, g)
            else:
                _look_back_by_bias(model.model.language_model)
                _match_queries(model.model.language_model)
    model.tie_weights()
    return model.eval()


def _draw(model: Any) -> None:
    """Normal weights, zero biases; position embeddings of the tower eight times as wide as usual.

    The position of a patch matters as much as its content.
    """
    import torch
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
            # the three channels of a grey image are equal, so their weights add up
            std = _WEIGHT_STD / 3**0.5 if isinstance(module, nn.Conv2d) else _WEIGHT_STD
            nn.init.normal_(module.weight, std=std)
            bias = getattr(module, "bias", None)
            if isinstance(bias, torch.Tensor):
                nn.init.zeros_(bias)
    embeddings = model.model.vision_tower.embeddings
    nn.init.normal_(embeddings.position_embedding.weight, std=0.16)
    if isinstance(getattr(embeddings, "class_embedding", None), torch.Tensor):
        nn.init.normal_(embeddings.class_embedding, std=0.16)


def _rotations(decoder: Any) -> "Tensor":
    import torch

    half = decoder.config.head_dim // 2
    theta = decoder.config.rope_parameters["rope_theta"]
    rates: Tensor = 1 / theta ** (torch.arange(half).float() / half)
    return rates


def _look_back_by_bias(decoder: Any, offsets: tuple[int, ...] = (1, 2, 3)) -> None:
    """Layer 0: head h attends `offsets[h]` tokens back, through biases of q and k that match at that rotation."""
    import torch

    attention, rates = decoder.layers[0].self_attn, _rotations(decoder)
    half = len(rates)
    for head, offset in enumerate(offsets):
        rows = slice(head * 2 * half, (head + 1) * 2 * half)
        attention.q_proj.weight[rows] *= 0.2
        attention.k_proj.weight[rows] *= 0.2
        attention.q_proj.bias[rows] = _PEAK * torch.cat([torch.ones(half), torch.zeros(half)])
        attention.k_proj.bias[rows] = _PEAK * torch.cat([(offset * rates).cos(), (offset * rates).sin()])


def _match_queries(decoder: Any) -> None:
    """Layers 1 and up: in half of the heads keys are initially equal to queries, so that equal tokens match."""
    rows = decoder.config.num_attention_heads // 2 * decoder.config.head_dim
    for layer in decoder.layers[1:]:
        layer.self_attn.k_proj.weight[:rows] = layer.self_attn.q_proj.weight[:rows]


def _look_back_by_constant(decoder: Any, offsets: tuple[int, ...] = (1, 2, 3)) -> float:
    """As `_look_back_by_bias` for Mistral, which has no attention bias: residual direction 0 is a constant instead.

    Every embedding has it, only q and k of layer 0 read it, and nothing writes it.

    Returns:
        The value of the constant after the first RMSNorm; images get the same.
    """
    import torch

    width, rates = decoder.config.hidden_size, _rotations(decoder)
    half = len(rates)
    decoder.embed_tokens.weight[:, 0] = _CONSTANT
    g = _CONSTANT / ((_WEIGHT_STD**2 * (width - 1) + _CONSTANT**2) / width) ** 0.5
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            reader.weight[:, 0] = 0
        attention.o_proj.weight[0] = 0
        mlp.down_proj.weight[0] = 0
    decoder.norm.weight[0] = 0
    attention = decoder.layers[0].self_attn
    for head, offset in enumerate(offsets):
        rows = slice(head * 2 * half, (head + 1) * 2 * half)
        attention.q_proj.weight[rows] *= 0.2
        attention.k_proj.weight[rows] *= 0.2
        attention.q_proj.weight[rows, 0] = _PEAK / g * torch.cat([torch.ones(half), torch.zeros(half)])
        attention.k_proj.weight[rows, 0] = _PEAK / g * torch.cat([(offset * rates).cos(), (offset * rates).sin()])
    return float(g)


def _constant_in_images(model: Any, g: float) -> None:
    """Give image tokens the constant in the same ratio to the rest as word embeddings have it."""
    import torch

    side = model.config.vision_config.image_size
    pixels = torch.randn(64, 3, side, side)
    features = torch.cat(list(model.model.get_image_features(pixels).pooler_output))
    width = features.shape[-1]
    rest = float(features.pow(2).mean()) * (width - 1)
    projection = model.model.multi_modal_projector.linear_2
    projection.weight[0] = 0
    projection.bias[0] = (g * g / width * rest / (1 - g * g / width)) ** 0.5
