"""Decodes one untrusted image file; every failure is a `BadImage`, whose message is the quarantine reason.

Files may be empty, cut off, not images, or a few bytes that decode to gigabytes.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from medmim import sniff
from medmim.data.sources import dicom, nifti, pixels
from medmim.data.sources.files import one_line
from medmim.data.sources.fragments import FRAME, Fragment
from medmim.data.sources.source import BadImage
from medmim.errors import UserError
from medmim.recipe.schema import MAX_SIDE

MAX_PIXELS = pixels.MAX_PIXELS
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
_ONLY = Fragment(FRAME, 0)  # the only frame of a file is the whole file
MAX_CHUNKS = 100_000  # of a PNG
_PNG = b"\x89PNG\r\n\x1a\n"
_READ = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")  # optional chunks of a PNG that say what it shows
_LARGEST_PROFILE = 1 << 20  # bytes of a colour profile that Pillow reads back from a PNG
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file that was read and decoded.

    Attributes:
        id: `sha256:HEX` of the original bytes, so that resizing changes no item's identity. Of one of several pictures
            in a file it is that of the text `HEX FRAGMENT`: the file's digest, a blank and, for example, `coronal=87`.
        data: The original bytes.
        format: The format that Pillow found, such as `JPEG`; `DICOM` or `NIfTI`.
        as_stored: Whether the decoded pixels are those of the file: no scaling, rotation or colour change.
        pixels: Upright, mode `L` or `RGB`.
    """

    id: str
    data: bytes
    format: str
    as_stored: bool
    pixels: Image.Image

    def shrunk(self, side: int = MAX_SIDE) -> bytes:
        """The bytes to store: the original if it is a small plain PNG or JPEG, else a PNG of at most `side` pixels.

        Lanczos and lossless PNG, so that no second JPEG compression changes what a model reads.
        """
        if self.as_stored and self.format in ("PNG", "JPEG") and max(self.pixels.size) <= side:
            return self.data
        small = self.pixels.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        if len(small.info.get("icc_profile") or b"") > _LARGEST_PROFILE:
            del small.info["icc_profile"]
        out = io.BytesIO()
        small.save(out, "PNG")
        return out.getvalue()


def decode(data: bytes, fragment: Fragment | None = None) -> ImageFile:
    """Decode the bytes of an image file.

    16-bit, 32-bit and float pixels are scaled to 0..255, transparent ones become black: see `pixels`; for DICOM and
    NIfTI see `dicom` and `nifti`. Colour profiles and texts are not read, so their size does not matter. What a file is
    is told by its bytes, never by its name.

    Args:
        data: The file.
        fragment: Which of its pictures, where it holds several.

    Raises:
        BadImage: Not an image, an unknown format, too many pixels (by the header, before anything is decoded), several
            frames and none chosen, cut off, or transparent all over.
        UserError: A library that reads such files is not installed.
    """
    found = next(decode_all(data, (fragment,)))
    if isinstance(found, BadImage):
        raise found
    return found


def decode_all(data: bytes, fragments: Iterable[Fragment | None]) -> Iterator[ImageFile | BadImage]:
    """Some pictures of a file, which is hashed and read once, or why each cannot be used.

    Raises:
        UserError: As `decode`.
    """
    digest = hashlib.sha256(data).hexdigest()
    picture = _pictures(data)
    for fragment in fragments:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries warn about odd metadata
                kind, as_stored, shown, whole = picture(fragment)
        except BadImage as error:
            yield error
        else:
            name = digest if whole else hashlib.sha256(f"{digest} {fragment}".encode()).hexdigest()
            yield ImageFile(f"sha256:{name}", data, kind, as_stored, shown)


Picture = tuple[str, bool, Image.Image, bool]  # format, as_stored and pixels of an ImageFile; whether of the whole file


