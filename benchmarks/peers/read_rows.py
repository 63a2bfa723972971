"""Reads an export by the code of a real trainer, in the environment of that trainer; prints what it read, a row a line.

    PYTHON benchmarks/peers/read_rows.py --by trl | ms-swift | llama-factory | datasets FOLDER [--split train]

Each line is JSON: `asked` and `answered`, the texts of both turns, with a tag <image> where a picture stands; `images`,
of each [width, height, SHA-256 of its pixels as RGB]; `version`. Imports nothing of medmim.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_TAG = "<image>"


def of_trl(folder: Path, split: str) -> Iterator[tuple[str, str, list[Any]]]:
    """As TRL's collator for vision-language models puts the pictures into the messages."""
    from datasets import load_dataset
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    for row in load_dataset(str(folder), split=split):
        assert is_conversational(row)
        user, assistant = prepare_multimodal_messages(row["messages"], row["images"])
        shown = [part["image"] for part in user["content"] if part["type"] == "image"]
        asked = "".join(_TAG if part["type"] == "image" else part["text"] for part in user["content"])
        yield asked, "".join(part["text"] for part in assistant["content"]), shown


def of_ms_swift(folder: Path, split: str) -> Iterator[tuple[str, str, list[Any]]]:
    """As ms-swift's templates load what its own reader of data sets gives."""
    os.environ["ROOT_IMAGE_DIR"] = str(folder)
    from swift.dataset import load_dataset
    from swift.template.base import Template
    from swift.template.template_inputs import StdTemplateInputs

    rows, _ = load_dataset([str(folder / f"{split}.jsonl")], strict=True)
    for row in rows:
        inputs = StdTemplateInputs.from_dict(row)
        user, assistant = inputs.messages
        yield user["content"], assistant["content"], [Template._load_image(one, True) for one in inputs.images]


def of_llama_factory(folder: Path, split: str) -> Iterator[tuple[str, str, list[Any]]]:
    """As LLaMA-Factory aligns a data set of `dataset_info.json`, checks its tags and opens its pictures."""
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.data.mm_plugin import get_mm_plugin
    from llamafactory.hparams import DataArguments, ModelArguments

    data = DataArguments(dataset=f"medmim_{split}", dataset_dir=str(folder), overwrite_cache=True)
    training = SimpleNamespace(local_process_index=0, seed=42, dataloader_num_workers=0)
    model = ModelArguments(model_name_or_path="none")
    rows = _get_merged_dataset([f"medmim_{split}"], model, data, training, stage="sft")
    plugin = get_mm_plugin("llava", image_token=_TAG)
    for row in rows:
        images = row["_images"] or []
        plugin._validate_messages([*row["_prompt"], *row["_response"]], images, [], [])
        shown = plugin._regularize_images(images, image_max_pixels=1 << 30, image_min_pixels=1)["images"]
        (user,), (assistant,) = row["_prompt"], row["_response"]
        assert not row["_system"] and not row["_tools"]
        yield user["content"], assistant["content"], shown


def of_datasets(folder: Path, split: str) -> Iterator[tuple[str, str, list[Any]]]:
    """As `load_dataset` shows a folder to people."""
    from datasets import load_dataset

    for row in load_dataset(str(folder), split=split):
        yield _TAG * len(row["images"]) + row["prompt"], row["target"], row["images"]


READERS = {
    "trl": (of_trl, "trl"),
    "ms-swift": (of_ms_swift, "ms-swift"),
    "llama-factory": (of_llama_factory, "llamafactory"),
    "datasets": (of_datasets, "datasets"),
}


def seen(image: Any) -> tuple[int, int, str]:
    """Width, height and digest of what a picture shows."""
    pixels = image.convert("RGB")
    return pixels.width, pixels.height, hashlib.sha256(pixels.tobytes()).hexdigest()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--by", choices=READERS, required=True)
    parser.add_argument("--split", default="train")
    given = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the trainers print goes to stderr
    with tempfile.TemporaryDirectory(prefix="peers-") as caches:
        os.environ |= {name: caches for name in ("HF_HOME", "MODELSCOPE_CACHE", "XDG_CACHE_HOME")}
        os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        read, package = READERS[given.by]
        version = importlib.metadata.version(package)
        for asked, answered, images in read(given.folder.absolute(), given.split):
            row = {"asked": asked, "answered": answered, "images": [seen(image) for image in images]}
            out.write(json.dumps({**row, "version": version}) + "\n")
    out.flush()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
