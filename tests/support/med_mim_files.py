"""Writes small data sets in the layouts of the real ones; all content is made up here."""

import csv
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Row = dict[str, Any]


def row(
    images: Sequence[str], question: str, answer: str, options: Sequence[str] = (), source: str = "MS_CXR_T_vqa_edema"
) -> Row:
    """A valid published row; `answer` is the text of an option, or free text where there are none."""
    lines = "".join(f"\n{letter}: {text}" for letter, text in zip("ABCDEFGH", options, strict=False))
    gold = f"{'ABCDEFGH'[list(options).index(answer)]}: {answer}" if options else answer
    return {
        "id": "not-unique-1",
        "images": list(images),
        "conversation": [
            {"role": "user", "content": "<image>" * len(images) + question + lines + ("\n" if options else "")},
            {"role": "assistant", "content": gold},
        ],
        "source": source,
    }


def film(patient: int, visit: int) -> str:
    """An image path as MS-CXR-T has them."""
    return f"p1{patient % 10}/p1{patient:07d}/s{visit}/film.png"


def comparison(patients: Iterable[int], visits: tuple[int, int] = (1, 2)) -> list[Row]:
    """A row for each patient: two films, three options."""
    options = ("improved", "stable", "worse")
    images = [[film(p, v) for v in visits] for p in patients]
    return [row(i, "What became of the edema?", options[n % 3], options) for n, i in enumerate(images)]


def temporal(patients: Iterable[int]) -> list[Row]:
    """A row for each patient of LUMIERE."""
    return [
        row(
            [f"ct1/Patient-{p:03d}/slice_1/week_{w:03d}.png" for w in (0, 9)],
            "How did the tumor develop?", ("progressive", "stable")[p % 2], ("stable", "progressive"),
            "LUMIERE_multichoice_typeC_VQA_2024_12_30_16_20_23",
        )
        for p in patients
    ]  # fmt: skip


def fundus(patients: Iterable[int]) -> list[Row]:
    """An open row for each patient of ODIR."""
    return [
        row(
            [f"Training Images/{p}_left.jpg", f"Training Images/{p}_right.jpg"],
            "Do both images share a diagnosis?", "No, the second one is healthy.",
            source="VQA_ODIR_instruction_conversation_20250124",
        )
        for p in patients
    ]  # fmt: skip


def clean_set() -> dict[str, list[Row]]:
    """Train and benchmark files that share nothing: 40 rows."""
    return {
        "Med_MIM_train_inherent_Comparison.json": comparison(range(20)),
        "Med_MIM_benchmark_Held_in_Comparison.json": comparison(range(20, 30)),
        "Med_MIM_benchmark_Held_in_Temporal.json": temporal(range(5)),
        "Med_MIM_benchmark_Held_out_ODIR.json": fundus(range(5)),
    }


def write(folder: Path, files: Mapping[str, Any], images: bool = False) -> Path:
    """Write annotation files and, if asked, a small picture for every path that they name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / name).write_text(json.dumps(rows, indent=4))
    if images:
        for path in {path for rows in files.values() for r in rows for path in r["images"]}:
            picture(folder / path)
    return folder


def picture(path: Path, size: tuple[int, int] = (24, 20)) -> Path:
    """A small picture, different for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.as_posix().encode())
    pixels = bytes((seed >> (i % 24)) * (i + 1) & 255 for i in range(size[0] * size[1]))
    Image.frombytes("L", size, pixels).save(path)
    return path


COVID_COLUMNS = ("Patientid", "offset", "sex", "finding", "view", "modality", "date", "filename", "license")


def covid_rows(patients: int = 30) -> list[dict[str, str]]:
    """Three visits of each patient, the last with a CT; every fourth patient is healthy."""
    rows = []
    for patient in range(patients):
        finding = ("COVID-19", "SARS", "COVID-19", "No Finding")[patient % 4]
        shots = [("0", "PA", "X-ray"), ("0", "L", "X-ray"), ("4", "PA", "X-ray"), ("9", "AP Supine", "X-ray")]
        for offset, view, modality in [*shots, ("9", "Axial", "CT")]:
            name = f"{patient}-{offset}-{view.replace(' ', '')}.png"
            values = (str(patient), offset, "F", finding, view, modality, "2020", name, "none")
            rows.append(dict(zip(COVID_COLUMNS, values, strict=True)))
    return rows


def write_covid(folder: Path, rows: Sequence[Mapping[str, str]], images: bool = True) -> Path:
    """Write `metadata.csv` and a picture for each row."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COVID_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    if images:
        for one in rows:
            picture(folder / "images" / one["filename"])
    return folder
