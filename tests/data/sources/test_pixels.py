"""16-bit colours and alpha, and pictures of which nothing is left; the files are written here byte by byte.

Pillow writes no 16-bit colours, and what decodes them must not also say what they are.
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medmim.data.sources.image_file import decode
from medmim.data.sources.source import BadImage
from tests.support.image_files import chunk, encoded, png, tiff

Words = NDArray[np.uint16]
GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # colour types of PNG
RAMP = np.add.outer(np.arange(40) * 30, np.arange(60) * 40).astype(np.uint16)  # 0 to 3530: 12 bits
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1] // 2], axis=-1)


def with_alpha(words: Words, alpha: Words | int) -> Words:
    colours = words if words.ndim == 3 else words[..., None]
    return np.concatenate([colours, np.broadcast_to(alpha, words.shape[:2])[..., None]], axis=-1).astype(np.uint16)


def scaled(words: Words) -> NDArray[np.float64]:
    """0..255 from the minimum to the maximum of all channels."""
    return (words - words.min()) * (255 / (words.max() - words.min()))


def stored(data: bytes) -> NDArray[np.float64]:
    return np.asarray(decode(data).pixels, float)


def planes(words: Words) -> list[Words]:
    return [words[..., i] for i in range(words.shape[-1])]


DEEP: dict[str, tuple[Callable[[], bytes], Words]] = {
    "PNG grey": (lambda: png(RAMP, GREY), RAMP),
    "PNG RGB": (lambda: png(COLOURS, RGB), COLOURS),
    "PNG RGB, interlaced": (lambda: png(COLOURS, RGB, interlaced=True), COLOURS),
    "PNG grey and alpha": (lambda: png(with_alpha(RAMP, 0xFFFF), GREY_ALPHA), RAMP),
    "PNG grey and alpha, interlaced": (lambda: png(with_alpha(RAMP, 0xFFFF), GREY_ALPHA, interlaced=True), RAMP),
    "PNG grey and alpha of 12 bits": (lambda: png(with_alpha(RAMP, 0x0FFF), GREY_ALPHA), RAMP),
    "PNG RGB and alpha": (lambda: png(with_alpha(COLOURS, 0xFFFF), RGB_ALPHA), COLOURS),
    "TIFF RGB": (lambda: tiff(planes(COLOURS)), COLOURS),
    "TIFF RGB, big-endian": (lambda: tiff(planes(COLOURS), order=">"), COLOURS),
    "TIFF RGB, Deflate": (lambda: tiff(planes(COLOURS), squeezed=True), COLOURS),
    "TIFF RGB, Deflate, big-endian": (lambda: tiff(planes(COLOURS), order=">", squeezed=True), COLOURS),
    "TIFF RGB, planes": (lambda: tiff(planes(COLOURS), separate=True), COLOURS),
    "TIFF RGB, planes, big-endian": (lambda: tiff(planes(COLOURS), separate=True, order=">"), COLOURS),
    "TIFF RGB and alpha": (lambda: tiff(planes(with_alpha(COLOURS, 0xFFFF)), extra=2), COLOURS),
    "TIFF RGB and alpha in colours": (lambda: tiff(planes(with_alpha(COLOURS, 0xFFFF)), extra=1), COLOURS),
    "TIFF RGB and padding": (lambda: tiff(planes(with_alpha(COLOURS, 7)), extra=0), COLOURS),
    "TIFF grey": (lambda: tiff([RAMP], photometric=1), RAMP),
    "PPM": (lambda: b"P6 60 40 65535\n" + COLOURS.astype(">u2").tobytes(), COLOURS),
    "PPM as text": (lambda: b"P3 # made here\n60 40\n65535\n" + " ".join(map(str, COLOURS.ravel())).encode(), COLOURS),
}


@pytest.mark.parametrize("name", DEEP)
def test_twelve_bits_in_sixteen_keep_their_contrast(name: str) -> None:
    write, words = DEEP[name]
    assert np.abs(stored(write()) - scaled(words)).max() <= 0.51


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(9, 15),
    kind=st.sampled_from([GREY, RGB, GREY_ALPHA, RGB_ALPHA]),
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    interlaced=st.booleans(),
)
def test_any_depth_below_sixteen_bits_is_scaled(
    seed: int, bits: int, kind: int, size: tuple[int, int], interlaced: bool
) -> None:
    channels = 3 if kind in (RGB, RGB_ALPHA) else 1
    words = np.random.default_rng(seed).integers(0, 1 << bits, (*size, channels)).astype(np.uint16)
    words[0, 0], words[1, 1] = 0, (1 << bits) - 1
    written = with_alpha(words, 0xFFFF) if kind in (GREY_ALPHA, RGB_ALPHA) else words
    found = stored(png(written, kind, interlaced=interlaced))
    assert np.abs(found - (scaled(words) if channels == 3 else scaled(words)[..., 0])).max() <= 0.51


@pytest.mark.parametrize("kind", [RGB, GREY_ALPHA, RGB_ALPHA])
def test_sixteen_full_bits_are_stored_by_their_upper_eight(kind: int) -> None:
    words = COLOURS * 16 + 5
    words = words if kind != GREY_ALPHA else words[..., :1]
    found = stored(png(words if kind == RGB else with_alpha(words, 0xFFFF), kind))
    assert np.array_equal(found, np.broadcast_to(words >> 8, found.shape))


def test_a_ppm_that_says_its_maximum_is_scaled_by_it() -> None:
    found = stored(b"P6 60 40 4095\n" + COLOURS.astype(">u2").tobytes())
    assert np.abs(found - COLOURS * (255 / 4095)).max() <= 0.51


def test_planes_of_full_sixteen_bits_are_read_as_such() -> None:
    words = COLOURS * 16 + 5
    assert np.array_equal(stored(tiff(planes(words), separate=True)), words >> 8)


def test_compressed_planes_of_few_bits_are_refused_and_of_sixteen_bits_are_read() -> None:
    with pytest.raises(BadImage, match="save it as RGB"):
        decode(tiff(planes(COLOURS), separate=True, squeezed=True))
    words = COLOURS * 16 + 5
    assert np.array_equal(stored(tiff(planes(words), separate=True, squeezed=True)), words >> 8)


def test_inks_of_few_bits_are_refused() -> None:
    inks = planes(with_alpha(COLOURS, RAMP))
    with pytest.raises(BadImage, match="CMYK"):
        decode(tiff(inks, photometric=5))
    assert stored(tiff([ink * 16 for ink in inks], photometric=5)).std() > 10


def test_a_half_transparent_picture_of_twelve_bits_is_scaled_by_what_is_visible() -> None:
    alpha = np.where(np.arange(60) < 30, 0, 0xFFFF)
    words = RAMP.copy()
    words[:, :30] = 4000  # hidden colour, brighter than all that shows
    found = stored(png(with_alpha(words, alpha), GREY_ALPHA))
    assert not found[:, :30].any()
    assert np.abs(found[:, 30:] - scaled(RAMP[:, 30:])).max() <= 0.51


@pytest.mark.parametrize(("kind", "clear"), [(GREY, (3000,)), (RGB, (3000, 3000, 3000))])
def test_one_transparent_colour_of_sixteen_bits_becomes_black(kind: int, clear: tuple[int, ...]) -> None:
    words = RAMP.copy() if kind == GREY else np.repeat(RAMP[..., None], 3, axis=-1)
    words[words == 3000] = 3001
    words[:5] = 3000
    found = stored(png(words, kind, chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))))
    assert not found[:5].any()
    assert np.abs(found[5:] - scaled(words[5:])).max() <= 0.51


def test_white_is_zero_in_sixteen_bits_as_in_eight() -> None:
    assert np.abs(stored(tiff([RAMP], photometric=0)) - (255 - scaled(RAMP))).max() <= 0.51


def palette() -> Image.Image:
    """Every pixel is the last of four colours."""
    picture = Image.new("P", (9, 9), 3)
    picture.putpalette(range(12))
    return picture


CLEAR: dict[str, Callable[[], bytes]] = {
    "RGBA": lambda: encoded(Image.new("RGBA", (9, 9), (250, 200, 150, 0)), "PNG"),
    "grey and alpha": lambda: encoded(Image.new("LA", (9, 9), (250, 0)), "PNG"),
    "nearly clear": lambda: encoded(Image.new("RGBA", (9, 9), (250, 200, 150, 2)), "PNG"),
    "palette": lambda: encoded(palette(), "PNG", transparency=3),
    "palette, bytes": lambda: encoded(palette(), "PNG", transparency=b"\xff\xff\xff\0"),
    "GIF": lambda: encoded(palette(), "GIF", transparency=3),
    "WebP": lambda: encoded(Image.new("RGBA", (9, 9), (250, 200, 150, 0)), "WEBP", lossless=True, exact=True),
    "one colour of RGB": lambda: encoded(Image.new("RGB", (9, 9), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
    "one level of grey": lambda: encoded(Image.new("L", (9, 9), 250), "PNG", transparency=250),
    "TIFF": lambda: encoded(Image.new("RGBA", (9, 9), (250, 200, 150, 0)), "TIFF"),
    "16-bit grey and alpha": lambda: png(with_alpha(RAMP, 0), GREY_ALPHA),
    "16-bit RGB and alpha": lambda: png(with_alpha(COLOURS, 0), RGB_ALPHA),
    "16-bit TIFF, alpha in colours": lambda: tiff(planes(with_alpha(COLOURS * 0, 0)), extra=1),
    "one level of 16-bit grey": lambda: png(RAMP * 0 + 77, GREY, chunk(b"tRNS", struct.pack(">H", 77))),
    "one colour of 16-bit RGB": lambda: png(COLOURS * 0 + 77, RGB, chunk(b"tRNS", struct.pack(">3H", 77, 77, 77))),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAR)
def test_a_picture_that_is_transparent_all_over_is_refused(name: str) -> None:
    with pytest.raises(BadImage, match="transparent all over"):
        decode(CLEAR[name]())


def test_colours_of_lab_are_stored_without_the_time_of_their_conversion() -> None:
    lab = encoded(Image.effect_noise((40, 30), 60).convert("RGB").convert("LAB"), "TIFF")
    assert b"acsp" not in decode(lab).shrunk() and b"iCCP" not in decode(lab).shrunk()


def test_a_transparent_colour_is_black_in_grey_and_rgb_too() -> None:
    picture = Image.fromarray((RAMP >> 4).astype(np.uint8))
    found = decode(encoded(picture, "PNG", transparency=90))
    hidden = (RAMP >> 4) == 90
    assert hidden.any() and not np.asarray(found.pixels)[hidden].any()
    assert np.array_equal(np.asarray(found.pixels)[~hidden], (RAMP >> 4)[~hidden])
    assert not found.as_stored


def test_a_transparent_colour_that_does_not_occur_changes_nothing() -> None:
    data = encoded(Image.fromarray((RAMP >> 4).astype(np.uint8)), "PNG", transparency=251)
    assert decode(data).shrunk() == data


@pytest.mark.parametrize("order", range(1, 9))
def test_deep_colours_are_turned_upright_like_others(order: int) -> None:
    """The eight orientations of EXIF, as its specification draws them: where the first line and column are."""
    exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, order, 0, 0)
    turned = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1], 5: COLOURS.transpose(1, 0, 2),
        6: COLOURS[::-1].transpose(1, 0, 2), 7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
        8: COLOURS[:, ::-1].transpose(1, 0, 2),
    }[order]  # fmt: skip
    assert np.abs(stored(png(COLOURS, RGB, chunk(b"eXIf", exif))) - scaled(turned)).max() <= 0.51


PROFILE = bytes(range(256)) * 8_192  # 2 MB that do not compress away by themselves
LARGE: dict[str, bytes] = {
    "profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(PROFILE)),
    "text": chunk(b"tEXt", b"Comment\0" + b"x" * 80_000_000),
    "compressed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3_000_000)),
    "international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 900_000)),
    "many texts": b"".join(chunk(b"zTXt", b"c%d\0\0" % i + zlib.compress(b"y" * 1_000_000)) for i in range(70)),
    "unknown compression of a profile": chunk(b"iCCP", b"icc\0\7" + zlib.compress(b"p")),
    "broken resolution": chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after them"])
def test_large_or_broken_metadata_does_not_make_a_picture_unreadable(name: str, after: bool) -> None:
    small = encoded(Image.fromarray((RAMP >> 4).astype(np.uint8)), "PNG")
    at = len(small) - 12 if after else 33  # before IEND, behind IHDR
    data = small[:at] + LARGE[name] + small[at:]
    found = decode(data)
    assert np.array_equal(np.asarray(found.pixels), RAMP >> 4)
    kept = decode(found.shrunk())
    assert np.array_equal(np.asarray(kept.pixels), RAMP >> 4)


def test_a_large_profile_is_not_passed_on_to_the_stored_picture() -> None:
    picture = Image.effect_noise((600, 500), 80)
    found = decode(encoded(picture, "TIFF", icc_profile=PROFILE))
    assert decode(found.shrunk()).pixels.size == (512, 427)
    assert len(found.shrunk()) < len(PROFILE)
