"""Reading LLaVA-Med's figures: both spellings, captions, domains, lying suffixes, pointers, what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import gather
from medmim.data.sources import llava_med
from medmim.data.sources.llava_med import clean, load
from medmim.data.sources.source import Source
from medmim.errors import UserError
from medmim.sample import Pair
from tests.support.raw_sources import entry, write_image

CAPTIONS, TALK = "llava_med_instruct_fig_captions.json", "llava_med_instruct_60k.json"
KEYS = ("chest_xray", "mri", "histology", "gross", "ct_scan")


def domain(*true: str) -> dict[str, bool]:
    return {key: key in true for key in KEYS}


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


RECORDS: list[dict[str, Any]] = [
    {
        "id": "28104940_F2", "image": "28104940_F2.jpg", "domain": domain("mri"),
        "conversatons": talk("What is shown?\n<image>", "A lesion.", "Where is it?", "In the left\tlobe."),
    },
    {
        "id": "28104940_F3", "image": "28104940_F3.jpg", "domain": domain("chest_xray"),
        "conversations": talk("<image>\nIs there an effusion?", "Yes, on the right."),
    },
    {
        "id": "30000001_F1", "image": "30000001_F1.jpg", "domain": domain("mri", "ct_scan"),
        "conversations": talk("<image>\nDescribe it.", "Two panels."),
    },
    {"id": "31000000_F1", "image": "31000000_F1.jpg", "conversations": talk("What is it?", "A slide.")},
]  # fmt: skip
BRAIN = "Fig. 2. T2-weighted <italic>MRI</italic> of\n the brain &amp; skull (p < 0.05)."
FIGURES: list[dict[str, Any]] = [
    {"pair_id": "28104940_F2", "fig_label": "Fig. 2", "fig_caption": BRAIN},
    {
        "pair_id": "28104940_F3", "fig_label": "Figure 3", "fig_caption": "Chest radiograph.",
        "in_text_mention": [{"tokens": "see Fig. 3"}],
    },
    {"pair_id": "30000001_F1", "fig_label": "Fig. 1", "fig_caption": None, "in_text_mention": ["see it"]},
    {"pair_id": "99999999_F9", "fig_label": "Fig. 9", "fig_caption": "Of another file."},
]  # fmt: skip


def folder(root: Path, records: list[Any] = RECORDS, captions: list[Any] = FIGURES) -> Path:
    root.mkdir(exist_ok=True)
    (root / TALK).write_text(json.dumps(records), encoding="utf-8")
    (root / CAPTIONS).write_text(json.dumps(captions), encoding="utf-8")
    for name, form in (
        ("28104940_F2", "JPEG"),
        ("28104940_F3", "PNG"),
        ("30000001_F1", "GIF"),
        ("31000000_F1", "JPEG"),
    ):
        write_image(root / "images" / f"{name}.jpg", form)
    return root


def read(root: Path, records: list[Any] = RECORDS, captions: list[Any] = FIGURES) -> Source:
    return load(entry("llava_med", folder(root, records, captions)))


def test_a_figure_has_its_article_modality_caption_and_conversation(tmp_path: Path) -> None:
    source = read(tmp_path)
    studies = source.studies or []
    assert [(study.patient, study.image, study.modality, study.caption) for study in studies] == [
        ("28104940", "images/28104940_F2.jpg", "MRI", "T2-weighted MRI of the brain & skull (p < 0.05)."),
        ("28104940", "images/28104940_F3.jpg", "X-ray", "Chest radiograph."),
        ("30000001", "images/30000001_F1.jpg", "", None),
        ("31000000", "images/31000000_F1.jpg", "", None),
    ]
    assert [study.pairs for study in studies] == [
        (Pair("What is shown?", "A lesion.", "open"), Pair("Where is it?", "In the left lobe.", "open")),
        (Pair("Is there an effusion?", "Yes, on the right.", "open"),),
        (Pair("Describe it.", "Two panels.", "open"),),
        (Pair("What is it?", "A slide.", "open"),),
    ]
    assert {(study.source, study.held_out, study.time, study.view) for study in studies} == {("pmc", False, None, None)}
    assert all(source.identity(study.image) for study in source.studies or [])
    assert (source.bad, source.missing) == ([], [])
    assert source.facts == {
        "rows": 4, "images": 4, "articles": 3, "missing_images": 0,
        "by_modality": {"MRI": 1, "X-ray": 1, "not known": 2}, "without_caption": 2, "pairs": 5,
        "skipped": {"a caption without a conversation": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "modality"),
    [
        ("chest_xray", "X-ray"),
        ("mri", "MRI"),
        ("histology", "histology"),
        ("gross", "gross pathology"),
        ("ct_scan", "CT"),
    ],
)
def test_every_domain_is_a_modality(tmp_path: Path, key: str, modality: str) -> None:
    studies = read(tmp_path, [RECORDS[0] | {"domain": domain(key)}]).studies or []
    assert [study.modality for study in studies] == [modality]


@pytest.mark.parametrize("value", [None, {}, [], "mri", domain(), domain("mri", "gross"), {"mri": "true"}, {"mri": 1}])
def test_a_domain_that_does_not_name_one_modality_names_none(tmp_path: Path, value: Any) -> None:
    studies = read(tmp_path, [RECORDS[0] | {"domain": value}]).studies or []
    assert [study.modality for study in studies] == [""]


def test_json_lines_read_as_the_list(tmp_path: Path) -> None:
    plain = read(tmp_path)
    for name, records in ((TALK, RECORDS), (CAPTIONS, FIGURES)):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    lines = load(entry("llava_med", tmp_path))
    assert (lines.studies, lines.facts) == (plain.studies, plain.facts)


def test_a_suffix_that_lies_is_no_matter_to_the_build(tmp_path: Path) -> None:
    source = read(tmp_path / "raw")
    found = gather.gather([study.image for study in source.studies or []], source.read, tmp_path / "out")
    assert [item.problem for item in found.values()] == [""] * 4


def test_a_figure_that_vanished_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "images/28104940_F3.jpg").unlink()
    source = load(entry("llava_med", tmp_path))
    assert (source.missing, len(source.studies or ()), source.bad) == (["images/28104940_F3.jpg"], 3, [])
    assert source.facts["missing_images"] == 1


def test_conversations_on_one_figure_are_joined_and_repeats_counted(tmp_path: Path) -> None:
    again = RECORDS[1] | {"conversations": talk("Which side?", "The right.")}
    source = read(tmp_path, [RECORDS[1], again, again])
    assert [[pair.question for pair in study.pairs] for study in source.studies or []] == [
        ["Is there an effusion?", "Which side?"]
    ]
    assert source.facts["skipped"]["another conversation on a figure"] == 1
    assert source.facts["skipped"]["a record again"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "28104940"}, "is no text such as"),
        ({"id": 28104940}, "is no text such as"),
        ({"id": "../x_F1"}, "is no text such as"),
        ({"image": "../../etc/passwd"}, "is no name of a file"),
        ({"image": 3}, "is no name of a file"),
        ({"conversatons": None}, "missing or no list"),
        ({"conversatons": talk("What?")}, "the last question has no answer"),
        ({"conversatons": talk("What?", "  ")}, "turn 2 is empty"),
        (
            {"conversatons": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]},
            "turn 1 is none of 'human'",
        ),
        ({"conversatons": talk("What?", "x" * 5000)}, "more than 4,096"),
    ],
)
def test_a_record_that_cannot_be_used_is_quarantined(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    source = read(tmp_path, [RECORDS[1], RECORDS[0] | change])
    assert [(row.file, row.row, words in row.reason) for row in source.bad] == [(TALK, 2, True)]
    assert [study.image for study in source.studies or []] == ["images/28104940_F3.jpg"]


def test_two_captions_of_one_figure_are_not_both_believed(tmp_path: Path) -> None:
    source = read(tmp_path, RECORDS, [FIGURES[1], FIGURES[1], FIGURES[1] | {"fig_caption": "Something else."}])
    assert [(row.file, row.row, row.key) for row in source.bad] == [(CAPTIONS, 3, "fig_caption")]


@pytest.mark.parametrize("name", [TALK, CAPTIONS])
def test_a_git_lfs_pointer_in_place_of_the_data_is_named(tmp_path: Path, name: str) -> None:
    folder(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(UserError, match="is a Git LFS pointer") as caught:
        load(entry("llava_med", tmp_path))
    assert "git lfs pull" in str(caught.value)


def test_an_empty_list_and_a_missing_table_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, [])
    with pytest.raises(UserError, match="has no records"):
        load(entry("llava_med", tmp_path))
    (tmp_path / TALK).unlink()
    with pytest.raises(UserError, match=f"there is no {TALK}"):
        load(entry("llava_med", tmp_path))


def test_terms_are_research_alone() -> None:
    assert set(llava_med.TERMS.refused) == {"redistribute_data", "commercial_use", "outside_api", "serve"}


@pytest.mark.parametrize(
    ("caption", "label", "wanted"),
    [
        ("Figure 1 Axial CT.", "Figure 1", "Axial CT."),
        ("Figure 12: Axial CT.", "Figure 1", "Figure 12: Axial CT."),
        ("<bold>A</bold> &lt; B<xref ref-type='bibr'>12</xref>", "", "A < B12"),
        ("if a<b and c>d", "", "if a<b and c>d"),
        ("", "Figure 1", ""),
    ],
)
def test_captions_are_cleaned_of_markup_and_of_their_label(caption: str, label: str, wanted: str) -> None:
    assert clean(caption, label) == wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["28104940_F2"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "image", "from", "value", "mri", "conversations"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=80)
@given(
    record=st.dictionaries(st.sampled_from(["id", "image", "domain", "conversations", "conversatons"]), JSON) | JSON,
    caption=st.dictionaries(st.sampled_from(["pair_id", "fig_label", "fig_caption"]), JSON) | JSON,
)
def test_any_json_in_any_place_is_read_or_quarantined(
    record: Any, caption: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    mixed = RECORDS[0] | record if isinstance(record, dict) else record
    (root / TALK).write_text(json.dumps([mixed, RECORDS[1]]), encoding="utf-8")
    (root / CAPTIONS).write_text(
        json.dumps([FIGURES[0] | caption if isinstance(caption, dict) else caption]), encoding="utf-8"
    )
    source = load(entry("llava_med", root))
    assert source.facts["rows"] == 2
    assert {row.file for row in source.bad} <= {TALK, CAPTIONS}
