"""Cuts slices out of NIfTI volumes (.nii, .nii.gz), in the patient's directions and as a radiologist looks at them.

**Directions.** The affine of the header says which way each axis of the file runs (its sform, else its qform, as
nibabel chooses); the volume is turned to the nearest RAS+ order without resampling, so that one patient stored in any
order gives the same picture under the same index (`fragments`). A file without both, or whose affine has NaN, no volume
or a shear, is refused: its planes would be guesses, and left might be right.

**Display** is radiological: the patient's right is on the left of an axial or coronal picture, anterior is on top of an
axial one, superior on top of a coronal and of a sagittal one, anterior on the left of a sagittal one. Voxels that are
not square in a plane are made so.

**Brightness** is one for all slices of a volume: its 0.1th percentile becomes black, its 99.9th white, or its lowest
and highest value where these are equal. Med-MIM's own pictures of LUMIERE are darker: black is 0, white is 1.5 times
the mean above the 99.9th percentile. Voxels that are no number, as registration leaves them outside, are black.

A compressed file is inflated as far as its header says and no further.
"""

import gzip
import io
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medmim.data.sources import pixels
from medmim.data.sources.files import one_line
from medmim.data.sources.fragments import FRAME, PLANES, Fragment
from medmim.data.sources.source import BadImage
from medmim.errors import UserError, require

