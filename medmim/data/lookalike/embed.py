"""A look-alike of EMBED's open data: mammography exams as DICOM, and their tables of findings and of files.

What a mass looks like follows from its BI-RADS letter: smooth where benign, spiculated where suspicious, larger
the worse.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from medmim.data.lookalike.embed_columns import (
    CLINICAL,
    CLINICAL_REDUCED,
    LEGEND,
    LEGEND_HEADER,
    METADATA_REDUCED,
    TAGS,
)
from medmim.data.lookalike.pictures import enlarged, layers
from medmim.data.lookalike.tables import Done, Row, Written, csv_text, number_of, turn, write
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import NORMAL, Plane, Scene, exposed

_RACES = ("Caucasian or White", "African American  or Black", "Asian", "Unknown, Unavailable or Unreported")
_SCREENING = ("MG Screening Bilateral", "MG Screening Bilateral w/CAD", "MG Screen Bilat w/Tomo/CAD Stnd Protocol")
_BOTH_SIDES = "MG Diagnostic Mammo Bilateral"
_ONE_SIDE = {"L": "MG Diagnostic Left", "R": "MG Diagnostic Right"}
_MASS = {  # BI-RADS letter -> size and margin of the mass
    "B": ("small", "smooth"),
    "P": ("medium", "smooth"),
    "A": ("large", "smooth"),
    "S": ("small", "spiculated"),
    "M": ("medium", "spiculated"),
    "K": ("large", "spiculated"),
}
_PLACES = (  # what stands before `cohort_1` in anon_dicom_path
    "/mnt/storage/mammo/anon_dicom/",
    "./images/",
    "images/",
)
_TURNS = (  # what is wrong with a patient's rows, in turn
    "", "asses blank", "asses X", "screening with M", "diagnostic with A", "", "exam without images",
    "images without a finding", "screening amended by pathology", "desc blank", "", "laterality blank", "view blank",
    "two exams of one day", "", "path_severity 6",
)  # fmt: skip
_TWO_OWNERS = 5  # the patient whose first exam has the accession of the patient before
_FACTOR = 2  # pixels of the file for one of the painter's
_CALCIFICATIONS = 5


@dataclass
class _Exam:
    day: date
    desc: str
    rated: dict[str, str]  # side -> BI-RADS letter of the breasts that were looked at
    severity: dict[str, int] = field(default_factory=dict)  # side -> path_severity
    told: str | None = None  # in the table instead of the letters
    accession: int = 0
    acquired: date = date.min

    @property
    def calcified(self) -> str:
        """The side with calcifications beside the mass, if one has."""
        return next((side for side, letter in self.rated.items() if letter in "SM" and not self.day.day % 2), "")


@dataclass
class _Patient:
    number: int
    empi: int
    cohort: int
    race: str
    density: int
    born: date


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of EMBED.

    Args:
        folder: To be made.
        patients: How many; patient N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each patient.

    Returns:
        What was written; `rows` are those of the clinical table, one a finding and procedure.
    """
    clinical: list[Row] = []
    metadata: list[Row] = []
    for number in range(patients):
        findings, files = _patient(folder, number, seed)
        clinical += findings
        metadata += files
        done()
    tables = folder / "tables"
    write(tables / "EMBED_OpenData_clinical.csv", csv_text(CLINICAL, clinical))
    named = [{"RACE_DESC" if key == "ETHNICITY_DESC" else key: row[key] for key in row} for row in clinical]
    write(tables / "EMBED_OpenData_clinical_reduced.csv", csv_text(CLINICAL_REDUCED, named, cut=True))
    write(tables / "EMBED_OpenData_metadata.csv", csv_text([*METADATA_REDUCED, *TAGS], metadata))
    indexed = [
        {**row, "": number, "spot_mag": row["spot_mag"] and "1.0"}  # a column of pandas with blanks is one of floats
        for number, row in enumerate(metadata)
    ]
    write(tables / "EMBED_OpenData_metadata_reduced.csv", csv_text(["", *METADATA_REDUCED], indexed, cut=True))
    legend = [dict(zip(LEGEND_HEADER, (*row[:2], f"{row[2]}   ", row[3]), strict=True)) for row in LEGEND]
    write(tables / "AWS_Open_Data_Clinical_Legend.csv", csv_text(LEGEND_HEADER, legend))
    return Written("embed", patients, len(clinical), len(metadata), _dirty(clinical, metadata))


