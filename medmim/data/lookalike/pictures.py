"""Pictures of the look-alikes, by the phantom painter: what a table says of an image can be seen in it."""

import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmim.data.seeds import pixels
from medmim.data.sources.phantom_draw import NORMAL, Plane, Scene, plane

Bytes = NDArray[np.uint8]


def layers(scene: Scene, *pose: object) -> tuple[Plane, Plane]:
    """A scene without its finding, and what the finding adds to it.

    Equal poses show the same body, with the finding at the same place in each size: visits of one patient.

    Args:
        scene: What to show; not of dermoscopy, which always shows a lesion.
        pose: Names the pose: seed, source, patient, ...

    Returns:
        Two planes, float64 of shape [96, 96].
    """
    # The painter draws a radius for each scene that has a size: the bare one gets one too, to use up as many numbers.
    bare = plane(replace(scene, finding=NORMAL, size="small"), pixels(*pose))
    if scene.finding == NORMAL:
        return bare, np.zeros_like(bare)
    return bare, plane(scene, pixels(*pose)) - bare


def enlarged(shown: Plane, factor: int) -> Plane:
    """Each pixel repeated in both directions."""
    return shown.repeat(factor, axis=0).repeat(factor, axis=1)


def grey(shown: Plane) -> Bytes:
    """A plane of 0 to 1 in 8 bits."""
    levels: Bytes = np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels


def tinted(shown: Plane, dark: tuple[int, int, int], bright: tuple[int, int, int]) -> Bytes:
    """A plane of 0 to 1 in colours between two, uint8 of shape [height, width, 3]."""
    low, high = np.array(dark), np.array(bright)
    colours: Bytes = np.rint(low + np.clip(shown, 0.0, 1.0)[..., None] * (high - low)).astype(np.uint8)
    return colours


def encoded(image: Bytes, kind: str = "JPEG") -> bytes:
    """An image as a file: grey of shape [height, width] or colours of [height, width, 3]."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return out.getvalue()
