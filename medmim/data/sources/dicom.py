"""Decodes one frame of a DICOM file to 8 bits of grey or RGB, as a viewer shows it.

Grey values go through the rescale (or modality table) of the file and its first VOI table or window; without one, or
where the window shows nothing, their own range is shown, as of 16-bit PNG (see `pixels`). Padding is black.
MONOCHROME1 is inverted, so that dense is bright in every file. Rows and columns stay as they are stored, and pixels
that are not square are made so; no picture is mirrored. Overlays, shutters and presentation states are not applied.

Compressed pixels are decoded by pylibjpeg-openjpeg (JPEG 2000), Pillow (JPEG), GDCM (lossless JPEG, JPEG-LS) and
pydicom (RLE). Sizes are checked before anything is decoded: in the header, in a compressed frame, in deflated files.
"""

import io
import math
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmim import sniff
from medmim.data.sources import gdcm_frames, pixels
from medmim.data.sources.fragments import FRAME, Fragment
from medmim.data.sources.source import BadImage
from medmim.errors import require

EXTRA = "data"
_LARGEST = 1 << 30  # bytes of a deflated file
_PLUGINS = ("pylibjpeg", "pillow", "gdcm")  # the first that has a decoder is the only one that is asked
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TWELVE_BITS = ("1.2.840.10008.1.2.4.51",)  # JPEG Extended; GDCM's and Pillow's decoders are of 8 bits
_JP2 = b"\0\0\0\x0cjP  "  # a file of boxes around a JPEG 2000 codestream
_RLE_GAIN = 64  # a byte of RLE becomes so many at most
_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_WINDOWS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def is_dicom(data: bytes) -> bool:
    """Whether bytes are a DICOM file, with or without the preamble."""
    found = sniff.identify(data[: sniff.HEAD])
    return found is not None and found.name == sniff.DICOM


