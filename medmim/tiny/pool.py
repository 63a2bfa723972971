"""A cache of phantom drawings for training tiny bases: each class is drawn and preprocessed on first use."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from medmim.data.seeds import pixels
from medmim.data.sources.phantom_draw import CLASSES, Scene, draw

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Pool:
    """`each` drawings of every class.

    Args:
        each: Drawings of a class.
        seed: Decides them; they differ from the phantoms of every data set.
        preprocess: Images to pixel values, `[images, 3, height, width]`, all three channels equal.
    """

    def __init__(self, each: int, seed: int, preprocess: "Callable[[list[Image]], Tensor]") -> None:
        self.each, self.seed, self.preprocess = each, seed, preprocess
        self._drawn: dict[Scene, Tensor] = {}

    def pick(self, scene: Scene, number: int) -> "Tensor":
        """Drawing `number` of a class, below `each`: float32 `[1, 3, height, width]`."""
        if scene not in self._drawn:
            self._drawn[scene] = self._draw(scene)
        plane = self._drawn[scene][number].float()
        return plane.expand(1, 3, *plane.shape)

    def _draw(self, scene: Scene) -> "Tensor":
        import torch
        from PIL import Image

        name = CLASSES.index(scene)
        planes = [draw(scene, pixels("pool", self.seed, name, i)) for i in range(self.each)]
        values = self.preprocess([Image.fromarray(plane, "L").convert("RGB") for plane in planes])
        return values[:, 0].to(torch.float16)
