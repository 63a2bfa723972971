"""Gemma 3 and MedGemma: each image is squeezed to a square, and takes the same number of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from medmim.lvlm.zoo.adapter import Adapter, as_stated, flat


def _features(processor: Any, _: Any, sizes: Sequence[tuple[int, int]], __: Mapping[str, Any]) -> list[int]:
    return [processor.image_seq_length] * len(sizes)


GEMMA3 = Adapter("gemma3", ("gemma3",), as_stated, _features, flat)
