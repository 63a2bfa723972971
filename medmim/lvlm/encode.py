"""Tokenizes conversations; needs no pixels and no weights, so lengths are known before any image or model is opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medmim.errors import UserError
from medmim.lvlm.family import Family, Segment, Turn

IGNORED = -100  # the label that torch's cross-entropy skips


class Reader(Protocol):
    """What tokenizing needs of a model: `llava.Lvlm` has it, and `llava.Text`, which holds no weights."""

    @property
    def family(self) -> Family:
        """The chat format."""

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer."""

    @property
    def config(self) -> Any:
        """A `LlavaConfig`."""


@dataclass(frozen=True, eq=False)
class Options:
    """What tells the options of a closed question apart: the first token in which their answers differ, the letter.

    Attributes:
        back: Where it stands in the conversation with the right answer, in tokens from the end: 1 is the last.
        tokens: It, for each option, int32.
        right: Which options are right, bool.
    """

    back: int
    tokens: NDArray[np.int32]
    right: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One tokenized conversation; an image takes one token in memory, and all of its tokens in what is computed.

    Attributes:
        tokens: Token ids, int32, `<image>` once for each image.
        trained: Which of `tokens` the loss is taken over, bool.
        images: Number of images in it.
        image_token: Id of `<image>`.
        tokens_per_image: Decoder positions that an image takes.
        options: What is compared beside the answer; None in training.
    """

    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    images: int
    image_token: int
    tokens_per_image: int
    options: Options | None = None

    def __len__(self) -> int:
        """Number of tokens, those of the images included."""
        shown = int(np.count_nonzero(self.tokens == self.image_token))
        return len(self.tokens) + shown * (self.tokens_per_image - 1)

    def expand(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ids and which of them are trained, with each `<image>` repeated once per image token."""
        repeats = np.where(self.tokens == self.image_token, self.tokens_per_image, 1)
        return np.repeat(self.tokens.astype(np.int64), repeats), np.repeat(self.trained, repeats)

    @property
    def ids(self) -> list[int]:
        """The expanded token ids."""
        ids: list[int] = self.expand()[0].tolist()
        return ids

    @property
    def labels(self) -> list[int]:
        """`ids` at the positions that are trained, `IGNORED` at the others; not shifted."""
        ids, trained = self.expand()
        labels: list[int] = np.where(trained, ids, IGNORED).tolist()
        return labels


def tokens_per_image(config: Any) -> int:
    """Decoder positions that one image takes: 728 for Mantis, 576 for LLaVA-Med.

    CLIP prepends a class token, SigLIP does not; the strategy `default` drops the first position either way. Mantis
    was trained so, and loses its first patch.
    """
    vision = config.vision_config
    positions = (vision.image_size // vision.patch_size) ** 2 + int(vision.model_type == "clip_vision_model")
    return int(positions) - int(config.vision_feature_select_strategy == "default")


def encode(reader: Reader, turns: Sequence[Turn], images: int) -> Encoded:
    """Render and tokenize a conversation.

    The text is tokenized as a whole, as the published training code does; trained tokens are found by their offsets.

    Args:
        reader: The model, with or without its weights.
        turns: The conversation; a last answer of None gives a prompt for generation.
        images: Images shown with the first question; 0 is the blind form.

    Raises:
        UserError: The text contains a special token of the format.
    """
    segments = reader.family.render(turns, images)
    encoding = backend(reader.tokenizer).encode(_text(segments), add_special_tokens=False)
    return _encoded(segments, images, encoding, *_image_tokens(reader))


def encode_all(reader: Reader, conversations: Sequence[tuple[Sequence[Turn], int]]) -> list[Encoded | UserError]:
    """Tokenize many conversations on all cores: what `encode` gives for each, or the error that it would raise.

    The threads are the tokenizer's own: as many as the CPU affinity and the cgroup's quota allow, or as
    RAYON_NUM_THREADS says.

    Args:
        reader: As for `encode`.
        conversations: Turns and number of images of each.
    """
    rendered: list[list[Segment] | UserError] = []
    for turns, images in conversations:
        try:
            rendered.append(reader.family.render(turns, images))
        except UserError as error:
            rendered.append(error)
    texts = [_text(segments) for segments in rendered if not isinstance(segments, UserError)]
    encodings = iter(backend(reader.tokenizer).encode_batch(texts, add_special_tokens=False))
    token, each = _image_tokens(reader)
    return [
        segments if isinstance(segments, UserError) else _encoded(segments, images, next(encodings), token, each)
        for segments, (_, images) in zip(rendered, conversations, strict=True)
    ]


def options(right: Encoded, answers: Sequence[Encoded], is_right: Sequence[bool]) -> Options | None:
    """What tells the options of a question apart.

    Args:
        right: The conversation with the right answer.
        answers: The same conversation with each of the options as its answer, in order.
        is_right: Which options are right.

    Returns:
        None where one token does not tell all of them apart: no tokenizer of a family here splits letters so.
    """
    shortest = min(len(one.tokens) for one in (right, *answers))
    common = np.stack([one.tokens[:shortest] for one in answers])
    differs = np.flatnonzero((common != common[0]).any(0))
    if not len(differs):
        return None
    at = int(differs[0])
    told_apart = len(set(common[:, at].tolist())) == len(answers)
    if not told_apart or not np.array_equal(right.tokens[:at], common[0, :at]):
        return None
    return Options(len(right.tokens) - at, common[:, at].copy(), np.array(is_right, np.bool_))


def right_share(log_likelihoods: Sequence[float], right: Sequence[bool]) -> float:
    """1 where the likeliest option is right, else 0; of several that are equally likely, the share that is right."""
    likeliest = [is_right for one, is_right in zip(log_likelihoods, right, strict=True) if one == max(log_likelihoods)]
    return sum(likeliest) / len(likeliest)


def backend(tokenizer: Any) -> Any:
    """The Rust tokenizer of a fast one, without the padding and the truncation that a checkpoint's file may ask for."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def _text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def _image_tokens(reader: Reader) -> tuple[int, int]:
    """The id of `<image>`, and how many tokens an image takes."""
    return reader.config.image_token_id, tokens_per_image(reader.config)


def _encoded(segments: Sequence[Segment], images: int, encoding: Any, image_token: int, each: int) -> Encoded:
    begins = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0]
    trained = np.zeros(len(begins), np.bool_)
    end = 0
    for segment in segments:
        begin, end = end, end + len(segment.text)
        if segment.trained:
            trained |= (begins >= begin) & (begins < end)
    return Encoded(np.array(encoding.ids, np.int32), trained, images, image_token, each)