def _pictures(data: bytes) -> Callable[[Fragment | None], Picture]:
    """What decodes the pictures of a file; it reads a volume once."""
    if dicom.is_dicom(data):

        @cache
        def file() -> Any:
            return _guarded(lambda: dicom.read(data), "a broken DICOM file")

        def frame(fragment: Fragment | None) -> Picture:
            shown, alone = _guarded(lambda: dicom.picture(file(), fragment), "a broken DICOM file")
            return "DICOM", False, shown, alone

        return frame
    if nifti.is_nifti(data):

        @cache
        def volume() -> tuple[nifti.Volume, tuple[float, float]]:
            found = nifti.read(data)
            return found, _guarded(lambda: nifti.shown_range(found), "a broken NIfTI volume")

        def plane(fragment: Fragment | None) -> Picture:
            return "NIfTI", False, _guarded(lambda: nifti.cut(*volume(), fragment), "a broken NIfTI volume"), False

        return plane

    def raster(fragment: Fragment | None) -> Picture:
        if fragment is not None and fragment != _ONLY:
            raise BadImage(f"#{fragment} names a part of a DICOM file or a NIfTI volume, and this is neither")
        _refuse_many_chunks(data)
        try:
            image, upright = _decoded(data)
        except BadImage:
            bare = _bare_png(data)
            if bare == data:
                raise
            image, upright = _decoded(bare)
            upright = upright.copy()  # what cannot be opened again as it is must not be stored as it is
        return str(image.format), upright is image, upright, True

    return raster


def _decoded(data: bytes) -> tuple[Image.Image, Image.Image]:
    """The image as Pillow gives it, and as it is used: the same object where nothing had to be changed."""
    image = _guarded(lambda: _opened(data), "not an image")
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width:,} x {height:,} pixels are more than {MAX_PIXELS:,}")
    frames = _guarded(lambda: int(getattr(image, "n_frames", 1)), "broken image")
    if frames > 1 and image.format != "MPO":  # MPO: a photo with its own preview as a second frame
        raise BadImage(f"{frames} frames where one image is expected")
    deep = _guarded(lambda: pixels.has_deep_colour(image), "broken image")
    _guarded(image.load, "broken image")
    turn = _guarded(lambda: image.getexif().get(_ORIENTATION, 1), "broken EXIF data")
    plain = _guarded(lambda: pixels.plain(image, data, deep), "broken image")
    if turn == 1:
        return image, plain
    return image, plain.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else plain.copy()


def _refuse_many_chunks(data: bytes) -> None:
    """Refuse a PNG of so many chunks that reading them takes minutes; the largest sound ones have ten thousand."""
    if next(islice(_chunks(data), MAX_CHUNKS, None), None) is not None:
        raise BadImage(f"a PNG of more than {MAX_CHUNKS:,} chunks")


def _bare_png(data: bytes) -> bytes:
    """A PNG without its optional chunks: a profile or text that is large or broken makes Pillow refuse the picture."""
    kept = [data[at:end] for name, at, end in _chunks(data) if name[:1].isupper() or name in _READ]
    return b"".join([_PNG, *kept]) if kept else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk of a PNG; nothing of another file."""
    at = len(_PNG)
    while data.startswith(_PNG) and at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], at, end
        at = end


def _guarded(doing: Callable[[], T], what: str) -> T:
    """Run a decoder; on hostile bytes it may raise anything (struct.error, IndexError, zlib.error): always BadImage."""
    try:
        return doing()
    except (BadImage, UserError):
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # a decoder raises anything on hostile bytes
        reason = one_line(error)
        raise BadImage("the image is cut off" if "truncat" in reason.lower() else f"{what} ({reason})") from None


def _opened(data: bytes) -> Image.Image:
    try:
        return pixels.opened(data)
    except UnidentifiedImageError:
        kind = sniff.identify(data[: sniff.HEAD])
    if kind is None:
        raise BadImage("not an image (PNG, JPEG, WebP, TIFF, BMP, GIF or PPM)")
    if sniff.is_raster(kind):
        raise BadImage(f"{kind.name} that is broken at its start or of a form that is not read: save it as PNG")
    raise BadImage(f"not an image but {kind.name}: {kind.fix}")
