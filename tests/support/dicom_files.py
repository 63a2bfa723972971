"""Writes small DICOM files and NIfTI volumes, and finds those that pydicom and nibabel bring for their own tests."""

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"


def dicom(
    values: NDArray[Any], bits: int = 16, signed: bool = False, photometric: str = "MONOCHROME2", **tags: Any
) -> bytes:
    """An uncompressed file.

    Args:
        values: Rows x columns, x 3 of colours; before them frames, where `tags` have NumberOfFrames.
        bits: Stored of 8 or 16 bits.
        signed: Whether they have a sign.
        photometric: Photometric Interpretation.
        tags: Further elements; None leaves one out.
    """
    frames = "NumberOfFrames" in tags
    size = 1 if bits <= 8 else 2
    file = pydicom.Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = values.shape[1:3] if frames else values.shape[:2]
    file.SamplesPerPixel = 3 if values.ndim - frames == 3 else 1
    if file.SamplesPerPixel == 3:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = photometric
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8 * size, bits, bits - 1, int(signed)
    stored = values.astype(f"<{'i' if signed else 'u'}{size}").tobytes()
    file.PixelData = stored + b"\0" * (len(stored) % 2)
    file["PixelData"].VR = "OW" if size == 2 else "OB"
    for name, value in tags.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    return written(file)


def written(file: Any) -> bytes:
    """The bytes of a data set, as pydicom writes them."""
    out = io.BytesIO()
    pydicom.dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()


def nifti(voxels: NDArray[Any], affine: Any = None, packed: bool = True) -> bytes:
    """A volume, by default with axes to the right, the front and up, of 1 mm."""
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else np.asarray(affine, float))
    data: bytes = image.to_bytes()
    if not packed:
        return data
    import gzip

    return gzip.compress(data, mtime=0)
