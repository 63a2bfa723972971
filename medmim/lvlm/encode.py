"""Tokenizes conversations to ids and labels; needs no pixels, so lengths are known before any image is opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medmim.lvlm.family import Turn

if TYPE_CHECKING:
    from medmim.lvlm.checkpoint import Lvlm

IGNORED = -100  # the label that torch's cross-entropy skips


@dataclass(frozen=True)
class Encoded:
    """One tokenized conversation.

    Attributes:
        ids: Token ids, `<image>` repeated once per image token.
        labels: `ids` at the positions that are trained, `IGNORED` at the others; not shifted.
        images: Number of images in it.
    """

    ids: list[int]
    labels: list[int]
    images: int


def tokens_per_image(config: Any) -> int:
    """Decoder positions that one image takes: 728 for Mantis, 576 for LLaVA-Med.

    CLIP prepends a class token, SigLIP does not; the strategy `default` drops the first position either way. Mantis
    was trained so, and loses its first patch.
    """
    vision = config.vision_config
    positions = (vision.image_size // vision.patch_size) ** 2 + int(vision.model_type == "clip_vision_model")
    return int(positions) - int(config.vision_feature_select_strategy == "default")


def encode(lvlm: "Lvlm", turns: Sequence[Turn], images: int) -> Encoded:
    """Render and tokenize a conversation.

    The text is tokenized as a whole, as the published training code does; trained tokens are found by their offsets.

    Args:
        lvlm: The model, for its family, tokenizer and image size.
        turns: The conversation; a last answer of None gives a prompt for generation.
        images: Images shown with the first question; 0 is the blind form.

    Raises:
        UserError: The text contains a special token of the format.
    """
    segments = lvlm.family.render(turns, images)
    encoding = lvlm.tokenizer.backend_tokenizer.encode("".join(s.text for s in segments), add_special_tokens=False)
    spans, end = [], 0
    for segment in segments:
        begin, end = end, end + len(segment.text)
        if segment.trained:
            spans.append((begin, end))
    image, repeat = lvlm.model.config.image_token_id, tokens_per_image(lvlm.model.config)
    ids: list[int] = []
    labels: list[int] = []
    for token, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True):
        times = repeat if token == image else 1
        trained = any(a <= begin < b for a, b in spans)
        ids += [token] * times
        labels += [token if trained else IGNORED] * times
    return Encoded(ids, labels, images)


def length_of(lvlm: "Lvlm", turns: Sequence[Turn], images: int) -> int:
    """Number of tokens of a conversation, without reading pixels: packing plans with it."""
    return len(encode(lvlm, turns, images).ids)
