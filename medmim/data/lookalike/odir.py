"""A look-alike of ODIR-5K: both eyes of a patient, keywords for each eye in a spreadsheet, labels for the patient."""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmim.data.lookalike.pictures import encoded, enlarged, layers, tinted
from medmim.data.lookalike.tables import Done, Row, Written, csv_text, turn, write, xlsx
from medmim.data.seeds import pixels, stream
from medmim.data.sources.phantom_draw import NORMAL, SIDES, Plane, Scene, exposed

_LETTERS = "NDGCAHMO"
_SHEET = (
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
    "Right-Diagnostic Keywords", *_LETTERS,
)  # fmt: skip
_BY_EYE = (*_SHEET, "filepath", "labels", "target", "filename")
_COMMA = "\uff0c"  # full width


@dataclass
class _Eye:
    letter: str
    finding: str
    size: str | None
    keywords: str


_DISEASES = (  # letter, finding of the painter, size, spellings
    ("N", NORMAL, None, ("normal fundus",)),
    ("A", "drusen", "small", ("drusen", "dry age-related macular degeneration")),
    ("A", "drusen", "large", ("wet age-related macular degeneration",)),
    ("D", "bleed", "small", ("mild nonproliferative retinopathy", "mild non-proliferative retinopathy")),
    ("D", "bleed", "medium", ("moderate non proliferative retinopathy",)),
    ("D", "bleed", "large", ("severe nonproliferative retinopathy", "severe non-proliferative retinopathy")),
    ("C", "cataract", None, ("cataract",)),
    ("O", "laser", None, ("laser spot",)),
)
_TURNS = (  # what is wrong with a patient's row, in turn
    "", "", "lens dust", "", "age blank", "", "sex blank", "", "low image quality", "", "anterior segment image", "",
    "picture missing",
)  # fmt: skip
_MARKS = ("lens dust", "low image quality", "anterior segment image")
_FACTOR = 3  # pixels of the file for one of the painter's


def write_source(folder: Path, patients: int, seed: int, done: Done) -> Written:
    """Write the look-alike of the Kaggle copy of ODIR-5K.

    Args:
        folder: To be made.
        patients: How many; patient N is the same for any number of them.
        seed: Equal seeds give equal bytes.
        done: Called after each patient.

    Returns:
        What was written; `rows` are those of the spreadsheet, one a patient.
    """
    sheet: list[dict[str, object]] = []
    by_eye: list[Row] = []
    written = Written("odir", patients)
    for number in range(patients):
        rng = stream(seed, "odir", number)
        trouble = turn(_TURNS, number)
        eyes = _eyes(rng)
        if trouble in _MARKS:
            eyes["left"].keywords += _COMMA + trouble
        row: dict[str, object] = {
            "ID": number,
            "Patient Age": None if trouble == "age blank" else rng.randrange(25, 85),
            "Patient Sex": None if trouble == "sex blank" else rng.choice(("Male", "Female")),
            **{f"{side.title()}-Fundus": f"{number}_{side}.jpg" for side in SIDES},
            **{f"{side.title()}-Diagnostic Keywords": eyes[side].keywords for side in SIDES},
        }
        letters = {letter for eye in eyes.values() for letter in eye.letter}
        letters -= {"N"} if len(letters) > 1 else set()
        row |= {letter: int(letter in letters) for letter in _LETTERS}
        sheet.append(row)
        for side in SIDES:
            name = f"{number}_{side}.jpg"
            by_eye.append(
                {
                    **row,
                    "filepath": f"../input/ocular-disease-recognition-odir5k/ODIR-5K/Training Images/{name}",
                    "labels": str([eyes[side].letter[0]]),
                    "target": str([int(letter == eyes[side].letter[0]) for letter in _LETTERS]),
                    "filename": name,
                }
            )
            if trouble == "picture missing" and side == "left":
                continue
            shown = _fundus(eyes[side], side, (seed, "odir", number), trouble if side == "left" else "")
            picture = encoded(tinted(enlarged(shown, _FACTOR), (20, 6, 4), (255, 150, 90)))
            write(folder / "ODIR-5K" / "Training Images" / name, picture)
            write(folder / "preprocessed_images" / name, picture)
            written.images += 1
        if number % 5 == 0:  # of patients that no table names
            unnamed = Scene("fundus", laterality="left")
            shown = exposed(layers(unnamed, seed, "odir", number, "test")[0], pixels(seed, "odir", number, "test"))
            picture = encoded(tinted(enlarged(shown, _FACTOR), (20, 6, 4), (255, 150, 90)))
            write(folder / "ODIR-5K" / "Testing Images" / f"{100_000 + number}_left.jpg", picture)
        written.dirty += Counter({trouble: 1} if trouble else {})
        done()
    write(folder / "ODIR-5K" / "data.xlsx", xlsx("Sheet1", _SHEET, sheet))
    write(folder / "full_df.csv", csv_text(_BY_EYE, by_eye))
    written.rows = len(sheet)
    return written


def _eyes(rng: random.Random) -> dict[str, _Eye]:
    """What both eyes of a patient have: often the same."""
    usual = rng.choice(_DISEASES)
    eyes = {}
    for side in SIDES:
        letter, finding, size, spellings = usual if rng.random() < 0.6 else rng.choice(_DISEASES)
        words = rng.choice(spellings)
        if finding == "bleed" and rng.random() < 0.3:
            letter, words = letter + "O", words + _COMMA + "laser spot"
        eyes[side] = _Eye(letter, finding, size, words)
    return eyes


def _fundus(eye: _Eye, side: str, patient: tuple[object, ...], trouble: str) -> Plane:
    """A fundus as the keywords of the eye say."""
    finding = eye.finding if eye.size else NORMAL
    bare, added = layers(Scene("fundus", finding, eye.size, laterality=side), *patient, side)
    shown = np.add(bare, added)
    rng = pixels(*patient, side, "noise")
    if "O" in eye.letter:  # a grid of small bright scars
        for row in range(3):
            shown[20 + row : 80 : 12, 24:72:12] += 0.5
            shown[20 + row : 80 : 12, 25:73:12] += 0.5
    if eye.letter == "C":  # a clouded lens hides what is behind it
        shown = 0.25 + 0.3 * shown
    if trouble == "lens dust":
        shown[30:36, 60:66] -= 0.3
    if trouble == "low image quality":
        shown = 0.3 * shown
    if trouble == "anterior segment image":  # the eye from outside: a dark pupil
        shown = 0.8 - 0.6 * (bare > 0.2)
    return exposed(shown, rng)
