"""NIfTI volumes: which way a slice lies, how bright it is, which slices show a tumor; odd affines and hostile bytes."""

import gzip
import hashlib
import io
import itertools
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medmim.data.sources import nifti
from medmim.data.sources.fragments import PLANES, Fragment
from medmim.data.sources.image_file import decode, decode_all
from medmim.data.sources.source import BadImage
from tests.support.dicom_files import NIBABEL
from tests.support.dicom_files import nifti as volume

SIDES = (20, 24, 28)  # to the right, the front, up


def head() -> NDArray[np.int16]:
    """A head without symmetry: marks at its right, front and top ends."""
    voxels = np.zeros(SIDES, np.int16)
    voxels[4:16, 4:20, 4:24] = 300
    voxels[15, 8:15, 9:14] = 1000  # right
    voxels[9:11, 19, 16:18] = 700  # front
    voxels[8:12, 11:13, 23] = 500  # top
    return voxels


def picture(data: bytes, plane: str, index: int) -> NDArray[np.uint8]:
    return np.asarray(decode(data, Fragment(plane, index)).pixels)


THIRD = Fragment("axial", 3)


def reason(data: bytes, fragment: Fragment | None = THIRD) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, fragment)
    return str(caught.value)


def test_right_is_on_the_left_and_front_and_top_are_up() -> None:
    data = volume(head())
    axial = picture(data, "axial", 11)
    assert axial.shape == (24, 20)  # rows front to back, columns right to left
    assert np.argwhere(axial == 255)[:, 1].tolist() == [4] * 7  # the mark of the right: 4 columns from the left
    front = picture(data, "axial", 16)
    assert set(np.argwhere(front > 140)[:, 0]) == {4}  # the mark of the front: near the top
    coronal = picture(data, "coronal", 11)
    assert coronal.shape == (28, 20)
    assert set(np.argwhere(coronal == 255)[:, 1]) == {4}
    assert set(np.argwhere((coronal > 100) & (coronal < 255))[:, 0]) == {4}  # the mark of the top
    sagittal = picture(data, "sagittal", 10)
    assert sagittal.shape == (28, 24)  # rows top to bottom, columns front to back
    assert set(np.argwhere(sagittal[:, :6] > 140)[:, 1]) == {4}


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_one_patient_gives_one_picture_in_whatever_order_it_is_stored(flips: tuple[int, int, int]) -> None:
    zooms = (1, 1.5, 2)  # mm to the right, the front, up
    straight = volume(head(), np.diag([*zooms, 1]))
    for order in itertools.permutations(range(3)):
        stored = head()[:: flips[0], :: flips[1], :: flips[2]].transpose(order)
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, of in enumerate(order):
            affine[of, axis] = flips[of] * zooms[of]
            if flips[of] < 0:
                affine[of, 3] = (SIDES[of] - 1) * zooms[of]
        assert np.allclose(nibabel.as_closest_canonical(nibabel.Nifti1Image(stored, affine)).get_fdata(), head())
        turned = volume(np.ascontiguousarray(stored), affine)
        for plane, index in (("axial", 11), ("coronal", 11), ("sagittal", 15)):
            assert (picture(turned, plane, index) == picture(straight, plane, index)).all()


def test_a_slice_of_lumieres_atlas_is_the_picture_that_med_mim_made() -> None:
    """Their code shows `vol[:, S, :].T[::-1, :]` of volumes in L,A,S order."""
    stored = head()[::-1]
    affine = np.diag([-1.0, 1, 1, 1])
    theirs = stored[:, 11, :].T[::-1, :]
    ours = picture(volume(np.ascontiguousarray(stored), affine), "coronal", 11)
    assert (np.argsort(np.unique(theirs)) == np.argsort(np.unique(ours))).all()
    assert (np.unique(theirs, return_inverse=True)[1] == np.unique(ours, return_inverse=True)[1]).all()


def test_an_oblique_volume_is_cut_along_its_own_axes() -> None:
    turn = np.eye(4)
    angle = np.radians(20)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert (picture(volume(head(), turn), "axial", 11) == picture(volume(head()), "axial", 11)).all()


