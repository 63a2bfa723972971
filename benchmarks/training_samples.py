"""Samples of the lengths of Med-MIM, and transformers' Trainer on them: what the benchmarks of training share."""

import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medmim.lvlm.encode import Encoded, tokens_per_image

SPREADS = {"Med-MIM": (40, 90), "long tail": (20, 400)}  # text tokens of a sample


def draw(config: Any, count: int, shortest: int, longest: int) -> list[Encoded]:
    """Samples of random tokens; the last quarter of the text is trained. Short ones are more frequent.

    Args:
        config: A `LlavaConfig`.
        count: Samples.
        shortest: Text tokens of the shortest.
        longest: Likewise.
    """
    rng = random.Random(0)
    texts = [shortest + int((longest - shortest) * rng.random() ** 2) for _ in range(count)]
    return _samples(config, [rng.choice([2, 2, 3]) for _ in range(count)], texts)


def level(config: Any, samples: Sequence[Encoded]) -> list[Encoded]:
    """As many samples of about as many tokens, all of one length."""
    each = round(statistics.mean(len(sample) for sample in samples))
    size = tokens_per_image(config)
    return _samples(config, [s.images for s in samples], [each - s.images * size for s in samples])


def _samples(config: Any, images: Sequence[int], texts: Sequence[int]) -> list[Encoded]:
    rng = random.Random(1)
    image, vocabulary = config.image_token_id, config.text_config.vocab_size
    words = [token for token in range(vocabulary) if token != image]
    found = []
    for shown, text in zip(images, texts, strict=True):
        ids = np.array([image] * shown + rng.choices(words, k=text), np.int32)
        trained = np.arange(len(ids)) >= len(ids) - max(1, text // 4)
        found.append(Encoded(ids, trained, shown, image, tokens_per_image(config)))
    return found


def picture(config: Any) -> Tensor:
    """Three images of noise, the most that a sample shows."""
    size = config.vision_config.image_size
    return torch.randn(3, 3, size, size)


def peer(model: Any, samples: Sequence[Encoded], folder: Path, pad: int = 0, **arguments: Any) -> Any:
    """Transformers' Trainer as it is, on padded batches of about equally long samples.

    Args:
        model: Is trained.
        samples: What on.
        folder: Receives nothing.
        pad: Token to pad with.
        arguments: Further `TrainingArguments`.
    """
    import transformers

    shown = picture(model.config)
    rows = [{"input_ids": s.ids, "labels": s.labels, "images": s.images, "length": len(s)} for s in samples]

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> dict[str, Any]:
            return rows[i]

    def collate(chosen: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        width = max(row["length"] for row in chosen)

        def padded(values: Callable[[dict[str, Any]], list[int]], with_: int) -> Tensor:
            return torch.tensor([values(row) + [with_] * (width - row["length"]) for row in chosen])

        return {
            "input_ids": padded(lambda row: row["input_ids"], pad),
            "attention_mask": padded(lambda row: [1] * row["length"], 0),
            "labels": padded(lambda row: row["labels"], -100),
            "pixel_values": torch.cat([shown[: row["images"]] for row in chosen]),
        }

    found = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder), train_sampling_strategy="group_by_length", length_column_name="length",
            report_to=[], save_strategy="no", logging_strategy="no", remove_unused_columns=False, disable_tqdm=True,
            max_grad_norm=1.0, **arguments,
        ),
        train_dataset=Rows(),
        data_collator=collate,
    )  # fmt: skip
    found.remove_callback(transformers.PrinterCallback)
    return found
