"""Reading untrusted image files: valid ones are decoded, all others are refused with one reason."""

import io
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medmim.data.sources.image_file import MAX_CHUNKS, MAX_PIXELS, decode
from medmim.data.sources.source import BadImage
from tests.support.image_files import chunk, encoded, tiff

GRADIENT = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)


def valid(kind: str) -> bytes:
    return encoded(Image.fromarray(GRADIENT).convert("RGB"), kind)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def reason(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_valid_image_is_decoded(kind: str) -> None:
    image = decode(valid(kind))
    assert image.pixels.size == (60, 40)
    assert image.pixels.mode in ("L", "RGB")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_off_image_is_refused_wherever_the_cut_falls(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for cut in range(300, len(data) - 40, 997):
        assert any(word in reason(data[:cut]) for word in ("cut off", "broken", "not an image"))


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    data = bomb(60_000)
    assert len(data) < 100
    assert "pixels" in reason(data)


def test_an_image_just_over_the_limit_is_refused_too() -> None:
    assert f"{MAX_PIXELS:,}" in reason(bomb(int(MAX_PIXELS**0.5) + 1))


def peak(data: bytes) -> int:
    """Bytes of Python's memory that decoding takes at most."""
    tracemalloc.start()
    try:
        with suppress(BadImage):
            decode(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HEAD = valid("PNG")[:33]  # signature and IHDR
CHUNKS = {
    "transparency": chunk(b"tRNS", b""), "texts": chunk(b"tEXt", b"k\0v"), "of no name": bytes(12),
    "frames": chunk(b"fcTL", b""), "pieces of pixels": chunk(b"IDAT", b"\0"), "EXIF": chunk(b"eXIf", b""),
}  # fmt: skip


@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_of_very_many_chunks_is_refused_before_they_are_read(name: str) -> None:
    for head in (HEAD, HEAD[:8]):
        assert "more than 100,000 chunks" in reason(head + CHUNKS[name] * (MAX_CHUNKS + 1))


def test_a_sound_png_is_not_taken_apart() -> None:
    data = encoded(Image.effect_noise((1500, 1500), 80), "PNG")
    assert peak(data) < len(data) / 2


@pytest.mark.parametrize("comment", [b"", b"# made here\n"])
def test_a_small_ppm_with_a_long_tail_is_read_with_little_memory(comment: bytes) -> None:
    data = b"P3\n10 10\n65535\n" + comment + b" ".join(b"%d" % (n * 200) for n in range(300)) + b" 1" * 2_000_000
    assert np.asarray(decode(data).pixels).std() > 50
    assert peak(data) < 5 * len(data)


def test_text_and_an_empty_file_are_not_images() -> None:
    assert "not an image" in reason(b"patient,offset\n2,0\n")
    assert "not an image" in reason(b"")


HTML = b"<!doctype html><title>Log in</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
OTHER: dict[str, tuple[bytes, str]] = {
    "Git LFS": (POINTER, "a Git LFS pointer: `git lfs pull`"),
    "git-annex": (b"/annex/objects/MD5E-s9--0123.png\n", "a git-annex pointer: `git annex get FILE`"),
    "DVC": (b"outs:\n- md5: 0123456789abcdef0123456789abcdef\n", "a DVC pointer: `dvc pull`"),
    "link as text": (b"../../blobs/0123456789abcdef", "the text of a symbolic link"),
    "sign-in page": (HTML, "a web page"),
    "error of S3": (b"<Error><Code>NoSuchKey</Code></Error>", "the error of a server (NoSuchKey)"),
    "gzip": (b"\x1f\x8b\x08\0....", "a gzip file"),
    "zip": (b"PK\3\4....", "a zip archive"),
    "HEIC": (b"\0\0\0\x18ftypheic....", "a HEIC image"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "PDF": (b"%PDF-1.4", "a PDF"),
    "macOS": (b"\0\5\x16\7\0\2\0\0Mac OS X", "a macOS resource fork"),
    "zero bytes": (b"\0" * 999, "a file of zero bytes"),
    "PNG copied as text": (b"\x89PNG\n\x1a\n\0\0\0\rIHDR", "copied as text"),
    "PNG read as UTF-8": (b"\xef\xbf\xbdPNG\r\n\x1a\n", "copied as text"),
    "JPEG read as UTF-8": (b"\xef\xbf\xbd" * 4 + b"\0\x10JFIF", "copied as text"),
    "base64": (b"iVBORw0KGgoAAAANSUhEUgAA", "an image in base64 text"),
    "NumPy": (b"\x93NUMPY\1\0", "a NumPy array"),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_image_is_named_with_its_fix(name: str) -> None:
    data, words = OTHER[name]
    found = reason(data)
    assert found.startswith("not an image but ") and words in found
    assert "etch it again" not in found and "\n" not in found


def test_a_kind_of_a_known_format_that_is_not_read_is_not_called_another_file() -> None:
    grey = np.zeros((4, 4), np.uint16)
    with_alpha = tiff([grey, grey], photometric=1, extra=2)  # Pillow has no mode for it
    assert "a TIFF image that is broken at its start or of a form that is not read" in reason(with_alpha)


def test_a_postscript_program_is_not_run() -> None:
    assert "not an image" in reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


def test_sixteen_bits_keep_their_contrast() -> None:
    deep = GRADIENT.astype(np.uint16) * 40  # 12 bits in 16: dark, if scaled by the nominal range
    pixels = np.asarray(decode(encoded(Image.fromarray(deep), "PNG")).pixels)
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.array_equal(np.argsort(pixels[0]), np.argsort(GRADIENT[0]))


def test_float_pixels_that_are_not_finite_are_refused() -> None:
    bad = GRADIENT.astype(np.float32)
    bad[3, 3] = np.nan
    assert "NaN" in reason(encoded(Image.fromarray(bad), "TIFF"))


def test_transparent_pixels_become_black_not_their_hidden_colour() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    clear.putpixel((5, 5), (90, 80, 70, 255))
    pixels = decode(encoded(clear, "PNG")).pixels
    assert (pixels.getpixel((0, 0)), pixels.getpixel((5, 5))) == ((0, 0, 0), (90, 80, 70))


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "LA", "I;16"])
def test_every_mode_is_converted_to_grey_or_rgb(mode: str) -> None:
    grey = Image.fromarray(GRADIENT)
    image = Image.fromarray(GRADIENT.astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    read = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG")).pixels
    assert read.mode in ("L", "RGB")
    if mode != "1":
        wanted = GRADIENT * (255 / GRADIENT.max()) if mode == "I;16" else GRADIENT
        assert np.abs(np.asarray(read.convert("L"), float) - wanted).max() <= 3


def test_an_exif_rotation_is_undone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.fromarray(GRADIENT), "JPEG", exif=exif)).pixels.size == (40, 60)


def test_several_frames_are_refused() -> None:
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 99, 200)]
    assert "3 frames" in reason(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]))


