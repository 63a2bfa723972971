"""LLaVA: each image is squeezed or cropped to the tower's size, and takes the same number of tokens.

Mantis and LLaVA-Med are LLaVA checkpoints that `medmim.lvlm.family` writes to the byte, not by a chat template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from medmim.lvlm.encode import tokens_per_image
from medmim.lvlm.zoo.adapter import Adapter, as_stated, flat


def _features(_: Any, config: Any, sizes: Sequence[tuple[int, int]], __: Mapping[str, Any]) -> list[int]:
    return [tokens_per_image(config)] * len(sizes)


LLAVA = Adapter("llava", ("llava",), as_stated, _features, flat)
