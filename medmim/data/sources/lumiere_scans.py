"""Finds LUMIERE's pictures: coronal slices of the atlas volumes through the tumor, or PNG trees that others made.

A slice is taken where it shows more than `EXTENT` voxels of tumor in some week, as in Med-MIM; all weeks show it then.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from medmim.data.sources import nifti
from medmim.data.sources.fragments import Fragment, format_path
from medmim.data.sources.lumiere_ratings import Week, week
from medmim.data.sources.roots import Root
from medmim.data.sources.source import BadImage
from medmim.progress import bar
from medmim.sample import BadRow

SEQUENCES = {"ct1": "CT1", "t1": "T1", "t2": "T2", "flair": "FLAIR"}  # in names of files -> `Study.sequence`
EXTENT = 1200  # voxels of 1 mm in a coronal slice
_TUMOR = (1, 2)  # labels of DeepBraTumIA: enhancing; necrosis or non-enhancing. 3 is edema
_VOLUME = re.compile(
    r"(?P<patient>[^/]+)/(?P<week>[^/]+)/DeepBraTumIA-segmentation/atlas/"
    r"(skull_strip/(?P<sequence>ct1|t1|t2|flair)_skull_strip|segmentation/seg_mask)\.nii(\.gz)?"
)
_PICTURE = re.compile(
    r"(?:.*/)?(?P<sequence>ct1|t1|t2|flair)_LUMIERE_images_[^/]*/(?P<patient>[^/]+)/slice_(?P<slice>\d{1,4})/"
    r"(?P<week>[^/]+)\.png",
    re.ASCII,
)
Visit = tuple[str, Week]  # patient, week


@dataclass
class Scans:
    """The files of each week.

    Attributes:
        volumes: Visit -> sequence -> file of the volume.
        masks: Visit -> file of the segmentation.
        pictures: Visit -> sequence -> slice -> path of the picture.
        bad: Files that were quarantined.
        skipped: What was left out for another reason -> how often.
    """

    volumes: dict[Visit, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    masks: dict[Visit, str] = field(default_factory=dict)
    pictures: dict[Visit, dict[str, dict[int, str]]] = field(default_factory=lambda: defaultdict(dict))
    bad: list[BadRow] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def files(self) -> list[str]:
        """All files that pictures, or the choice of slices, come from."""
        shown = [path for own in self.pictures.values() for slices in own.values() for path in slices.values()]
        return [*(path for own in self.volumes.values() for path in own.values()), *self.masks.values(), *shown]


def volumes(root: Root, folder: str) -> Scans:
    """Find the atlas volumes below a folder that holds `Patient-001/week-000-1/...`.

    A week is kept that has a segmentation and a volume.
    """
    found = Scans()
    for path in root.names(folder):
        parts = _VOLUME.fullmatch(path.removeprefix(f"{folder}/") if folder else path)
        at = week(parts["week"]) if parts else None
        if parts is None:
            continue
        if at is None:
            found.skipped["files of a folder that names no week"] += 1
        elif parts["sequence"]:
            found.volumes[parts["patient"], at].setdefault(SEQUENCES[parts["sequence"]], path)
        else:
            found.masks.setdefault((parts["patient"], at), path)
    for visit in found.volumes.keys() ^ found.masks.keys():
        found.volumes.pop(visit, None)
        found.masks.pop(visit, None)
        found.skipped["weeks without a segmentation or without volumes"] += 1
    return found


def trees(root: Root, folder: str) -> Scans:
    """Find the pictures of trees `ct1_LUMIERE_images_*/Patient-001/slice_47/week_000-1.png` below a folder."""
    found = Scans()
    for path in root.names(folder):
        parts = _PICTURE.fullmatch(path)
        at = week(parts["week"]) if parts else None
        if parts and at is None:
            found.skipped["files of a folder that names no week"] += 1
        elif parts and at is not None:
            own = found.pictures[parts["patient"], at].setdefault(SEQUENCES[parts["sequence"]], {})
            own.setdefault(int(parts["slice"]), path)
    return found


def cut(scans: Scans, root: Root, count: int) -> None:
    """Choose the slices of each patient and give every volume its pictures.

    A segmentation that cannot be read is quarantined, and its week counts for nothing in the choice.

    Args:
        scans: From `volumes`; gets `pictures`.
        root: Where the segmentations are read from.
        count: At most this many slices of a patient.
    """
    extents: dict[str, set[int]] = defaultdict(set)
    with bar("tumor", len(scans.masks), "segmentations") as progress, ThreadPoolExecutor(os.cpu_count()) as pool:

        def slices(path: str) -> dict[int, int] | str:
            try:
                return nifti.slices_of_extent(root.read(path), _TUMOR, "coronal", EXTENT)
            except FileNotFoundError:
                return "the file is gone"
            except BadImage as error:
                return str(error)

        for (visit, path), shown in zip(scans.masks.items(), pool.map(slices, scans.masks.values()), strict=True):
            if isinstance(shown, str):
                scans.bad.append(BadRow(path, 0, "segmentation", shown))
            else:
                extents[visit[0]] |= shown.keys()
            progress.add()
    patients = {patient for patient, _ in scans.volumes}
    chosen = {patient: evenly(sorted(extents[patient]), count) for patient in patients}
    if none := sum(not indexes for indexes in chosen.values()):
        scans.skipped["patients without a slice that shows enough tumor"] += none
    for (patient, at), own in scans.volumes.items():
        for sequence, file in own.items():
            paths = {index: format_path(file, Fragment("coronal", index)) for index in chosen[patient]}
            scans.pictures[patient, at][sequence] = paths


def choose(scans: Scans, count: int) -> None:
    """Keep as many slices of each patient of a tree, evenly over those that there are."""
    there: dict[str, set[int]] = defaultdict(set)
    for (patient, _), own in scans.pictures.items():
        there[patient].update(*own.values())
    chosen = {patient: evenly(sorted(indexes), count) for patient, indexes in there.items()}
    for (patient, _), own in scans.pictures.items():
        for sequence, slices in own.items():
            own[sequence] = {index: slices[index] for index in chosen[patient] if index in slices}


def evenly(indexes: Sequence[int], count: int) -> list[int]:
    """At most as many of these, the first and the last among them; of one, the middle."""
    last, steps = len(indexes) - 1, count - 1
    if steps >= last:
        return list(indexes)
    return [indexes[(2 * i * last + steps) // (2 * steps)] for i in range(count)] if steps else [indexes[last // 2]]
