"""Pictures as they leave the store: without the texts that a camera, a scanner or a viewer has put into the file.

A data set stores a small picture as it came, and patients' names stand in EXIF, comments and text chunks. They are cut
out of the file; pixels and colours stay as they are, bit by bit.
"""

import struct
from collections.abc import Iterator
from typing import overload

Readable = bytes | memoryview
_PNG = b"\x89PNG\r\n\x1a\n"
_SHOWN = frozenset((b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"pHYS", b"bKGD"))
_JPEG = b"\xff\xd8"
_IN_DATA = frozenset((0x00, *range(0xD0, 0xD8)))  # after 0xFF among compressed data: that byte itself, and restarts
_SOS, _EOI = 0xDA, 0xD9


@overload
def bare(data: bytes) -> bytes: ...
@overload
def bare(data: memoryview) -> Readable: ...
def bare(data: Readable) -> Readable:
    """A picture without texts; the same object where it has none.

    Args:
        data: A PNG or a JPEG as a data set stores it.
    """
    start = bytes(data[: len(_PNG)])
    if not start.startswith((_PNG, _JPEG)):
        return data
    kept = list(_chunks(data) if start == _PNG else _segments(bytes(data)))
    return data if sum(end - start for start, end in kept) == len(data) else b"".join(data[a:b] for a, b in kept)


def _chunks(data: Readable) -> Iterator[tuple[int, int]]:
    """Where the parts of a PNG that stay begin and end; what follows the last chunk is none."""
    yield 0, (at := len(_PNG))
    kind = b""
    while kind != b"IEND" and at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = min(at + 12 + size, len(data))  # decoders forgive the last bytes
        if kind in _SHOWN or not kind[0] & 0x20:  # a capital: nothing can be shown without it
            yield at, end
        at = end


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The same of a JPEG."""
    yield 0, (at := len(_JPEG))
    while (start := _marker(data, at)) >= 0:  # what lies before it is skipped by decoders, too
        at, kind = start + 2, data[start + 1]
        if kind == _EOI:
            yield start, at
            return
        if at + 2 > len(data):
            return
        end = min(at + max(2, int.from_bytes(data[at : at + 2])), len(data))
        if kind == _SOS:
            end = _marker(data, end)
            if end < 0:  # cut off in its last lines, which decoders forgive
                yield start, len(data)
                return
        if _is_shown(kind, data[at + 2 : at + 14]):
            yield start, end
        at = end


def _marker(data: bytes, at: int) -> int:
    """Where the next marker begins, -1 for none; by `find`, since a pattern takes forty times as long."""
    while (at := data.find(b"\xff", at)) >= 0:
        kind = data[at + 1] if at + 1 < len(data) else 0
        if kind != 0xFF and kind not in _IN_DATA:
            return at
        at += 1
    return -1


def _is_shown(kind: int, head: bytes) -> bool:
    """Whether a segment is needed to decode: all but comments and what programs add, colours apart."""
    if kind == 0xFE:
        return False
    if not 0xE0 <= kind <= 0xEF:
        return True
    wanted = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}.get(kind)
    return wanted is not None and head.startswith(wanted)