def test_voxels_that_are_not_square_are_made_so() -> None:
    data = volume(head(), np.diag([1.0, 1, 3, 1]))
    assert picture(data, "axial", 11).shape == (24, 20)
    assert picture(data, "coronal", 11).shape == (84, 20)
    assert "square ones are more than" in reason(volume(head(), np.diag([1.0, 2e-6, 1, 1])))


def test_brightness_is_one_for_the_whole_volume() -> None:
    voxels = np.zeros((10, 10, 10), np.float32)
    voxels[:, :, 5] = 100
    voxels[2:8, 2:8, 6] = 50
    data = volume(voxels)
    assert set(np.unique(picture(data, "axial", 5))) == {255}
    assert set(np.unique(picture(data, "axial", 6))) == {0, 128}


def test_a_few_bright_voxels_do_not_make_the_rest_dark() -> None:
    voxels = np.tile(np.linspace(0, 100, 40, dtype=np.float32), (40, 40, 1))
    voxels[0, 0, 0] = 1e6
    assert picture(volume(voxels), "sagittal", 20).max() > 250


def test_values_are_scaled_and_what_is_no_number_is_black() -> None:
    voxels = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], np.int16)
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(-1, 10)
    assert picture(image.to_bytes(), "axial", 0).tolist() == picture(volume(7 - voxels), "axial", 0).tolist()
    broken = voxels.astype(np.float32)
    broken[1, 1, 0] = np.nan
    broken[0, 0, 0] = np.inf
    found = picture(volume(broken), "axial", 0)
    assert found[0, 0] == 0 and found[1, 1] == 0 and (found > 0).sum() == 2
    assert "no numbers" in reason(volume(np.full((4, 4, 4), np.nan, np.float32)))
    assert "one value" in reason(volume(np.full((4, 4, 4), 7, np.int16)))


def affine_with(row: int, column: int, value: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[row, column] = value
    return affine


def written(affine: NDArray[np.float64]) -> bytes:
    """A volume whose sform is this, which nibabel would not write."""
    image = nibabel.Nifti1Image(head(), np.eye(4))
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = affine[row]
    return bytes(image.header.binaryblock) + bytes(4) + head().tobytes(order="F")


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (affine_with(0, 0, np.nan), "NaN or infinite"),
        (affine_with(1, 3, np.inf), "NaN or infinite"),
        (affine_with(2, 2, 0), "singular"),
        (np.zeros((4, 4)), "singular"),
        (affine_with(0, 1, 1), "sheared"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "sheared"),
    ],
)
def test_an_affine_that_says_no_directions_is_refused(affine: NDArray[np.float64], words: str) -> None:
    assert words in reason(written(affine))
    assert picture(written(np.eye(4)), "axial", 11).max() == 255


def test_a_volume_without_directions_is_refused() -> None:
    image = nibabel.Nifti1Image(head(), None)
    assert "neither sform nor qform" in reason(image.to_bytes())


def test_a_volume_needs_a_slice() -> None:
    data = volume(head())
    assert "name a slice in the path, such as #axial=14" in reason(data, None)
    assert "not #frame=0" in reason(data, Fragment("frame", 0))
    assert "#sagittal=20 is not among its 20 slices" in reason(data, Fragment("sagittal", 20))


def test_what_is_not_one_volume_of_numbers_is_refused() -> None:
    assert "a series of volumes (17 x 21 x 3 x 20)" in reason((NIBABEL / "functional.nii").read_bytes())
    assert "in another file" in reason((NIBABEL / "nifti1.hdr").read_bytes())
    assert "not numbers" in reason(volume(np.ones((3, 3, 3), np.complex64)))
    one = volume(head()[..., None])
    assert (picture(one, "axial", 11) == picture(volume(head()), "axial", 11)).all()


