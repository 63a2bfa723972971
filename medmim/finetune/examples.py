"""Tokenizes the train split, once for all workers; samples that cannot be trained on are quarantined."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from medmim import progress
from medmim.errors import UserError
from medmim.lvlm import family
from medmim.lvlm.checkpoint import Lvlm
from medmim.lvlm.encode import IGNORED, Encoded, encode
from medmim.lvlm.family import Turn
from medmim.sample import BadRow, Sample

# how the reasons of quarantined rows begin
_IMAGE, _TOO_LONG, _NO_ANSWER = "image", "longer than finetune.max_tokens", "nothing to train on"
_FIXES = {
    _IMAGE: "fix the images",
    _TOO_LONG: "raise finetune.max_tokens",
    _NO_ANSWER: "give these rows an answer",
    family.RESERVED: "remove that special token from the text: the chat format of this base reserves it",
}


@dataclass(frozen=True)
class Examples:
    """Tokenized samples, and the ids of the images of each."""

    encoded: tuple[Encoded, ...]
    images: tuple[tuple[str, ...], ...]

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each sample, image tokens included."""
        return [len(e.ids) for e in self.encoded]

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically."""
        tensors = {
            "ids": torch.tensor([i for e in self.encoded for i in e.ids], dtype=torch.int32),
            "labels": torch.tensor([i for e in self.encoded for i in e.labels], dtype=torch.int32),
            "lengths": torch.tensor(self.lengths, dtype=torch.int32),
        }
        part = path.with_name(f"{path.name}.part")
        save_file(tensors, part, metadata={"images": json.dumps(self.images)})
        part.replace(path)

    @staticmethod
    def load(path: Path) -> "Examples":
        """Read a file that `save` wrote."""
        with safe_open(path, "pt") as file:
            images = tuple(tuple(names) for names in json.loads(file.metadata()["images"]))
            ids, labels, lengths = (file.get_tensor(name).tolist() for name in ("ids", "labels", "lengths"))
        starts = list(accumulate(lengths, initial=0))
        encoded = tuple(
            Encoded(ids[a:b], labels[a:b], len(names))
            for a, b, names in zip(starts[:-1], starts[1:], images, strict=True)
        )
        return Examples(encoded, images)


def tokenize(
    lvlm: Lvlm, samples: Sequence[Sample], images: Mapping[str, Any], max_tokens: int
) -> tuple[Examples, list[BadRow]]:
    """Tokenize samples, and check that each of their images can be decoded.

    Args:
        lvlm: The base.
        samples: The train split.
        images: Image id -> RGB image.
        max_tokens: Tokens of one row; a longer sample is quarantined.

    Returns:
        The samples that can be trained on, and the quarantined rows with their reasons.
    """
    unusable = _unusable_images(samples, images)
    encoded: list[Encoded] = []
    kept: list[tuple[str, ...]] = []
    bad: list[BadRow] = []
    with progress.bar("tokens", len(samples), "samples") as bar:
        for row, sample in enumerate(samples):
            found = _encode(lvlm, sample, unusable, max_tokens)
            if isinstance(found, str):
                bad.append(BadRow("train", row, sample.id, found))
            else:
                encoded.append(found)
                kept.append(sample.images)
            bar.add()
    return Examples(tuple(encoded), tuple(kept)), bad


def refuse_too_many_bad(bad: Sequence[BadRow], total: int, limit: float) -> None:
    """Raise a UserError when more than the share `limit` of the rows was quarantined, or nothing is left."""
    if not bad or (len(bad) <= limit * total and len(bad) < total):
        return
    reasons = Counter(row.reason for row in bad)
    fixes = dict.fromkeys(fix for reason in reasons for begin, fix in _FIXES.items() if reason.startswith(begin))
    raise UserError(
        f"{len(bad)} of {total} train rows cannot be trained on",
        reason="no row is left" if len(bad) == total else f"more than max_bad_fraction ({limit:.1%}) are quarantined",
        fix="; ".join([*fixes, *(["or raise data.max_bad_fraction"] if len(bad) < total else [])]),
        problems=[f"{count} rows: {reason}" for reason, count in reasons.most_common()],
    )


def _encode(lvlm: Lvlm, sample: Sample, unusable: Mapping[str, str], max_tokens: int) -> Encoded | str:
    """The tokens of a sample, or the reason to quarantine it."""
    for name in sample.images:
        if name in unusable:
            return f"{_IMAGE} {unusable[name]}"
    try:
        found = encode(lvlm, [Turn(sample.prompt, sample.target)], len(sample.images))
    except UserError as error:
        return error.fact
    if len(found.ids) > max_tokens:
        return f"{_TOO_LONG} ({max_tokens})"
    if all(label == IGNORED for label in found.labels[1:]):
        return _NO_ANSWER
    return found


def _unusable_images(samples: Sequence[Sample], images: Mapping[str, Any]) -> dict[str, str]:
    """Image id -> why it cannot be used."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.images))
    found: dict[str, str] = {}
    with progress.bar("images", len(names), "images") as bar:
        for name in names:
            reason = _image_problem(images.__getitem__, name)
            if reason:
                found[name] = reason
            bar.add()
    return found


def _image_problem(get: Callable[[str], Any], name: str) -> str:
    try:
        get(name)
    except KeyError:
        return "is not in the data set"
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: what Pillow raises for a broken PNG
        return f"does not decode: {type(error).__name__}"
    return ""
