"""The published form: the published files come back as they were, and the source reads what is written."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from medmim import shards, store
from medmim.data.export import pictures
from medmim.data.export import run as export
from medmim.data.export.run import Choice
from medmim.data.sources.published import check_file, read_rows
from medmim.data.sources.published_rows import kind_of, sample_of
from medmim.run.workspace import workspace
from medmim.sample import Sample
from medmim.terms import APACHE
from tests.support import shared_data
from tests.support.exports import image_id, picture, sample

# Rows of the real files, and those that come back byte for byte: blanks at the end of an answer and a second end of
# line are lost, a row that stands twice is kept once, and one of training is a benchmark's, too.
REAL = {
    "Med_MIM_benchmark_Held_in_Comparison.json": (344, 343),
    "Med_MIM_benchmark_Held_in_Coreference.json": (1463, 1463),
    "Med_MIM_benchmark_Held_in_Temporal.json": (933, 933),
    "Med_MIM_benchmark_Held_out_ODIR.json": (600, 592),
    "Med_MIM_train_inherent_Comparison.json": (3228, 3223),
}


def written(tmp_path: Path, samples: list[Sample], pixels: bool = False) -> Path:
    images = [(image_id(i), "", picture(i)) for i in range(8)] if pixels else []
    shards.write(tmp_path / "data", samples, images)
    ws = workspace(tmp_path / "home")
    uri = store.publish(tmp_path / "data", ws.store, "data", {}, {"parents": {}, "terms": APACHE.as_dict()}).uri
    export.export(ws, uri, tmp_path / "out", "med-mim", Choice(("train", "test")), named=True)
    return tmp_path / "out"


def without_names(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as text, but for their `id` and `source`, which a data set does not keep."""
    return [json.dumps({**row, "id": "", "source": ""}, indent=4) for row in rows]


@shared_data.needs("med-mim")
def test_the_published_files_come_back_byte_for_byte(tmp_path: Path) -> None:
    folder = shared_data.FOLDER / "med-mim"
    samples = []
    for name in REAL:
        kind = kind_of(name)
        assert kind is not None
        samples += check_file(name, kind, read_rows(folder / name))[0]
    out = written(tmp_path, samples)
    for name, (rows, equal) in REAL.items():
        text, ours = ((place / name).read_text("utf-8") for place in (folder, out))
        theirs, found = json.loads(text), json.loads(ours)
        assert len(theirs) == rows
        assert sum((Counter(without_names(theirs)) & Counter(without_names(found))).values()) == equal, name
        if equal == rows:
            named = [{**row, "id": one["id"], "source": one["source"]} for row, one in zip(found, theirs, strict=True)]
            assert json.dumps(named, indent=4) == text


@pytest.mark.parametrize("source", ["embed", "ms-cxr-t", "lumiere", "odir", "vqa-rad", "pmc"])
def test_rows_of_our_own_sources_are_read_by_the_source_published_as_they_were(source: str, tmp_path: Path) -> None:
    paths = {
        "embed": "embed/images/cohort_1/17/{}.dcm", "ms-cxr-t": "ms-cxr-t/files/p10/p10000017/s1/{}.jpg",
        "lumiere": "lumiere/Patient-017/week-000/CT1.nii.gz#coronal={}", "odir": "odir/Training Images/17{}_left.jpg",
        "vqa-rad": "synpic{}.jpg", "pmc": "figures/{}.jpg",
    }  # fmt: skip
    made = [sample(i, 2, source=source, paths=tuple(paths[source].format(k) for k in (i, i + 1))) for i in range(4)]
    out = written(tmp_path, made, pixels=True)
    assert json.loads((out / export.LEFT_OUT).read_text("utf-8") or "[]") == []
    for file in out.glob("Med_MIM_*.json"):
        kind = kind_of(file.name)
        assert kind is not None
        for row in json.loads(file.read_text("utf-8")):
            read, problems = sample_of(row, kind)
            one = next(one for one in made if one.id == row["id"])
            assert problems == [] and read is not None
            assert (read.question, read.options, read.answer, read.gold, read.ability) == (
                one.question, one.options, one.answer, one.gold, one.ability
            )  # fmt: skip
            for path, name in zip(row["images"], one.images, strict=True):
                number = next(i for i in range(8) if image_id(i) == name)
                assert (out / "pictures" / path).read_bytes() == picture(number) and "#" not in path


@pytest.mark.parametrize("path", [".#/.#/.#/.#/x", "a/.#/b", "../x.png", "#/../../x"])
def test_a_path_that_leaves_the_folder_once_it_is_written_is_left_out(path: str, tmp_path: Path) -> None:
    out = written(tmp_path, [sample(0, 1, paths=(path,)), sample(1)], pixels=True)
    assert len((out / export.LEFT_OUT).read_text("utf-8").splitlines()) == 1
    assert {one.name for one in tmp_path.iterdir()} == {"data", "home", "out"}


@pytest.mark.parametrize("place", ["pictures/../../x.png", "pictures/..", "x.png"])
def test_no_picture_is_written_outside_of_the_pictures(place: str, tmp_path: Path) -> None:
    shards.write(tmp_path / "data", [sample(0)], [(image_id(0), "", picture(0))])
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="outside of the export"):
        pictures.write_as(tmp_path / "out", shards.Images(tmp_path / "data"), {place: image_id(0)})
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (("a.nii#1", "b.png"), ("a.nii.1", "c.png"), "the name of another one"),
        (("a.png", "b.png"), ("a.png/b.png", "c.png"), "lie in a folder"),
        (("a.png/b.png", "c.png"), ("d.png", "a.png"), "lie in a folder"),
        (("a.png", "b.png"), ("c.png", "c.png/d.png"), "lie in a folder"),
        (("a.png", "b.png"), ("x" * 300 + ".png", "c.png"), "no file can have the name"),
        (("a.png", "b.png"), ("ä" * 200 + ".png", "c.png"), "no file can have the name"),
        (("a.png", "b.png"), ("x/" * 1500 + "y.png", "c.png"), "no file can have the name"),
    ],
)
def test_a_row_whose_pictures_cannot_lie_beside_the_others_is_left_out(
    first: tuple[str, str], second: tuple[str, str], reason: str, tmp_path: Path
) -> None:
    made = [sample(0, 2, paths=first), sample(4, 2, paths=second), sample(2, 2, paths=("k//m.png", "k/n.png")),
            sample(3, 1, paths=("k/n.png",))]  # fmt: skip
    out = written(tmp_path, made, pixels=True)
    (left,) = (json.loads(line) for line in (out / export.LEFT_OUT).read_text("utf-8").splitlines())
    assert left["id"] == made[1].id and reason in left["reason"] and "x.png" not in left["reason"]
    held = {one.name for one in (out / "pictures" / "k").iterdir()}
    assert held == {"m.png", "n.png"}
