"""16-bit colours and alpha, and pictures of which nothing is left; the files are written here byte by byte.

Pillow writes no 16-bit colours, and what decodes them must not also say what they are.
"""

import io
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
from medmim.data.sources.pixels import BLANK
from medmim.data.sources.source import BadImage
from tests.support import shared_data
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
    assert decode(found.shrunk(512)).pixels.size == (512, 427)
    assert len(found.shrunk()) < len(PROFILE)


WIDE = np.add.outer(np.zeros(200), np.arange(256) * 16).astype(np.uint16)  # 0 to 4080


def at_random(count: int, value: int | list[int], base: int = 0) -> tuple[Words, NDArray[np.bool_]]:
    """The ramp from `base` on with some of its pixels replaced, and which."""
    words = WIDE + np.uint16(base)
    places = np.random.default_rng(count).choice(words.size, count, replace=False)
    words.flat[places] = value
    return words, np.isin(np.arange(words.size), places).reshape(words.shape)


def both_ends() -> tuple[Words, NDArray[np.bool_]]:
    words, outside = at_random(20, 65535, base=30_000)
    words[0, :9], outside[0, :9] = 0, True
    return words, outside


STRAYS: dict[str, Callable[[], tuple[Words, NDArray[np.bool_]]]] = {
    "one hot pixel": lambda: at_random(1, 65535),
    "one pixel that is a little hot": lambda: at_random(1, 17_000),
    "hot pixels": lambda: at_random(40, 40_000),
    "hot pixels of many values": lambda: at_random(48, list(range(17_000, 65_000, 1000))),
    "burnt-in letters": lambda: at_random(800, 65535),
    "letters with soft edges": lambda: at_random(900, [65535] * 500 + list(range(45_000, 65_000, 50))),
    "dead pixels": lambda: at_random(30, 0, base=28_000),
    "dark letters": lambda: at_random(900, 0, base=28_000),
    "dead and hot pixels": both_ends,
}
FORMS: dict[str, Callable[[Words], bytes]] = {
    "grey": lambda words: png(words, GREY),
    "RGB": lambda words: png(np.repeat(words[..., None], 3, axis=-1), RGB),
    "grey and alpha": lambda words: png(with_alpha(words, 0xFFFF), GREY_ALPHA),
    "RGB and alpha": lambda words: png(with_alpha(np.repeat(words[..., None], 3, axis=-1), 0xFFFF), RGB_ALPHA),
    "TIFF grey": lambda words: tiff([words], photometric=1),
    "TIFF planes": lambda words: tiff([words] * 3, separate=True),
    "PPM": lambda words: b"P6 256 200 65535\n" + np.repeat(words[..., None], 3, axis=-1).astype(">u2").tobytes(),
    "32 bits": lambda words: encoded(Image.fromarray(words.astype(np.int32)), "TIFF"),
    "floats": lambda words: encoded(Image.fromarray(words.astype(np.float32) / 7), "TIFF"),
}


@pytest.mark.parametrize("name", STRAYS)
@pytest.mark.parametrize("form", FORMS)
def test_a_few_stray_pixels_do_not_take_the_contrast_of_the_picture(name: str, form: str) -> None:
    words, outside = STRAYS[name]()
    high = words[~outside].max() >= 1 << 15  # colours that use all bits are stored by their upper eight
    wanted = (
        (words >> 8) if high and form not in ("grey", "TIFF grey", "32 bits", "floats") else scaled_by(words, outside)
    )
    found = stored(FORMS[form](words))
    found = found if found.ndim == 2 else found[..., 0]
    assert np.abs(found - wanted)[~outside].max() <= 2.1  # a thousandth of the picture is cut at either end
    if not high:
        assert found[~outside].std() > 70
        assert set(found[outside].tolist()) <= {0, 255}


def scaled_by(words: Words, outside: NDArray[np.bool_]) -> NDArray[np.float64]:
    inside = words[~outside].astype(float)
    return (words - inside.min()) * (255 / (inside.max() - inside.min()))


def test_alpha_of_few_bits_with_a_hot_pixel_does_not_darken_the_picture() -> None:
    alpha = np.full(WIDE.shape, 0x0FFF)
    alpha[7, 9] = 0xFFFF
    assert np.abs(stored(png(with_alpha(WIDE, alpha), GREY_ALPHA)) - scaled(WIDE)).max() <= 0.51


