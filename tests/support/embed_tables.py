"""For tests of EMBED: its two tables, with its columns and value sets, typed row by row; no real one was seen."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim.data.sources import embed
from medmim.data.sources.source import Entry, Source
from medmim.recipe.sources import Embed
from medmim.sample import Study

CLINICAL, METADATA = "tables/EMBED_OpenData_clinical.csv", "tables/EMBED_OpenData_metadata.csv"


ANN, BEA = "25548754", "14581551"  # patients


FIRST, SECOND, OTHER = "4378861234567891", "9378861234567893", "9378861234567895"  # exams; two above 2^53


SCREENING, DIAGNOSTIC = "MG Screening Bilateral w/CAD", "MG Diagnostic Left"


Rows = Sequence[Mapping[str, str]]


def finding(exam: str = FIRST, patient: str = ANN, **cells: str) -> dict[str, str]:
    return {
        "GENDER_DESC": "Female", "ETHNICITY_DESC": "African American  or Black", "empi_anon": patient, "acc_anon": exam,
        "study_date_anon": "2015-07-26", "desc": SCREENING, "age_at_study": "52.031185", "side": "", "asses": "N",
        "numfind": "1", "tissueden": "2.0", "path_severity": "", "bside": "", "massshape": "", "calcfind": "",
        "calcdistri": "", "calcnumber": "0", **cells,
    }  # fmt: skip


def image(name: str, exam: str = FIRST, patient: str = ANN, **cells: str) -> dict[str, str]:
    """A row whose file lies at `cohort_1/PATIENT/1.2/NAME.dcm`."""
    return {
        "": "0", "empi_anon": patient, "acc_anon": exam, "study_date_anon": "2015-07-24 00:00:00", "cohort_num": "1",
        "anon_dicom_path": f"/mnt/mammo/anon_dicom/cohort_1/{patient}/1.2/{name}.dcm", "ImageLateralityFinal": "L",
        "FinalImageType": "2D", "ViewPosition": "CC", "spot_mag": "", "ROI_coords": "()", "num_roi": "0", **cells,
    }  # fmt: skip


def views(exam: str = FIRST, patient: str = ANN) -> list[dict[str, str]]:
    """The four images of a screening exam: `EXAM-LCC`, `EXAM-LMLO`, ..."""
    return [
        image(f"{exam}-{side}{view}", exam, patient, ImageLateralityFinal=side, ViewPosition=view)
        for side in "LR"
        for view in ("CC", "MLO")
    ]


def table(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # with BOM
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def files(root: Path, metadata: Rows, suffix: str = ".dcm") -> None:
    for row in metadata:
        tail = row["anon_dicom_path"].partition("cohort_")[2]
        path = (root / "images" / f"cohort_{tail}").with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")


def section(root: Path, **keys: Any) -> Entry[Embed]:
    return Entry(Embed(name="embed", root=str(root), **keys), "data.sources.0")


def read(root: Path, clinical: Rows, metadata: Rows, **keys: str) -> Source:
    table(root / CLINICAL, clinical)
    table(root / METADATA, metadata)
    files(root, metadata)
    return embed.load(section(root, **keys))


def studies(source: Source) -> list[Study]:
    return list(source.studies or ())


def labels(source: Source) -> dict[str, str | None]:
    """What stands behind the exam in the names of `views` -> rating."""
    return {Path(study.image).stem.rpartition("-")[2]: study.rating for study in studies(source)}
