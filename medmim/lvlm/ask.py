"""Question and Reply: what is sent to a model and what comes back, the same for every inference engine."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmim.sample import digest_of

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Question:
    """A question for a model.

    Attributes:
        prompt: The question with its options, without image placeholders.
        images: RGB images in order; without any, the prompt has no image markers either (the blind probe).
    """

    prompt: str
    images: "Sequence[Image]" = ()


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: The generated text without special tokens; empty where `error` is set.
        key: Digest of weights, rendered prompt, images and generation settings: equal keys, equal text.
        error: Why there is no answer; empty where there is one.
    """

    text: str
    key: str
    error: str = ""


def key(weights: str, rendered: str, images: "Sequence[Image]", max_new_tokens: int) -> str:
    """The key of a reply.

    Args:
        weights: Content digest of the model; for a server, its address and the name of the model.
        rendered: The prompt as the model reads it.
        images: The images as they were given.
        max_new_tokens: Longest answer; decoding is greedy.
    """
    pixels = (hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).hexdigest() for i in images)
    return digest_of([weights, rendered, *pixels, f"greedy {max_new_tokens}"])
