"""A look-alike of LUMIERE: brain MRI of four sequences over weeks as NIfTI, with tumor masks and expert ratings.

The enhancing tumor is as large as the ratings say: gone after a complete resection, larger where the disease
progresses.
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medmim.data.lookalike.pictures import layers
from medmim.data.lookalike.tables import Done, Row, Written, csv_text, turn, write
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import SIDES, SIZES, Plane, Scene

Volume = NDArray[np.uint8]

_RATING = (
    "Rating (according to RANO, PD: Progressive disease, SD: Stable disease, PR: Partial response, "
    "CR: Complete response, Pre-Op: Pre-Operative, Post-Op: Post-Operative)"
)
_RATIONALE = (
    "Rating rationale (CRET: complete resection of the enhancing tumor, PRET: partial resection of the enhancing "
    "tumor, T2-Progr.: T2-Progression, L: Lesion)"
)
_RATINGS = ("Patient", "Date", "LessThan3Months", "NonMeasurableLesions", _RATING, _RATIONALE)
_DEMOGRAPHICS = (
    "Patient", "Age at surgery (years)", "Sex", "Survival time (weeks)", "IDH (WT: wild type)", "IDH method",
    "MGMT qualitative", "MGMT quantitative",
)  # fmt: skip
_COMPLETENESS = (
    "Patient", "Timepoint", "CT1", "T1", "T2", "FLAIR", "DeepBraTumIA", "HD-GLIO-AUTO", "DeepBraTumIA-CoLlAGe",
    "HD-GLIO-AUTO-CoLlAGe",
)  # fmt: skip
_MR = (
    "Patient", "Timepoint", "Sequence", "Manufacturer", "Model", "Field strength", "Spacing", "Slice thickness",
    "Voxel size", "Slice count",
)  # fmt: skip
_FEATURES = (
    "Patient", "Time point", "Image", "Mask", "Label name", "Sequence", "diagnostics_Versions_PyRadiomics",
    "diagnostics_Mask-original_VoxelNum", "original_shape_MeshVolume", "original_firstorder_Mean",
)  # fmt: skip
_SEQUENCES = ("CT1", "T1", "T2", "FLAIR")
_LEVELS = {  # sequence -> brightness of white matter, cortex, midline, enhancing tumor, necrosis, edema
    "CT1": (0.50, 0.38, 0.70, 0.95, 0.22, 0.40),
    "T1": (0.60, 0.42, 0.15, 0.45, 0.25, 0.46),
    "T2": (0.32, 0.50, 0.95, 0.62, 0.85, 0.75),
    "FLAIR": (0.42, 0.55, 0.06, 0.65, 0.30, 0.90),
}
_ENHANCING, _NECROTIC, _EDEMA = 1, 2, 3  # labels of DeepBraTumIA
_VOLUMES = {_ENHANCING: "Enhancing_Core", _NECROTIC: "Necrotic_NonEnhancing", _EDEMA: "Edema_Compartment"}
_NAMED = {1: "Necrosis", 2: "Contrast-enhancing", 3: "Edema"}  # by the feature tables, which swap two of them
_SHAPE = (182, 218, 182)  # MNI, 1 mm
_AFFINE = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
_STEPS = (4, 4, 8)  # voxels of the atlas for one of the native images
_EXTENT = {  # size -> how far from its middle slice the tumor is drawn in which size
    "small": ((6, "small"),),
    "medium": ((12, "small"), (7, "medium")),
    "large": ((20, "small"), (15, "medium"), (9, "large")),
}
_MISSING = ("", "na", "NA", "N-A", "N/A")
_TURNS = (  # what is wrong with a patient's rows, in turn
    "", "blank behind", "two ratings in one", "rated None", "rating blank", "rated twice", "post before pre",
    "images elsewhere", "sequence missing", "one week", "", "value missing",
)  # fmt: skip


@dataclass
class _Visit:
    week: int
    part: int  # of a week with several scans; 0 for none
    rating: str
    rationale: str
    size: str | None  # of the enhancing tumor

    @property
    def name(self) -> str:
        return f"week-{self.week:03d}" + (f"-{self.part}" if self.part else "")


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of LUMIERE.

    Args:
        folder: To be made.
        patients: How many; patient N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each patient.

    Returns:
        What was written; `rows` are the ratings, `images` all NIfTI files.
    """
    tables: dict[str, list[Row]] = {name: [] for name in ("ratings", "people", "complete", "mr", "deep", "hd")}
    written = Written("lumiere", patients)
    for number in range(patients):
        _patient(folder, number, seed, tables, written)
        done()
    csvs = {
        "ExpertRating-v202211": (_RATINGS, "ratings", True),
        "Demographics_Pathology": (_DEMOGRAPHICS, "people", False),
        "MRinfo": (_MR, "mr", False),
        "datacompleteness": (_COMPLETENESS, "complete", False),
        "pyradiomics-deepbratumia-features": (_FEATURES, "deep", False),
        "pyradiomics-hdglioauto-features": (_FEATURES, "hd", False),
    }
    for name, (header, table, bom) in csvs.items():
        write(folder / f"LUMIERE-{name}.csv", csv_text(header, tables[table], bom))
    written.rows = len(tables["ratings"])
    written.dirty |= _dirty(tables)
    return written


