"""The export to other trainers: the exact rows, none that measures, with terms and record."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from medmim import shards, store
from medmim.cli import data as command
from medmim.cli import data_export
from medmim.data import people
from medmim.data.export import ms_swift, records
from medmim.data.export import run as export
from medmim.data.export.run import Choice
from medmim.errors import UserError
from medmim.run.workspace import Workspace
from medmim.store import open_store
from tests.support.exports import EMBED, OPTIONS, image_id, lines, publish, rows, sample, stored, training, tree


@pytest.mark.parametrize("form", ["ms-swift", "llama-factory"])
def test_chat_rows_have_a_tag_for_each_picture_whose_file_holds_the_bytes_of_the_data_set(
    form: str, ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, form)
    images = stored(ws, uri)
    for row, one in zip(lines(out / "train.jsonl"), training(), strict=True):
        assert row["id"] == one.id
        assert row["messages"] == [
            {"role": "user", "content": "<image>" * len(one.images) + one.prompt},
            {"role": "assistant", "content": one.target},
        ]
        assert [(out / path).read_bytes() for path in row["images"]] == [images.stored(name) for name in one.images]
        assert all(path.endswith(".jpg" if name == image_id(3) else ".png")
                   for path, name in zip(row["images"], one.images, strict=True))  # fmt: skip


def test_llama_factory_finds_rows_and_roles_by_its_own_table(ws: Workspace, uri: str, tmp_path: Path) -> None:
    export.export(ws, uri, tmp_path / "out", "llama-factory", Choice(("train", "test")))
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text("utf-8"))
    assert list(info) == ["medmim_train", "medmim_test"]
    assert info["medmim_test"]["file_name"] == "test.jsonl" and info["medmim_test"]["formatting"] == "sharegpt"
    assert len(lines(tmp_path / "out" / "test.jsonl")) == 4


def test_llava_has_a_line_for_each_picture_and_one_path_or_a_list(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "llava")
    found = json.loads((out / "train.json").read_text("utf-8"))
    for row, one in zip(found, training(), strict=True):
        shown = row.get("image", [])
        shown = [shown] if isinstance(shown, str) else shown
        assert ("image" in row, isinstance(row.get("image"), str)) == (bool(one.images), len(one.images) == 1)
        assert len(shown) == len(one.images) and all((out / path).is_file() for path in shown)
        assert row["conversations"] == [
            {"from": "human", "value": "<image>\n" * len(shown) + one.prompt}, {"from": "gpt", "value": one.target}
        ]  # fmt: skip


def test_parquet_has_the_pictures_in_its_rows_as_datasets_names_them(ws: Workspace, uri: str, tmp_path: Path) -> None:
    images = stored(ws, uri)
    for form in ("trl", "datasets"):
        export.export(ws, uri, tmp_path / form, form)
        (file,) = (tmp_path / form / "data").glob("train-*.parquet")
        table = pq.read_table(file)
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert set(features) == set(table.column_names) and features["images"] == [{"_type": "Image"}]
        for row, one in zip(table.to_pylist(), training(), strict=True):
            assert row["id"] == one.id
            assert [item["bytes"] for item in row["images"]] == [images.stored(name) for name in one.images]
            if form == "trl":
                user, assistant = row["messages"]
                assert [part["type"] for part in user["content"]] == ["image"] * len(one.images) + ["text"]
                assert user["content"][-1]["text"] == one.prompt
                assert assistant == {"role": "assistant", "content": [{"type": "text", "text": one.target}]}
            else:
                assert (row["question"], tuple(row["options"]), tuple(row["gold"])) == (
                    one.question, one.options, one.gold
                )  # fmt: skip
    patients = [row["patients"] for row in table.to_pylist()]
    assert patients == [[i % 5] for i in range(11)], "numbers, equal for equal patients"


@pytest.mark.parametrize("form", export.FORMS)
def test_rows_that_measure_are_in_no_training_file(form: str, ws: Workspace, tmp_path: Path) -> None:
    both = sample(0, 2)
    slipped = sample(40, held_out=True, source="odir")
    kept = sample(41)
    other = sample(42, question="What has changed?", images=2)
    reordered = replace(other, options=OPTIONS[::-1], gold=(1 - other.gold[0],), images=other.images[::-1])
    reordered = replace(reordered, question="what  changed", paths=other.paths[::-1])
    asked = [replace(both, split="test"), replace(other, split="dev"), sample(50, split="dev")]
    uri = publish(ws, tmp_path / "data", [both, slipped, reordered, kept, *asked])
    made = export.export(ws, uri, tmp_path / "out", form)
    assert made.rows == {"train": 1}
    assert {row["id"]: row["reason"] for row in lines(tmp_path / "out" / export.LEFT_OUT)} == {
        both.id: "the same row is in the benchmark",
        slipped.id: "the domain of odir is held out of training",
        reordered.id: "a row of the benchmark asks the same of the same images",
    }
    text = "".join(data.decode("latin-1") for name, data in tree(tmp_path / "out").items() if "train" in name)
    assert kept.question in text and both.question not in text and slipped.question not in text


@pytest.mark.parametrize("form", export.FORMS)
def test_a_row_that_the_form_cannot_hold_is_named_and_never_changed(form: str, ws: Workspace, tmp_path: Path) -> None:
    odd = {
        "tag": sample(1, 2, question="Is <image> one?"),
        "sound": sample(3, 2, question="Hear <audio>?"),
        "thought": sample(15, 2, question="Is <cot-process> shown?"),
        "white": sample(5, 2, answer="it grew "),
        "many": sample(7, 3),
        "options": sample(9, 2, question="Which?\nA: this\nB: that"),
        "none": sample(11, 0),
        "unanswered": sample(16, 2, gold=()),
        "another": sample(18, 2, answer="neither"),
        "beyond": sample(20, 2, gold=(2,)),
        "lettered": sample(22, 2, options=tuple("abcdefghi"), answer="i", gold=(8,)),
    }
    nowhere = {"many", "unanswered", "another", "beyond", "lettered"}
    fits = sample(13, 2)
    uri = publish(ws, tmp_path / "data", [*odd.values(), fits])
    made = export.export(ws, uri, tmp_path / "out", form, Choice(max_images=2))
    named = {row["id"] for row in lines(tmp_path / "out" / export.LEFT_OUT)}
    left_out = {
        "llava": {"tag", "white"},
        "ms-swift": {"tag", "sound", "thought"},
        "llama-factory": {"tag", "sound"},
        "trl": {"tag"},
        "med-mim": {"tag", "white", "options", "none"},
    }.get(form, set()) | nowhere
    assert named == {odd[name].id for name in left_out}
    assert made.rows == {"train": len(odd) + 1 - len(left_out)} and sum(made.left_out.values()) == len(left_out)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert all(reason in card for reason in made.left_out)


def test_other_splits_come_when_asked_each_in_files_of_its_own(ws: Workspace, uri: str, tmp_path: Path) -> None:
    made = export.export(ws, uri, tmp_path / "out", "ms-swift", Choice(("test", "dev", "train"), limit=2))
    assert made.rows == {"train": 2, "dev": 2, "test": 2}
    for split in made.rows:
        wanted = [one.id for one in rows() if one.split == split][:2]
        assert [row["id"] for row in lines(tmp_path / "out" / f"{split}.jsonl")] == wanted
    header = yaml.safe_load((tmp_path / "out" / "README.md").read_text("utf-8").split("---\n")[1])
    assert header["configs"][0]["data_files"][2] == {"split": "test", "path": "test.jsonl"}
    assert header["license"] == "apache-2.0"


@pytest.mark.parametrize("form", export.FORMS)
@pytest.mark.parametrize("splits", [("train",), ("test",), ("train", "dev", "test")])
def test_the_card_has_nobody_train_on_a_split_that_measures(
    form: str, splits: tuple[str, ...], ws: Workspace, uri: str, tmp_path: Path
) -> None:
    made = export.export(ws, uri, tmp_path / "out", form, Choice(splits))
    usage = (tmp_path / "out" / "README.md").read_text("utf-8").split("## How to use it")[1]
    assert ("**Never train on" in usage) == (set(made.rows) != {"train"})
    trained = {
        "llava": r"--data_path FOLDER/(\w+)\.json",
        "ms-swift": r"--dataset FOLDER/(\w+)\.jsonl (?!FOLDER)",
        "llama-factory": r"--dataset medmim_(\w+) ",
        "trl": r'train_dataset=rows\["(\w+)"\]',
    }.get(form)
    if trained:
        assert re.findall(trained, usage) == (["train"] if "train" in splits else [])
    measured = {"ms-swift": "--val_dataset", "llama-factory": "--eval_dataset", "trl": "eval_dataset="}.get(form)
    if measured:
        assert (measured in usage) == (set(made.rows) != {"train"})


def test_terms_that_forbid_passing_on_refuse_the_export_unless_it_stays_in_house(ws: Workspace, tmp_path: Path) -> None:
    uri, out = publish(ws, tmp_path / "data", rows(), EMBED), tmp_path / "out"
    with pytest.raises(UserError, match="forbid passing it on") as error:
        export.export(ws, uri, out, "trl")
    assert error.value.exit_code == 2 and "not allowed by EMBED" in str(error.value)
    assert not out.exists() and records.load(open_store(ws.store)) == []
    made = export.export(ws, uri, out, "trl", in_house=True)
    card = (out / "README.md").read_text("utf-8")
    assert "Keep this folder to yourself" in card and "EMBED: research only" in card and '"other"' in card
    assert json.loads((out / "terms.json").read_text("utf-8"))["serve"] is True
    assert records.load(open_store(ws.store))[0].private and made.terms == EMBED


def test_the_published_form_names_patients_only_where_the_recipe_or_a_word_allows_it(
    ws: Workspace, tmp_path: Path
) -> None:
    uri = publish(ws, tmp_path / "data", rows(), shown=False)
    words = ["export", uri, str(tmp_path / "out"), "--home", str(ws.home), "--to"]
    said = CliRunner().invoke(command.app, [*words, "med-mim"])
    assert isinstance(said.exception, UserError) and said.exception.exit_code == 2
    assert "names patients" in str(said.exception) and "--name-patients" in str(said.exception)
    assert not (tmp_path / "out").exists() and "cohort_1" not in str(said.exception)
    for form in set(export.FORMS) - {"med-mim"}:
        export.export(ws, uri, tmp_path / form, form)
        assert b"cohort_1" not in b"".join(tree(tmp_path / form).values()), form
    said = CliRunner().invoke(command.app, [*words, "med-mim", "--name-patients"], catch_exceptions=False)
    assert said.exit_code == 0 and "name patients" in said.stderr
    named = {one.form for one in records.load(open_store(ws.store)) if one.named}
    assert named == {"med-mim"}


def test_every_export_is_recorded_and_named_by_what_became_of_it(
    ws: Workspace, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_USER", "jane@example.org")
    for name, form in (("a", "trl"), ("b", "llava"), ("a", "ms-swift"), ("c", "trl")):
        export.export(ws, uri, tmp_path / name, form, replace=True)
    shutil.rmtree(tmp_path / "b")
    monkeypatch.setattr(records, "node", lambda: "another")
    export.export(ws, uri, tmp_path / "d", "trl")
    shutil.rmtree(tmp_path / "d")
    monkeypatch.undo()
    found = records.load(open_store(ws.store))
    states = records.states(found)
    assert {(Path(one.folder).name, one.form): states[one.id] for one in found} == {
        ("a", "trl"): "replaced", ("a", "ms-swift"): "here", ("b", "llava"): "gone", ("c", "trl"): "here",
        ("d", "trl"): "elsewhere",
    }  # fmt: skip
    assert {(one.who, one.rows, one.patients) for one in found} == {("jane@example.org", 11, 5)}
    said = " ".join(open_store(ws.store).read(key).decode() for key in open_store(ws.store).list("exports/"))
    assert "embed/" not in said and "cohort_1" not in said, "no identifier, not in the marks either"
    listed = CliRunner().invoke(command.app, ["exports", "--home", str(ws.home), "--json"])
    assert {one["state"] for one in json.loads(listed.stdout)} == {"replaced", "here", "gone", "elsewhere"}


def test_a_patient_is_found_by_the_spellings_of_an_erasure(ws: Workspace, tmp_path: Path) -> None:
    films = sample(0, source="ms-cxr-t", patients=("p10000001",))
    uri = publish(ws, tmp_path / "data", [films, sample(1)])
    export.export(ws, uri, tmp_path / "out", "trl")
    place = open_store(ws.store)
    (one,) = every = records.load(place)
    for given in ("p10000001", "10000001", "mimic/10000001", "mimic/p10000001"):
        assert records.holding(place, every, [given]) == ({one.id: (films.id,)}, {("mimic", "10000001")}), given
    for given in ("10000002", "embed/10000001", "p1", ""):
        assert records.holding(place, every, [given]) == ({}, set()), given
    assert people.of_sample(sample(1)) == [("embed", "1")]
    assert records.holding(place, every, ["1", "10000001"])[0] == {one.id: tuple(sorted((films.id, sample(1).id)))}


@pytest.mark.parametrize("form", export.FORMS)
def test_equal_rows_give_equal_bytes(form: str, ws: Workspace, uri: str, tmp_path: Path) -> None:
    export.export(ws, uri, tmp_path / "a", form)
    export.export(ws, uri, tmp_path / "b" / "c", form)
    assert tree(tmp_path / "a") == tree(tmp_path / "b" / "c")
    export.export(ws, uri, tmp_path / "a", form, Choice(limit=1))
    export.export(ws, uri, tmp_path / "a", form)
    assert tree(tmp_path / "a") == tree(tmp_path / "b" / "c"), "an earlier one is replaced whole"
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["c"]


def test_an_address_is_no_folder_and_nothing_is_written(
    ws: Workspace, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for address in ("s3://bucket/out", "file:///data/out"):
        with pytest.raises(UserError, match="is not a folder(?s:.*)on this machine"):
            export.export(ws, uri, Path(address).absolute(), "llava")
    assert list((tmp_path / "here").iterdir()) == []


def test_no_export_is_written_into_the_store_where_gc_removes_it(ws: Workspace, uri: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ws.store)
    for place in (Path(ws.store) / "out", tmp_path / "link" / "out"):
        with pytest.raises(UserError, match="lies in the store"):
            export.export(ws, uri, place, "llava")
        assert not place.exists()


def test_only_a_data_set_is_exported(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "rows.jsonl").touch()
    other = store.publish(tmp_path / "made", ws.store, "audit", {}, {})
    with pytest.raises(UserError, match="is not a data set(?s:.*)kind 'audit'"):
        export.export(ws, other.uri, tmp_path / "out", "llava")


def test_where_the_limit_of_images_leaves_no_row_the_fix_is_the_limit(ws: Workspace, uri: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 0 images(?s:.*)larger --max-images"):
        export.export(ws, uri, tmp_path / "out", "llava", Choice(("test",), max_images=0))


@pytest.mark.parametrize(
    ("choice", "form", "match"),
    [
        (Choice(("dev",)), "med-mim", "2 rows: the published form has no split dev"),
        (Choice(max_images=0), "med-mim", "more than 0 images"),
    ],
)
def test_where_no_row_fits_it_says_why_and_writes_nothing(
    choice: Choice, form: str, match: str, ws: Workspace, uri: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        export.export(ws, uri, tmp_path / "out", form, choice)
    assert not (tmp_path / "out").exists()


def test_without_pixels_only_the_published_form_is_written(ws: Workspace, tmp_path: Path) -> None:
    uri = publish(ws, tmp_path / "data", rows(), pixels=False)
    for form in export.FORMS:
        if form == "med-mim":
            assert export.export(ws, uri, tmp_path / form, form).rows == {"train": 10}
        else:
            with pytest.raises(UserError, match="holds no images"):
                export.export(ws, uri, tmp_path / form, form)
    with pytest.raises(UserError, match="no rows in dev"):
        few = publish(ws, tmp_path / "few", [sample(1)])
        export.export(ws, few, tmp_path / "none", "trl", Choice(("dev",)))


def test_the_command_prints_counts_and_what_was_left_out(ws: Workspace, tmp_path: Path) -> None:
    uri = publish(ws, tmp_path / "data", [sample(1, question="Is <image> one?"), sample(3), sample(6)])
    words = ["export", uri, str(tmp_path / "out"), "--to", "ms-swift", "--home", str(ws.home)]
    said = CliRunner().invoke(command.app, words, catch_exceptions=False)
    assert "left out 1 rows: its text has <image>" in said.stdout
    facts = json.loads(CliRunner().invoke(command.app, [*words, "--json"], catch_exceptions=False).stdout)
    assert facts["rows"] == {"train": 2} and facts["record"] and facts["folder"] == str(tmp_path / "out")


def test_the_command_offers_every_format() -> None:
    assert [one.value for one in data_export.Format] == list(export.FORMS)
    assert ms_swift.FORM is export.FORMS["ms-swift"]


def test_pictures_are_read_piece_by_piece_in_the_order_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {f"sha256:{i:064}": os.urandom(400_000) for i in range(8)}
    shards.write(tmp_path, [], [(name, name, one) for name, one in data.items()])
    images, read = shards.Images(tmp_path), []
    group = images._read_group
    monkeypatch.setattr(images, "_read_group", lambda *where: read.append(where) or group(*where))
    wanted = list(data)[::-1][:7]
    pieces = images.pieces([*wanted, "absent"])
    assert read == [] and len(pieces) > 1
    found = [(name, bytes(one)) for piece in pieces for name, one in piece()]
    assert found == [(name, data[name]) for name in sorted(wanted)]
    assert read == sorted(set(read)), "each once"
