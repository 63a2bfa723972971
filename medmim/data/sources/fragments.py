"""Names one picture of a file that holds several: `FILE#KIND=INDEX`, the only place that knows this syntax.

    Imaging/Patient-001/week-000-1/CT1.nii.gz#coronal=87     slice 87 of a NIfTI volume, counted from the back
    cine.dcm#frame=3                                         the fourth frame of a multi-frame DICOM file

KIND is `frame`, `axial`, `coronal` or `sagittal`. INDEX is a whole number from 0, without leading zeros. Frames are
counted as in the file. Slices are counted in the patient's directions, whatever the order in which the file stores
them: `sagittal` from the patient's left to right, `coronal` from posterior to anterior, `axial` from inferior to
superior (the voxel index of the volume in RAS+ orientation). What follows the last `#` of a path and is not of this
form belongs to the file's name, so `scan#2.png` is a file.

`Source.read` and everything that opens a file get the path without the fragment; studies, samples, quarantine and
indexes hold it with the fragment.
"""

import re
from dataclasses import dataclass

PLANES = ("sagittal", "coronal", "axial")  # by the axis of a RAS+ volume that their index counts along
FRAME = "frame"
_PATH = re.compile(
    rf"(?P<file>.+)#(?P<kind>{FRAME}|{'|'.join(PLANES)})=(?P<index>0|[1-9]\d{{0,6}})", re.DOTALL | re.ASCII
)


@dataclass(frozen=True, slots=True)
class Fragment:
    """Which picture of a file is meant.

    Attributes:
        kind: `frame` or one of `PLANES`.
        index: From 0, below ten million.
    """

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind}={self.index}"


def parse(path: str) -> tuple[str, Fragment | None]:
    """The file of a path, and which picture in it; None where the path names a whole file."""
    found = _PATH.fullmatch(path)
    if found is None:
        return path, None
    return found["file"], Fragment(found["kind"], int(found["index"]))


def format_path(file: str, fragment: Fragment | None) -> str:
    """The path of a picture in a file; the inverse of `parse`.

    Raises:
        ValueError: `parse` would read another path or picture from it.
    """
    path = file if fragment is None else f"{file}#{fragment}"
    if parse(path) != (file, fragment):
        raise ValueError(f"{path!r} does not name {fragment or 'a whole file'} of {file!r}")
    return path