def test_a_real_scan_is_read_in_both_versions_and_orders_of_bytes() -> None:
    data = (NIBABEL / "anatomical.nii").read_bytes()
    scan = nibabel.Nifti1Image.from_bytes(data)
    expected = nibabel.as_closest_canonical(scan).get_fdata()[::-1, ::-1, 12].T
    found = picture(data, "axial", 12).astype(float)
    assert found.shape == expected.shape
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    two = nibabel.Nifti2Image(scan.get_fdata(dtype=np.float32), scan.affine)
    swapped = nibabel.Nifti1Image(scan.get_fdata(dtype=np.float32), scan.affine).to_bytes()
    other = nibabel.Nifti1Image(np.asarray(scan.dataobj), scan.affine, scan.header.as_byteswapped())
    assert (picture(two.to_bytes(), "axial", 12) == picture(swapped, "axial", 12)).all()
    assert (picture(other.to_bytes(), "axial", 12) == picture(data, "axial", 12)).all()


def test_ids_are_of_file_and_slice() -> None:
    data = volume(head())
    digest = hashlib.sha256(data).hexdigest()
    for fragment in (Fragment("axial", 3), Fragment("coronal", 3)):
        expected = hashlib.sha256(f"{digest} {fragment}".encode()).hexdigest()
        assert decode(data, fragment).id == f"sha256:{expected}"


def test_many_slices_are_of_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[int] = []
    read = nifti.read
    monkeypatch.setattr(nifti, "read", lambda data: readings.append(1) or read(data))
    found = list(decode_all(volume(head()), [Fragment(plane, i) for plane in PLANES for i in (9, 10, 99)]))
    assert len(readings) == 1
    assert [isinstance(one, BadImage) for one in found] == [False, False, True] * 3


def test_slices_of_extent_counts_the_voxels_of_labels() -> None:
    labels = np.zeros(SIDES, np.uint8)
    labels[2:6, 10, 3:7] = 1  # 16 voxels in coronal slice 10
    labels[2:6, 11, 3:8] = 2  # 20
    labels[2:6, 12, 3:15] = 3  # another label
    labels[0, 13, 0] = 1
    for data in (volume(labels), volume(labels[:, ::-1], [[1, 0, 0, 0], [0, -1, 0, 23], [0, 0, 1, 0], [0, 0, 0, 1]])):
        assert nifti.slices_of_extent(data, (1, 2), "coronal", 0) == {10: 16, 11: 20, 13: 1}
        assert nifti.slices_of_extent(data, (1, 2), "coronal", 16) == {11: 20}
        assert nifti.slices_of_extent(data, (3,), "axial", 3) == dict.fromkeys(range(3, 15), 4)
    with pytest.raises(BadImage, match="not a NIfTI volume"):
        nifti.slices_of_extent(b"patient,label\n", (1,), "axial", 0)
    with pytest.raises(BadImage, match="cut off"):
        nifti.slices_of_extent(volume(labels, packed=False)[:-9], (1,), "axial", 0)


def test_a_bomb_is_not_inflated() -> None:
    header = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).header
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        file.write(bytes(header.binaryblock) + bytes(4))
        for _ in range(64):
            file.write(bytes(1 << 20))
    bomb = out.getvalue()
    tracemalloc.start()
    assert "one value" in reason(bomb)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    header.set_data_shape((30000, 30000, 30000))
    large = bytes(header.binaryblock) + bytes(999)
    assert "more than 1,073,741,824" in reason(large) and "more than 1,073,741,824" in reason(gzip.compress(large))


REAL = [(NIBABEL / name).read_bytes() for name in ("standard.nii.gz", "resampled_anat_moved.nii")] + [volume(head())]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, len(REAL) - 1),
    st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=5)), min_size=1, max_size=6),
    st.booleans(),
    st.floats(0.1, 5),
)
def test_damaged_volumes_are_bad_images_or_pictures(
    which: int, edits: list[tuple[float, bytes]], in_header: bool, kept: float
) -> None:
    inner = bytearray(gzip.decompress(REAL[which]) if REAL[which][:1] == b"\x1f" else REAL[which])
    for place, put in edits:
        at = int(place * min(len(inner), 348 if in_header else 10**9))
        inner[at : at + len(put)] = put
    data = bytes(inner) if which else gzip.compress(bytes(inner))
    for fragment in (Fragment("axial", 1), Fragment("coronal", 1)):
        try:
            found = decode(data[: int(kept * len(data))], fragment)
        except BadImage as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert found.pixels.mode == "L"
