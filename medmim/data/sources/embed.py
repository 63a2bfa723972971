"""The source `embed`: mammograms of the Emory Breast Imaging Dataset, with their BI-RADS assessment and pathology.

A study is an image of one breast; the breasts of an exam share `exam` (`acc_anon`) and differ in `laterality`. What its
fields may hold:

    rating      a value of `RATINGS`: the worst assessment of this breast in this exam; never None
    outcome     one of `breasts.OUTCOMES`: the worst pathology of this breast; None without a biopsy
    year_after  by all exams of the patient in the table: see `breasts.year_after`
    findings    none where the rating is `negative`; else mass, architectural distortion, asymmetry, lymph node,
                calcifications as far as the table describes them, or `UNSPECIFIED`
    view        CC, MLO, or the table's word for another one; None where it is blank
    time        days since the patient's first exam, by the clinical table's `study_date_anon` alone
    age         years, as precise as the table

Of several images of one breast and view, one is taken: 2D before cview, whole breasts before spot and magnified ones,
then the first path. Which one is decided by the table alone, not by which files are there.

PNG trees: EMBED's own script turns images to point in one direction (right breasts are mirrored), DICOM files are as
they were taken. `laterality` is right for both; what an image looks like is not the same.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from medmim.data.sources import dicom_tags, embed_findings, embed_images, roots, table
from medmim.data.sources.embed_findings import RATINGS as RATINGS
from medmim.data.sources.embed_findings import SIDES, Clinical
from medmim.data.sources.embed_findings import UNSPECIFIED as UNSPECIFIED
from medmim.data.sources.embed_images import Images
from medmim.data.sources.roots import Root
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import Embed
from medmim.sample import Study
from medmim.terms import Terms

TERMS = Terms(
    text=(
        "EMBED Research Use Agreement: academic, non-commercial research by registered users; no part of it may be "
        "distributed, no model, weights or embedding space trained or tuned on it released; no clinical use",
    )
)
# No `order` or `same_patient`: of 70,000 exams these would leave the quotas no room for what Med-MIM asks.
FAMILIES = ("which_diseased", "forecast", "which_craniocaudal", "birads")

_V2 = re.compile(
    r"((patients|exam_level|side_level|imaging_findings|pathology_findings|reports|risk|combined)_anon\.parquet"
    r"|EMBEDv2.*)",
    re.IGNORECASE,
)
_V2_COLUMNS = {"studydate_anon", "age_at_study_anon"}
_LOOKED_AT = 1000  # files beside a table that is missing


def inputs(entry: Entry[Embed]) -> dict[str, str]:
    """SHA-256 of both tables, and a digest over the marks of the images that are used."""
    root = roots.opened(entry)
    _, images = _read(root, entry.own)
    paths = (_path(entry.own, tail) for tail in images.chosen.values())
    return roots.digest(root, (entry.own.clinical, entry.own.metadata), paths)


def load(entry: Entry[Embed]) -> Source:
    """Read both tables and check which images exist; rows that cannot be used are quarantined.

    Raises:
        UserError: No folder, a table that is none or lacks columns, ids that a spreadsheet has damaged, or EMBED V2.
    """
    root = roots.opened(entry)
    clinical, images = _read(root, entry.own)
    named = sorted(_studies(clinical, images, entry.own), key=_order)
    studies = [study for study in named if root.has(study.image)]
    there = {study.image for study in studies}
    exams = {study.exam or "" for study in studies}
    facts = {
        "rows": clinical.rows + images.rows,
        "images": len(studies),
        "missing_images": len(named) - len(studies),
        "images_with_regions": images.regions,
        "skipped": dict(sorted((clinical.skipped + images.skipped).items())),
        "ratings": _counts(study.rating for study in studies),
        "outcomes": _counts(study.outcome for study in studies),
        "patients_by_race": _counts(clinical.races.get(patient) for patient in {study.patient for study in studies}),
        "exams_by_density": _counts(clinical.densities.get(exam) for exam in exams),
    }
    return Source(
        root.read,
        studies=studies,
        families=FAMILIES,
        bad=[*clinical.bad, *images.bad],
        missing=[study.image for study in named if study.image not in there],
        head=partial(dicom_tags.head, root),
        facts=facts,
        identity=root.identity,
        fix_for=root.fix_for,
    )


def _read(root: Root, own: Embed) -> tuple[Clinical, Images]:
    findings, files = (_first_release(root, name) for name in (own.clinical, own.metadata))
    clinical = embed_findings.read(findings, own.clinical)
    return clinical, embed_images.read(files, own.metadata, clinical)


def _first_release(root: Root, name: str) -> Path:
    """The file of a table.

    Raises:
        UserError: There is none, or it is of the second release.
    """
    beside = [] if root.has(name) else islice(root.names(posixpath.dirname(name)), _LOOKED_AT)
    second = [other for other in beside if _V2.fullmatch(posixpath.basename(other))]
    if not second:
        path = root.table(name)
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        if not parquet and _V2_COLUMNS.isdisjoint(table.column_names(path)):
            return path
    raise UserError(
        f"{second[0] if second else name} in {root} is a table of EMBED V2, which this source does not read",
        reason="V2 has other tables, columns and codes than the first release: its labels would be wrong",
        fix="name the first release's tables as `clinical` and `metadata` of the source: EMBED_OpenData_clinical.csv, "
        "EMBED_OpenData_metadata.csv",
    )


def _studies(clinical: Clinical, images: Images, own: Embed) -> Iterator[Study]:
    for (exam, side, view), tail in images.chosen.items():
        breast = clinical.breasts[exam, side]
        yield Study(
            source="embed",
            patient=breast.patient,
            image=_path(own, tail),
            modality="mammography",
            time=breast.time,
            view=view,
            laterality=SIDES[side],
            findings=breast.findings,
            rating=breast.rating,
            exam=exam,
            age=breast.age,
            outcome=breast.outcome,
            year_after=breast.year_after,
        )


def _path(own: Embed, tail: str) -> str:
    return f"{own.folder}/{tail if own.images == 'dcm' else tail.removesuffix('.dcm').removesuffix('.png') + '.png'}"


def _order(study: Study) -> tuple[object, ...]:
    unknown = study.time is None
    return study.patient, unknown, study.time or 0.0, study.exam, study.laterality, study.view or "", study.image


def _counts(values: Iterable[object]) -> dict[str, int]:
    counted = Counter("unknown" if value is None else str(value) for value in values)
    return dict(sorted(counted.items()))