def test_shrinking_changes_neither_the_id_nor_small_plain_files() -> None:
    small = decode(valid("JPEG"))
    assert small.shrunk() == small.data
    large = decode(encoded(Image.fromarray(np.tile(GRADIENT, (20, 30))), "PNG"))
    stored = decode(large.shrunk())
    assert max(stored.pixels.size) == 1024 < max(large.pixels.size)
    assert stored.id != large.id == decode(large.data).id


def test_a_grey_image_with_alpha_is_stored_without_it() -> None:
    stored = Image.open(io.BytesIO(decode(encoded(Image.fromarray(GRADIENT).convert("LA"), "PNG")).shrunk()))
    assert stored.mode == "L"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
    keep=st.floats(0, 1),
    tail=st.binary(max_size=30),
)
def test_mutated_files_raise_nothing_but_bad_image(
    kind: str, flips: list[tuple[int, int]], keep: float, tail: bytes
) -> None:
    data = bytearray(valid(kind))
    for at, byte in flips:
        data[at % len(data)] = byte
    try:
        image = decode(bytes(data[: int(len(data) * keep) + 1]) + tail)
    except BadImage as error:
        assert str(error)
        assert "\n" not in str(error)
    else:
        assert image.pixels.mode in ("L", "RGB")
        image.shrunk()
