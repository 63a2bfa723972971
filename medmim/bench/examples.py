"""The items that the report shows: a few of every ability, gains and misses alike."""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim import shards
from medmim.errors import UserError
from medmim.sample import to_json

_SIDE = 320  # px of the longer side; what a page of a dozen items can carry


def pick(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Choose items evenly over abilities, held-out ones included.

    In turn: one that the tuned model gains over its base, one that it misses, then whatever comes.

    Args:
        rows: Items of `predictions.jsonl`.
        count: How many.
    """
    buckets: dict[tuple[bool, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        buckets[bool(row["held_out"]), row["ability"]].append(row)
    chosen: list[Mapping[str, Any]] = []
    for turn in range(count):
        for _, bucket in sorted(buckets.items()):
            wanted = ("gain", "miss")[turn % 2]
            at = next((i for i, row in enumerate(bucket) if _kind(row) == wanted), 0)
            if bucket and len(chosen) < count:
                chosen.append(bucket.pop(at))
    return chosen


def cards(rows: Sequence[Mapping[str, Any]], data: Path | None) -> list[dict[str, Any]]:
    """Items as the template draws them, images embedded.

    Args:
        rows: From `pick`.
        data: Folder of the data set; without it, or where it holds no pixels, the images are missing.
    """
    try:
        images = shards.Images(data) if data else None
    except UserError:
        images = None
    return [
        {
            **row,
            "pictures": [_embedded(images, name) if images and name in images else None for name in row["images"]],
            "said": [
                {"model": role, "right": right(given["none"]["scores"]), **given["none"], "swap": _swap(given)}
                for role, given in row.get("answers", {}).items()
            ],
        }
        for row in rows
    ]


def unanswered(data: Path, count: int) -> list[dict[str, Any]]:
    """Items of a data set that no model was asked yet, in the form of `predictions.jsonl`."""
    samples = shards.read_samples(data, "test") or shards.read_samples(data)
    return [{**to_json(sample), "id": sample.id} for sample in samples[:: max(1, len(samples) // max(1, count))]][
        :count
    ]


def right(scores: Mapping[str, float]) -> bool | None:
    """Whether a closed question was answered right; None for open ones, which are right by degrees, and errors."""
    return bool(scores["accuracy"]) if "accuracy" in scores else None


def _swap(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was said once the images had moved on; None where that was not asked."""
    swap = given.get("swap")
    return swap and {"text": swap["text"], "right": right(swap["scores"])}


def _kind(row: Mapping[str, Any]) -> str:
    verdicts = {role: right(given["none"]["scores"]) for role, given in row.get("answers", {}).items()}
    if verdicts.get("tuned") and verdicts.get("base") is False:
        return "gain"
    return "miss" if next(iter(verdicts.values()), None) is False else ""


def _embedded(images: shards.Images, name: str) -> str:
    image = images[name]
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    if max(image.size) <= 128:
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=88)
    kind = "png" if max(image.size) <= 128 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
