"""Draws phantom images: schematic 96 x 96 grey images that show a finding, its size, side and margin.

All geometry is in units of two pixels, the grid on which a 48-pixel vision tower sees the image. Everything is in
float64, so that a last-bit difference between two machines does not change a pixel's rounded value.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float64]

PIXELS = 96
SIZES = ("small", "medium", "large")
SIDES = ("left", "right")
MARGINS = ("smooth", "spiculated")
NORMAL = "normal"
FINDINGS = {
    "X-ray": ("opacity", "effusion", "nodules"),
    "mammography": ("mass",),
    "MRI": ("tumor", "infarct"),
    "dermoscopy": ("nevus", "melanoma"),
    "fundus": ("drusen", "bleed"),
    "ultrasound": ("cyst", "stone"),
    "CT": ("lesion", "hematoma"),
}
VIEWS = {"mammography": ("CC", "MLO")}
LATERALITIES = {"fundus": SIDES}
SIDED = ("X-ray", "MRI")  # modalities in which the side of the finding can be seen

_RADIUS = {"small": 2.6, "medium": 4.6, "large": 7.4}
_SPOTS = {"small": 4, "medium": 7, "large": 11}
_EFFUSION = {"small": 3.5, "medium": 9.0, "large": 15.0}
_NOISE = 0.085  # at 96 pixels: about .035 after a bicubic reduction to 48

_y, _x = (np.mgrid[0:PIXELS, 0:PIXELS] + 0.5) / 2 - 0.5


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows; pose, contrast and noise are random."""

    modality: str
    finding: str = NORMAL
    size: str | None = None
    side: str | None = None
    margin: str | None = None
    view: str | None = None
    laterality: str | None = None


def _classes() -> tuple[Scene, ...]:
    scenes = []
    for modality, findings in FINDINGS.items():
        for view in VIEWS.get(modality, (None,)):
            for eye in LATERALITIES.get(modality, (None,)):
                if modality != "dermoscopy":  # dermoscopy always shows a lesion
                    scenes.append(Scene(modality, view=view, laterality=eye))
                scenes += [
                    Scene(modality, finding, size, side, margin, view, eye)
                    for finding in findings
                    for size in SIZES
                    for side in (SIDES if modality in SIDED else (None,))
                    for margin in (MARGINS if finding == "mass" else (None,))
                ]
    return tuple(scenes)


CLASSES = _classes()


def _sigmoid(x: Plane) -> Plane:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def _ellipse(cx: float, cy: float, rx: float, ry: float, sharpness: float = 6.0) -> Plane:
    return _sigmoid((1.0 - np.hypot((_x - cx) / rx, (_y - cy) / ry)) * sharpness)


def _star(rng: np.random.Generator, cx: float, cy: float, r: float, points: int) -> Plane:
    """A spiculated outline: the radius swings by half with the angle."""
    dx, dy = _x - cx, _y - cy
    edge: Plane = r * (1.0 + 0.5 * np.cos(points * np.arctan2(dy, dx) + rng.uniform(0.0, 2.0 * np.pi)))
    return _sigmoid((edge - np.hypot(dx, dy)) * 1.2)


def _spots(rng: np.random.Generator, cx: float, cy: float, r: float, size: str) -> Plane:
    """Scattered spots: the larger the finding, the more of them and the wider."""
    count = _SPOTS[size]
    turn = rng.uniform(0.0, 2.0 * np.pi)
    nearest: Plane = np.full_like(_x, np.inf)
    for i in range(count):  # a sunflower's spacing keeps the spots apart, the jitter keeps them irregular
        angle = turn + 2.4 * i + rng.uniform(-0.3, 0.3)
        reach = 1.15 * r * np.sqrt((i + rng.uniform(0.3, 0.7)) / count)
        distance = np.hypot(_x - cx - reach * np.cos(angle), _y - cy - reach * np.sin(angle))
        nearest = np.minimum(nearest, distance)
    return _sigmoid((1.0 - nearest / 1.2) * 4.0)


