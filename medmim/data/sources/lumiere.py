"""The source `lumiere`: MRI of glioblastoma over weeks, with the experts' RANO ratings and resections.

A study is a coronal slice of one sequence in one week. What its fields may hold:

    exam        the week's folder, `week-000-1`
    time        7 x week + suffix, in days; the day within a week is not known
    sequence    a value of `SEQUENCES`
    slice       equal numbers of a patient show the same place in all weeks and sequences
    rating      of the week: a value of `RATINGS`; None where it has none
    changes     at most one, with the week before it that has this sequence and slice (`since`):
                Change("tumor", "worse" | "stable" | "improved") where this week is rated PD | SD | PR or CR, another
                week number than the one before, and no surgery between them;
                Change("resection", "complete" | "partial") where it is Post-Op with CRET | PRET, and the week before
                is no Post-Op (of equal week number: is Pre-Op)
    age         at surgery, and the time since the first scan

`findings` is always empty, which does not mean clear.

Med-MIM's own pictures were made by others from the same volumes (`images: png` reads such trees). Slices that are cut
here are darker or brighter, not registered to each other beyond the atlas, and the second scan of a week is used, too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from medmim.data.sources import lumiere_ratings, lumiere_scans, roots
from medmim.data.sources.lumiere_ratings import RATINGS as RATINGS
from medmim.data.sources.lumiere_ratings import UNREADABLE, Ratings, Week
from medmim.data.sources.lumiere_scans import SEQUENCES as SEQUENCES
from medmim.data.sources.lumiere_scans import Scans
from medmim.data.sources.roots import Root
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import Lumiere
from medmim.sample import BadRow, Change, Study
from medmim.terms import Terms

TERMS = Terms(
    # Its authors ask for nothing but that; Figshare is said to name CC0. Of passing images on nobody says anything.
    release_weights=True,
    serve=True,
    text=(
        "LUMIERE (Figshare): its authors make it available for non-commercial use (paper and repository); pass no "
        "images on, others download them there",
    ),
)
FAMILIES = ("which_sequence", "extent_of_resection", "tumor_course")

_COURSE = {"PD": "worse", "SD": "stable", "PR": "improved", "CR": "improved"}
_BEFORE, _AFTER = "Pre-Op", "Post-Op"
_YEAR = 365.25  # days


def inputs(entry: Entry[Lumiere]) -> dict[str, str]:
    """SHA-256 of the tables, and a digest over the marks of all volumes and segmentations, or pictures."""
    root, own = roots.opened(entry), entry.own
    return roots.digest(root, _tables(root, own), _found(root, own).files)


def load(entry: Entry[Lumiere]) -> Source:
    """Read the tables, find the images and choose slices; rows and files that cannot be used are quarantined.

    Raises:
        UserError: No folder, no image, or a table that is none or lacks columns.
    """
    root, own = roots.opened(entry), entry.own
    ratings = lumiere_ratings.read(root.table(own.ratings), own.ratings)
    ages: dict[str, float] = {}
    bad: list[BadRow] = []
    if root.has(own.demographics):
        ages, bad = lumiere_ratings.ages(root.table(own.demographics), own.demographics)
    scans = _found(root, own)
    if not scans.files:
        raise UserError(
            f"there are no images in {root}",
            reason="they are looked for as " + _LOOKED_FOR[own.images].format(folder=_folder(own) or "."),
            fix="give the folder that holds them as `folder` of the source, below its `root`",
        )
    if own.images == "nii":
        lumiere_scans.cut(scans, root, own.slices)
    else:
        lumiere_scans.choose(scans, own.slices)
    studies = list(_studies(ratings, scans, ages))
    weeks = {(study.patient, study.exam) for study in studies}
    facts = {
        "rows": ratings.rows,
        "images": len(studies),
        "weeks": len(weeks),
        "skipped": dict(sorted((ratings.skipped + scans.skipped + _unmatched(ratings, scans)).items())),
        "ratings": dict(sorted(Counter(study.rating or "unknown" for study in studies).items())),
        "changes": dict(sorted(Counter(f"{c.finding}: {c.state}" for s in studies for c in s.changes).items())),
    }
    return Source(
        root.read,
        studies=studies,
        families=FAMILIES,
        bad=[*ratings.bad, *bad, *scans.bad],
        facts=facts,
        identity=root.identity,
        fix_for=root.fix_for,
    )


_LOOKED_FOR = {
    "nii": "{folder}/PATIENT/week-NNN/DeepBraTumIA-segmentation/atlas/skull_strip/ct1_skull_strip.nii.gz",
    "png": "{folder}/ct1_LUMIERE_images_*/PATIENT/slice_N/week_NNN.png",
}


def _folder(own: Lumiere) -> str:
    default = "Imaging" if own.images == "nii" else ""
    return default if own.folder is None else own.folder.strip("/")


def _tables(root: Root, own: Lumiere) -> list[str]:
    return [own.ratings, *([own.demographics] if root.has(own.demographics) else [])]


def _found(root: Root, own: Lumiere) -> Scans:
    return (lumiere_scans.volumes if own.images == "nii" else lumiere_scans.trees)(root, _folder(own))


def _unmatched(ratings: Ratings, scans: Scans) -> Counter[str]:
    rated = {(patient, at) for patient, weeks in ratings.of.items() for at in weeks}
    return +Counter(
        {
            "weeks with a row of ratings and without images": len(rated - scans.pictures.keys()),
            "weeks with images and without a row of ratings": len(scans.pictures.keys() - rated),
            "weeks without a rating": sum(not ratings.of[patient][at] for patient, at in rated),
            "sequences that a week with images lacks": sum(
                len(SEQUENCES) - len(own) for own in scans.pictures.values() if own
            ),
        }
    )


def _studies(ratings: Ratings, scans: Scans, ages: dict[str, float]) -> Iterator[Study]:
    """Of each patient, sequence and slice, the weeks in their order, each with what changed since the one before."""
    series: dict[tuple[str, str, int], list[tuple[Week, str]]] = defaultdict(list)
    for (patient, at), own in scans.pictures.items():
        for sequence, slices in own.items():
            for index, path in slices.items():
                series[patient, sequence, index].append((at, path))
    for patient, sequence, index in sorted(series):
        rated = ratings.of.get(patient, {})
        before: tuple[Week, str] | None = None
        for at, path in sorted(series[patient, sequence, index]):
            change = None if before is None else _change(patient, before[0], at, ratings)
            yield Study(
                source="lumiere",
                patient=patient,
                image=path,
                modality="MRI",
                time=at.days,
                view="coronal",
                rating=RATINGS.get(rated.get(at, "")),
                exam=str(at),
                age=ages[patient] + at.days / _YEAR if patient in ages else None,
                sequence=sequence,
                slice=index,
                changes=() if change is None or before is None else (Change(*change, since=before[1]),),
            )
            before = at, path


def _change(patient: str, first: Week, second: Week, ratings: Ratings) -> tuple[str, str] | None:
    """What the rating of a week says about the time since the week before it."""
    rated = ratings.of.get(patient, {})
    now, then = rated.get(second, ""), rated.get(first, "")
    between = {said for at, said in rated.items() if first < at < second}
    same_week = first.number == second.number
    if now == _AFTER:
        extent = ratings.extents.get((patient, second))
        fits = then == _BEFORE if same_week else then != _AFTER and _AFTER not in between
        return ("resection", extent) if extent and fits else None
    if now not in _COURSE or same_week or then == _BEFORE or between & {_BEFORE, _AFTER, UNREADABLE}:
        return None
    return "tumor", _COURSE[now]
