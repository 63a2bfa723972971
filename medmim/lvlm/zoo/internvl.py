"""InternVL: an image is cut into tiles of the tower's size and shown once more as a whole.

The processor cuts by default, its image processor alone does not: the entry says how often.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from medmim.lvlm.zoo.adapter import Adapter, flat


def _settings(_: Any, pixels: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Tiles an image, fewer where a question has many images: as many as all of them together may have."""
    most = min(pixels["max_patches"], max(1, pixels["max_patches_of_question"] // max(1, images)))
    return {"crop_to_patches": True, "min_patches": 1, "max_patches": most}


def _features(processor: Any, _: Any, sizes: Sequence[tuple[int, int]], settings: Mapping[str, Any]) -> list[int]:
    patches = (processor.image_processor.get_number_of_image_patches(*size, dict(settings)) for size in sizes)
    return [each * processor.image_seq_length for each in patches]


INTERNVL = Adapter("internvl", ("internvl",), _settings, _features, flat)
