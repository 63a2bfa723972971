"""The items that a report shows: a few of every ability, gains and misses alike."""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import shards
from medmim.bench.metrics import right
from medmim.errors import UserError
from medmim.sample import LETTERS, to_json

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDES = (320, 224, 160, 112, 80)  # px of the longer side: the first at which all images fit into the page
_BYTES = 1_400_000  # for all images; leaves a page of 2 MB room for its text and figures
_TINY = 128  # px; lossless up to here, and drawn in its own pixels


def pick(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Choose items evenly over abilities, held-out ones included.

    In turn one that only the tuned model gets right and one that it gets wrong, any other where there is none.

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
    """Items as the template draws them, images embedded: the more there are, the smaller.

    Args:
        rows: From `pick`.
        data: Folder of the data set; without it, or where it holds no pixels, the images are missing.
    """
    try:
        images = shards.Images(data) if data else None
    except UserError:
        images = None
    shown = [name for row in rows for name in row["images"] if images and name in images]
    pictures = _embedded({name: images[name] for name in shown} if images else {}, shown)
    return [
        {
            **row,
            "pictures": [pictures.get(name) for name in row["images"]],
            "replies": [
                {
                    "model": role,
                    "right": right(given["none"]["scores"]),
                    **given["none"],
                    "text": _said(given["none"]),
                    "swap": _swap(given),
                }
                for role, given in row.get("answers", {}).items()
                if "none" in given  # an open question has no likelihoods
            ],
        }
        for row in rows
    ]


def unanswered(data: Path, count: int) -> list[dict[str, Any]]:
    """Items of a data set that no model was asked, in the form of `predictions.jsonl`."""
    samples = shards.read_samples(data, "test") or shards.read_samples(data)
    return [{**to_json(sample), "id": sample.id} for sample in samples[:: max(1, len(samples) // max(1, count))]][
        :count
    ]


def _swap(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer with the images moved one place on; None where that was not asked."""
    swap = given.get("swap")
    return swap and {"text": _said(swap), "right": right(swap["scores"])}


def _said(answer: Mapping[str, Any]) -> str:
    """What a model generated; where nothing was, the letter of the option that is the likeliest."""
    compared = answer.get("likelihood")
    if compared and compared["letters"] and "likelihood" in answer["scores"] and "accuracy" not in answer["scores"]:
        return f"{LETTERS[compared['choice']]} is the likeliest"
    return str(answer["text"])


def _kind(row: Mapping[str, Any]) -> str:
    asked = {role: given["none"] for role, given in row.get("answers", {}).items() if "none" in given}
    verdicts = {role: right(given["scores"]) for role, given in asked.items()}
    if verdicts.get("tuned") and verdicts.get("base") is False:
        return "gain"
    return "miss" if next(iter(verdicts.values()), None) is False else ""


def _embedded(images: Mapping[str, "Image"], shown: Sequence[str]) -> dict[str, str]:
    """Images as data URIs, as large as leaves a page with all those `shown` below 2 MB."""
    uris: dict[str, str] = {}
    for side in _SIDES:
        uris = {name: _data_uri(image, side) for name, image in images.items()}
        if sum(len(uris[name]) for name in shown) <= _BYTES:
            break
    return uris


def _data_uri(image: "Image", side: int) -> str:
    kind = "png" if max(image.size) <= min(side, _TINY) else "jpeg"
    small, out = image.copy(), io.BytesIO()
    small.thumbnail((side, side))
    small.save(out, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
