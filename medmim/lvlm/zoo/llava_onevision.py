"""LLaVA-OneVision: an image that is alone in its question is shown whole and in crops, one of several only whole.

Its processor tells the two apart by the nesting of the images' list, so a question is always read as a list of lists.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medmim.lvlm.zoo.adapter import Adapter, Row, as_stated, images_of, left_padded

if TYPE_CHECKING:
    from torch import Tensor


def _features(processor: Any, _: Any, sizes: Sequence[tuple[int, int]], __: Mapping[str, Any]) -> list[int]:
    if len(sizes) > 1:
        return [processor.num_image_tokens + 1] * len(sizes)  # and the end of the image
    counted: list[int] = processor._get_num_multimodal_tokens(image_sizes=list(sizes)).num_image_tokens
    return counted


def _batch(model: Any, rows: Sequence[Row]) -> "dict[str, Tensor]":
    """Images are padded to the number of crops of the one that has most; the model leaves the padding out."""
    import torch

    images = images_of(rows)
    crops = max((pixels.shape[1] for pixels in images.get("pixel_values", ())), default=0)
    if crops:
        images["pixel_values"] = [
            torch.nn.functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, crops - pixels.shape[1]))
            for pixels in images["pixel_values"]
        ]
    return {**left_padded(model, rows), **{name: torch.cat(parts) for name, parts in images.items()}}


LLAVA_ONEVISION = Adapter("llava-onevision", ("llava_onevision",), as_stated, _features, _batch)
