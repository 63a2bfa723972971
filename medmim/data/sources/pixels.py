"""Turns what Pillow decodes into 8 bits of grey or RGB, without losing what 16 bits hold.

Scanners store 10 to 14 bits in 16, so values are scaled from their own minimum and maximum: the nominal range would
leave them black, and so would a few hot pixels or a mark that is burnt in: see `shown_range`. Of colours and of grey
with alpha Pillow keeps the upper 8 bits only: those are decoded a second time.
"""

import io
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from medmim.data.sources.source import BadImage

# Raster formats that Pillow decodes itself: EPS would start Ghostscript, and a PDF is not an image.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
MAX_PIXELS = 50_000_000  # the largest mammograms have 25 million
_CLEAR = "the image is transparent all over"
BLANK = "all pixels of the image have one value"
_FULL = 1 << 15  # a value from here on shows that all 16 bits are used, and that the upper 8 are the picture
_STRAY = 0.001  # share of the values at either end that may be noise of the detector
_MARK = 0.02  # share that letters and frames burnt into a picture may have
_FAINT = 4  # of 255: no pixel can be seen with less alpha
_NEARLY = 1.01  # ratio of the sides of a pixel that is square
_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284  # tags of TIFF
_WHITE_IS_ZERO, _SEPARATE = 0, 2
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def has_deep_colour(image: Image.Image) -> bool:
    """Whether an image, opened and not yet loaded, has colours of more than 8 bits, or grey of 16 with alpha."""
    if image.mode not in ("RGB", "RGBA", "CMYK"):
        return False
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(_BITS, ())  # type: ignore[attr-defined]
    return any(";16" in str(tile.args) or _maximum(tile.args) > 255 for tile in image.tile)  # type: ignore[attr-defined]


def plain(image: Image.Image, data: bytes, deep: bool) -> Image.Image:
    """The pixels as mode `L` or `RGB`; transparent ones become black, the background of a film.

    Args:
        image: Loaded.
        data: The bytes of its file.
        deep: From `has_deep_colour`.

    Raises:
        BadImage: Nothing can be seen, or pixels are no numbers or of a kind that is not read.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey(image))
    scaled = _scaled_colours(image, data) if deep else None
    if scaled is not None:
        return scaled
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "LAB":
        converted = image.convert("RGB")
        converted.info.pop("icc_profile", None)  # made by the conversion, with the time of day in it
        return converted
    if image.mode not in ("LA", "La", "RGBA", "RGBa", "PA") and "transparency" not in image.info:
        # palettes, CMYK (Pillow undoes Adobe's inversion), YCbCr
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    flat = _on_black(image.convert("LA") if image.mode == "La" else image)
    flat = flat.convert("L" if image.mode in ("L", "LA", "La") else "RGB")
    return image if image.mode == flat.mode and image.tobytes() == flat.tobytes() else flat


def _on_black(image: Image.Image) -> Image.Image:
    shown = image.convert("RGBA")
    if np.asarray(shown)[..., 3].max() < _FAINT:
        raise BadImage(_CLEAR)
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), shown)


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    values: NDArray[np.float32] = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise BadImage("pixels that are no numbers (NaN or infinite)")
    clear = image.info.get("transparency")
    visible = values != clear if isinstance(clear, int) else np.ones(values.shape, bool)
    if not visible.any():
        raise BadImage(_CLEAR)
    low, high = shown_range(values[visible])
    if low == high:
        if visible.all():
            raise BadImage(BLANK)
        low = min(low, 0.0)  # what is transparent is the picture
    scale = 255.0 / (high - low) if high > low else 0.0
    grey: NDArray[np.uint8] = np.rint((values.clip(low, high) - low) * scale).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # type: ignore[attr-defined]
        grey = 255 - grey
    return np.where(visible, grey, 0).astype(np.uint8)


def shown_range(values: NDArray[Any], uniform: bool = False) -> tuple[float, float]:
    """The values that become black and white: the lowest and highest, or those of the picture where a few dominate.

    Left out are `_STRAY` of the values at either end, and up to `_MARK` that lie beyond an empty gap of half the whole
    range, as hot pixels and burnt-in letters do; both only where what remains has less than a quarter of the range, and
    more than one value, unless it may be `uniform`.
    """
    low, high = float(values.min()), float(values.max())
    flat = values.reshape(-1)
    count = int(flat.size * _MARK)
    if count == 0 or low == high:
        return low, high
    ends = np.partition(flat, (count, flat.size - 1 - count))
    strays, gap = int(flat.size * _STRAY), (high - low) / 2
    first = _without_strays(ends[: count + 1].astype(np.float64), strays, gap)
    last = -_without_strays(-ends[flat.size - 1 - count :].astype(np.float64), strays, gap)
    stays = last - first < (high - low) / 4 and (first < last or (uniform and first == last))
    return (first, last) if stays else (low, high)


def _without_strays(end: NDArray[np.float64], strays: int, gap: float) -> float:
    """The lowest value that belongs to the picture, of its lowest ones in any order."""
    rising = np.sort(end)
    beyond = np.flatnonzero(np.diff(rising) > gap)
    return float(rising[max(strays, int(beyond[0]) + 1 if beyond.size else 0)])


def _scaled_colours(image: Image.Image, data: bytes) -> Image.Image | None:
    """Colours of 16 bits, scaled over all channels together; None where the upper 8 bits are the picture."""
    planes = image.format == "TIFF" and image.tag_v2.get(_PLANAR) == _SEPARATE  # type: ignore[attr-defined]
    words, premultiplied = _words(image, data)
    if image.mode == "CMYK" or words is None:
        if shown_range(np.asarray(image) if words is None else words >> 8)[1] < _FULL >> 8:
            raise BadImage("16-bit colours that use few bits, as CMYK or in compressed planes: save it as RGB")
        return None
    channels = words.shape[-1]
    colours, alpha = (words[..., : channels - 1], words[..., -1]) if channels in (2, 4) else (words, None)
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        alpha = np.where((colours == clear).all(axis=-1), 0, 0xFFFF).astype(np.uint16)
    visible = colours if alpha is None else colours[alpha > 0]
    if not visible.size:
        raise BadImage(_CLEAR)
    low, high = shown_range(visible)
    opaque = 0xFFFF if alpha is None else int(shown_range(alpha, uniform=True)[1] or alpha.max())
    if low == high:
        if alpha is None or alpha.min() == alpha.max():
            raise BadImage(BLANK)
        low = 0.0  # what is transparent is the picture
    if high >= _FULL and opaque >= _FULL and not isinstance(clear, tuple) and not planes:
        return None
    values = np.arange(1 << 16)
    levels = values >> 8 if high >= _FULL else np.rint((values.clip(low, high) - low) * (255 / max(high - low, 1)))
    shown = levels.astype(np.uint8)[colours]
    if alpha is not None and not premultiplied:
        share = values >> 8 if opaque >= _FULL else np.rint(values.clip(0, opaque) * (255 / opaque))
        shown = np.concatenate([shown, share.astype(np.uint8)[alpha][..., None]], axis=-1)
    picture = Image.fromarray(shown)
    return _on_black(picture).convert("L" if channels == 2 else "RGB") if picture.mode in ("LA", "RGBA") else picture


def _words(image: Image.Image, data: bytes) -> tuple[NDArray[np.uint16] | None, bool]:
    """All 16 bits (height x width x channels), None where Pillow has not got them; whether alpha is in the colours."""
    if image.format == "PPM":
        return _ppm(data), False
    again = opened(data)
    names = {_unpacker(tile.args) for tile in again.tile}
    if names == {"LA;16B"}:  # no unpacker gives its lower bytes; as four channels of 8 bits all are read
        four = np.ascontiguousarray(_decoded(data, lambda _: "RGBA"))
        return four.view(">u2").astype(np.uint16, copy=True), False
    if image.format == "TIFF" and image.tag_v2.get(_PLANAR) == _SEPARATE:  # type: ignore[attr-defined]
        if again.tile[0].codec_name == "libtiff":
            return None, False
        order = "L" if image.tag_v2.prefix == b"II" else "B"  # type: ignore[attr-defined]
        upper = {name: f"{name};16{order}" for name in names}
    else:
        upper = {name: name.replace("RGBa", "RGBA") for name in names}
    lower = {name: other[:-1] + _OTHER_ORDER[other[-1]] for name, other in upper.items()}
    words = _decoded(data, upper.__getitem__).astype(np.uint16) << 8 | _decoded(data, lower.__getitem__)
    return words.astype(np.uint16), any("RGBa" in name for name in names)


def _decoded(data: bytes, unpacker: Callable[[str], str]) -> NDArray[np.uint8]:
    """The bytes that Pillow's decoder gives with other unpackers than its own."""
    image = opened(data)
    for number, tile in enumerate(image.tile):
        args: Any = tile.args
        image.tile[number] = tile._replace(
            args=unpacker(args) if isinstance(args, str) else (unpacker(args[0]), *args[1:])
        )
    image.load()
    return np.asarray(image)


