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
_END, _PAD = "\ue000", "\ue001"  # of a turn, and of a row; no text has these


def of_trl(folder: Path, split: str) -> Iterator[tuple[str, str, list[Any]]]:
    """As TRL's collator for vision-language models gives four rows at once to a model: tokens read back, and pixels."""
    from datasets import load_dataset
    from PIL import Image
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = _lossless()
    collate = DataCollatorForVisionLanguageModeling(processor)
    rows = load_dataset(str(folder), split=split)
    for at in range(0, len(rows), 4):
        batch = collate([rows[number] for number in range(at, min(at + 4, len(rows)))])
        pixels = iter(batch.get("pixel_values", ()))
        for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            assert (tokens == labels)[labels >= 0].all()
            asked, answered, rest = processor.tokenizer.decode(tokens[labels >= 0]).split(_END)
            shown = [next(pixels) for _ in range(asked.count(_TAG))]
            assert not rest
            yield asked, answered, [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in shown]
        assert next(pixels, None) is None


def _lossless() -> Any:
    """A processor of the library that keeps all: a token for each byte and each picture, and pictures as they are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        pad_token=_PAD,
        additional_special_tokens=[_END, _TAG],
        clean_up_tokenization_spaces=False,
    )
    tokens.image_token, tokens.image_token_id = _TAG, tokens.convert_tokens_to_ids(_TAG)
    part = "{{ '" + _TAG + "' if part.type == 'image' else part.text }}"
    return LlavaProcessor(
        CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False),
        tokens,
        patch_size=1 << 20,  # larger than a picture, which leaves the one additional token
        num_additional_image_tokens=1,
        vision_feature_select_strategy="full",
        chat_template="{% for turn in messages %}{% for part in turn.content %}"
        + part
        + "{% endfor %}"
        + _END
        + "{% endfor %}",
    )


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