EXTRA = "data"
_LARGEST = 1 << 30  # bytes of a volume; 512 x 512 x 1,000 voxels of 16 bits have half of it
_HEADERS = {1: 348, 2: 540}  # bytes, by version
_PERCENTILES = (0.1, 99.9)
_COUNTED = 1 << 24  # voxels that the percentiles are taken of
_SHEAR = 0.1  # cosine between two axes; registered volumes are off by less
_FLAT = 1e-6  # mm; no voxel is so thin


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume in RAS+ order.

    Attributes:
        flat: The voxels in the order of the file.
        voxels: As stored, not yet scaled; x to the right, y to the front, z up. A view of the file.
        slope: Times this ...
        inter: ... plus this is the value of a voxel.
        spacing: Of the voxels along x, y and z, in mm.
    """

    flat: NDArray[Any]
    voxels: NDArray[Any]
    slope: float
    inter: float
    spacing: tuple[float, float, float]

    def values(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """The values of some voxels; NaN where they are no numbers."""
        with np.errstate(all="ignore"):
            found = stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.inter)
        found[~np.isfinite(found)] = np.nan
        return found


def is_nifti(data: bytes) -> bool:
    """Whether bytes are a NIfTI volume, compressed or not."""
    return _version(_head(data)) is not None


def read(data: bytes) -> Volume:
    """Read a volume.

    Args:
        data: The file.

    Raises:
        BadImage: Not one volume of numbers, too large, cut off, or an affine that says no directions.
        UserError: nibabel is not installed.
    """
    try:
        return _read(data)
    except (BadImage, UserError):
        raise
    except Exception as error:  # nibabel raises anything on hostile bytes
        raise BadImage(f"a broken NIfTI volume ({one_line(error)})") from None


def _read(data: bytes) -> Volume:
    nibabel: Any = require("nibabel", EXTRA)
    head = _head(data)
    version = _version(head)
    if version is None:
        raise BadImage("not a NIfTI volume")
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    header = kind.from_fileobj(io.BytesIO(head), check=False)
    if bytes(header["magic"])[:2] == b"ni":
        raise BadImage("a NIfTI header whose volume is in another file: save both as one .nii.gz")
    shape = tuple(int(side) for side in header.get_data_shape())
    shape = (*shape, *(1 for _ in range(3 - len(shape))))
    if len(shape) > 3 and any(side != 1 for side in shape[3:]):
        raise BadImage(f"a series of volumes ({' x '.join(map(str, shape))}), not one volume")
    shape = shape[:3]
    if min(shape) < 1:
        raise BadImage(f"a volume of {' x '.join(map(str, shape))} voxels")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise BadImage(f"voxels of the kind {dtype.name}, not numbers")
    start, size = header.get_data_offset() or _HEADERS[version] + 4, dtype.itemsize * shape[0] * shape[1] * shape[2]
    if not _HEADERS[version] <= start <= _LARGEST or size > _LARGEST:
        raise BadImage(f"a volume of {size:,} bytes, more than {_LARGEST:,}" if size > _LARGEST else "a broken header")
    body = _inflated(data, start + size)
    if len(body) < start + size:
        raise BadImage("the image is cut off")
    return _canonical(np.frombuffer(body, dtype, size // dtype.itemsize, start), shape, header)


def _canonical(flat: NDArray[Any], shape: tuple[int, ...], header: Any) -> Volume:
    from nibabel.orientations import apply_orientation, io_orientation

    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise BadImage("neither sform nor qform says how the volume lies in the patient")
    affine = np.asarray(header.get_best_affine(), np.float64)
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e9:
        raise BadImage("the affine has numbers that are none (NaN or infinite)")
    axes = affine[:3, :3]
    spacing = np.sqrt((axes**2).sum(axis=0))
    if spacing.min() < _FLAT:
        raise BadImage("the affine is singular: an axis of the volume has no length")
    cosines = (axes / spacing).T @ (axes / spacing)
    if np.abs(cosines - np.eye(3)).max() > _SHEAR:
        raise BadImage("the affine is sheared: axes of the volume are not perpendicular")
    turns = io_orientation(affine)
    slope, inter = header.get_slope_inter()
    order = np.argsort(turns[:, 0])
    return Volume(
        flat,
        apply_orientation(flat.reshape(shape, order="F"), turns),
        1.0 if slope is None else float(slope),
        0.0 if inter is None else float(inter),
        (float(spacing[order[0]]), float(spacing[order[1]]), float(spacing[order[2]])),
    )


def shown_range(volume: Volume) -> tuple[float, float]:
    """The values that become black and white in all slices of a volume.

    Raises:
        BadImage: All voxels have one value, or none is a number.
    """
    step = max(1, volume.flat.size // _COUNTED)
    values = volume.values(volume.flat[:: step | 1])  # odd, so that it is no divisor of the usual sides
    values = values[~np.isnan(values)]
    if not values.size:
        raise BadImage("pixels that are no numbers (NaN or infinite)")
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        raise BadImage(pixels.BLANK)
    return low, high


def cut(volume: Volume, shown: tuple[float, float], fragment: Fragment | None) -> Image.Image:
    """The picture of a slice, mode `L`.

    Args:
        volume: From `read`.
        shown: From `shown_range`.
        fragment: A plane and the index of a slice; see `fragments`.

    Raises:
        BadImage: There is no such slice, or it names none.
    """
    sides = dict(zip(PLANES, volume.voxels.shape, strict=True))
    if fragment is None or fragment.kind == FRAME:
        what = "" if fragment is None else f" and not #{fragment}"
        raise BadImage(f"a volume: name a slice in the path, such as #axial={sides['axial'] // 2}{what}")
    if fragment.index >= sides[fragment.kind]:
        raise BadImage(f"#{fragment} is not among its {sides[fragment.kind]} slices, which count from 0")
    axis = PLANES.index(fragment.kind)
    # the patient's right, front and top first; then rows are the later axis
    seen = np.moveaxis(volume.voxels, axis, 0)[fragment.index][::-1, ::-1].T
    low, high = shown
    values = np.nan_to_num(volume.values(seen), nan=low)
    picture = Image.fromarray(np.rint((values.clip(low, high) - low) * (255.0 / (high - low))).astype(np.uint8))
    across, down = (side for number, side in enumerate(volume.spacing) if number != axis)
    return pixels.square(picture, down, across)


def slices_of_extent(data: bytes, labels: Collection[int], plane: str, more_than: int) -> dict[int, int]:
    """The slices of a segmentation that show much of some labels, such as of a tumor.

    Med-MIM takes the slices of LUMIERE with more than 1,200 voxels of label 1 or 2 in the plane `coronal`.

    Args:
        data: The file of the segmentation.
        labels: Values that count.
        plane: `axial`, `coronal` or `sagittal`.
        more_than: Voxels that a slice must exceed.

    Returns:
        Index -> voxels of these labels, by index: the indexes of `fragments` in every volume of the same grid, in
        whatever order of axes it is stored.

    Raises:
        BadImage: As `read`, or bytes that are none.
        UserError: nibabel is not installed.
    """
    volume = read(data)
    wanted = np.asarray(sorted(labels), np.float32)
    axis = PLANES.index(plane)
    found = {}
    for index in range(volume.voxels.shape[axis]):
        count = int(np.isin(np.rint(volume.values(np.moveaxis(volume.voxels, axis, 0)[index])), wanted).sum())
        if count > more_than:
            found[index] = count
    return found


def _head(data: bytes) -> bytes:
    """The header of a file, inflated if need be; what comes of it where it is broken."""
    size = max(_HEADERS.values())
    if not data.startswith(b"\x1f\x8b"):
        return data[:size]
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[: 1 << 16], size)
    except zlib.error:
        return b""


def _version(head: bytes) -> int | None:
    """The version of NIfTI that a header has."""
    if len(head) >= _HEADERS[1] and head[344:348] in (b"n+1\0", b"ni1\0"):
        return 1
    if len(head) == _HEADERS[2] and head[4:8] in (b"n+2\0", b"ni2\0"):
        return 2
    return None


def _inflated(data: bytes, size: int) -> bytes:
    """The first bytes of a file."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        try:
            return file.read(size)
        except EOFError:
            return b""