def opened(data: bytes) -> ImageFile.ImageFile:
    """The image, its pixels not yet decoded."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _unpacker(args: Any) -> str:
    return args if isinstance(args, str) else args[0]


def _maximum(args: Any) -> int:
    """The largest value of a PPM file, which is the second argument of its decoder."""
    return args[1] if isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], int) else 0


def _ppm(data: bytes) -> NDArray[np.uint16]:
    """The pixels of a PPM file of more than 8 bits (big-endian, or as text), its own maximum as that of 16 bits."""
    image = opened(data)
    start, shape = image.tile[0].offset, (image.height, image.width, 3)
    if data[:2] == b"P6":
        values = np.frombuffer(data, ">u2", math.prod(shape), start)
    else:
        text = data[start:]
        text = re.sub(rb"#[^\r\n]*", b"", text) if b"#" in text else text
        values = np.array(text.split(None, math.prod(shape))[: math.prod(shape)], np.uint16)
    return (values.astype(np.uint32) * 0xFFFF // _maximum(image.tile[0].args)).astype(np.uint16).reshape(shape)


def square(picture: Image.Image, height: float, width: float) -> Image.Image:
    """A picture whose pixels are not square, enlarged along their longer side until they are.

    Args:
        picture: Mode `L` or `RGB`.
        height: Of a pixel, in any unit.
        width: Likewise.

    Raises:
        BadImage: It would be larger than any picture is read.
    """
    if max(height, width) <= _NEARLY * min(height, width):
        return picture
    unit = min(height, width)
    if (picture.width * width / unit) * (picture.height * height / unit) > MAX_PIXELS:
        raise BadImage(f"pixels of {width:g} x {height:g}: square ones are more than {MAX_PIXELS:,}")
    size = max(1, round(picture.width * width / unit)), max(1, round(picture.height * height / unit))
    return picture.resize(size, Image.Resampling.BICUBIC)
