"""Reading the published Med-MIM files: what is accepted, what is quarantined and why, what is counted."""

import copy
import json
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import reading
from medmim.data.sources import published
from medmim.data.sources.published_rows import FileKind, file_of, kind_of, patient_of, sample_of, source_of
from medmim.data.sources.source import BadImage, Entry
from medmim.errors import UserError
from medmim.recipe.schema import Data
from medmim.sample import is_writable, to_published
from tests.support import med_mim_files as files
from tests.support import shared_data

COMPARISON = FileKind("train", "comparison", held_out=False)
VALID = files.comparison([1])[0]


def data(root: Path, **keys: Any) -> Entry[Any]:
    return reading.of(Data(source="published", root=str(root), **keys)).parts[0][2]


def changed(path: str, value: Any) -> Any:
    """A valid row with one value replaced, or removed where `value` is ..."""
    row: Any = copy.deepcopy(VALID)
    at = row
    keys: list[Any] = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys[:-1]:
        at = at[key]
    if value is ...:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return row


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Med_MIM_train_inherent_Coreference.json", FileKind("train", "coreference", False)),
        ("Med_MIM_train_Composed.json", FileKind("train", "composed", False)),
        ("Med_MIM_benchmark_Held_in_Temporal.json", FileKind("test", "temporal", False)),
        ("Med_MIM_benchmark_Held_out_RAD.json", FileKind("test", "composed", True)),
        ("Med_MIM_train_inherent_Colour.json", None),
        ("notes.json", None),
    ],
)
def test_a_file_name_gives_split_ability_and_domain(name: str, kind: FileKind | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LUMIERE_multichoice_typeB_VQA_2024_12_30_16_20_23", ("LUMIERE", "multichoice_typeB")),
        ("EMBED_conv_typeA_VQA_ImgLen2_PosNum1_randomAttempt10_2024_12_10_22_34_09", ("EMBED", "conv_typeA")),
        ("MS_CXR_T_vqa_pleural_effusion", ("MS_CXR_T", "vqa_pleural_effusion")),
        ("VQA_ODIR_instruction_multichoice_20250124", ("ODIR", "multichoice")),
        ("VQA_RAD_instruction_conversation_20250124", ("VQA_RAD", "conversation")),
        ("PMC", ("PMC", "any")),
        ("PMCX_typeA", None),
        ("", None),
    ],
)
def test_a_source_field_gives_data_set_and_family(text: str, found: tuple[str, str] | None) -> None:
    assert source_of(text) == found


@pytest.mark.parametrize(
    ("source", "path", "patient"),
    [
        ("MS_CXR_T", "p10/p10268877/s53452091/e35d7c70.png", "p10268877"),
        ("EMBED", "cohort_2/56719889/1.2.848/1.2.849/1.2.826.png", "56719889"),
        ("LUMIERE", "ct1_LUMIERE_images_tumor1200px_256x256/Patient-008/slice_1/week_000.png", "Patient-008"),
        ("ODIR", "Training Images/0_left.jpg", "0"),
        ("VQA_RAD", "synpic1.jpg", "synpic1.jpg"),
        ("MS_CXR_T", "films/1.png", None),
    ],
)
def test_the_patient_is_read_from_the_image_path(source: str, path: str, patient: str | None) -> None:
    assert patient_of(source, path) == patient


def test_a_valid_row_becomes_a_sample_and_survives_the_published_layout() -> None:
    sample, problems = sample_of(VALID, COMPARISON)
    assert problems == []
    assert sample is not None
    assert (sample.patients, sample.options[sample.gold[0]]) == (("p10000001",), sample.answer)
    assert sample_of(to_published(sample), COMPARISON) == (sample, [])


QUESTION = "<image><image>What became of it?"


