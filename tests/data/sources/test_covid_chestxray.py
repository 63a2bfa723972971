"""Reading covid-chestxray: studies, quarantined rows, missing images, and the questions that are made of them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import build, reading
from medmim.data.sources import covid_chestxray
from medmim.data.sources.source import BadImage, Entry
from medmim.errors import UserError
from medmim.recipe.schema import Data
from medmim.sample import SPLITS, Finding, Sample
from tests.support import med_mim_files as files
from tests.support import shared_data


def section(root: Path, **keys: Any) -> Data:
    return Data(source="covid_chestxray", root=str(root), dev_fraction=0.1, test_fraction=0.3, **keys)


def data(root: Path, **keys: Any) -> Entry[Any]:
    return reading.of(section(root, **keys)).parts[0][2]


def questions(root: Path) -> list[Sample]:
    source = covid_chestxray.load(data(root))
    return build.questions(source.studies or [], source.families, section(root))


def one(tmp_path: Path, **changes: str) -> covid_chestxray.Source:
    """The list with its first row changed."""
    rows = files.covid_rows(2)
    rows[0] |= changes
    return covid_chestxray.load(data(files.write_covid(tmp_path, rows)))


def test_a_row_becomes_a_study(tmp_path: Path) -> None:
    source = covid_chestxray.load(data(files.write_covid(tmp_path, files.covid_rows(4))))
    assert source.studies is not None
    first, last = source.studies[0], source.studies[-1]
    assert (first.patient, first.time, first.view, first.modality) == ("0", 0.0, "PA", "X-ray")
    assert first.findings == (Finding("COVID-19"),)
    assert (last.patient, last.view, last.modality, last.findings) == ("3", "axial", "CT", ())


def test_newer_copies_of_the_list_read_the_same(tmp_path: Path) -> None:
    rows = [row | {"finding": f"Pneumonia/Viral/{row['finding']}"} for row in files.covid_rows(2)]
    files.write_covid(tmp_path, rows)
    text = (tmp_path / "metadata.csv").read_text().replace("Patientid,", "patientid,", 1)
    (tmp_path / "metadata.csv").write_text(text)
    studies = covid_chestxray.load(data(tmp_path)).studies or []
    assert studies[0].findings == (Finding("COVID-19"),)


def test_rows_without_their_image_are_counted_and_not_used(tmp_path: Path) -> None:
    files.write_covid(tmp_path, files.covid_rows(6))
    gone = files.covid_rows(6)[7]["filename"]
    (tmp_path / "images" / gone).unlink()
    source = covid_chestxray.load(data(tmp_path))
    assert source.missing == [f"images/{gone}"]
    assert (source.bad, source.facts["missing_images"], len(source.studies or ())) == ([], 1, 29)


def test_volumes_and_unknown_findings_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = files.covid_rows(2)
    rows[0]["filename"] = "scan.nii.gz"
    rows[1]["finding"] = "todo"
    source = covid_chestxray.load(data(files.write_covid(tmp_path, rows, images=False)))
    assert source.facts["skipped"] == {"a volume, not an image": 1, "finding unknown": 1}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"Patientid": ""}, "patientid", "empty"),
        ({"offset": "soon"}, "offset", "no number"),
        ({"modality": "smell"}, "modality", "neither"),
        ({"filename": "../../etc/passwd"}, "filename", "leaves"),
        ({"filename": "0-0-L.png"}, "filename", "again"),
    ],
)
def test_a_bad_row_names_its_key_and_reason(tmp_path: Path, changes: dict[str, str], key: str, words: str) -> None:
    if changes.get("filename", "").startswith(".."):
        rows = files.covid_rows(2)
        files.write_covid(tmp_path, rows)
        rows[0] |= changes
        files.write_covid(tmp_path, rows, images=False)
        bad = covid_chestxray.load(data(tmp_path)).bad
    else:
        bad = one(tmp_path, **changes).bad
    assert [(row.key, words in row.reason) for row in bad] == [(key, True)]


def test_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    root = files.write_covid(tmp_path / "root", files.covid_rows(2))
    path = root / "images" / "0-0-PA.png"
    path.rename(tmp_path / "outside.png")
    path.symlink_to(tmp_path / "outside.png")
    source = covid_chestxray.load(data(root))
    with pytest.raises(BadImage, match="symlink"):
        source.read("images/0-0-PA.png")


def test_a_missing_offset_in_any_word_is_no_offset(tmp_path: Path) -> None:
    rows = files.covid_rows(2)
    for row, word in zip(rows, ("NaN", "N/A", "inf", "#REF!", "-"), strict=False):
        row["offset"] = word
    source = covid_chestxray.load(data(files.write_covid(tmp_path, rows)))
    assert source.bad == []
    assert [study.time for study in source.studies or []] == [None] * 5 + [0, 0, 4, 9, 9]


def test_a_word_for_no_value_is_no_diagnosis_and_its_row_is_counted(tmp_path: Path) -> None:
    rows = files.covid_rows(4)
    words = ("NA", "None", "N/A", "nan", "#N/A", "Pneumonia/Viral/NaN", "Pneumonia/N/A", "Pneumonia/", "/", "?")
    for row, word in zip(rows, words, strict=False):
        row["finding"] = word
    source = covid_chestxray.load(data(files.write_covid(tmp_path, rows)))
    found = [finding.name for study in source.studies or [] for finding in study.findings]
    assert found[:3] == ["Viral", "Pneumonia", "Pneumonia"] and set(found[3:]) == {"COVID-19"}
    assert (source.bad, source.facts["skipped"]) == ([], {"finding unknown": 7})


@pytest.mark.parametrize("word", ["NaN", "N/A", "None", "?", "-", ".", "#REF!", "-1", "TRUE", "1.23E+15", "1,234"])
def test_no_patient_is_made_of_what_is_no_id(tmp_path: Path, word: str) -> None:
    rows = files.covid_rows(6)
    for row in rows[:10]:
        row["Patientid"] = word
    source = covid_chestxray.load(data(files.write_covid(tmp_path, rows)))
    assert {study.patient for study in source.studies or []} == {"2", "3", "4", "5"}
    assert [(bad.row, bad.key) for bad in source.bad] == [(n, "patientid") for n in range(2, 12)]


@pytest.mark.parametrize("form", ["{}.0", " {}", "{}.", "'{}", '="{}"', "\u200b{}"])
def test_one_patient_in_two_forms_is_in_one_split(tmp_path: Path, form: str) -> None:
    rows = files.covid_rows(40)
    plain = questions(files.write_covid(tmp_path / "plain", rows))
    for row in rows[::2]:
        row["Patientid"] = form.format(row["Patientid"])
    assert questions(files.write_covid(tmp_path / "mixed", rows)) == plain


def test_a_german_thousand_is_not_the_patient_1(tmp_path: Path) -> None:
    rows = files.covid_rows(8)
    for row in rows:
        row["Patientid"] = {"2": "1000", "3": "1.000"}.get(row["Patientid"], row["Patientid"])
    source = covid_chestxray.load(data(files.write_covid(tmp_path, rows)))
    assert {study.patient for study in source.studies or []} == {"0", "1", "4", "5", "6", "7"}
    assert {study.image.split("-")[0] for study in source.studies or [] if study.patient == "1"} == {"images/1"}
    assert len(source.bad) == sum(row["Patientid"] in ("1000", "1.000") for row in rows)


def test_all_rows_of_an_id_of_two_people_are_quarantined(tmp_path: Path) -> None:
    rows = files.covid_rows(4)
    rows[7]["sex"] = "M"
    source = covid_chestxray.load(data(files.write_covid(tmp_path, rows)))
    assert "1" not in {study.patient for study in source.studies or []}
    assert [bad.row for bad in source.bad] == [7, 8, 9, 10, 11]
    assert {bad.reason for bad in source.bad} == {"one patient id with two sexes: two people, or a wrong cell"}


def test_a_name_in_another_normal_form_is_found_and_is_the_image_of_its_other_row(tmp_path: Path) -> None:
    rows = files.covid_rows(2)
    rows[0]["filename"], rows[1]["filename"] = "re\u0301ne\u0301.png", "r\u00e9n\u00e9.png"
    files.write_covid(tmp_path, rows[:1] + rows[2:])
    files.write_covid(tmp_path, rows, images=False)
    source = covid_chestxray.load(data(tmp_path))
    assert (source.missing, [(bad.row, bad.reason) for bad in source.bad]) == ([], [(3, "the image of row 2 again")])
    assert (source.studies or [])[0].image == "images/r\u00e9n\u00e9.png"
    assert source.read("images/r\u00e9n\u00e9.png")


def test_links_that_the_recipe_allows_are_read_and_change_the_inputs(tmp_path: Path) -> None:
    root = files.write_covid(tmp_path / "root", files.covid_rows(2))
    (root / "images").rename(tmp_path / "cache")
    (root / "images").symlink_to(tmp_path / "cache")
    allowed = data(root, link_roots=(str(tmp_path / "cache"),))
    assert covid_chestxray.load(allowed).read("images/0-0-PA.png")
    with pytest.raises(BadImage, match="symlink"):
        covid_chestxray.load(data(root)).read("images/0-0-PA.png")
    assert covid_chestxray.inputs(allowed) != covid_chestxray.inputs(data(root))


@pytest.mark.parametrize(
    ("beside", "words"), [("metadata.csv.gz", "gunzip metadata.csv.gz"), ("metadata.csv.dvc", "dvc pull"),
                          ("Metadata.CSV", "fix: `mv "), ("metadata (1).csv", "metadata.csv`"),
                          ("Metadata.xlsx", "there is Metadata.xlsx"), ("metadata.tsv", "there is metadata.tsv")]
)  # fmt: skip
def test_what_lies_beside_a_missing_list_is_named(tmp_path: Path, beside: str, words: str) -> None:
    (tmp_path / beside).touch()
    with pytest.raises(UserError, match="there is no metadata.csv") as caught:
        covid_chestxray.load(data(tmp_path))
    assert words in str(caught.value)


def test_a_list_that_is_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").symlink_to(".git/annex/objects/k/k")
    with pytest.raises(UserError, match="git annex get"):
        covid_chestxray.load(data(tmp_path))


HEADER = "Patientid,offset,finding,view,modality,filename\n"


@pytest.mark.parametrize("text", ["", "filename\nx.png\n", HEADER, '"open'])
def test_an_invalid_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserError):
        covid_chestxray.load(data(tmp_path))


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), junk=st.binary(max_size=6))
def test_a_mutated_list_is_read_or_refused_with_its_name(
    cut: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = files.write_covid(tmp_path_factory.mktemp("mutated"), files.covid_rows(2), images=False)
    whole = (folder / "metadata.csv").read_bytes()
    at = int(len(whole) * cut)
    (folder / "metadata.csv").write_bytes(whole[:at] + junk)
    try:
        covid_chestxray.load(data(folder))
    except UserError as error:
        assert "metadata.csv" in str(error)


def test_questions_of_time_need_two_different_offsets_and_hide_them_in_the_order(tmp_path: Path) -> None:
    rows = files.covid_rows(40)
    for row in rows[: len(rows) // 2]:
        row["offset"] = ""
    timed = {row["Patientid"] for row in rows if row["offset"]}
    asked = [s for s in questions(files.write_covid(tmp_path, rows)) if s.family == "order"]
    assert asked
    assert {patient for sample in asked for patient in sample.patients} <= timed

    def days(path: str) -> float:
        return float(path.split("/")[1].split("-")[1])

    first = [days(s.paths[0]) < days(s.paths[1]) for s in asked]
    assert all(days(s.paths[0]) != days(s.paths[1]) for s in asked)
    assert 0.3 < sum(first) / len(first) < 0.7  # the order of the images does not reveal the answer
    for sample in asked:
        wanted = min if "first" in sample.question else max
        right = wanted(sample.paths, key=days)
        assert sample.answer == f"image {sample.paths.index(right) + 1}"


def test_the_same_patient_is_another_view_beside_another_patient_of_that_view(tmp_path: Path) -> None:
    asked = [s for s in questions(files.write_covid(tmp_path, files.covid_rows(40))) if s.family == "same_patient"]
    assert {sample.answer for sample in asked} == {"image 2", "image 3"}
    for sample in asked:
        owner, view = zip(*((p.split("/")[1].split("-")[0], p.rsplit("-", 1)[1]) for p in sample.paths), strict=True)
        right = int(sample.answer[-1]) - 1
        assert owner[0] == owner[right] != owner[3 - right]
        assert view[1] == view[2] != view[0]


def test_no_patient_is_in_two_splits(tmp_path: Path) -> None:
    samples = questions(files.write_covid(tmp_path, files.covid_rows(40)))
    patients = {split: {p for s in samples if s.split == split for p in s.patients} for split in SPLITS}
    assert patients["train"] and patients["test"]
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["dev"]
    assert not patients["dev"] & patients["test"]


@shared_data.needs("covid-chestxray")
def test_the_real_folder_gives_every_kind_of_question_in_train_and_test() -> None:
    root = shared_data.FOLDER / "covid-chestxray"
    source = covid_chestxray.load(data(root))
    assert (len(source.studies or ()), source.bad, source.missing) == (122, [], [])
    samples = questions(root)
    for split in ("train", "test"):
        abilities = {sample.ability for sample in samples if sample.split == split}
        assert {"temporal", "comparison", "coreference", "reasoning"} <= abilities
    assert all(len(sample.images) > 1 for sample in samples if sample.ability != "single")
