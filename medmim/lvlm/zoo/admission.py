"""The admission test: what must hold of a model before its answers in a batch can be trusted.

batch        a question in a batch gives the logits and the answer that it gives alone, in fp32
blind        so does one without images between others with images
none         a question without images works, and shows none
order        two images of equal size the other way round give other logits
tokens       each image takes the positions that the adapter counts without opening it
round trip   saved and loaded again, it gives the same logits to the bit
template     its chat template is the one that the zoo's file records
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.errors import UserError
from medmim.lvlm.ask import Question
from medmim.lvlm.zoo import model as zoo
from medmim.lvlm.zoo.adapter import Row
from medmim.lvlm.zoo.entry import Entry
from medmim.lvlm.zoo.model import Model

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# Of the standard deviation of the logits. Rounding in fp32 is 1e-6 of it on tiny models and a hundred times that on
# large ones; images in another order changed the logits by 0.1 and more of it.
SAME = 1e-3
CHECKS = ("batch", "blind", "none", "order", "tokens", "round trip")
_NEW_TOKENS = 8
_SIZES = ((96, 96), (64, 128), (180, 120), (96, 96))  # height, width


@dataclass(frozen=True)
class Finding:
    """One check of the admission test.

    Attributes:
        name: See the module.
        passed: Whether the model may be asked, as far as this goes.
        detail: What was seen, in numbers.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """The admission test of a checkpoint.

    Attributes:
        digest: Content digest of the checkpoint.
        model_type: Its class.
        template: SHA-256 of its chat template.
        checks: The findings.
    """

    digest: str
    model_type: str
    template: str
    checks: tuple[Finding, ...]


def check(path: Path, entry: Entry | None = None, device: str = "auto") -> Report:
    """Load a checkpoint in fp32 and run the admission test, of one of our families with its own chat format.

    Args:
        path: Its folder; of any class that transformers has.
        entry: The model of the zoo that it should be.
        device: `auto` is the GPU where there is one.

    Raises:
        UserError: It cannot be loaded.
    """
    model = zoo.load_in_fp32(path, device)
    found = examine(model)
    template = zoo.chat_template_sha256(model)
    if entry is not None:
        found.append(of_template(entry, template))
    return Report(model.digest, zoo.model_type(path), template, tuple(found))


def of_template(entry: Entry, template: str) -> Finding:
    """Whether a chat template, given by its SHA-256, is the one that a model of the zoo was checked with."""
    if entry.template is None:
        return Finding("template", True, f"{template[:16]}; none is recorded yet")
    same = entry.template == template
    return Finding("template", same, f"{template[:16]}, " + ("as recorded" if same else f"not {entry.template[:16]}"))


def examine(model: Model, names: Sequence[str] = CHECKS) -> list[Finding]:
    """Run the admission test.

    Args:
        model: In fp32: in bf16 a batch and a single question differ even where all is right.
        names: The checks to run.

    Returns:
        A finding for each check; one that could not be run has not passed.
    """
    checks: tuple[Callable[[Model], tuple[bool, str]], ...] = (_batch, _blind, _none, _order, _tokens, _round_trip)
    return [_run(name, check, model) for name, check in zip(CHECKS, checks, strict=True) if name in names]