def test_inks_of_few_bits_are_refused_with_a_hot_pixel_too() -> None:
    inks = [WIDE.copy() for _ in range(4)]
    inks[0][3, 3] = 0xFFFF
    with pytest.raises(BadImage, match="CMYK"):
        decode(tiff(inks, photometric=5))


def plainly_scaled(words: Words) -> NDArray[np.float32]:
    """0..255 from minimum to maximum to the byte, as it was stored before strays were left out."""
    low, high = float(words.min()), float(words.max())
    return np.rint((words.astype(np.float32) - low) * (255.0 / (high - low)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(["uniform", "bell", "dark", "bright", "two"]),
    bits=st.integers(9, 16), size=st.integers(2, 90),
)  # fmt: skip
def test_an_ordinary_picture_is_scaled_from_its_own_minimum_and_maximum(
    seed: int, shape: str, bits: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    values = {
        "uniform": lambda: rng.random((size, size)),
        "bell": lambda: rng.normal(0.5, 0.15, (size, size)),
        "dark": lambda: rng.exponential(0.14, (size, size)),
        "bright": lambda: 1 - rng.exponential(0.14, (size, size)),
        "two": lambda: rng.choice([0.1, 0.9], (size, size)) + rng.normal(0, 0.03, (size, size)),
    }[shape]()
    words = (values.clip(0, 1) * ((1 << bits) - 1)).astype(np.uint16)
    if words.min() < words.max():
        assert np.array_equal(stored(png(words, GREY)), plainly_scaled(words))


@pytest.mark.parametrize("share", [0.03, 0.2, 0.5])
def test_what_covers_more_than_a_mark_is_part_of_the_picture(share: float) -> None:
    words, _ = at_random(int(WIDE.size * share), 65535)
    assert np.abs(stored(png(words, GREY)) - scaled(words)).max() <= 0.51


@pytest.mark.parametrize("count", [1, 40, 900])
def test_a_small_bright_object_on_black_keeps_its_shades(count: int) -> None:
    words = np.zeros((200, 256), np.uint16)
    words.flat[1000 : 1000 + count] = np.linspace(20_000, 60_000, count)
    assert np.abs(stored(png(words, GREY)) - scaled(words)).max() <= 0.51


@pytest.mark.parametrize("value", [0, 1, 500, 4095, 60_000, 65_535])
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_of_one_value_is_refused_or_stays_of_one_value(form: str, value: int) -> None:
    """Colours of all 16 bits keep their level, as 8 bits do; `gather` refuses those."""
    with pytest.raises(BadImage, match="all pixels of the image have one value"):
        if np.ptp(stored(FORMS[form](np.full((200, 256), value, np.uint16)))) == 0:
            raise BadImage(BLANK)


@pytest.mark.parametrize("value", [77, 4095, 60_000])
@pytest.mark.parametrize("kind", [GREY_ALPHA, RGB_ALPHA])
def test_a_shape_that_only_alpha_draws_is_seen(kind: int, value: int) -> None:
    words = np.full(RAMP.shape if kind == GREY_ALPHA else COLOURS.shape, value, np.uint16)
    alpha = np.where(np.add.outer(np.arange(40), np.arange(60)) < 40, 0, 0xFFFF)
    found = stored(png(with_alpha(words, alpha), kind))
    assert not found[alpha == 0].any() and (found[alpha > 0] >= 234).all()


@shared_data.needs("covid-chestxray")
def test_real_pictures_keep_their_bytes() -> None:
    """Of 8 bits as they are; of 12 bits, made of them, as their minimum and maximum say."""
    found = sorted((shared_data.FOLDER / "covid-chestxray" / "images").iterdir())
    for path in found[:: max(1, len(found) // 5)]:
        data = path.read_bytes()
        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))[::2, ::2]
        words = grey.astype(np.uint16) * 16 + 7
        assert np.array_equal(stored(png(words, GREY)), plainly_scaled(words)), path.name
        picture = Image.open(io.BytesIO(data))
        if picture.mode in ("L", "RGB"):
            assert decode(data).pixels.tobytes() == picture.tobytes(), path.name