@pytest.mark.parametrize(
    ("row", "key", "words"),
    [
        (["no", "object"], "", "not an object"),
        (changed("images", ...), "images", "missing"),
        (changed("source", ...), "source", "missing"),
        (changed("images", "film.png"), "images", "type str"),
        (changed("images", []), "images", "no image"),
        (changed("images", [1, 2]), "images", "text"),
        (changed("images.0", "../../etc/passwd"), "images", "leaves the image root"),
        (changed("images.0", ""), "images", "empty"),
        (changed("images.0", "films/1.png"), "images", "no patient"),
        (changed("images", VALID["images"][:1]), "conversation.0.content", "2 <image> placeholders for 1"),
        (changed("conversation.0.content", "A film <image><image>"), "conversation.0.content", "inside the question"),
        (changed("conversation.0.content", "<image><image>"), "conversation.0.content", "question is empty"),
        (changed("conversation.0.role", "system"), "conversation.0.role", "not 'user'"),
        (changed("conversation.1", ...), "conversation", "1 turns"),
        (changed("conversation.1.content", "  "), "conversation.1.content", "answer is empty"),
        (changed("conversation.1.content", 7), "conversation.1.content", "not text"),
        (changed("conversation.1.content", "F: worse"), "conversation.1.content", "letter F does not exist"),
        (changed("conversation.1.content", "B: worse"), "conversation.1.content", "not that of option B"),
        (changed("conversation.1.content", "worse"), "conversation.1.content", "no option letter"),
        (changed("conversation.0.content", QUESTION), "conversation.0.content", "without options"),
        (changed("conversation.0.content", QUESTION + "\nA: x\nB: y\n\nD: z"), "conversation.1.content", "not that"),
        (changed("source", "MY_DATA"), "source", "unknown data set"),
    ],
)
def test_each_problem_names_its_key_and_reason(row: Any, key: str, words: str) -> None:
    sample, problems = sample_of(row, COMPARISON)
    assert sample is None
    assert any(at == key and words in reason for at, reason in problems), problems


def test_a_lettering_with_a_gap_is_refused_though_the_gold_is_among_the_first() -> None:
    row = changed("conversation.0.content", QUESTION + "\nA: improved\nB: y\n\nD: z")
    row["conversation"][1]["content"] = "A: improved"
    assert "not lettered in order" in sample_of(row, COMPARISON)[1][0][1]


def test_all_problems_of_a_row_are_reported_together() -> None:
    row = changed("images.0", "../../etc/passwd")
    row["conversation"][1]["content"] = ""
    row["source"] = "MY_DATA"
    assert {key for key, _ in sample_of(row, COMPARISON)[1]} == {"images", "conversation.1.content", "source"}


def test_a_gold_under_two_letters_accepts_both_and_keeps_the_published_one_first() -> None:
    row = changed("conversation.0.content", QUESTION + "\nA: stable\nB: worse\nC: stable\n")
    row["conversation"][1]["content"] = "C: stable"
    sample, problems = sample_of(row, COMPARISON)
    assert problems == []
    assert sample is not None
    assert sample.gold == (2, 0)
    assert sample.target == "C: stable"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just("<image>A: x\nB: y"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(["id", "images", "images.0", "conversation", "conversation.0", "conversation.0.content",
                            "conversation.1.content", "conversation.1.role", "source"]), value=json_values)  # fmt: skip
def test_any_value_anywhere_gives_a_sample_or_reasons(key: str, value: Any) -> None:
    sample, problems = sample_of(changed(key, value), COMPARISON)
    assert (sample is None) == bool(problems)


@settings(max_examples=200, deadline=None)
@given(question=st.text(max_size=80), answer=st.text(min_size=1, max_size=40))
def test_whatever_the_text_a_sample_survives_the_published_layout(question: str, answer: str) -> None:
    row = files.row(VALID["images"], question, answer, source="MS_CXR_T_conv_edema")
    sample, _ = sample_of(row, COMPARISON)
    if sample is not None:
        assert sample_of(to_published(sample), COMPARISON)[0] == sample


