"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Lingshu: an image keeps its shape, and takes tokens by its area.

`pixel_values` are patches of all images, `image_grid_thw` says how many each has: never padded, never split by row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from medmim.lvlm.zoo.adapter import Adapter, flat


def _settings(_: Any, pixels: Mapping[str, Any], images: int) -> dict[str, Any]:
    # As `size`: `max_pixels` in a call is deprecated, and both overrule what the checkpoint says
    return {"size": {"shortest_edge": pixels["min_pixels"], "longest_edge": pixels["max_pixels"]}}


def _features(processor: Any, _: Any, sizes: Sequence[tuple[int, int]], settings: Mapping[str, Any]) -> list[int]:
    reader = processor.image_processor
    bounds = {"min_pixels": settings["size"]["shortest_edge"], "max_pixels": settings["size"]["longest_edge"]}
    return [reader.get_number_of_image_patches(*size, bounds) // reader.merge_size**2 for size in sizes]


QWEN_VL = Adapter("qwen-vl", ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), _settings, _features, flat)
