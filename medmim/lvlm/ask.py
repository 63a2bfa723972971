"""A question put to a model and its reply, whatever engine answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmim.sample import digest_of

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Question:
    """What to ask.

    Attributes:
        prompt: The question with its options, without image placeholders.
        images: RGB images in order; none is the blind form, without markers.
    """

    prompt: str
    images: "Sequence[Image]" = ()


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        text: The generated text without special tokens; empty where `error` is set.
        key: Digest of weights, rendered prompt, images and generation settings: equal keys, equal text.
        error: Why there is no answer.
    """

    text: str
    key: str
    error: str = ""


def key(weights: str, rendered: str, images: "Sequence[Image]", max_new_tokens: int) -> str:
    """The key of a reply.

    Args:
        weights: Content digest of the model; address and name for a server.
        rendered: The prompt as the model reads it.
        images: The images as they were given.
        max_new_tokens: Longest answer; decoding is greedy.
    """
    pixels = (hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).hexdigest() for i in images)
    return digest_of([weights, rendered, *pixels, f"greedy {max_new_tokens}"])