def test_all_files_are_read_and_counted(tmp_path: Path) -> None:
    source = published.load(data(files.write(tmp_path, files.clean_set(), images=True)))
    assert len(source.samples or ()) == 40
    assert (source.bad, source.missing) == ([], [])
    facts = source.facts["files"]["Med_MIM_benchmark_Held_in_Temporal.json"]
    assert (facts["rows"], facts["patients"], facts["by_source"]) == (5, 5, {"LUMIERE": 5})
    assert facts["by_options"] == {"2": 5}
    assert {file_of(sample) for sample in source.samples or ()} == set(files.clean_set())


def test_missing_images_are_listed_and_counted(tmp_path: Path) -> None:
    files.write(tmp_path, files.clean_set(), images=True)
    gone = files.film(3, 1)
    (tmp_path / gone).unlink()
    source = published.load(data(tmp_path))
    assert source.missing == [gone]
    assert source.facts["files"]["Med_MIM_train_inherent_Comparison.json"]["missing_images"] == 1
    with pytest.raises(FileNotFoundError):
        source.read(gone)


def test_annotations_may_be_in_another_folder_than_the_images(tmp_path: Path) -> None:
    files.write(tmp_path / "images", files.clean_set(), images=True)
    files.write(tmp_path / "json", files.clean_set())
    for file in (tmp_path / "images").glob("*.json"):
        file.unlink()
    apart = data(tmp_path / "images", annotations=str(tmp_path / "json"))
    assert published.load(apart).missing == []


def test_duplicates_are_counted_and_contradictions_quarantined(tmp_path: Path) -> None:
    first, second = files.comparison([1, 2])
    other = copy.deepcopy(second)
    other["conversation"][1]["content"] = "A: improved"
    files.write(tmp_path, {"Med_MIM_train_inherent_Comparison.json": [first, second, first, other]})
    source = published.load(data(tmp_path))
    facts = source.facts["files"]["Med_MIM_train_inherent_Comparison.json"]
    assert facts["duplicates"] == {"rows": 1, "ids": 3, "conflicting": 1}
    assert len(source.samples or ()) == 2
    assert [(bad.row, "row 2" in bad.reason) for bad in source.bad] == [(4, True)]


