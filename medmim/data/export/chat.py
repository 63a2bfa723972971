"""Rows of `messages` with a tag `<image>` for each of their `images`: what ms-swift and LLaMA-Factory both read."""

from pathlib import Path

from medmim import shards
from medmim.data.export import form, pictures
from medmim.data.export.form import Splits
from medmim.sample import IMAGE, Sample


def write(folder: Path, splits: Splits, images: shards.Images | None) -> tuple[dict[str, str], dict[str, str]]:
    """Write `SPLIT.jsonl`, and the pictures, whose paths start from the folder; returns split -> file, path -> sum."""
    paths, known = pictures.write(folder, form.with_pixels(images), form.all_images(splits))
    for split, samples in splits.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for sample in samples:
                file.write(form.as_json(row(sample, paths)) + "\n")
    return {split: f"{split}.jsonl" for split in splits}, known


def row(sample: Sample, paths: dict[str, str]) -> dict[str, object]:
    """A row: all images, then the question with its options, then the answer."""
    return {
        "id": sample.id,
        "messages": [
            {"role": "user", "content": IMAGE * len(sample.images) + sample.prompt},
            {"role": "assistant", "content": sample.target},
        ],
        "images": [paths[name] for name in sample.images],
    }