def read(data: bytes) -> Any:
    """The data set of a DICOM file, its pixels not yet decoded.

    Raises:
        BadImage: It has no pixels, or is deflated beyond all bounds.
        UserError: pydicom is not installed.
        Exception: Whatever pydicom raises on hostile bytes.
    """
    pydicom: Any = require("pydicom", EXTRA)
    refuse_bomb(data)
    file = pydicom.dcmread(io.BytesIO(data), force=True)
    if not any(name in file for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        kind = getattr(file.get("SOPClassUID"), "name", "") or "of unknown kind"
        raise BadImage(f"a DICOM file without pixels ({kind})")
    if "TransferSyntaxUID" not in getattr(file, "file_meta", ()):
        implicit, little = file.original_encoding
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = _plain_syntax(implicit, little)
    return file


def picture(file: Any, fragment: Fragment | None = None) -> tuple[Image.Image, bool]:
    """The picture of a frame, and whether it is the only one in the file.

    Args:
        file: From `read`.
        fragment: A frame; not needed where there is one.

    Raises:
        BadImage: Too many pixels, no such frame, a compression that is not read, broken.
        UserError: A decoder is not installed.
        Exception: Whatever a decoder raises on hostile bytes.
    """
    frames = int(file.get("NumberOfFrames") or 1)
    index = _index(fragment, frames)
    rows, columns = _whole(file, "Rows"), _whole(file, "Columns")
    if rows * columns > pixels.MAX_PIXELS:
        raise BadImage(f"{columns:,} x {rows:,} pixels are more than {pixels.MAX_PIXELS:,}")
    if rows * columns == 0:
        raise BadImage(f"a DICOM file of {columns} x {rows} pixels")
    values, photometric = _frame(file, index, frames)
    if photometric in _GREY:
        found = Image.fromarray(_shown(values, file, _context(file, index), photometric))
    else:
        found = Image.fromarray(_colours(values, file, photometric))
    return pixels.square(found, *_spacing(file, index)), frames == 1


def _plain_syntax(implicit: bool, little: bool) -> Any:
    from pydicom import uid

    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def refuse_bomb(data: bytes) -> None:
    """Refuse a deflated file that grows beyond all bounds: pydicom inflates it at once, whatever is asked of it.

    Raises:
        BadImage: It does, or its header has no length.
    """
    if _DEFLATED not in data[:2048]:
        return
    start = re.match(rb".{128}DICM\x02\0\0\0UL\x04\0(.{4})", data, re.DOTALL)
    if start is None:
        raise BadImage("a deflated DICOM file whose header has no length")
    left = zlib.decompressobj(-zlib.MAX_WBITS)
    body = memoryview(data)[start.end() + int.from_bytes(start[1], "little") :]
    grown = 0
    while body and not left.eof:
        grown += len(left.decompress(body, 1 << 20))
        if grown > _LARGEST:
            raise BadImage(f"a deflated DICOM file of more than {_LARGEST:,} bytes")
        body = memoryview(left.unconsumed_tail)


def _index(fragment: Fragment | None, frames: int) -> int:
    if fragment is None:
        if frames != 1:
            raise BadImage(f"{frames} frames where one image is expected: name one in the path, such as #{FRAME}=0")
        return 0
    if fragment.kind != FRAME:
        raise BadImage(
            f"#{fragment} names a slice of a volume, and this is a DICOM file: #{FRAME}=0 is its first frame"
        )
    if fragment.index >= frames:
        raise BadImage(f"#{fragment} is not among its {frames} frames, which count from 0")
    return fragment.index


def _whole(file: Any, name: str) -> int:
    value = file.get(name)
    if not isinstance(value, int):
        raise BadImage(f"a DICOM file without {name}")
    return value


def _frame(file: Any, index: int, frames: int) -> tuple[NDArray[Any], str]:
    """The values of a frame (rows x columns, x 3 of colours), and their photometric interpretation after decoding."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import as_pixel_options

    syntax = file.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise BadImage(f"a DICOM file whose pixels are {syntax.name}, which is not read") from None
    if not decoder.is_available:
        for module in ("gdcm", "pylibjpeg", "openjpeg"):
            require(module, EXTRA)
        raise BadImage(f"no decoder of {syntax.name} is installed ({'; '.join(decoder.missing_dependencies)})")
    if syntax.is_compressed and not syntax.is_deflated:
        _check_compressed(file, index, frames)
    if syntax in _TWELVE_BITS and "pylibjpeg" not in decoder.available_plugins and _whole(file, "BitsStored") > 8:
        raise BadImage(f"{syntax.name} of more than 8 bits, which only `pip install pylibjpeg-libjpeg` (GPL) reads")
    plugin = next((name for name in _PLUGINS if name in decoder.available_plugins), "")
    if plugin == "gdcm":
        frame = get_frame(file.PixelData, index, number_of_frames=frames)
        values, about = gdcm_frames.decode(str(syntax), frame, {**as_pixel_options(file), "number_of_frames": 1})
    else:
        values, about = decoder.as_array(file, index=index, decoding_plugin=plugin)
    return values, str(about["photometric_interpretation"])


def _check_compressed(file: Any, index: int, frames: int) -> None:
    """Refuse a compressed frame that is larger than the header says."""
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    rows, columns = _whole(file, "Rows"), _whole(file, "Columns")
    frame = get_frame(file.PixelData, index, number_of_frames=frames)
    if file.file_meta.TransferSyntaxUID == RLELossless:
        size = rows * columns * _whole(file, "SamplesPerPixel") * max(1, _whole(file, "BitsAllocated") // 8)
        if len(frame) * _RLE_GAIN > max(_LARGEST, 8 * size):
            raise BadImage("run lengths (RLE) that are longer than the picture")
        return
    found = _coded_size(frame)
    if found != (columns, rows):
        what = "without a size" if found is None else f"of {found[0]:,} x {found[1]:,} pixels"
        raise BadImage(f"the header says {columns:,} x {rows:,} pixels, and holds a compressed picture {what}")


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that a frame of JPEG, JPEG-LS or JPEG 2000 names itself."""
    at = 0
    if frame.startswith(_JP2):
        at = 12
        while frame[at + 4 : at + 8] != b"jp2c":
            length = int.from_bytes(frame[at : at + 4])
            if length < 8:  # of a box; one of 0 makes pydicom look at it for ever
                return None
            at += length
        at += 8
    if frame[at : at + 4] == b"\xff\x4f\xff\x51":
        width, height, left, top = (int.from_bytes(frame[at + 8 + 4 * i : at + 12 + 4 * i]) for i in range(4))
        return width - left, height - top
    at = 2
    while frame.startswith(b"\xff\xd8") and at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4])
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 7 : at + 9]), int.from_bytes(frame[at + 5 : at + 7])
        else:
            at += 2 + length
    return None


def _groups(file: Any, index: int) -> Iterator[Any]:
    """The functional groups of a frame of an enhanced file, its own before those that all frames share."""
    own = file.get("PerFrameFunctionalGroupsSequence") or []
    yield from own[index : index + 1]
    yield from (file.get("SharedFunctionalGroupsSequence") or [])[:1]


def _context(file: Any, index: int) -> Any:
    """What says how grey values of a frame are shown: the file, or the functional groups of the frame."""
    from pydicom import Dataset

    found: Any = Dataset()
    for macro, names in (
        ("PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept")),
        ("FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "VOILUTFunction")),
    ):
        places = [group[macro].value[0] for group in _groups(file, index) if group.get(macro)]
        place = places[0] if places else file
        for name in (*names, *(("ModalityLUTSequence",) if macro.startswith("Pixel") else ("VOILUTSequence",))):
            if name in place:
                found[name] = place[name]
    return found


