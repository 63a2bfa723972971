"""DICOM files: values through rescale, window and inversion; frames, colours, compression; hostile bytes.

Expected values are of the DICOM standard (PS3.3 C.7.6.3, C.11.1, C.11.2), worked out by hand, or pydicom's own.
"""

import hashlib
import io
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from medmim import errors
from medmim.data.sources import dicom_tags, roots
from medmim.data.sources.fragments import Fragment
from medmim.data.sources.image_file import decode
from medmim.data.sources.source import BadImage, Entry
from medmim.errors import UserError
from medmim.recipe.sources import Studies
from tests.support.dicom_files import PYDICOM, dicom, written
from tests.support.image_files import encoded

RAMP = np.array([[0, 1000, 2000], [3000, 4000, 4095]])


def levels(data: bytes, frame: int | None = None) -> NDArray[np.uint8]:
    return np.asarray(decode(data, None if frame is None else Fragment("frame", frame)).pixels)


def reason(data: bytes, fragment: Fragment | None = None) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, fragment)
    return str(caught.value)


def decoded_or_reason(data: bytes) -> object:
    try:
        return decode(data)
    except BadImage as error:
        return error


def test_a_window_says_what_is_black_and_white() -> None:
    data = dicom(RAMP, bits=12, WindowCenter=2000.5, WindowWidth=2001)
    assert levels(data).tolist() == [[0, 0, 128], [255, 255, 255]]


def test_without_a_window_twelve_bits_in_sixteen_are_shown_from_their_own_range() -> None:
    assert levels(dicom(RAMP, bits=12)).tolist() == [[0, 62, 125], [187, 249, 255]]


def test_eight_bits_without_a_window_stay_as_they_are() -> None:
    assert levels(dicom(np.array([[7, 50], [100, 200]]), bits=8)).tolist() == [[7, 50], [100, 200]]


def test_a_window_that_shows_nothing_is_not_used() -> None:
    data = dicom(RAMP, bits=12, WindowCenter=60000, WindowWidth=10)
    assert levels(data).tolist() == [[0, 62, 125], [187, 249, 255]]


@pytest.mark.parametrize("tags", [{"WindowCenter": 40, "WindowWidth": 0}, {"WindowCenter": 40}, {"WindowWidth": ""}])
def test_a_window_that_is_none_is_not_used(tags: dict[str, object]) -> None:
    assert levels(dicom(RAMP, bits=12, **tags)).tolist() == [[0, 62, 125], [187, 249, 255]]


def test_monochrome1_is_inverted() -> None:
    data = dicom(RAMP, bits=12, photometric="MONOCHROME1")
    assert levels(data).tolist() == [[255, 193, 130], [68, 6, 0]]


def test_signed_values_are_rescaled_before_the_window() -> None:
    stored = np.array([[-1000, 0], [40, 1000]])
    data = dicom(stored, signed=True, RescaleSlope=2, RescaleIntercept=-80, WindowCenter=0.5, WindowWidth=401)
    # Hounsfield units -2080, -80, 0, 1920; the window runs from -200 to 200
    assert levels(data).tolist() == [[0, 76], [128, 255]]


def test_padding_is_black_and_does_not_decide_the_range() -> None:
    stored = np.array([[-2000, -100, 0], [-2000, 50, 100]])
    data = dicom(stored, signed=True, PixelPaddingValue=-2000)
    assert levels(data).tolist() == [[0, 0, 128], [0, 191, 255]]
    inverted = dicom(stored, signed=True, photometric="MONOCHROME1", PixelPaddingValue=-2000)
    assert levels(inverted)[:, 0].tolist() == [0, 0]


def test_a_voi_table_is_used_before_a_window() -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 10, 8]
    table.add_new("LUTData", "US", [0, 255, 128, 64])
    data = dicom(np.array([[10, 11], [12, 13]]), VOILUTSequence=[table], WindowCenter=11, WindowWidth=4)
    assert levels(data).tolist() == [[0, 255], [128, 64]]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@settings(max_examples=20)
@given(centre=st.floats(-100, 5000), width=st.floats(10, 5000))
def test_windows_are_those_of_pydicom(function: str, centre: float, width: float) -> None:
    data = dicom(
        RAMP, bits=12, WindowCenter=round(centre, 3), WindowWidth=round(width, 3), VOILUTFunction=function,
        RescaleSlope="1.5", RescaleIntercept="-20",
    )  # fmt: skip
    file = pydicom.dcmread(io.BytesIO(data))
    shown = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file)
    low, high = -20.0, 4095 * 1.5 - 20
    expected = (shown - low) / (high - low) * 255
    if expected.max() - expected.min() > 1:
        assert np.abs(levels(data) - expected).max() <= 0.51


def test_an_enhanced_file_has_a_window_for_each_frame() -> None:
    def group(centre: float) -> Dataset:
        voi, item = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 2
        item.FrameVOILUTSequence = [voi]
        return item

    data = dicom(
        np.array([RAMP, RAMP]), bits=12, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=[group(1500), group(3500)]
    )
    assert (levels(data, 0) > 127).sum() == 4
    assert (levels(data, 1) > 127).sum() == 2