def _run(name: str, check: Callable[[Model], tuple[bool, str]], model: Model) -> Finding:
    import torch

    try:
        with torch.inference_mode():
            return Finding(name, *check(model))
    # what the code of transformers raises where a class does not fit together
    except (UserError, ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _batch(model: Model) -> tuple[bool, str]:
    return _as_alone(model, _questions()[:3])


def _blind(model: Model) -> tuple[bool, str]:
    two, one, _, none = _questions()
    return _as_alone(model, [two, none, one])


def _none(model: Model) -> tuple[bool, str]:
    row = zoo.read(model, _questions()[3])
    finite = bool(_logits(model, [row, row]).isfinite().all())
    shown = _positions(model, row)
    return finite and shown == 0 and not row.images, f"{len(row)} tokens, {shown} of them of an image" + (
        "" if finite else "; its logits are not finite"
    )


def _order(model: Model) -> tuple[bool, str]:
    """Side by side in one batch, too, so that what is compared differs in nothing else."""
    first, second = (_image(seed, _SIZES[0]) for seed in (0, 1))
    rows = [zoo.read(model, Question("Which is larger?", shown)) for shown in ([first, second], [second, first])]
    one, other = _logits(model, rows)
    changed = _difference(one, other)
    return changed > SAME, f"the other way round, logits change by {changed:.2g} of their standard deviation"


def _tokens(model: Model) -> tuple[bool, str]:
    if model.adapter.features is None:
        return False, "nothing counts the tokens of this class: it has no adapter"
    wrong = []
    counted = 0
    for question in _questions():
        sizes = [(image.height, image.width) for image in question.images]
        used = zoo.settings(model, len(sizes))
        expected = sum(model.adapter.features(model.processor, model.config, sizes, used)) if sizes else 0
        made = _positions(model, zoo.read(model, question))
        counted += made
        if expected != made:
            wrong.append(f"{len(sizes)} images: {expected} counted, {made} made")
    return not wrong, "; ".join(wrong) or f"{counted} counted and made"


def _round_trip(model: Model) -> tuple[bool, str]:
    row = zoo.read(model, _questions()[0])
    before = _logits(model, [row])
    with tempfile.TemporaryDirectory(dir=_beside(model.path)) as folder:
        zoo.save(model, Path(folder))
        again = zoo.load(Path(folder), str(model.model.device), model.model.dtype, unproven=True)
        again = replace(again, adapter=model.adapter, asking=model.asking)
        after = _logits(again, [zoo.read(again, _questions()[0])])
    same = bool((before == after).all()) and again.template_digest == model.template_digest
    return same, "equal logits and chat template" if same else "other logits or another chat template"


def _beside(path: Path) -> Path | None:
    """Where a copy of the weights finds room: beside them where that can be written, else where temporary files go."""
    return path.parent if os.access(path.parent, os.W_OK) else None


def _as_alone(model: Model, questions: Sequence[Question]) -> tuple[bool, str]:
    rows = [zoo.read(model, question) for question in questions]
    together, answers = _logits(model, rows), _answers(model, rows)
    worst, equal = 0.0, 0
    for i, row in enumerate(rows):
        worst = max(worst, _difference(_logits(model, [row])[0], together[i]))
        equal += _answers(model, [row])[0] == answers[i]
    return (
        worst <= SAME and equal == len(rows),
        f"logits differ by {worst:.2g} of their standard deviation, {equal} of {len(rows)} answers equal",
    )


def _logits(model: Model, rows: Sequence[Row]) -> "Tensor":
    """Of the first token of the answers: `[rows, vocabulary]`."""
    logits: Tensor = model.model(**zoo.batch(model, rows), logits_to_keep=1).logits[:, -1].float()
    return logits


def _answers(model: Model, rows: Sequence[Row]) -> list[list[int]]:
    """The tokens of greedy answers, all of the same length."""
    arguments = zoo.batch(model, rows)
    pad = model.tokenizer.pad_token_id
    made = model.model.generate(
        **arguments, do_sample=False, min_new_tokens=_NEW_TOKENS, max_new_tokens=_NEW_TOKENS, pad_token_id=pad
    )
    answers: list[list[int]] = made[:, arguments["input_ids"].shape[1] :].tolist()
    return answers


def _difference(one: "Tensor", other: "Tensor") -> float:
    """The largest difference of two rows of logits, of their standard deviation; infinite where one is not finite."""
    largest = float((one - other).abs().max() / one.std())
    return largest if largest == largest else float("inf")


def _positions(model: Model, row: Row) -> int:
    """Positions of images in a row."""
    config: Any = model.config
    token = getattr(config, "image_token_id", None)
    return int((row.tokens["input_ids"] == (config.image_token_index if token is None else token)).sum())


def _questions() -> list[Question]:
    """Of different lengths, with two, one, three and no images of different sizes."""
    images = [_image(seed, size) for seed, size in enumerate(_SIZES)]
    return [
        Question("Which image shows the larger opacity, the first or the second?", images[:2]),
        Question("What does it show?", images[2:3]),
        Question("Compare them.", images[1:]),
        Question("How many images are there?"),
    ]


def _image(seed: int, size: tuple[int, int]) -> "Image":
    """An image that is like no other and not empty anywhere."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))