def _chest(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    plane = 0.55 * _ellipse(24, 26, u(21, 23), u(23, 25))
    ox, oy = u(-1, 1), u(-1, 1)
    for sign in (-1, 1):
        lung = _ellipse(24 + sign * u(9.5, 10.5) + ox, 24 + oy, u(7.5, 8.5), u(15, 17), 8)
        plane = plane - 0.4 * lung
    sign = -1 if scene.side == "left" else 1
    if scene.finding == "opacity":
        plane = plane + u(0.38, 0.5) * _ellipse(24 + sign * u(9, 11) + ox, u(17, 29), r * 1.05, r * 1.05, 4)
    if scene.finding == "nodules":
        plane = plane + u(0.42, 0.5) * _spots(rng, 24 + sign * u(9.5, 10.5) + ox, u(19, 29), r, scene.size or "")
    if scene.finding == "effusion":
        top = 40 - _EFFUSION[scene.size or ""] * u(0.9, 1.1) + oy
        plane = plane + 0.42 * _sigmoid((_y - top) * 2) * _ellipse(24 + sign * 10 + ox, 24 + oy, 8, 16, 8)
    return plane


def _breast(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    if scene.view == "CC":
        plane = 0.4 * _ellipse(0, 24, u(38, 42), u(19, 22), 10)
    else:  # the pectoral muscle crosses the upper corner
        plane = 0.4 * _ellipse(0, 28, u(34, 38), u(20, 23), 10) + 0.4 * _sigmoid(u(20, 24) - _x - _y)
    plane = plane + 0.08 * _ellipse(14, u(22, 28), u(8, 12), u(8, 12), 2)
    if scene.finding == "mass":
        cx, cy, bright = u(14, 24), u(19, 30), u(0.42, 0.55)
        mass = _ellipse(cx, cy, r, r, 8) if scene.margin == "smooth" else _star(rng, cx, cy, r * 1.05, 7)
        plane = plane + bright * mass
    return plane


def _brain(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    skull = _ellipse(24, 24, u(19, 21), u(21, 23), 14)
    inside = _ellipse(24, 24, u(16.5, 17.5), u(18.5, 19.5), 14)
    plane = 0.8 * skull - 0.45 * inside - 0.1 * _ellipse(24, 24, 1.2, 16, 4)
    if scene.finding != NORMAL:
        sign = -1 if scene.side == "left" else 1
        level = u(0.4, 0.5) if scene.finding == "tumor" else -u(0.28, 0.34)
        plane = plane + level * _ellipse(24 + sign * u(8, 9), u(17, 31), r, r)
    return plane


def _skin(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    cx, cy, r = u(16, 32), u(16, 32), r * 1.3
    mole = _ellipse(cx, cy, r, r, 8) if scene.finding == "nevus" else _star(rng, cx, cy, r, 5)
    return u(0.75, 0.85) - u(0.45, 0.6) * mole


def _fundus(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    plane = 0.5 * _ellipse(24, 24, u(21, 22.5), u(21, 22.5), 16)
    nasal = 1 if scene.laterality == "right" else -1  # the disc lies towards the nose
    plane = plane + 0.4 * _ellipse(24 + nasal * u(11, 13), 24 + u(-2, 2), 3, 3.6, 8)
    cx, cy = u(20, 28), u(15, 33)
    if scene.finding == "bleed":
        plane = plane - u(0.38, 0.45) * _ellipse(cx, cy, r, r)
    if scene.finding == "drusen":
        plane = plane + u(0.38, 0.45) * _spots(rng, cx, cy, r, scene.size or "")
    return plane


def _ultrasound(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    fan = _sigmoid(_y * 0.75 + 6 - np.abs(_x - 24))
    speckle = np.kron(rng.standard_normal((PIXELS // 4, PIXELS // 4)), np.ones((4, 4)))
    plane = fan * (0.4 + 0.15 * speckle)
    if scene.finding == NORMAL:
        return plane
    cx, cy = u(20, 28), u(20, 30)
    blob = _ellipse(cx, cy, r * 1.1, r * 1.1, 8)
    if scene.finding == "cyst":
        plane = plane * (1 - blob)
    if scene.finding == "stone":  # bright, with the shadow that it casts below
        shadow = _sigmoid((r - np.abs(_x - cx)) * 2) * _sigmoid((_y - cy) * 2)
        plane = plane * (1 - 0.8 * shadow) * (1 - blob) + 0.95 * blob
    return plane


def _abdomen(scene: Scene, rng: np.random.Generator, r: float) -> Plane:
    u = rng.uniform
    plane = 0.35 * _ellipse(24, 25, u(21.5, 22.5), u(16, 17.5), 14) + 0.2 * _ellipse(17, 23, u(12, 13), u(10, 11), 8)
    plane = plane + 0.5 * _ellipse(25, 36, 3, 2.6, 8)  # the spine
    if scene.finding != NORMAL:
        level = u(0.35, 0.42) if scene.finding == "hematoma" else -u(0.3, 0.36)
        plane = plane + level * _ellipse(u(15, 22), u(20, 25), r, r)
    return plane


_PAINTERS: dict[str, Callable[[Scene, np.random.Generator, float], Plane]] = {
    "X-ray": _chest,
    "mammography": _breast,
    "MRI": _brain,
    "dermoscopy": _skin,
    "fundus": _fundus,
    "ultrasound": _ultrasound,
    "CT": _abdomen,
}


def plane(scene: Scene, rng: np.random.Generator) -> Plane:
    """What an image of a scene shows, before contrast and noise: about 0 to 1, float64 of shape [96, 96].

    The pose of a finding is drawn after that of what surrounds it, and independent of its size.
    """
    radius = _RADIUS[scene.size] * rng.uniform(0.9, 1.1) if scene.size else 0.0
    return _PAINTERS[scene.modality](scene, rng, radius)


def exposed(shown: Plane, rng: np.random.Generator) -> Plane:
    """A plane with random contrast and noise, clipped to 0 to 1."""
    return np.clip(shown * rng.uniform(0.9, 1.1) + _NOISE * rng.standard_normal(shown.shape), 0.0, 1.0)


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image of a scene; pose, contrast and noise come from `rng`.

    Args:
        scene: What to show, one of `CLASSES`.
        rng: Equal generators give equal pixels.

    Returns:
        Grey values, uint8 of shape [96, 96].
    """
    return np.rint(exposed(plane(scene, rng), rng) * 255.0).astype(np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as a PNG file, with fixed settings so that equal pixels give equal bytes."""
    out = io.BytesIO()
    Image.fromarray(image, "L").save(out, "PNG", compress_level=1, optimize=False)
    return out.getvalue()
