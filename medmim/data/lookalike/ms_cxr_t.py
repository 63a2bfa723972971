"""A look-alike of MS-CXR-T, and of what it names in MIMIC-CXR-JPG: pairs of chest films, and how findings changed.

Each of five findings looks different, and is larger, equal or smaller in the later film as the label says.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from medmim.data.lookalike.pictures import encoded, enlarged, grey, layers
from medmim.data.lookalike.tables import Done, Row, Written, csv_text, gz, number_of, turn, write
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import SIZES, Plane, Scene, exposed

_FINDINGS = ("consolidation", "edema", "pleural_effusion", "pneumonia", "pneumothorax")
_PAIRS = (
    "subject_id", "study_id", "previous_study_id", "dicom_id", "previous_dicom_id",
    *(f"{finding}_progression" for finding in _FINDINGS), *(f"{finding}_label_quality" for finding in _FINDINGS),
)  # fmt: skip
_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
_SPLIT = ("dicom_id", "study_id", "subject_id", "split")
_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
_CHEXPERT = ("subject_id", "study_id", *_LABELS)
_QUALITY = ("one_expert", "multiple_experts", "disagreement")
_TURNS = (  # what is wrong with a patient's last pair, in turn
    "", "", "capital letter", "", "nothing labelled", "", "picture missing", "", "view blank", "",
    "dated backwards", "",
)  # fmt: skip
_SHOWN = {  # finding -> the painter's, and how bright; edema is on both sides, a pneumothorax black and from above
    "consolidation": ("opacity", 1.0),
    "edema": ("opacity", 0.7),
    "pleural_effusion": ("effusion", 1.0),
    "pneumonia": ("nodules", 1.0),
    "pneumothorax": ("effusion", -0.4),
}
_STEPS = ((-1, 20), (0, 35), (1, 45))  # improving, stable, worsening, and their shares
_FACTOR = 3  # pixels of the file for one of the painter's


@dataclass
class _Study:
    number: int
    day: date
    time: str
    sizes: dict[str, int]  # finding -> 0 (absent) to 3
    films: list[tuple[str, str]] = field(default_factory=list)  # dicom id and view

    @property
    def frontal(self) -> str:
        return self.films[0][0]


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of MS-CXR-T, with MIMIC-CXR-JPG's files and tables beside it.

    Args:
        folder: To be made.
        patients: How many; patient N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each patient.

    Returns:
        What was written; `rows` are the pairs.
    """
    pairs: list[Row] = []
    metadata: list[Row] = []
    split: list[Row] = []
    chexpert: list[Row] = []
    written = Written("ms-cxr-t", patients)
    subjects = {number_of(number, 10_000_000, 20_000_000, seed, "subject"): number for number in range(patients)}
    for subject in sorted(subjects):
        number = subjects[subject]
        rng = stream(seed, "ms-cxr-t", number)
        trouble = turn(_TURNS, number)
        studies = _story(rng, number, seed, trouble)
        pairs += _pairs(subject, studies, rng, trouble)
        part = rng.choices(("train", "validate", "test"), (8, 1, 1))[0]
        for study in studies:
            chexpert.append({"subject_id": subject, "study_id": study.number, **_report(study, rng)})
            for name, view in study.films:
                path = folder / f"{_place(subject, study, name)}.jpg"
                ids = {"dicom_id": name, "subject_id": subject, "study_id": study.number}
                metadata.append({**ids, **_tags(study, view)})
                split.append({**ids, "split": part})
                if trouble == "picture missing" and study is studies[-1] and name == study.frontal:
                    written.dirty["picture missing"] += 1
                    continue
                picture = enlarged(_film(study, view, (seed, "ms-cxr-t", number)), _FACTOR)
                write(path, encoded(grey(picture)))
                written.images += 1
        done()
    write(folder / "MS_CXR_T_temporal_image_classification_v1.0.0.csv", csv_text(_PAIRS, pairs))
    for name, header, rows in (
        ("metadata", _METADATA, metadata),
        ("split", _SPLIT, split),
        ("chexpert", _CHEXPERT, chexpert),
        ("negbio", _CHEXPERT, chexpert),
    ):
        write(folder / f"mimic-cxr-2.0.0-{name}.csv.gz", gz(csv_text(header, rows)))
    written.rows = len(pairs)
    written.dirty |= _dirty(pairs, metadata)
    return written


def _place(subject: int, study: _Study, name: str) -> str:
    return f"files/p{subject // 1_000_000}/p{subject}/s{study.number}/{name}"