def test_the_error_of_a_cut_off_file_names_line_column_and_complete_rows(tmp_path: Path) -> None:
    name = "Med_MIM_train_inherent_Comparison.json"
    files.write(tmp_path, {name: files.comparison(range(9))})
    text = (tmp_path / name).read_text()
    lines = text.split("\n")
    cut = len("\n".join(lines[: len(lines) // 2]))
    (tmp_path / name).write_text(text[:cut])
    with pytest.raises(UserError, match=r"line \d+, column \d+ .*, after 4 complete rows") as caught:
        published.load(data(tmp_path))
    assert name in caught.value.fact


NAME = "Med_MIM_train_inherent_Comparison.json"
ROWS = files.comparison(range(9))
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
OTHER: dict[str, tuple[str | bytes, str, str]] = {
    "JSON Lines": (LINES, r"is JSON Lines \(one row a line\)", "json.loads(line)"),
    "JSON Lines with CRLF": (LINES.replace("\n", "\r\n"), "is JSON Lines", "json.loads(line)"),
    "JSON Lines of long rows": (LINES.replace("edema", "edema " * 20_000), "is JSON Lines", "json.loads(line)"),
    "values one after another": ("".join(json.dumps(row, indent=1) for row in ROWS), "several JSON values", "jq -s ."),
    "object with a list": (json.dumps({"data": ROWS}), "an object whose 'data' is a list", "['data']"),
    "one row": (json.dumps(ROWS[0]), "holds a dict, not a list", "conversation"),
    "a number": ("7", "holds a int, not a list", "conversation"),
    "cut off": (json.dumps(ROWS)[:-90], "not valid JSON at line 1.*after 8 complete rows", "completely"),
    "cut off behind a row": ("[" + json.dumps(ROWS[0]) + ",", "not valid JSON", "completely"),
    "trailing comma": (json.dumps(ROWS)[:-1] + ",]", "not valid JSON", "correct line 1"),
    "comment": ("[\n// first\n" + json.dumps(ROWS)[1:], "not valid JSON at line 2", "correct line 2"),
    "Python": (repr(ROWS), "not valid JSON", "correct line 1"),
    "UTF-16": (json.dumps(ROWS).encode("utf-16"), "UTF-16 text", "iconv -f UTF-16"),
    "Windows-1252": (json.dumps("f\u00fcr", ensure_ascii=False).encode("cp1252"), "WINDOWS-1252", "iconv"),
    "CSV": ("id,images\n1,a.png\n", r"a table \(CSV\)", "right file"),
    "YAML": ("- id: 1\n", "is YAML", "right file"),
    "Git LFS": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08....", "a gzip file", "gunzip"),
    "sign-in page": ("<html><body>Log in", "a web page", "access"),
    "error of a server": ('{"error": "Access to dataset x is restricted."}', "error of a server", "access"),
    "DICOM": (b"\0" * 128 + b"DICM", "a DICOM file", "PNG"),
    "empty": ("", "is empty", "complete"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_a_file_that_is_no_list_of_rows_is_named_with_its_fix(tmp_path: Path, name: str) -> None:
    text, words, fix = OTHER[name]
    (tmp_path / NAME).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=words) as caught:
        published.load(data(tmp_path))
    assert NAME in caught.value.fact and fix in caught.value.fix
    assert "ownload" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["JSON Lines", "JSON Lines with CRLF", "JSON Lines of long rows", "object with a list", "UTF-16"]
)
def test_the_command_that_the_fix_names_makes_the_file_readable(tmp_path: Path, name: str) -> None:
    path = tmp_path / "it's here" / NAME
    path.parent.mkdir()
    text = OTHER[name][0]
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as caught:
        published.load(data(path.parent))
    subprocess.run(["sh", "-c", caught.value.fix.split("`")[1]], check=True, cwd="/")
    assert len(published.load(data(path.parent)).samples or ()) == 9


def test_a_folder_or_a_broken_link_with_the_name_of_a_file_is_not_passed_over(tmp_path: Path) -> None:
    files.write(tmp_path, files.clean_set())
    (tmp_path / "Med_MIM_train_inherent_Temporal.json").mkdir()
    (tmp_path / "Med_MIM_train_Composed.json").symlink_to("absent")
    with pytest.raises(UserError) as caught:
        published.load(data(tmp_path))
    assert len(caught.value.problems) == 2
    assert "Med_MIM_train_inherent_Temporal.json is a folder" in "\n".join(caught.value.problems)


def test_a_folder_with_packed_files_only_names_them(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError) as caught:
        published.load(data(tmp_path))
    assert f"{NAME}.gz" in caught.value.reason and f"gunzip {NAME}.gz`" in caught.value.fix


HALVES = ("\ud83d", "\udc00", "a\udfffb", "\udcff", "\ude00\ud83d")


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    "key", ["id", "images.0", "source", "conversation.0.content", "conversation.1.content", "conversation.0.role"]
)
def test_half_a_surrogate_pair_is_quarantined_with_its_row_and_key(tmp_path: Path, key: str, half: str) -> None:
    row = changed(key, half)
    sample, problems = sample_of(row, COMPARISON)
    assert sample is None and (key, "surrogate" in problems[0][1]) == (problems[0][0], True)
    files.write(tmp_path, {NAME: [*files.comparison(range(2, 5)), row]}, images=False)
    assert published.inputs(data(tmp_path))
    source = published.load(data(tmp_path))
    assert [(bad.row, bad.key) for bad in source.bad if "surrogate" in bad.reason] == [(4, key)]
    assert all(is_writable(record) for record in (*source.bad, *(source.samples or ())))


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert sample_of(changed("id", "\U0001f600"), COMPARISON)[1] == []


def test_an_image_in_two_normal_forms_is_one_image(tmp_path: Path) -> None:
    rows = files.comparison([1, 2])
    for row, form in zip(rows, ("NFC", "NFD"), strict=True):
        name = unicodedata.normalize(form, "f\u00edlm")
        row["images"] = [f"p10/p10000001/s{n}/{name}.png" for n in (1, 2)]
    rows[1]["conversation"] = rows[0]["conversation"]
    source = published.load(data(files.write(tmp_path, {NAME: rows})))
    assert source.facts["files"][NAME]["duplicates"]["rows"] == 1
    files.picture(tmp_path / "p10/p10000001/s1/fi\u0301lm.png")
    assert published.load(data(tmp_path)).missing == ["p10/p10000001/s2/f\u00edlm.png"]


def test_links_that_the_recipe_allows_are_read_and_change_the_inputs(tmp_path: Path) -> None:
    files.write(tmp_path / "root", files.clean_set(), images=True)
    (tmp_path / "root" / "p10").rename(tmp_path / "cache")
    (tmp_path / "root" / "p10").symlink_to(tmp_path / "cache")
    path = files.film(10, 1)
    allowed = data(tmp_path / "root", link_roots=(str(tmp_path / "cache"),))
    assert published.load(allowed).read(path)
    with pytest.raises(BadImage, match="symlink"):
        published.load(data(tmp_path / "root")).read(path)
    assert published.inputs(allowed) != published.inputs(data(tmp_path / "root"))


def test_all_unreadable_files_are_reported_at_once(tmp_path: Path) -> None:
    deep = "[" * 100_000
    broken = {"train_inherent_Comparison": "[{", "train_Composed": '{"a": 1}', "benchmark_Held_in_Temporal": deep}
    for name, text in broken.items():
        (tmp_path / f"Med_MIM_{name}.json").write_text(text)
    (tmp_path / "Med_MIM_train_inherent_Temporal.json").write_bytes(b"\xff\xfe[]")
    with pytest.raises(UserError) as caught:
        published.load(data(tmp_path))
    assert len(caught.value.problems) == 4


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.999), junk=st.binary(max_size=5))
def test_a_mutated_file_is_read_or_refused_with_its_name(
    cut: float, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    whole = json.dumps(files.comparison(range(3))).encode()
    at = int(len(whole) * cut)
    (folder / "Med_MIM_train_Composed.json").write_bytes(whole[:at] + junk + whole[at + 1 :])
    try:
        source = published.load(data(folder))
    except UserError as error:
        assert "Med_MIM_train_Composed.json" in str(error)
    else:
        assert len(source.samples or ()) + len({bad.row for bad in source.bad}) <= 3


@pytest.mark.parametrize("make", ["nothing", "folder", "unknown"])
def test_a_folder_without_annotations_is_refused(tmp_path: Path, make: str) -> None:
    if make == "unknown":
        (tmp_path / "Med_MIM_train_inherent_Colour.json").write_text("[]")
    with pytest.raises(UserError) as caught:
        published.load(data(tmp_path / "absent" if make == "nothing" else tmp_path))
    assert caught.value.fix


def test_the_inputs_change_with_a_file_and_with_an_image(tmp_path: Path) -> None:
    before = published.inputs(data(files.write(tmp_path, files.clean_set(), images=True)))
    assert published.inputs(data(tmp_path)) == before
    files.picture(tmp_path / files.film(3, 1), (30, 30))
    after = published.inputs(data(tmp_path))
    assert {key for key in before if before[key] != after[key]} == {"images"}


@shared_data.needs("med-mim")
def test_the_published_files_have_the_known_counts() -> None:
    source = published.load(data(shared_data.FOLDER / "med-mim"))
    facts = source.facts["files"]
    odir = facts["Med_MIM_benchmark_Held_out_ODIR.json"]
    assert odir["gold_under_two_letters"] == 102
    assert (odir["rows"], odir["quarantined"]) == (600, 1)
    assert [bad.reason for bad in source.bad] == ["option letter D does not exist: the options are A to B"]
    temporal = facts["Med_MIM_benchmark_Held_in_Temporal.json"]
    assert temporal["by_source"] == {"EMBED": 302, "LUMIERE": 631}
    comparison = facts["Med_MIM_train_inherent_Comparison.json"]
    assert comparison["duplicates"] == {"rows": 0, "ids": 1101, "conflicting": 0}
    assert sum(file["missing_images"] for file in facts.values()) >= len(source.missing) > 0
