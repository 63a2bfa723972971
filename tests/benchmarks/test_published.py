"""The errata of the published rows: each fault is found where it is and nowhere else; docs and files agree."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import published
import published_faults
import pytest

from medmim import shards
from medmim.bench import tasks
from medmim.recipe.schema import Bench, Data, Recipe
from tests.support import med_mim_files as files
from tests.support import shared_data

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "published-med-mim.md"
COREFERENCE = "Med_MIM_benchmark_Held_in_Coreference.json"
TEMPORAL = "Med_MIM_benchmark_Held_in_Temporal.json"
ODIR = "Med_MIM_benchmark_Held_out_ODIR.json"
HELD_IN = "Med_MIM_benchmark_Held_in_Comparison.json"
TRAIN = "Med_MIM_train_inherent_Comparison.json"
TYPE_A = "EMBED_multichoice_typeA_VQA_ImgLen2_PosNum1_randomAttempt10_2024_12_07_12_00_22"
TYPE_B = "EMBED_multichoice_typeB_VQA_ImgLenRandom_Forecast1Year_randomAttempt10_2024_12_07_12_00_22"
TYPE_C = "LUMIERE_multichoice_typeC_VQA_2024_12_30_16_20_23"
RESECTION = "LUMIERE_multichoice_typeB_VQA_2024_12_30_16_20_23"
EYES = "VQA_ODIR_instruction_multichoice_20250124"


def breasts(patient: int, *numbers: int) -> list[str]:
    return [f"cohort_1/{patient}/1.2/1.3/{number}.png" for number in numbers]


def scans(patient: int, slice_: int = 1) -> list[str]:
    return [f"ct1/Patient-{patient:03d}/slice_{slice_}/week_{week:03d}.png" for week in (0, 9)]


def eyes(patient: int) -> list[str]:
    return [f"Training Images/{patient}_{side}.jpg" for side in ("left", "right")]


def which(images: list[str], answer: str, options: list[str]) -> files.Row:
    return files.row(images, "Which image shows disease?", answer, options, TYPE_A)


def faults_of(folder: Path, given: dict[str, list[files.Row]]) -> dict[str, list[set[str]]]:
    found: dict[str, list[set[str]]] = defaultdict(list)
    for row in published_faults.read_rows(files.write(folder, given)):
        found[row.file].append(row.faults)
    return found


def test_a_clean_set_has_no_fault_and_all_of_its_benchmark_is_listed(tmp_path: Path) -> None:
    rows = published_faults.read_rows(files.write(tmp_path, files.clean_set()))
    assert not any(row.faults for row in rows)
    listed = json.loads(published.clean_list(tmp_path, rows))["files"]
    assert {name: len(facts["clean"]) for name, facts in listed.items() if "clean" in facts} == {
        HELD_IN: 10,
        TEMPORAL: 5,
        ODIR: 5,
    }


def test_a_patient_or_an_image_of_training_is_a_leak_in_every_ability(tmp_path: Path) -> None:
    given = {
        TRAIN: [
            *files.comparison([7]),
            files.row(scans(3), "How much?", "partial", ["complete", "partial"], RESECTION),
        ],
        HELD_IN: [*files.comparison([7], visits=(8, 9)), *files.comparison([8])],
        TEMPORAL: files.temporal([3, 4]),
    }
    found = faults_of(tmp_path, given)
    assert found[HELD_IN] == [{"leak"}, set()] and found[TEMPORAL] == [{"leak"}, set()]
    assert found[TRAIN] == [set(), set()]


def test_a_right_text_under_two_letters_and_letters_out_of_order_are_found(tmp_path: Path) -> None:
    twice = files.row(eyes(1), "What?", "cataract", ["cataract", "glaucoma", "cataract"], EYES)
    broken = files.row(eyes(2), "What?", "cataract", ["glaucoma", "cataract"], EYES)
    for turn in broken["conversation"]:
        turn["content"] = turn["content"].replace("B: cataract", "D: cataract")
    fine = files.row(eyes(3), "What?", "cataract", ["glaucoma", "cataract", "glaucoma"], EYES)
    assert faults_of(tmp_path, {ODIR: [twice, broken, fine]})[ODIR] == [{"two golds"}, {"unreadable"}, set()]


@pytest.mark.parametrize(
    ("source", "right", "wrong", "same"),
    [
        (EYES, "moderate non proliferative retinopathy", "diabetic retinopathy", True),
        (EYES, "diabetic retinopathy", "moderate non proliferative retinopathy", False),
        (EYES, "mild nonproliferative retinopathy", "moderate nonproliferative retinopathy", False),
        (EYES, "mild non-proliferative retinopathy", "mild nonproliferative retinopathy", True),
        (
            EYES,
            "First: epiretinal membrane, Second: drusen",
            "First: macular epiretinal membrane, Second: drusen",
            True,
        ),
        (EYES, "First: epiretinal membrane, Second: drusen", "First: drusen, Second: epiretinal membrane", False),
        (EYES, "cataract, drusen", "cataract", False),
        ("MS_CXR_T_vqa_edema", "The edema is stable.", "No significant change in the edema.", True),
        ("MS_CXR_T_vqa_edema", "The edema is stable.", "The effusion is stable.", False),
        ("MS_CXR_T_vqa_edema", "The edema is stable.", "The edema has resolved and is stable.", False),
        (RESECTION, "completely resected", "wholly resected", True),
        (RESECTION, "completely resected", "incompletely resected", False),
        (TYPE_C, "stable", "no significant change", True),
        (TYPE_C, "worsening", "no significant change", False),
        (TYPE_B, "No significant developments expected", "Stability possible with current treatments", True),
        (TYPE_B, "Persistent stable condition", "Risk of further health complications", False),
    ],
)
def test_a_wrong_option_that_says_the_same_is_a_synonym(
    tmp_path: Path, source: str, right: str, wrong: str, same: bool
) -> None:
    images = eyes(1) if source == EYES else breasts(1, 1, 2) if source == TYPE_B else scans(1)
    if source.startswith("MS"):
        images = [files.film(1, visit) for visit in (1, 2)]
    row = files.row(images, "What?", right, [wrong, right, "something else"], source)
    assert faults_of(tmp_path, {ODIR if source == EYES else HELD_IN: [row]}).popitem()[1] == [
        {"synonym"} if same else set()
    ]


def test_an_option_beside_one_answer_only_gives_it_away(tmp_path: Path) -> None:
    def course(patient: int, answer: str, *more: str) -> files.Row:
        return files.row(scans(patient), "How?", answer, ["stable", "worsening", *more], TYPE_C)

    rows = [course(n, "worsening", "recovering well") for n in range(10)]
    rows += [course(n, "stable") for n in range(10, 20)]
    rows += [course(20 + n, ("stable", "worsening")[n % 2], "under observation") for n in range(10)]
    rows += [course(30 + n, "stable", "improbable") for n in range(3)]  # too few to tell
    found = faults_of(tmp_path, {TEMPORAL: rows})[TEMPORAL]
    assert found == [{"given away"}] * 10 + [set()] * 23


def test_the_middle_of_two_images_is_none(tmp_path: Path) -> None:
    two = which(breasts(1, 1, 2), "the middle one", ["the first in line", "the middle one"])
    three = which(breasts(2, 1, 2, 3), "the middle one", ["the first in line", "the middle one", "the last one"])
    assert faults_of(tmp_path, {COREFERENCE: [two, three]})[COREFERENCE] == [{"no such image"}, set()]


def test_rows_that_contradict_each_other_are_found_both(tmp_path: Path) -> None:
    rows = [
        which(breasts(1, 1, 2), "Image 2", ["Image 1", "Image 2"]),
        which(breasts(1, 2, 3), "the last one", ["the first one", "the last one"]),  # image 2 again, now healthy
        which(breasts(2, 1, 2), "Image 2", ["Image 1", "Image 2"]),
        which(breasts(2, 3, 2), "Image 2", ["Image 1", "Image 2"]),  # again the diseased one
    ]
    assert faults_of(tmp_path, {COREFERENCE: rows})[COREFERENCE] == [{"contradiction"}] * 2 + [set()] * 2
    again = files.comparison([1])[0]
    other = files.row(again["images"], "What became of the edema?", "stable", ("improved", "stable", "worse"))
    assert faults_of(tmp_path / "b", {HELD_IN: [again, other]})[HELD_IN] == [{"contradiction"}] * 2


def test_the_list_is_of_numbers_and_digests_alone_and_changes_with_a_row(tmp_path: Path) -> None:
    given = files.clean_set()
    text = published.clean_list(tmp_path, published_faults.read_rows(files.write(tmp_path, given)))
    row = given[TEMPORAL][2]
    plain = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    number, digest, _ = json.loads(text)["files"][TEMPORAL]["clean"][2]
    assert [number, digest] == [3, hashlib.sha256(plain.encode()).hexdigest()[:16]]
    assert not re.search(r"Patient|p1\d|edema|tumor|png", text)
    row["conversation"][0]["content"] += " "
    assert published.clean_list(tmp_path, published_faults.read_rows(files.write(tmp_path, given))) != text


def test_the_command_prints_every_section_and_the_digest_of_the_list(tmp_path: Path) -> None:
    files.write(tmp_path / "raw", files.clean_set())
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [
        sys.executable,
        "benchmarks/published.py",
        str(tmp_path / "raw"),
        "--clean",
        str(tmp_path / "clean.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^## (.*)$", done.stdout, re.MULTILINE) == list(published.SECTIONS)
    assert hashlib.sha256((tmp_path / "clean.json").read_bytes()).hexdigest() in done.stdout
    files.write(tmp_path / "odd", {TEMPORAL: [*files.temporal([1]), "no row", {"images": 7}]})
    odd = subprocess.run(
        [*command[:2], str(tmp_path / "odd")], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert odd.returncode == 0 and "Held in Temporal row 2, Held in Temporal row 3" in odd.stdout
    empty = subprocess.run(
        [*command[:2], str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert empty.returncode and "Traceback" not in empty.stderr


@pytest.fixture(scope="module")
def real() -> list[published_faults.Row]:
    return published_faults.read_rows(shared_data.FOLDER / "med-mim")


@shared_data.needs("med-mim")
@pytest.mark.parametrize("name", [name for name in published.SECTIONS if name != "synonym-pairs"])
def test_the_docs_have_what_the_command_prints_of_the_real_files(real: list[published_faults.Row], name: str) -> None:
    assert "\n".join(published.SECTIONS[name](real)) in DOC.read_text("utf-8")


@shared_data.needs("med-mim")
def test_the_docs_name_the_digest_of_the_clean_list(real: list[published_faults.Row]) -> None:
    text = published.clean_list(shared_data.FOLDER / "med-mim", real)
    assert hashlib.sha256(text.encode()).hexdigest() in DOC.read_text("utf-8")


@shared_data.needs("med-mim")
def test_a_benchmark_asks_the_clean_list_alone_and_the_docs_name_its_digest(
    real: list[published_faults.Row], tmp_path: Path
) -> None:
    listed = tmp_path / "med-mim-clean.json"
    listed.write_text(published.clean_list(shared_data.FOLDER / "med-mim", real))
    shards.write(tmp_path / "data", [row.sample for row in real if row.sample], [])
    found = tasks.select(tmp_path / "data", [str(listed)])
    clean = {row.sample.id for row in real if row.sample and row.sample.split == "test" and not row.faults}
    assert {sample.id for sample in found.samples} == clean and len(found.samples) + found.repeated == 2_084
    assert tasks.lists([str(listed)])["med-mim-clean"]["digest"] in DOC.read_text("utf-8")
    assert tasks.in_recipe(Recipe(name="a", data=Data(source="phantom"), bench=Bench(tasks=(str(listed),))))


@shared_data.needs("med-mim")
def test_a_count_by_other_means_finds_the_same_faults(real: list[published_faults.Row]) -> None:
    """On the raw JSON, without the parser, the leak finder and the tables of words of medmim."""
    raw: dict[str, list[Any]] = {
        path.name: json.loads(path.read_text("utf-8")) for path in (shared_data.FOLDER / "med-mim").glob("*.json")
    }

    def patients(row: Any) -> set[str]:
        found = set()
        for path in row["images"]:
            parts = path.split("/")
            own = [part for part in parts if part.startswith("Patient-") or (part[:1] == "p" and len(part) == 9)]
            found.add((own or [parts[1] if parts[0].startswith("cohort") else parts[-1].split("_")[0]])[0])
        return found

    trained = {name for row in raw[TRAIN] for name in patients(row)}
    images = {image for row in raw[TRAIN] for image in row["images"]}
    for name, rows in raw.items():
        mine = {row.number: row.faults for row in real if row.file == name}
        for number, row in enumerate(rows, 1):
            asked, answered = (turn["content"] for turn in row["conversation"])
            options = [line[3:].strip() for line in asked.split("\n") if re.match(r"[A-H]: ", line)]
            gold = answered[3:].strip() if options else None
            leaks = name != TRAIN and bool(patients(row) & trained or set(row["images"]) & images)
            assert ("leak" in mine[number]) == leaks
            assert ("two golds" in mine[number]) == (options.count(gold) > 1)
            which_of_two = len(row["images"]) == 2 and row["source"].startswith(("EMBED", "LUMIERE"))
            middle = which_of_two and any("middle" in option or "center" in option for option in options)
            assert ("no such image" in mine[number]) == middle
            further = {"incomplete resection", "incompletely resected", "limited resection", "radical resection",
                       "totally excised", "wholly resected", "fluctuating symptoms", "no new symptoms",
                       "no significant change", "recovering well"}  # fmt: skip
            assert ("given away" in mine[number]) == (row["source"].startswith("LUM") and bool(further & set(options)))
