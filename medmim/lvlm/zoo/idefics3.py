"""Idefics3, SmolVLM and SmolVLM2: an image is enlarged, cut into tiles and shown once more as a whole."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medmim.lvlm.zoo.adapter import Adapter, Row, images_of, left_padded

if TYPE_CHECKING:
    from torch import Tensor


def _settings(processor: Any, pixels: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Tiles along the longer edge, to which an image is also enlarged; fewer where a question has several images."""
    tiles = pixels["tiles_an_edge" if images < 2 else "tiles_an_edge_of_several"]
    return {"size": {"longest_edge": tiles * processor.image_processor.max_image_size["longest_edge"]}}


def _features(processor: Any, _: Any, sizes: Sequence[tuple[int, int]], settings: Mapping[str, Any]) -> list[int]:
    tiles = (processor.image_processor.get_number_of_image_patches(*size, dict(settings))[0] for size in sizes)
    return [max(1, each) * processor.image_seq_len for each in tiles]  # 0 says that it was not cut


def _batch(model: Any, rows: Sequence[Row]) -> "dict[str, Tensor]":
    """The model reads `[rows, tiles, ...]` as one list of tiles; given as one row, none has to be padded."""
    import torch

    return {**left_padded(model, rows), **{name: torch.cat(parts, 1) for name, parts in images_of(rows).items()}}


IDEFICS3 = Adapter("idefics3", ("idefics3", "smolvlm"), _settings, _features, _batch)
