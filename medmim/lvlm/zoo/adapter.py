"""What an adapter is: the few functions by which questions become what the models of a class read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medmim.lvlm.ask import Question

if TYPE_CHECKING:
    from torch import Tensor

PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class Row:
    """One question as a model reads it alone.

    Attributes:
        question: It.
        tokens: `input_ids` and what else has a value a token, `[length]` each. All that the processor returned: without
            its token types Qwen2.5-VL takes other positions and Gemma 3 another mask, and neither says so.
        images: What the vision tower reads, by the names of the model's arguments; empty of a blind question.
    """

    question: Question
    tokens: "Mapping[str, Tensor]"
    images: "Mapping[str, Tensor]"

    def __len__(self) -> int:
        """Number of tokens, those of the images included."""
        return len(self.tokens["input_ids"])


@dataclass(frozen=True)
class Asking:
    """How a class of models is asked: what changes its answers beside weights, chat template and dtype.

    Attributes:
        pixels: The pixel budget, see `Adapter.settings`.
        before: Written before each image of a question with several; `{i}` is its number, from 1.
        after: Likewise after it.
        most: Images that a question may have; None is no limit.
        stop: Tokens that end an answer, beside those of the checkpoint's generation_config.json.
        backend: What decodes and resizes: another one gives other pixels.
    """

    pixels: Mapping[str, Any] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    most: int | None = None
    stop: tuple[str, ...] = ()
    backend: str = "pil"


@dataclass(frozen=True)
class Adapter:
    """How the models of a class are given images.

    Attributes:
        name: In a word.
        types: `model_type`s of config.json that it is proven for, see `admission`.
        settings: (processor, pixel budget, images of the question) -> arguments of the image processor.
        features: (processor, config, (height, width) of each image of a question, settings) -> how many positions of
            the decoder each takes, without opening it; None where that is not known.
        batch: (loaded model, rows) -> the arguments of its `forward` and `generate`, rows padded on the left.
    """

    name: str
    types: tuple[str, ...]
    settings: Callable[[Any, Mapping[str, Any], int], dict[str, Any]]
    features: Callable[[Any, Any, Sequence[tuple[int, int]], Mapping[str, Any]], list[int]] | None
    batch: Callable[[Any, Sequence[Row]], "dict[str, Tensor]"]


def as_stated(_: Any, pixels: Mapping[str, Any], images: int) -> dict[str, Any]:
    """A budget whose keys are the image processor's own arguments."""
    return dict(pixels)


def left_padded(model: Any, rows: Sequence[Row]) -> "dict[str, Tensor]":
    """What has a value a token: padded on the left, so that each answer begins where its question ends."""
    import torch

    longest = max(map(len, rows))
    padded = {}
    for name in rows[0].tokens:
        filler = model.tokenizer.pad_token_id if name == "input_ids" else 0
        lines = [torch.nn.functional.pad(row.tokens[name], (longest - len(row), 0), value=filler) for row in rows]
        padded[name] = torch.stack(lines)
    return padded


def images_of(rows: Sequence[Row]) -> "dict[str, list[Tensor]]":
    """What the vision tower reads, a tensor of each row that shows images."""
    shown = [row.images for row in rows if row.images]
    return {name: [images[name] for images in shown] for name in (shown[0] if shown else ())}


def flat(model: Any, rows: Sequence[Row]) -> "dict[str, Tensor]":
    """The arguments of a model that reads the images of all rows as one list, in their order."""
    import torch

    return {**left_padded(model, rows), **{name: torch.cat(parts) for name, parts in images_of(rows).items()}}