def _story(rng: random.Random, number: int, seed: int, trouble: str) -> list[_Study]:
    """A patient's studies in time order: one or two findings that grow, stay or shrink."""
    shown = rng.sample(_FINDINGS, rng.choice((1, 1, 2)))
    sizes = {finding: rng.choice((1, 2)) for finding in shown}
    day = date(2110, 1, 1) + timedelta(days=rng.randrange(30_000))
    studies = []
    for visit in range(rng.choice((2, 2, 3))):
        if visit:
            day += timedelta(days=rng.randrange(1, 90))
            for finding, size in sizes.items():
                steps = [(step, weight) for step, weight in _STEPS if 0 <= size + step <= 3]
                sizes[finding] += rng.choices([step for step, _ in steps], [weight for _, weight in steps])[0]
        time = f"{rng.randrange(1, 24)}{rng.randrange(60):02d}{rng.randrange(60):02d}.{rng.randrange(1000):03d}"
        study = _Study(number_of(8 * number + visit, 50_000_000, 60_000_000, seed, "study"), day, time, dict(sizes))
        views = [rng.choice(("AP", "PA"))] + (["LATERAL"] if rng.random() < 0.25 else [])
        study.films = [(_dicom_id(rng), view) for view in views]
        studies.append(study)
    if trouble == "dated backwards":
        studies[-1].day = studies[-2].day - timedelta(days=3)
    if trouble == "view blank":
        studies[-1].films[0] = (studies[-1].frontal, "")
    return studies


def _dicom_id(rng: random.Random) -> str:
    return "-".join(f"{rng.getrandbits(32):08x}" for _ in range(5))


def _pairs(subject: int, studies: Sequence[_Study], rng: random.Random, trouble: str) -> Iterator[Row]:
    """A row for each two studies that follow each other."""
    for before, after in zip(studies, studies[1:], strict=False):
        row: dict[str, object] = {
            "subject_id": subject,
            "study_id": after.number,
            "previous_study_id": before.number,
            "dicom_id": _place(subject, after, after.frontal).removeprefix("files/"),
            "previous_dicom_id": _place(subject, before, before.frontal).removeprefix("files/"),
        }
        for finding in after.sizes:
            change = after.sizes[finding] - before.sizes[finding]
            word = "stable" if not change else "worsening" if change > 0 else "improving"
            if after.sizes[finding] or before.sizes[finding]:
                row[f"{finding}_progression"] = word.title() if trouble == "capital letter" else word
                row[f"{finding}_label_quality"] = rng.choices(_QUALITY, (6, 3, 1))[0]
        if trouble == "nothing labelled" and after is studies[-1]:
            row = {name: value for name, value in row.items() if name.endswith("_id")}
        yield row


def _report(study: _Study, rng: random.Random) -> dict[str, str]:
    """What CheXpert reads out of the report of a study."""
    labels = {}
    for finding, size in study.sizes.items():
        if size:
            labels[finding.replace("_", " ").title()] = "-1.0" if size == 1 and rng.random() < 0.3 else "1.0"
    labels |= {} if labels else {"No Finding": "1.0"}
    return labels | ({"Fracture": "0.0"} if rng.random() < 0.3 else {})


def _tags(study: _Study, view: str) -> dict[str, object]:
    meaning = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}.get(view, "")
    return {
        "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)" if view == "AP" else "CHEST (PA AND LAT)",
        "ViewPosition": view,
        "Rows": 96 * _FACTOR,
        "Columns": 96 * _FACTOR,
        "StudyDate": f"{study.day:%Y%m%d}",
        "StudyTime": study.time,
        "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
        "ViewCodeSequence_CodeMeaning": meaning,
        "PatientOrientationCodeSequence_CodeMeaning": "Erect",
    }


def _film(study: _Study, view: str, patient: tuple[object, ...]) -> Plane:
    """A chest film with all findings of a study, each where it was in the other studies of the patient."""
    noise = pixels(*patient, study.number, view)
    bare, _ = layers(Scene("X-ray"), *patient, "pose")
    shown = bare.copy()
    if view == "LATERAL":  # a narrow chest without lungs side by side
        return exposed(bare[:, np.arange(96) // 4 + 36] * 1.2, noise)
    side = stream(*patient, "side").choice(("left", "right"))
    other = "right" if side == "left" else "left"
    for (finding, level), where in zip(study.sizes.items(), (side, other), strict=False):
        for one in ("left", "right") if finding == "edema" else (where,):
            if level:
                name, share = _SHOWN[finding]
                added = layers(Scene("X-ray", name, SIZES[level - 1], one), *patient, "pose")[1]
                shown += share * (added[::-1] if finding == "pneumothorax" else added)
    return exposed(shown, noise)


def _dirty(pairs: list[Row], metadata: list[Row]) -> Counter[str]:
    """How many rows have what is wrong in the real tables too."""
    words = [[str(row.get(f"{finding}_progression", "")) for finding in _FINDINGS] for row in pairs]
    quality = [[str(row.get(f"{finding}_label_quality", "")) for finding in _FINDINGS] for row in pairs]
    day = {row["study_id"]: str(row["StudyDate"]) for row in metadata}
    return Counter(
        {
            "progression with a capital letter": sum(any(map(str.istitle, row)) for row in words),
            "no finding labelled": sum(not any(row) for row in words),
            "label with disagreement": sum("disagreement" in row for row in quality),
            "dated before the previous study": sum(
                day[row["study_id"]] < day[row["previous_study_id"]] for row in pairs
            ),
            "ViewPosition blank": sum(not row["ViewPosition"] for row in metadata),
        }
    )
