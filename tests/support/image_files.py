"""Writes image files, those of 16 bits byte by byte: Pillow writes none with colour or alpha."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Words = NDArray[np.uint16]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """What Pillow writes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(words: Words, kind: int, *more: bytes, interlaced: bool = False) -> bytes:
    """A 16-bit PNG, its lines without filter or, where a picture is interlaced, in the seven passes of Adam7."""
    height, width = words.shape[:2]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [words[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [words]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for part in parts if part.size for line in part)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    ends = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + ends


def tiff(
    planes: Sequence[Words], photometric: int = 2, extra: int | None = None, order: str = "<", separate: bool = False,
    squeezed: bool = False,
) -> bytes:  # fmt: skip
    """A 16-bit TIFF in one strip for all samples, or in one for each; `squeezed` compresses them by Deflate."""
    height, width = planes[0].shape
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    if not separate:
        strips = [np.stack(planes, axis=-1).astype(f"{order}u2").tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if squeezed else strips
    count, starts, at = len(planes), [], 8
    for strip in strips:
        starts.append(at)
        at += len(strip)
    entries: list[tuple[int, int, Sequence[int]]] = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [16] * count), (259, 3, [8 if squeezed else 1]),
        (262, 3, [photometric]), (273, 4, starts), (277, 3, [count]), (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]), (284, 3, [2 if separate else 1]),
    ]  # fmt: skip
    if extra is not None:
        entries.append((338, 3, [extra]))
    directory, tail, after = b"", b"", at + 2 + 12 * len(entries) + 4
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            tail, packed = tail + packed, struct.pack(f"{order}I", after + len(tail))
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(entries)) + directory + b"\0" * 4 + tail