def test_a_frame_is_chosen_and_has_an_id_of_its_own() -> None:
    frames = np.array([RAMP, RAMP[:, ::-1]])
    data = dicom(frames, bits=12, NumberOfFrames=2)
    assert (levels(data, 0) == levels(data, 1)[:, ::-1]).all()
    digest = hashlib.sha256(data).hexdigest()
    assert decode(data, Fragment("frame", 1)).id == f"sha256:{hashlib.sha256(f'{digest} frame=1'.encode()).hexdigest()}"
    assert "2 frames where one image is expected" in reason(data)
    assert "#frame=2 is not among its 2 frames" in reason(data, Fragment("frame", 2))
    assert "#axial=0 names a slice of a volume" in reason(data, Fragment("axial", 0))


def test_the_only_frame_is_the_whole_file() -> None:
    data = dicom(RAMP, bits=12)
    assert decode(data).id == decode(data, Fragment("frame", 0)).id == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_pixels_that_are_not_square_are_made_so() -> None:
    assert levels(dicom(np.eye(8, 4), bits=8, PixelSpacing=[0.5, 1.0])).shape == (8, 8)
    assert levels(dicom(np.eye(8, 4), bits=8, PixelSpacing=[0.5, 0.5])).shape == (8, 4)
    assert "square ones are more than" in reason(dicom(np.eye(8, 4), bits=8, PixelSpacing=["0.0000001", "1"]))


def test_left_stays_left() -> None:
    picture = np.zeros((4, 6))
    picture[0, 0] = 255
    assert np.argwhere(levels(dicom(picture, bits=8)) == 255).tolist() == [[0, 0]]


CYCLES = [  # of pydicom's own tests: one picture of 100 x 100, in bands, stored in many ways
    "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+n2.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm", "SC_ybr_full_422_uncompressed.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", CYCLES)
def test_colours_are_those_of_the_picture_however_they_are_stored(name: str) -> None:
    found = levels((PYDICOM / name).read_bytes())
    assert found.shape == (100, 100, 3)
    shown = [found[row, 50].astype(int) for row in (5, 15, 25)]
    for colour, pure in zip(shown, ([255, 0, 0], [255, 128, 128], [0, 255, 0]), strict=True):
        assert np.abs(colour - pure).max() < 8


def test_a_palette_becomes_colours() -> None:
    file = pydicom.dcmread(PYDICOM / "examples_palette.dcm")
    lut = [np.frombuffer(file[f"{name}PaletteColorLookupTableData"].value, "<u2") for name in ("Red", "Green", "Blue")]
    found = levels((PYDICOM / "examples_palette.dcm").read_bytes())
    for row, column in ((0, 0), (100, 100), (200, 600)):
        index = int(file.pixel_array[row, column])
        assert found[row, column].tolist() == [int(table[index]) >> 8 for table in lut]


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"],
)
def test_a_lossless_compression_changes_no_pixel(name: str) -> None:
    plain = levels((PYDICOM / "MR_small.dcm").read_bytes())
    assert (levels((PYDICOM / f"{name}.dcm").read_bytes()) == plain).all()
    assert plain.std() > 20


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_its_header_is_read(implicit: bool) -> None:
    file = pydicom.dcmread(PYDICOM / "CT_small.dcm")
    del file.file_meta, file.preamble
    out = io.BytesIO()
    pydicom.dcmwrite(out, file, implicit_vr=implicit, little_endian=True)
    assert out.getvalue().startswith(b"\x08\0\x05\0")
    assert (levels(out.getvalue()) == levels((PYDICOM / "CT_small.dcm").read_bytes())).all()


def test_a_file_is_told_by_its_bytes() -> None:
    from PIL import Image

    picture = Image.new("L", (3, 3), 5)
    png = encoded(picture, "PNG")
    assert decode(png, Fragment("frame", 0)).format == "PNG"  # under the name x.dcm
    assert decode(png, Fragment("frame", 0)).id == decode(png).id
    assert "this is neither" in reason(png, Fragment("axial", 0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reportsi.dcm", "a DICOM file without pixels (Basic Text SR Storage)"),
        ("JPGExtended.dcm", "pip install pylibjpeg-libjpeg"),
        ("MR_truncated.dcm", "less than expected"),
    ],
)
def test_a_file_that_cannot_be_shown_says_why(name: str, words: str) -> None:
    assert words in reason((PYDICOM / name).read_bytes())


def test_a_video_is_named() -> None:
    file = pydicom.dcmread(io.BytesIO(dicom(RAMP)))
    file.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    file.PixelData = pydicom.encaps.encapsulate([b"\0" * 10])
    file["PixelData"].is_undefined_length = True
    assert "MPEG-4" in reason(written(file)) and "not read" in reason(written(file))


def test_too_many_pixels_are_refused_by_the_header() -> None:
    assert "more than 50,000,000" in reason(dicom(RAMP, Rows=60000, Columns=60000))
    assert "of 3 x 0 pixels" in reason(dicom(RAMP, Rows=0))
    assert "without Rows" in reason(dicom(RAMP, Rows=None))


