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
        options: What a closed question gives to choose from, where their likelihoods are compared.
        pixels: `pixel_digest` of each of `images`, where they are known: an image stands in many questions.
        error: Why it cannot be asked; it gets a reply with this error, and keeps its place in its batch.
    """

    prompt: str
    images: "Sequence[Image]" = ()
    options: Sequence[str] = ()
    pixels: Sequence[str] = ()
    error: str = ""


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: The generated text without special tokens; empty where `error` is set. UTF-8 can hold it: see `writable`.
        key: Digest of weights, rendered prompt, images, and of how it was asked: equal keys, equal text.
        error: Why there is no answer; empty where there is one. Likewise, and without control characters.
        cut: Whether the limit of new tokens ended it, and not the model.
        letters: Where likelihoods are compared, the log-likelihood of each option's letter as the begin of the answer.
        texts: Likewise, of each option's text as the whole answer; none where the engine gives none.
        tokens: Over how many tokens each of `texts` is summed, that which ends the answer included.
        prompt_tokens: Tokens that the model read for it, those of the images included; 0 where that is not known.
        new_tokens: Tokens that it wrote, that which ends the answer included; 0 likewise, and where it wrote none.
    """

    text: str
    key: str
    error: str = ""
    cut: bool = False
    letters: tuple[float, ...] = ()
    texts: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    prompt_tokens: int = 0
    new_tokens: int = 0

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
    if question.error:
        return question.error
    try:
        question.prompt.encode()
    except UnicodeEncodeError as error:
        return f"the question holds half a surrogate pair ({question.prompt[error.start]!a}), which is no text"
    return ""


def key(weights: str, rendered: str, question: Question, *how: str) -> str:
    """The key of a reply.

    Args:
        weights: Content digest of the model; for a server, its address and the name of the model.
        rendered: The prompt as the model reads it.
        question: For its images, as they were given.
        how: What else decides the reply: `greedy` or `likelihoods`, device, dtype, ...
    """
    pixels = question.pixels or [pixel_digest(image) for image in question.images]
    return digest_of([weights, rendered, *pixels, *how])


def greedy(max_new_tokens: int) -> str:
    """Greedy decoding, as a part of a key.

    Args:
        max_new_tokens: Longest answer.
    """
    return f"greedy {max_new_tokens}"


def likelihoods(question: Question) -> str:
    """The comparison of a question's options, as a part of a key."""
    return f"likelihoods {digest_of(question.options)}"


def pixel_digest(image: "Image") -> str:
    """Digest of an image's size and pixels."""
    sha = hashlib.sha256(f"{image.mode}{image.size}".encode())
    sha.update(image.tobytes())
    return sha.hexdigest()
