"""Question and Reply: what is sent to a model and what comes back, the same for every inference engine."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medmim.redact import escaped
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
        text: The generated text without special tokens; empty where `error` is set. UTF-8 can hold it: see `writable`.
        key: Digest of weights, rendered prompt, images and generation settings: equal keys, equal text.
        error: Why there is no answer; empty where there is one. Likewise, and without control characters.
        cut: Whether the limit of new tokens ended it, and not the model.
    """

    text: str
    key: str
    error: str = ""
    cut: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", writable(self.text))
        object.__setattr__(self, "error", escaped(writable(self.error)))


def writable(text: str) -> str:
    """Text that UTF-8 can hold, as files and databases do.

    JSON and byte-level tokenizers can bring half a surrogate pair, also the two halves apart. These are joined; a half
    without its other becomes U+FFFD, the character that stands for what could not be decoded.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def refusal(question: Question) -> str:
    """Why a question cannot be sent to any model; empty where it can."""
    try:
        question.prompt.encode()
    except UnicodeEncodeError as error:
        return f"the question holds half a surrogate pair ({question.prompt[error.start]!a}), which is no text"
    return ""


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