def test_a_compressed_picture_larger_than_the_header_says_is_refused() -> None:
    file = pydicom.dcmread(PYDICOM / "SC_rgb_jpeg_dcmtk.dcm")
    file.Rows = 50
    assert "the header says 100 x 50 pixels" in reason(written(file))
    file = pydicom.dcmread(PYDICOM / "MR_small_jp2klossless.dcm")
    file.Columns = 32
    assert "the header says 32 x 64 pixels" in reason(written(file))


@pytest.mark.parametrize("length", [0, 1, 7, 1000])
def test_a_broken_box_around_jpeg_2000_is_refused_and_a_sound_one_is_read(length: int) -> None:
    file = pydicom.dcmread(PYDICOM / "MR_small_jp2klossless.dcm")
    stream = pydicom.encaps.get_frame(file.PixelData, 0, number_of_frames=1)
    stream = stream[stream.index(b"\xff\x4f\xff\x51") :]
    first = b"\0\0\0\x0cjP  \r\n\x87\n"
    file.PixelData = pydicom.encaps.encapsulate([first + length.to_bytes(4) + b"ftyp" + b"\0\0\0\0jp2c" + stream])
    assert "without a size" in reason(written(file))
    sound = first + (12).to_bytes(4) + b"ftypjp2 " + (8 + len(stream)).to_bytes(4) + b"jp2c" + stream
    file.PixelData = pydicom.encaps.encapsulate([sound])
    assert "without a size" not in str(decoded_or_reason(written(file)))


def test_a_deflated_file_is_read_and_a_bomb_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (PYDICOM / "image_dfl.dcm").read_bytes()
    assert levels(data).shape == (512, 512)
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = data[:start] + packer.compress(bytes(20 << 20)) + packer.flush()
    monkeypatch.setattr("medmim.data.sources.dicom._LARGEST", 10 << 20)
    assert "more than 10,485,760 bytes" in reason(bomb)
    with pytest.raises(BadImage, match="more than 10,485,760 bytes"):
        dicom_tags.read(bomb)  # its tags are asked before its pixels


def test_tags_are_read_of_the_header_alone_and_are_those_of_the_whole_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of pydicom's own files, in all transfer syntaxes, wherever the first bytes end."""
    root = roots.opened(Entry(Studies(name="studies", root=str(PYDICOM))))
    shortened = 0
    for path in sorted(PYDICOM.glob("*.dcm")):
        data = path.read_bytes()
        for size in (200, 1000, 1 << 16) if len(data) < 1 << 20 else (1 << 16,):
            monkeypatch.setattr(dicom_tags, "HEAD", size)
            head = dicom_tags.head(root, path.name)
            assert said(head) == said(data), (path.name, size)
            shortened += len(head) < len(data)
    assert shortened > 20


def said(data: bytes) -> object:
    try:
        return dicom_tags.read(data), dicom_tags.frames(data)
    except BadImage as error:
        return str(error)


def test_run_lengths_longer_than_the_picture_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file = pydicom.dcmread(PYDICOM / "MR_small_RLE.dcm")
    monkeypatch.setattr("medmim.data.sources.dicom._LARGEST", 1 << 20)
    frame = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\x00" * 20_000
    file.PixelData = pydicom.encaps.encapsulate([frame])
    assert "longer than the picture" in reason(written(file))


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> object:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(errors.importlib, "import_module", without)
    with pytest.raises(UserError) as caught:
        decode(dicom(RAMP))
    assert caught.value.fix == "pip install 'medmim[data]'" and "pydicom" in caught.value.fact


@pytest.mark.parametrize(("name", "at"), [("JPEGLSNearLossless_08.dcm", 6), ("SC_rgb_jpeg_gdcm.dcm", 17)])
def test_gdcm_cannot_end_this_process(name: str, at: int) -> None:
    file = pydicom.dcmread(PYDICOM / name)
    frame = bytearray(pydicom.encaps.get_frame(file.PixelData, 0, number_of_frames=1))
    frame[at] = 0xFF
    file.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
    assert "GDCM ends its process" in reason(written(file))
    assert levels((PYDICOM / name).read_bytes()).size


SMALL = [
    (PYDICOM / name).read_bytes()
    for name in (
        "MR_small.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jp2klossless.dcm",
        "SC_rgb_small_odd_jpeg.dcm", "image_dfl.dcm",
    )
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, len(SMALL) - 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=6),
    st.booleans(),
    st.floats(0.1, 5),
)
def test_damaged_files_are_bad_images_or_pictures(
    which: int, edits: list[tuple[float, int, bytes]], in_header: bool, kept: float
) -> None:
    damaged = bytearray(SMALL[which])
    for place, cut, put in edits:
        at = int(place * min(len(damaged), 1500 if in_header else 10**9))
        damaged[at : at + cut] = put
    damaged = damaged[: int(kept * len(damaged))]
    try:
        found = decode(bytes(damaged), Fragment("frame", 0))
    except BadImage as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert found.pixels.mode in ("L", "RGB")
