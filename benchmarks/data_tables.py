"""Reads tables as large as EMBED's: seconds and peak memory of the tables alone, no image is opened.

    python benchmarks/data_tables.py [--rows 480000] [--columns 150] [--folder FOLDER]

The tables are drawn: six files an exam, one of them a spot view and one cview, and one finding. FOLDER keeps them for
the next run. The limits are 20 s and 1 GiB for the table of the files; processor seconds stand beside, since another
program may be running.
"""

import argparse
import csv
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medmim.data.sources import embed_findings, embed_images

LIMITS = {"seconds": 20.0, "peak": 1 << 30}
CLINICAL, METADATA = "clinical.csv", "metadata.csv"
_FILES = 6  # of an exam
_EXAMS = 3  # of a patient
_NAMES = (
    "", "empi_anon", "acc_anon", "study_date_anon", "cohort_num", "anon_dicom_path", "ImageLateralityFinal",
    "FinalImageType", "ViewPosition", "spot_mag", "ROI_coords", "match_level", "num_roi",
)  # fmt: skip
_FINDING = (
    "empi_anon", "acc_anon", "study_date_anon", "desc", "side", "asses", "numfind", "path_severity", "bside",
    "age_at_study", "GENDER_DESC", "ETHNICITY_DESC", "tissueden", "massshape", "calcfind", "calcdistri", "calcnumber",
)  # fmt: skip


def files(rows: int, columns: int) -> Iterator[list[object]]:
    """The table of the files, with its header."""
    tags = columns - len(_NAMES)
    yield [*_NAMES, *(f"Tag{i}" for i in range(tags))]
    for row in range(rows):
        exam, turn = divmod(row, _FILES)
        patient = 10_000_000 + exam // _EXAMS
        accession = 2**53 + 2 * exam + 1
        regions = "()" if row % 9 else "((1365, 272, 1610, 508),)"
        tail = f"{patient}/1.2.847.113974.3.59.1.{accession}.20150726/1.2.841.113684.2750825169.1437720681.{row}"
        path = f"/mnt/mammo/anon_dicom/cohort_{1 + exam % 2}/{tail}/1.2.826.0.1.3680043.8.498.{row:038d}.dcm"
        values = [f"{row % 7}.{i}" if i % 3 else "" for i in range(tags)]
        yield [
            row, patient, accession, "2015-07-26", 1, path, "LR"[turn % 2], "cview" if turn == 5 else "2D",
            "CC" if turn < 2 else "MLO", "" if turn != 4 else 1, regions, "[]", int(row % 9 == 0), *values,
        ]  # fmt: skip


def findings(exams: int) -> Iterator[list[object]]:
    """The table of the findings, with its header."""
    yield [*_FINDING, *(f"More{i}" for i in range(116 - len(_FINDING)))]
    for exam in range(exams):
        year, age = 2012 + exam % _EXAMS, f"{50 + exam % _EXAMS}.031185"
        yield [
            10_000_000 + exam // _EXAMS, 2**53 + 2 * exam + 1, f"{year}-07-26", "MG Screening Bilateral", "",
            "NBA"[exam % 3], 1, "", "", age, "Female", "Asian", "2.0", "", "", "", 0, *[""] * (116 - len(_FINDING)),
        ]  # fmt: skip


def write(path: Path, rows: Iterator[list[object]]) -> None:
    """Write a table once."""
    if not path.exists():
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def main() -> None:
    """Draw the tables, read them, print what it took; exit code 1 above the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=480_000)
    parser.add_argument("--columns", type=int, default=150)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / METADATA, files(args.rows, args.columns))
        write(folder / CLINICAL, findings(args.rows // _FILES))
        shown = Table("table", "rows", "MiB", "s", "processor s", "peak MiB so far")
        spent = {}
        for name in (CLINICAL, METADATA):
            begin, used = time.perf_counter(), time.process_time()
            if name == CLINICAL:
                clinical = embed_findings.read(folder / name, name)
                rows = clinical.rows
            else:
                images = embed_images.read(folder / name, name, clinical)
                rows = images.rows
            spent[name] = time.perf_counter() - begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            size = (folder / name).stat().st_size
            cells = (f"{rows:,}", f"{size >> 20:,}", f"{spent[name]:.1f}", f"{time.process_time() - used:.1f}")
            shown.add_row(name, *cells, f"{peak >> 20:,}")
    Console().print(shown)
    print(f"{len(clinical.breasts):,} breasts, {len(images.chosen):,} images chosen, {len(images.bad)} bad rows")
    if spent[METADATA] > LIMITS["seconds"] or peak > LIMITS["peak"]:
        sys.exit("above the limits")


if __name__ == "__main__":
    main()