def _shown(values: NDArray[Any], file: Any, how: Any, photometric: str) -> NDArray[np.uint8]:
    """The picture of grey values; of whole numbers by a table, since a mammogram has more pixels than values."""
    if not np.isfinite(values).all():
        raise BadImage("pixels that are no numbers (NaN or infinite)")
    padding = _padding(values, file)
    visible = values if padding is None else values[~padding]
    if not visible.size:
        raise BadImage("all pixels are padding")
    low, high = visible.min(), visible.max()
    bits = int(file.get("BitsStored") or 0)
    nominal = (0.0, float(2**bits - 1)) if bits in (1, 8) and not int(file.get("PixelRepresentation") or 0) else None
    if values.dtype.kind in "iu" and int(high) - int(low) < 1 << 16:
        table = np.arange(int(low), int(high) + 1, dtype=np.int64)
        present = np.bincount((visible.astype(np.int64) - int(low)).reshape(-1), minlength=len(table)) > 0
        shares = _shares(
            table, how, lambda seen: _range(seen[visible.astype(np.int64) - int(low)], nominal, how), present
        )
        grey = _bytes(shares)[values.clip(low, high).astype(np.int64) - int(low)]
    else:
        grey = _bytes(_shares(values, how, lambda seen: _range(seen, nominal, how), None))
    if photometric == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return grey


def _bytes(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.rint(shares.clip(0, 1) * 255).astype(np.uint8)
    return levels


def _padding(values: NDArray[Any], file: Any) -> NDArray[np.bool_] | None:
    """Which values are padding; None where none are."""
    first, last = file.get("PixelPaddingValue"), file.get("PixelPaddingRangeLimit")
    if not isinstance(first, int) or values.dtype.kind not in "iu":
        return None
    ends = [first, last if isinstance(last, int) else first]
    if values.dtype.kind == "i":  # the tag's own type is often the unsigned one
        bits = 8 * values.dtype.itemsize
        ends = [end - (1 << bits) if end >= 1 << (bits - 1) else end for end in ends]
    found = (values >= min(ends)) & (values <= max(ends))
    return found if found.any() else None


def _shares(
    stored: NDArray[Any],
    how: Any,
    own_range: Callable[[NDArray[np.float64]], tuple[float, float]],
    present: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """How bright (0..1) stored values are shown.

    Args:
        stored: Values.
        how: See `_context`.
        own_range: Rescaled values of `stored` -> those that become black and white where no window says it.
        present: Which of `stored` occur; None for all.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    rescaled = np.asarray(apply_modality_lut(stored, how), np.float64)
    shown = None
    if how.get("VOILUTSequence"):
        item = how.VOILUTSequence[0]
        shown = apply_voi(rescaled.astype(np.int64), how) / (2.0 ** int(item.LUTDescriptor[2]) - 1)
    elif (window := _window(how)) is not None:
        shown = _windowed(rescaled, *window)
    if shown is not None:
        levels = _bytes(shown if present is None else shown[present])
        if levels.min() < levels.max():
            return shown
    low, high = own_range(rescaled)
    if low == high:
        raise BadImage(pixels.BLANK)
    return (rescaled - low) / (high - low)


def _range(values: NDArray[np.float64], nominal: tuple[float, float] | None, how: Any) -> tuple[float, float]:
    """The values that become black and white: all that 8 bits can hold, else those of the picture."""
    rescaled = "ModalityLUTSequence" in how or float(how.get("RescaleSlope") or 1) != 1 or how.get("RescaleIntercept")
    return nominal if nominal and not rescaled else pixels.shown_range(values)


def _window(how: Any) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None where there is no usable one."""
    centre, width = _first(how.get("WindowCenter")), _first(how.get("WindowWidth"))
    function = str(how.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or not math.isfinite(centre) or not math.isfinite(width):
        return None
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return centre, width, function if function in _WINDOWS else "LINEAR"


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if len(value) else None


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """Brightness (0..1) by DICOM PS3.3 C.11.2.1."""
    shares = (values - centre) / width + 0.5
    if function == "SIGMOID":
        shares = 1 / (1 + np.exp((2 - 4 * shares).clip(-700, 700)))
    elif function == "LINEAR":
        shares = (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5
    return shares.clip(0, 1)


def _colours(values: NDArray[Any], file: Any, photometric: str) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut

    if photometric == _PALETTE:
        values = apply_color_lut(values, file)
        bits = 16 if values.dtype.itemsize > 1 and values.max() > 255 else 8
    elif photometric == "RGB":
        bits = int(file.get("BitsStored") or 8)
    else:
        raise BadImage(f"a DICOM file whose colours are {photometric[:40]}, which is not read")
    if values.ndim != 3 or values.shape[-1] not in (3, 4):
        raise BadImage(f"a DICOM file of {values.shape[-1] if values.ndim == 3 else 1} values a pixel")
    return (values[..., :3] >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)


def _spacing(file: Any, index: int) -> tuple[float, float]:
    """Height and width of a pixel; equal where the file does not say."""
    measures = [group.get("PixelMeasuresSequence") for group in _groups(file, index)]
    places = [found[0] for found in measures if found] + [file]
    for place in places:
        for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
            value = place.get(name)
            if value is not None and not isinstance(value, str) and len(value) == 2:
                height, width = (float(part) for part in value)
                if 0 < height < math.inf and 0 < width < math.inf:
                    return height, width
    return 1.0, 1.0
