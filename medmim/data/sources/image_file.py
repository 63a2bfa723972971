"""Reads and decodes one untrusted image file; every failure is a `BadImage`, whose message is the quarantine reason.

Data sets are downloaded, unpacked by hand and often incomplete. Paths may lead out of the root; files may be empty, cut
off, not images, or a few bytes that decode to gigabytes.
"""

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medmim.data.sources.source import BadImage

MAX_PIXELS = 50_000_000  # the largest mammograms have 25 million
MAX_BYTES = 256 << 20
SIDE = 512  # no base reads more than 384 pixels a side
# Raster formats that Pillow decodes itself: EPS would start Ghostscript, and a PDF is not an image.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file that was read and decoded.

    Attributes:
        id: `sha256:HEX` of the original bytes, so that resizing changes no item's identity.
        data: The original bytes.
        format: The format that Pillow found, such as `JPEG`.
        as_stored: Whether the decoded pixels are those of the file: no scaling, rotation or colour change.
        pixels: Upright, mode `L` or `RGB`.
    """

    id: str
    data: bytes
    format: str
    as_stored: bool
    pixels: Image.Image

    def shrunk(self, side: int = SIDE) -> bytes:
        """The bytes to store: the original if it is a small plain PNG or JPEG, else a PNG of at most `side` pixels.

        Lanczos and lossless PNG, so that no second JPEG compression changes what a model reads.
        """
        if self.as_stored and self.format in ("PNG", "JPEG") and max(self.pixels.size) <= side:
            return self.data
        small = self.pixels.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, "PNG")
        return out.getvalue()


def locate(root: Path, relative: str) -> Path:
    """The real file of a path that a data set names.

    Raises:
        FileNotFoundError: There is no such file.
        BadImage: The path is empty, absolute, leads out of `root` (by `..` or by a symlink), or is not a regular file.
    """
    if not relative.strip():
        raise BadImage("the image path is empty")
    if escapes(relative):
        raise BadImage("the path leaves the image root")
    try:
        real = os.path.realpath(root / relative, strict=True)
        mode = os.stat(real).st_mode
        size = os.stat(real).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(relative) from None
    except (OSError, ValueError) as error:  # no permission, a loop of symlinks, a zero byte in the name
        raise BadImage(f"the file cannot be opened ({_short(error)})") from None
    if not Path(real).is_relative_to(os.path.realpath(root)):
        raise BadImage("the path leaves the image root through a symlink")
    if not stat.S_ISREG(mode):
        raise BadImage("not a regular file")
    if size == 0:
        raise BadImage("the file is empty (0 bytes)")
    if size > MAX_BYTES:
        raise BadImage(f"the file has {size:,} bytes, more than {MAX_BYTES:,}")
    return Path(real)


def escapes(relative: str) -> bool:
    """Whether the text of a path points outside its root (on Windows, too)."""
    parts = relative.replace("\\", "/").split("/")
    return ".." in parts or relative.startswith(("/", "\\")) or (len(parts[0]) == 2 and parts[0].endswith(":"))


def read_bytes(root: Path, relative: str) -> bytes:
    """The original bytes of one image file below `root`: the `Source.read` of a source that reads files.

    Raises:
        FileNotFoundError: There is no such file.
        BadImage: It must not be read (see `locate`), or it is not readable.
    """
    path = locate(root, relative)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"the file cannot be read ({_short(error)})") from None


def decode(data: bytes) -> ImageFile:
    """Decode the bytes of an image file.

    16-bit, 32-bit and float pixels are scaled from their own minimum and maximum to 0..255: scanners store 10 to 14
    bits in 16, and the nominal range would leave them black. Transparent pixels become black, the background of a film.

    Raises:
        BadImage: Not an image, an unknown format, too many pixels (by the header, before anything is decoded), several
            frames, or cut off.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata and about half of its own pixel limit
        image = _guarded(lambda: Image.open(io.BytesIO(data), formats=FORMATS), "not an image")
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadImage(f"{width:,} x {height:,} pixels are more than {MAX_PIXELS:,}")
        frames = _guarded(lambda: int(getattr(image, "n_frames", 1)), "broken image")
        if frames > 1 and image.format != "MPO":  # MPO: a photo with its own preview as a second frame
            raise BadImage(f"{frames} frames where one image is expected")
        _guarded(image.load, "broken image")
        upright = _guarded(lambda: image.getexif().get(_ORIENTATION, 1) == 1, "broken EXIF data")
        turned = image if upright else _guarded(lambda: ImageOps.exif_transpose(image), "broken EXIF data")
        plain = _guarded(lambda: _plain(turned), "broken image")
    return ImageFile(
        id=f"sha256:{hashlib.sha256(data).hexdigest()}",
        data=data,
        format=str(image.format),
        as_stored=upright and plain.mode == image.mode,
        pixels=plain,
    )


def _guarded(doing: Callable[[], T], what: str) -> T:
    """Run a decoder; on hostile bytes it may raise anything (struct.error, IndexError, zlib.error): always BadImage."""
    try:
        return doing()
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise BadImage("not an image (PNG, JPEG, WebP, TIFF, BMP, GIF or PPM)") from None
    except Exception as error:
        reason = _short(error)
        raise BadImage("the image is cut off" if "truncat" in reason.lower() else f"{what} ({reason})") from None


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scaled(np.asarray(image, dtype=np.float32)))
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, image.convert("RGBA"))
        return flat.convert("L" if image.mode in ("LA", "La") else "RGB")
    return image.convert("RGB")  # palettes, CMYK (Pillow undoes Adobe's inversion), YCbCr, LAB


def _scaled(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise BadImage("pixels that are no numbers (NaN or infinite)")
    low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    grey: NDArray[np.uint8] = np.rint((values - low) * scale).astype(np.uint8)
    return grey


def _short(error: Exception) -> str:
    """The error as one line without the path: the quarantine names the file already."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split("\n")[0]
    return text[:120] or type(error).__name__
