"""A small data set to export, and what is in the files of an export."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from medmim import shards, store
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim.terms import APACHE, Terms

OPTIONS = ("better", "worse")
EMBED = Terms(serve=True, text=("EMBED: research only",))


def picture(number: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20 + number, 16), (number * 20 % 256, 90, 200)).save(out, kind)
    return out.getvalue()


def image_id(number: int) -> str:
    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


def sample(number: int, images: int = 2, split: str = "train", **changes: Any) -> Sample:
    names = tuple(image_id((number + k) % 8) for k in range(images))
    paths = tuple(f"cohort_1/{number}/{(number + k) % 8}.png" for k in range(images))
    closed = number % 2 == 0
    made = Sample(
        ("temporal", "comparison")[number % 2], "typeB", "embed", split, False, (str(number % 5),), names, paths,
        f"What changed in {number}?", OPTIONS if closed else (), OPTIONS[number // 2 % 2] if closed else "it grew",
        (number // 2 % 2,) if closed else (),
    )  # fmt: skip
    return replace(made, **changes)


def rows() -> list[Sample]:
    return [
        *(sample(i, 1 + i % 3) for i in range(10)),
        sample(10, 0),
        *(sample(i, split="dev") for i in range(20, 22)),
        *(sample(i, split="test") for i in range(30, 33)),
        sample(33, split="test", source="odir", held_out=True, ability="composed", patients=("9",)),
    ]


def publish(
    ws: Workspace, folder: Path, samples: list[Sample], terms: Terms = APACHE, pixels: bool = True, shown: bool = True
) -> str:
    kinds = {image_id(i): picture(i, "JPEG" if i == 3 else "PNG") for i in range(8)}
    shards.write(folder, samples, [(name, name, data) for name, data in kinds.items()] if pixels else ())
    made = {"parents": {}, "terms": terms.as_dict(), "recipe": {"platform": {"show_patients": shown}}}
    return store.publish(folder, ws.store, "data", {}, made).uri


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def stored(ws: Workspace, uri: str) -> shards.Images:
    return shards.Images(ws.fetch(uri))


def training() -> list[Sample]:
    return [one for one in rows() if one.split == "train"]