def _patient(folder: Path, number: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Draw and write a patient's exams; returns their rows in both tables."""
    rng = stream(seed, "embed", number)
    patient = _Patient(
        number,
        empi=number_of(number, 10_000_000, 100_000_000, seed, "empi"),
        cohort=1 + number % 2,
        race=rng.choice(_RACES),
        density=rng.choice((1, 2, 2, 3, 3, 4)),
        born=date(1940, 1, 1) + timedelta(days=rng.randrange(12_000)),
    )
    exams = _story(rng)
    for index, exam in enumerate(exams):
        exam.accession = _accession(number, index, seed)
        exam.acquired = exam.day - timedelta(days=rng.choice((0, 0, 0, 1)))
    if number == _TWO_OWNERS:
        exams[0].accession = _accession(number - 1, 0, seed)
    trouble = turn(_TURNS, number)
    _spoil(exams, trouble)
    clinical: list[Row] = []
    metadata: list[Row] = []
    for exam in exams:
        spoiled = exam is exams[-1]
        if not (spoiled and trouble == "images without a finding"):
            clinical += _findings(exam, patient, rng)
        if not (spoiled and trouble == "exam without images"):
            files = list(_images(folder, exam, patient, seed, rng))
            if spoiled and trouble == "laterality blank":
                files[-1]["ImageLateralityFinal"] = ""
            if spoiled and trouble == "view blank":
                files[-1]["ViewPosition"] = ""
            metadata += files
    return clinical, metadata


def _accession(number: int, index: int, seed: int) -> int:
    """16 digits, odd, for every other patient above 2**53, so that no float holds it."""
    rng = stream(seed, "embed", number, "accession", index)
    above = number % 2 == 0
    return rng.randrange(2**53 if above else 10**15, 10**16 if above else 2**53) | 1


def _story(rng: random.Random) -> list[_Exam]:
    """A patient's exams: nothing changes, a mass grows and is biopsied, is found benign, or is known."""
    side = rng.choice("LR")
    other = "R" if side == "L" else "L"
    day = date(2013, 1, 1) + timedelta(days=rng.randrange(1500))

    def screening(letters: dict[str, str]) -> _Exam:
        nonlocal day
        day += timedelta(days=rng.randrange(340, 420))
        return _Exam(day, rng.choice(_SCREENING), letters)

    def diagnostic(letters: dict[str, str], severity: int | None = None, after: tuple[int, int] = (7, 60)) -> _Exam:
        nonlocal day
        day += timedelta(days=rng.randrange(*after))
        desc = _BOTH_SIDES if len(letters) == 2 else _ONE_SIDE[side]
        return _Exam(day, desc, letters, {} if severity is None else {side: severity})

    story = rng.choice(("stable", "stable", "worse", "worse", "cleared", "known"))
    if story == "stable":
        mine, theirs = rng.choice(("NN", "BN", "BB"))
        return [screening({side: mine, other: theirs}) for _ in range(rng.choice((2, 3)))]
    if story == "worse":
        before, found = rng.choice("NB"), rng.choice("SMK")
        severity = rng.choice((0, 1)) if found in "MK" else rng.choice((0, 1, 2, 3, 4, 5))
        return [
            screening({side: before, other: "N"}),
            screening({side: "A", other: "N"}),
            diagnostic({side: found, other: "N"} if rng.random() < 0.4 else {side: found}, severity),
        ]
    if story == "cleared":
        found = rng.choice("BP")
        return [
            screening({side: "A", other: rng.choice("NB")}),
            diagnostic({side: found}, 4 if rng.random() < 0.3 else None),
            diagnostic({side: found, other: "N"}, after=(150, 220)),
        ]
    return [
        diagnostic({side: "K"}, rng.choice((0, 1))),
        screening({side: "N", other: "N"}),
        screening({side: rng.choice("NB"), other: "N"}),
    ]


def _spoil(exams: list[_Exam], trouble: str) -> None:
    """Make what is wrong with the rows of a patient's exams."""
    last = exams[-1]
    if trouble in ("asses blank", "asses X"):
        last.told = "" if trouble == "asses blank" else "X"
    if trouble == "screening with M":
        last.desc, last.rated, last.severity = _SCREENING[0], {"L": "M", "R": "N"}, {}
    if trouble == "diagnostic with A":
        last.desc, last.rated, last.severity = _ONE_SIDE["L"], {"L": "A"}, {}
    if trouble == "screening amended by pathology":
        last.desc, last.rated, last.severity = _SCREENING[0], {"L": "B", "R": "N"}, {"L": 0}
    if trouble == "desc blank":
        last.desc, last.rated, last.severity = "", {"L": "B", "R": "N"}, {}
    if trouble == "path_severity 6":
        last.desc, last.rated, last.severity = _ONE_SIDE["R"], {"R": "S"}, {"R": 6}
    if trouble == "two exams of one day":
        exams[1].day, exams[1].acquired = exams[0].day, exams[0].acquired


def _findings(exam: _Exam, patient: _Patient, rng: random.Random) -> list[Row]:
    """The rows of an exam: one a finding, a second one where it had two procedures."""
    common: dict[str, object] = {
        "GENDER_DESC": "Female",
        "ETHNICITY_DESC": patient.race,
        "ETHNIC_GROUP_DESC": "Non-Hispanic or Latino",
        "MARITAL_STATUS_DESC": "Married",
        "ENCOUNTER_QTY": 1,
        "empi_anon": patient.empi,
        "cohort_num": patient.cohort,
        "proccode": "SCRBIL" if exam.desc in _SCREENING else "DIAG",
        "desc": exam.desc,
        "vtype": "S" if exam.desc in _SCREENING else "D",
        "tissueden": f"{patient.density}.0",
        "age_at_study": f"{(exam.day - patient.born).days / 365.25:.6f}",
        "acc_anon": exam.accession,
        "study_date_anon": exam.day.isoformat(),
        "sdate_anon": f"{exam.day.isoformat()} 00:00:00",
        "first_3_zip": 303,
    }
    letters = exam.rated
    found: list[dict[str, object]] = []
    if set(letters.values()) == {"N"}:
        found.append({"side": "", "asses": "N"})
    elif letters == {"L": "B", "R": "B"}:
        found.append({"side": "B", "asses": "B", **_mass("B")})
    else:
        for side, letter in letters.items():
            if letter != "N":
                found.append({"side": side, "asses": letter, **_mass(letter)})
                if exam.calcified == side:
                    spots = {"calcfind": "FG", "calcdistri": "G", "calcnumber": _CALCIFICATIONS}
                    found.append({"side": side, "asses": "B", **spots})
            elif exam.desc not in _SCREENING and rng.random() < 0.4:
                found.append({"side": side, "asses": "N"})  # most often the healthy breast has no row
    rows: list[Row] = []
    totals = {f"total_{side}_find": sum(one["side"] in (side, "B") for one in found) for side in "LR"}
    for number, one in enumerate(found, 1):
        row = {**common, **totals, "calcnumber": 0, **one, "numfind": number}
        if exam.told is not None:
            row["asses"] = exam.told
        severity = exam.severity.get(str(one["side"]))
        if severity is None or one["asses"] == "N" or "calcfind" in one:
            rows.append(row)
            continue
        taken = exam.day + timedelta(days=rng.randrange(3, 20))
        for kind, level, after in (("biopsy", severity, 0), ("excision", severity, 21))[: rng.choice((1, 2))]:
            when = (taken + timedelta(days=after)).isoformat()
            result = {"type": kind, "bside": one["side"], "path_severity": f"{level}.0", "path_group": f"{level}.0"}
            rows.append({**row, **result, "procdate_anon": when, "pdate_anon": f"{when} 00:00:00"})
    return rows


def _mass(letter: str) -> dict[str, object]:
    """The words for a mass as it is drawn."""
    smooth = _MASS[letter][1] == "smooth"
    return {
        "massshape": "O" if smooth else "X",
        "massmargin": "D" if smooth else "S",
        "massdens": "=" if smooth else "+",
    }


def _images(folder: Path, exam: _Exam, patient: _Patient, seed: int, rng: random.Random) -> Iterator[dict[str, object]]:
    """Draw and write the files of an exam; yields their rows."""
    study = _uid(rng, exam.day)
    shots = []  # side, view, type, spot
    for side in exam.rated:
        for view in ("CC", "MLO"):
            shots.append((side, view, "2D", ""))
            if "Tomo" in exam.desc:
                shots.append((side, view, "cview", ""))
        if exam.desc in _ONE_SIDE.values():
            shots.append((side, "ML", "2D", ""))
            shots.append((side, "CC", "2D", "1"))
        elif rng.random() < 0.15:
            shots.append((side, "CC", "2D", ""))  # taken twice
    for side, view, kind, spot in shots:
        series, image = _uid(rng, exam.day), _uid(rng, exam.day)
        shown, boxes = _breast(exam, side, view, bool(spot), patient, seed)
        plane = exposed(shown, pixels(seed, "embed", patient.number, image))
        place = f"cohort_{patient.cohort}/{patient.empi}/{study}/{series}/{image}.dcm"
        boxes = boxes if kind == "2D" and not spot else []
        midnight = " 00:00:00" if patient.number % 3 == 0 else ""
        row: dict[str, object] = {
            **_dicom(folder / "images" / place, plane, exam, patient, side, view, (study, series, image), rng),
            "has_pix_array": 1,
            "category": "MG",
            "empi_anon": patient.empi,
            "acc_anon": exam.accession,
            "study_date_anon": f"{exam.acquired.isoformat()}{midnight}",
            "cohort_num": patient.cohort,
            "anon_dicom_path": _PLACES[patient.number % len(_PLACES)] + place,
            "ImageLateralityFinal": side,
            "FinalImageType": kind,
            "spot_mag": spot,
            "ROI_coords": str(tuple(boxes)),
            "SRC_DST": "",
            "match_level": str([1] * len(boxes)),
            "num_roi": len(boxes),
            "png_filename": f"{rng.getrandbits(224):056x}.png",
        }
        yield {**row, "png_path": f"/mnt/storage/mammo/png/{row['png_filename']}"}


def _breast(
    exam: _Exam, side: str, view: str, spot: bool, patient: _Patient, seed: int
) -> tuple[Plane, list[tuple[int, ...]]]:
    """A breast as its letter says, the chest wall to the right of a right one, and the boxes of what is in it.

    Boxes are top, left, bottom, right in pixels of the file: of the mass, and of calcifications if there are any.
    """
    letter = exam.rated[side]
    size, margin = _MASS.get(letter, (None, None))
    scene = Scene("mammography", "mass" if size else NORMAL, size, None, margin, "CC" if view == "CC" else "MLO")
    bare, mass = layers(scene, seed, "embed", patient.number, side, view)
    found = [mass > mass.max() / 2] if size else []
    shown = bare + mass + 0.03 * (patient.density - 2.5) * (bare > 0.2)
    if exam.calcified == side:
        rng = pixels(seed, "embed", patient.number, side, view, "calcifications")
        spots = np.zeros(shown.shape, bool)
        spots[rng.choice(np.arange(40, 60), _CALCIFICATIONS, replace=False), rng.integers(20, 40, _CALCIFICATIONS)] = (
            True
        )
        shown = shown + 0.5 * spots
        found.append(spots)
    if side == "R":
        shown, found = shown[:, ::-1], [one[:, ::-1] for one in found]
    if spot:  # the middle half of the breast, magnified
        top, left = 28, 12 if side == "L" else 36
        return enlarged(shown[top : top + 48, left : left + 48], 2), []
    corners = [(inside.min(0), inside.max(0) + 1) for inside in map(np.argwhere, found)]
    return shown, [tuple(int(edge) * _FACTOR for corner in both for edge in corner) for both in corners]


def _uid(rng: random.Random, day: date) -> str:
    """A UID as a machine makes it; the date in it is not always one."""
    stamp = f"{day.year}0732" if rng.random() < 0.1 else f"{day:%Y%m%d}"
    return f"1.2.826.0.1.3680043.8.498.{stamp}.{rng.randrange(10**15, 10**16)}"


def _dicom(
    path: Path,
    plane: Plane,
    exam: _Exam,
    patient: _Patient,
    side: str,
    view: str,
    uids: tuple[str, str, str],
    rng: random.Random,
) -> dict[str, object]:
    """Write a mammogram of 12 bits; returns what the metadata table says of its tags."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

    stored = np.rint(400 + enlarged(plane, _FACTOR) * 3200).astype("<u2")
    inverted = rng.random() < 0.25
    if inverted:
        stored = 4095 - stored
    level = 2095 if inverted else 2000
    windows, names = rng.choice((([level], ["NORMAL"]), ([level, level + 100], ["NORMAL", "HARDER"]), ([], [])))
    tags: dict[str, Any] = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "SOPInstanceUID": UID(uids[2]),
        "StudyInstanceUID": UID(uids[0]),
        "SeriesInstanceUID": UID(uids[1]),
        "Modality": "MG",
        "Manufacturer": "HOLOGIC, Inc.",
        "ManufacturerModelName": "Selenia Dimensions",
        "PatientSex": "F",
        "StudyID": str(exam.accession),
        "StudyDescription": exam.desc,
        "SeriesDescription": f"{side} {view}",
        "ProtocolName": f"{side} {view}",
        "SeriesNumber": rng.randrange(10**6, 10**8),
        "SeriesTime": f"{rng.randrange(8, 17):02d}{rng.randrange(60):02d}{rng.randrange(60):02d}",
        "ViewPosition": view,
        "ImageLaterality": side,
        "PatientOrientation": ["A", "R"] if side == "L" else ["P", "L"],
        "PresentationIntentType": "FOR PRESENTATION",
        "ImagerPixelSpacing": [0.7, 0.7],
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "PresentationLUTShape": "INVERSE" if inverted else "IDENTITY",
        "SamplesPerPixel": 1,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
    }
    if windows:
        tags |= {"WindowCenter": windows, "WindowWidth": [3200] * len(windows)}
        tags |= {"WindowCenterWidthExplanation": names, "VOILUTFunction": "LINEAR"}
    image = Dataset()
    for name, value in tags.items():
        setattr(image, name, value)
    image.PatientID, image.AccessionNumber = str(patient.empi), str(exam.accession)
    image.StudyDate = f"{exam.acquired:%Y%m%d}"
    code = Dataset()
    meaning, code.CodeValue = {"CC": ("cranio-caudal", "R-10242"), "ML": ("medio-lateral", "R-10224")}.get(
        view, ("medio-lateral oblique", "R-10226")
    )
    code.CodeMeaning, code.CodingSchemeDesignator = meaning, "SNM3"
    image.ViewCodeSequence = [code]
    image.PixelData = stored.tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    single = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in tags.items()}
    return {**{name: str(value) for name, value in single.items()}, "0_ViewCodeSequence_CodeMeaning": meaning}


def _dirty(clinical: list[Row], metadata: list[Row]) -> Counter[str]:
    """How many rows have what is wrong in the real tables too."""
    reported, imaged = {row["acc_anon"] for row in clinical}, {row["acc_anon"] for row in metadata}
    owners = Counter(accession for accession, _ in {(row["acc_anon"], row["empi_anon"]) for row in clinical})
    keys = Counter((row["empi_anon"], row["acc_anon"], row["numfind"]) for row in clinical)
    days: dict[object, Counter[object]] = defaultdict(Counter)
    for patient, day, _ in {(row["empi_anon"], row["study_date_anon"], row["acc_anon"]) for row in clinical}:
        days[patient][day] += 1
    screening = [row for row in clinical if row["desc"] in _SCREENING]
    diagnostic = [row for row in clinical if row["desc"] in (_BOTH_SIDES, *_ONE_SIDE.values())]
    amended = [row for row in screening if "path_severity" in row and row["asses"] in ("N", "B")]
    crowded = [row for row in clinical if days[row["empi_anon"]][row["study_date_anon"]] > 1]
    return Counter(
        {
            "asses blank": sum(not row["asses"] for row in clinical),
            "asses X": sum(row["asses"] == "X" for row in clinical),
            "screening with P, S, M or K": sum(str(row["asses"]) in tuple("PSMK") for row in screening),
            "diagnostic with A": sum(row["asses"] == "A" for row in diagnostic),
            "screening N or B with pathology": len(amended),
            "desc blank": sum(not row["desc"] for row in clinical),
            "path_severity 6": sum(row.get("path_severity") == "6.0" for row in clinical),
            "finding repeated for a procedure": sum(count - 1 for count in keys.values()),
            "accession of two patients": sum(owners[row["acc_anon"]] > 1 for row in clinical),
            "finding without images": sum(row["acc_anon"] not in imaged for row in clinical),
            "image without a finding": sum(row["acc_anon"] not in reported for row in metadata),
            "ImageLateralityFinal blank": sum(not row["ImageLateralityFinal"] for row in metadata),
            "ViewPosition blank": sum(not row["ViewPosition"] for row in metadata),
            "two exams of one patient and day": len(crowded),
        }
    )