def _patient(folder: Path, number: int, seed: int, tables: dict[str, list[Row]], written: Written) -> None:
    """Draw and write a patient's weeks and rows."""
    rng = stream(seed, "lumiere", number)
    name, trouble = f"Patient-{number + 1:03d}", turn(_TURNS, number)
    visits = _story(rng, trouble)
    side = rng.choice(SIDES)
    middle = rng.randrange(100, 117)
    rated = list(_rated(visits, trouble))
    surgery = next(visit.week for visit in visits if visit.rating == "Post-Op")
    for visit in rated:
        early = visit.rating in ("PD", "SD", "PR", "CR") and visit.week - surgery < 13
        tables["ratings"].append(
            {
                "Patient": name,
                "Date": visit.name,
                "LessThan3Months": "x" if early else "",
                "NonMeasurableLesions": "x" if visit.size == "small" else "",
                _RATING: visit.rating,
                _RATIONALE: visit.rationale,
            }
        )
    lost = _MISSING[number // len(_TURNS) // 3 % len(_MISSING)]
    missing = trouble == "value missing"
    methylated = rng.choice(("methylated", "not methylated", "na"))
    tables["people"].append(
        {
            "Patient": name,
            "Age at surgery (years)": lost if missing else rng.randrange(35, 80),
            "Sex": rng.choice(("male", "female")),
            "Survival time (weeks)": lost if missing else visits[-1].week + rng.randrange(4, 60),
            "IDH (WT: wild type)": rng.choice(("WT", "WT", "IDH1 neg, no sequencing")),
            "IDH method": rng.choice(("IHC", "sequencing")),
            "MGMT qualitative": methylated,
            "MGMT quantitative": f"{rng.randrange(9, 60)}%" if methylated == "methylated" else "na",
        }
    )
    for visit in visits:
        shown = replace(visit, week=visit.week + 1) if trouble == "images elsewhere" and visit is visits[-1] else visit
        left_out = "T1" if trouble == "sequence missing" and visit is visits[-1] else ""
        _week(folder, name, shown, [one for one in _SEQUENCES if one != left_out], (seed, number, side, middle), tables)
        written.images += len(list((folder / "Imaging" / name / shown.name).rglob("*.nii.gz")))


def _story(rng: random.Random, trouble: str) -> list[_Visit]:
    """Before and after surgery, then weeks in which the tumor grows, stays or shrinks; perhaps surgery again."""
    same_week = rng.random() < 0.5 or trouble == "post before pre"
    removed = rng.choice(("CRET", "PRET"))
    size = None if removed == "CRET" else "small"
    visits = [_Visit(0, int(same_week), "Pre-Op", "", "large")]
    if trouble == "one week":
        return [replace(visits[0], rating="Post-Op", rationale="PRET", size="medium", part=0)]
    visits.append(_Visit(0 if same_week else rng.randrange(1, 3), 2 * same_week, "Post-Op", removed, size))
    if trouble == "post before pre":  # the week without a suffix is the later one
        visits = [replace(visits[1], part=0), replace(visits[0], part=1)]
    week = visits[1].week
    for _ in range(rng.choice((1, 2, 2, 3))):
        week += rng.randrange(8, 20)
        rating, size = rng.choice(_next(size))
        visits.append(_Visit(week, 0, rating, "T2-Progr." if rating == "PD" and rng.random() < 0.2 else "", size))
    if size == "large" and rng.random() < 0.5:
        week += rng.randrange(2, 6)
        visits.append(_Visit(week, 0, "Pre-Op", "", "large"))
        removed = rng.choice(("CRET", "PRET"))
        visits.append(_Visit(week + 1, 0, "Post-Op", removed, None if removed == "CRET" else "small"))
    if trouble in ("blank behind", "two ratings in one", "rated None", "rating blank", "rated twice"):
        visits = visits[:2]  # the row in question comes behind these
        if trouble == "blank behind":
            return visits
        visits.append(_Visit(visits[1].week + 12, 0, "PD", "", "large"))
    return visits


def _next(size: str | None) -> list[tuple[str, str | None]]:
    """The ratings that may follow a size, and the size that each of them leaves."""
    number = -1 if size is None else SIZES.index(size)
    larger: list[tuple[str, str | None]] = [("PD", one) for one in SIZES[max(number + 1, 1) :]]
    smaller: list[tuple[str, str | None]] = [("PR", one) for one in SIZES[:number] if number > 0]
    same = [] if size is None else [("SD", size)]
    gone: list[tuple[str, str | None]] = [("CR", None)] if size != "large" else []
    return [*larger, *smaller, *same, *same, *gone]


def _rated(visits: list[_Visit], trouble: str) -> Iterator[_Visit]:
    """What the table says of the weeks."""
    last = visits[-1]
    for visit in visits:
        if trouble == "blank behind" and visit.rating == "Post-Op":
            yield replace(visit, rating="Post-Op ")
        elif trouble == "rated twice" and visit is last:
            yield replace(visit, rating="SD")
            yield visit
        elif trouble in _WRITTEN and visit is last:
            yield replace(visit, rating=_WRITTEN[trouble])
        else:
            yield visit


_WRITTEN = {"two ratings in one": "Post-Op/PD", "rated None": "None", "rating blank": ""}


def _week(
    folder: Path,
    patient: str,
    visit: _Visit,
    sequences: list[str],
    who: tuple[int, int, str, int],
    tables: dict[str, list[Row]],
) -> None:
    """Write the images, masks and rows of a week."""
    week = folder / "Imaging" / patient / visit.name
    deep, hd = week / "DeepBraTumIA-segmentation", week / "HD-GLIO-AUTO-segmentation"
    labels = _labels(visit, who)
    _nifti(deep / "atlas/segmentation/seg_mask.nii.gz", labels, _AFFINE)
    counts = {label: int(np.count_nonzero(labels == label)) for label in _VOLUMES}
    volumes = {name: float(counts[label]) for label, name in _VOLUMES.items()}
    write(deep / "atlas/segmentation/measured_volumes_in_mm3.json", json.dumps(volumes, indent=4).encode())
    tilt = _tilted(stream(*who[:2], "tilt"))
    coarse = labels[:: _STEPS[0], :: _STEPS[1], :: _STEPS[2]]
    other = np.choose(coarse, (0, 2, 1, 1)).astype(np.uint8)  # HD-GLIO-AUTO: 2 is the enhancing tumor
    _nifti(hd / "registered/segmentation.nii.gz", other, tilt)
    for sequence in sequences:
        shown = _volume(visit, sequence, who)
        low = sequence.lower()
        _nifti(deep / f"atlas/skull_strip/{low}_skull_strip.nii.gz", shown, _AFFINE)
        native = shown[:: _STEPS[0], :: _STEPS[1], :: _STEPS[2]].astype(np.int16) * 5
        _nifti(week / f"{sequence}.nii.gz", native, tilt)
        _nifti(deep / f"native/segmentation/{low}_seg_mask.nii.gz", coarse, tilt)
        _nifti(hd / f"native/segmentation_{sequence}_origspace.nii.gz", other, tilt)
        _nifti(hd / f"registered/{sequence}_r2s_bet_reg.nii.gz", native, tilt)
        tables["mr"].append(
            {
                "Patient": patient,
                "Timepoint": visit.name,
                "Sequence": sequence,
                "Manufacturer": "SIEMENS",
                "Model": "Aera",
                "Field strength": 1.5,
                "Spacing": _STEPS[2],
                "Slice thickness": _STEPS[2],
                "Voxel size": " x ".join(map(str, _STEPS)),
                "Slice count": native.shape[2],
            }
        )
    tables["complete"].append(
        {
            "Patient": patient,
            "Timepoint": visit.name,
            **{sequence: "x" for sequence in sequences},
            **{name: "x" for name in ("DeepBraTumIA", "HD-GLIO-AUTO")},
        }
    )
    for table, mask in (("deep", "atlas/segmentation/seg_mask.nii.gz"), ("hd", "registered/segmentation.nii.gz")):
        for label, name in _NAMED.items():
            if counts[label]:
                tables[table].append(
                    {
                        "Patient": patient,
                        "Time point": visit.name,
                        "Image": "CT1.nii.gz",
                        "Mask": mask,
                        "Label name": name,
                        "Sequence": "CT1",
                        "diagnostics_Versions_PyRadiomics": "v3.0.1",
                        "diagnostics_Mask-original_VoxelNum": counts[label],
                        "original_shape_MeshVolume": float(counts[label]),
                        "original_firstorder_Mean": round(200 * _LEVELS["CT1"][2 + label], 3),
                    }
                )


@cache
def _head() -> Volume:
    """1 within the head, an ellipsoid in the atlas."""
    x, y, z = np.ogrid[: _SHAPE[0], : _SHAPE[1], : _SHAPE[2]]
    inside = ((x - 91) / 66) ** 2 + ((y - 108) / 85) ** 2 + ((z - 91) / 73) ** 2 < 1
    return np.asfortranarray(inside.astype(np.uint8))


def _atlas(shown: NDArray[np.generic]) -> Volume:
    """A picture of 96 x 96 as a coronal slice of the atlas: [x, z], from left to right and from foot to head."""
    index = np.arange(_SHAPE[0]) * len(shown) // _SHAPE[0]
    return np.asfortranarray(shown[::-1][index][:, index].T, np.uint8)


@lru_cache(maxsize=4)  # the sequences of a week show the same
def _regions(size: str | None, who: tuple[int, int, str, int]) -> tuple[Plane, Plane, NDArray[np.uint8]]:
    """Brain (0 outside, 1 cortex, 2 white matter), midline (0 to 1) and tumor labels of a slice."""
    seed, number, side, _ = who
    scene = Scene("MRI", "tumor" if size else "normal", size, side)
    bare, tumor = layers(scene, seed, "lumiere", number, "pose")
    skull = bare > 0.38  # brighter than the brain
    brain = ~skull & np.logical_or.accumulate(skull, 1) & np.logical_or.accumulate(skull[:, ::-1], 1)[:, ::-1]
    inner = brain.copy()
    for axis in (0, 1):
        for step in (-6, 6):
            inner &= np.roll(brain, step, axis)
    midline = np.clip((0.35 - bare) / 0.1, 0, 1) * inner
    labels = np.zeros(bare.shape, np.uint8)
    if size:
        near = tumor / tumor.max()  # falls from the middle; a half at the edge
        labels[brain & (near > 0.06)] = _EDEMA
        labels[brain & (near > 0.5)] = _ENHANCING
        if size != "small":
            labels[brain & (near > 0.955)] = _NECROTIC
    return brain.astype(float) + inner, midline, labels


def _slabs(size: str | None, middle: int) -> list[tuple[str | None, slice]]:
    """The sizes in which the tumor is drawn, and the slices along axis 1; later ones lie over earlier ones."""
    slabs: list[tuple[str | None, slice]] = [(None, slice(23, 194))]
    for reach, drawn in _EXTENT[size] if size else ():
        slabs.append((drawn, slice(middle - reach, middle + reach + 1)))
    return slabs


def _labels(visit: _Visit, who: tuple[int, int, str, int]) -> Volume:
    volume = np.zeros(_SHAPE, np.uint8, order="F")
    for size, where in _slabs(visit.size, who[3]):
        if size:
            np.multiply(_atlas(_regions(size, who)[2])[:, None], _head()[:, where], out=volume[:, where])
    return volume


def _volume(visit: _Visit, sequence: str, who: tuple[int, int, str, int]) -> Volume:
    """The brain in one sequence, without its skull, on the grid of the atlas."""
    rng = pixels(*who[:2], "lumiere", visit.name, sequence)
    white, cortex, middle, *lesion = _LEVELS[sequence]
    contrast, noise = rng.uniform(0.9, 1.05), 0.03 * rng.standard_normal((96, 96))
    volume = np.zeros(_SHAPE, np.uint8, order="F")
    for size, where in _slabs(visit.size, who[3]):
        brain, midline, labels = _regions(size, who)
        shown = np.where(brain == 2, white, cortex)
        shown = shown + (middle - shown) * midline
        for label, level in zip((_ENHANCING, _NECROTIC, _EDEMA), lesion, strict=True):
            shown[labels == label] = level
        grey = np.clip((shown * contrast + noise) * 200, 1, 255) * (brain > 0)
        np.multiply(_atlas(np.rint(grey))[:, None], _head()[:, where], out=volume[:, where])
    return volume


def _tilted(rng: random.Random) -> NDArray[np.float64]:
    """The affine of a patient's native images: coarser than the atlas, and turned by a few degrees."""
    angle = np.deg2rad(rng.uniform(-8, 8))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return np.asarray(turn @ _AFFINE @ np.diag([*_STEPS, 1.0]))


def _nifti(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    import nibabel

    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    write(path, gzip.compress(image.to_bytes(), 1, mtime=0))


def _dirty(tables: Mapping[str, list[Row]]) -> Counter[str]:
    """How many rows have what is wrong in the real tables too."""
    ratings = tables["ratings"]
    keys = Counter((row["Patient"], row["Date"]) for row in ratings)
    imaged = {(row["Patient"], row["Timepoint"]) for row in tables["complete"]}
    first: dict[object, object] = {}
    for row in ratings:
        first.setdefault(row["Patient"], row[_RATING])
    return Counter(
        {
            "blank behind a rating": sum(str(row[_RATING]) != str(row[_RATING]).strip() for row in ratings),
            "rated Post-Op/PD": sum(row[_RATING] == "Post-Op/PD" for row in ratings),
            "rated None": sum(row[_RATING] == "None" for row in ratings),
            "rating blank": sum(not row[_RATING] for row in ratings),
            "week rated twice": sum(count - 1 for count in keys.values()),
            "post-operative week before the pre-operative": sum(
                str(one).strip() == "Post-Op" for one in first.values()
            ),
            "rating without images": sum(key not in imaged for key in keys),
            "images without a rating": sum(key not in keys for key in imaged),
            "week without one of the sequences": sum(row.get("T1") != "x" for row in tables["complete"]),
            "age or survival missing": sum(str(row["Age at surgery (years)"]) in _MISSING for row in tables["people"]),
        }
    )
