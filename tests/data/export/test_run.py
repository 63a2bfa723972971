"""The export to other trainers: the exact rows, none that measures, whole or not at all, with terms and record."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from medmim import shards, store
from medmim.cli import data as command
from medmim.cli import data_export
from medmim.data import people
from medmim.data.export import folder, ms_swift, records, sums
from medmim.data.export import run as export
from medmim.data.export.run import Choice
from medmim.errors import UserError
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Sample
from medmim.store import open_store
from medmim.terms import APACHE, Terms

OPTIONS = ("better", "worse")
EMBED = Terms(serve=True, text=("EMBED: research only",))


def picture(number: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20 + number, 16), (number * 20 % 256, 90, 200)).save(out, kind)
    return out.getvalue()


def image_id(number: int) -> str:
    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


def sample(number: int, images: int = 2, split: str = "train", **changes: Any) -> Sample:
    names = tuple(image_id((number + k) % 8) for k in range(images))
    paths = tuple(f"cohort_1/{number}/{(number + k) % 8}.png" for k in range(images))
    closed = number % 2 == 0
    made = Sample(
        ("temporal", "comparison")[number % 2], "typeB", "embed", split, False, (str(number % 5),), names, paths,
        f"What changed in {number}?", OPTIONS if closed else (), OPTIONS[number // 2 % 2] if closed else "it grew",
        (number // 2 % 2,) if closed else (),
    )  # fmt: skip
    return replace(made, **changes)


def rows() -> list[Sample]:
    return [
        *(sample(i, 1 + i % 3) for i in range(10)),
        sample(10, 0),
        *(sample(i, split="dev") for i in range(20, 22)),
        *(sample(i, split="test") for i in range(30, 33)),
        sample(33, split="test", source="odir", held_out=True, ability="composed", patients=("9",)),
    ]


def publish(
    ws: Workspace, folder: Path, samples: list[Sample], terms: Terms = APACHE, pixels: bool = True, shown: bool = True
) -> str:
    kinds = {image_id(i): picture(i, "JPEG" if i == 3 else "PNG") for i in range(8)}
    shards.write(folder, samples, [(name, name, data) for name, data in kinds.items()] if pixels else ())
    made = {"parents": {}, "terms": terms.as_dict(), "recipe": {"platform": {"show_patients": shown}}}
    return store.publish(folder, ws.store, "data", {}, made).uri


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    return workspace(tmp_path / "home")


@pytest.fixture
def uri(ws: Workspace, tmp_path: Path) -> str:
    return publish(ws, tmp_path / "data", rows())


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def stored(ws: Workspace, uri: str) -> shards.Images:
    return shards.Images(ws.fetch(uri))


def training() -> list[Sample]:
    return [one for one in rows() if one.split == "train"]


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


_KILLED = """
import os, signal, sys
from pathlib import Path
from medmim.data.export import pictures, records, run
from medmim.run.workspace import workspace
left = [int(sys.argv[4])]
def killing(real):
    def act(*given):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*given)
    return act
pictures.put = killing(pictures.put)
records.write = killing(records.write)
run.folder._put = killing(run.folder._put)
run.export(workspace(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), "ms-swift")
"""


@pytest.mark.parametrize("at", ["3", "8", "9"])  # among the pictures, at the record, at the renaming
def test_killed_it_leaves_what_was_there_and_the_next_one_cleans_up(
    at: str, ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "out"
    export.export(ws, uri, out, "ms-swift")
    whole = tree(out)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(ws.home), uri, str(out), at], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert tree(out) == whole and len(list(out.parent.iterdir())) > 1
    export.export(ws, uri, out, "ms-swift")
    assert tree(out) == whole and [path.name for path in out.parent.iterdir()] == ["out"]
    states = records.states(records.load(open_store(ws.store)))
    assert sorted(states.values()) == ["here", *["replaced"] * (1 + (at == "9"))]


def test_a_full_disk_leaves_nothing(ws: Workspace, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.card, "text", full)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="disk is full"):
        export.export(ws, uri, tmp_path / "a" / "out", "llava")
    assert list((tmp_path / "a").iterdir()) == []


def test_what_is_no_export_is_never_replaced(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "llava")
    (out / folder.PICTURES / "mine.png").touch()
    with pytest.raises(UserError, match=r"added to it, or changed since(?s:.*)it would be lost: pictures/mine\.png"):
        export.export(ws, uri, out, "llava")
    (out / folder.PICTURES / "mine.png").unlink()
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match=r"it would be lost: notes\.txt"):
        export.export(ws, uri, out, "llava")


def test_a_damaged_mark_is_told_as_what_it_is(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "llava")
    (out / folder.MARK).write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"no export of medmim(?s:.*)export\.json is damaged"):
        export.export(ws, uri, out, "llava", replace=True)


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


def test_an_export_for_another_format_or_of_another_data_set_is_replaced_on_request_only(
    ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift", Choice(limit=2))
    few = publish(ws, tmp_path / "few", [sample(1)])
    for other, form, what in ((uri, "llava", "for another format"), (few, "ms-swift", "of another data set")):
        before = tree(out)
        with pytest.raises(UserError, match=f"holds an export {what}") as error:
            export.export(ws, other, out, form)
        assert "--replace" in error.value.fix and error.value.exit_code == 2 and tree(out) == before
        said = CliRunner().invoke(command.app, ["export", other, str(out), "--to", form, "--home", str(ws.home)])
        assert isinstance(said.exception, UserError) and tree(out) == before
    export.export(ws, uri, out, "ms-swift")
    assert len(lines(out / "train.jsonl")) == 11, "the same data set and format: nothing has to be said"
    words = ["export", uri, str(out), "--to", "trl", "--home", str(ws.home), "--replace"]
    CliRunner().invoke(command.app, words, catch_exceptions=False)
    assert not (out / "train.jsonl").exists() and (out / "data").is_dir()
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt"):
        export.export(ws, uri, out, "ms-swift", replace=True)


def test_an_edit_of_the_same_size_and_an_empty_folder_are_found(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift")
    picture = next((out / folder.PICTURES).rglob("*.png"))
    for path in (picture, out / "train.jsonl"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + b"x" + whole[-2:])
        assert folder.others(out) == [str(path.relative_to(out))]
        with pytest.raises(UserError, match=f"it would be lost: {path.relative_to(out)}"):
            export.export(ws, uri, out, "ms-swift")
        path.write_bytes(whole)
    (out / "mine").mkdir()
    with pytest.raises(UserError, match="it would be lost: mine/"):
        export.export(ws, uri, out, "ms-swift")
    (out / "mine").rmdir()
    shutil.rmtree(picture.parent)
    picture.parent.mkdir()
    export.export(ws, uri, out, "ms-swift")
    assert picture.exists(), "an empty folder of its own is nobody's"


def test_a_mark_with_sizes_only_is_still_read(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift")
    files = [path for path in out.rglob("*") if path.is_file() and path.name != folder.MARK]
    held = [
        hashlib.blake2b(f"{path.stat().st_size} {path.relative_to(out)}".encode(), digest_size=8).hexdigest()
        for path in files
    ]
    said = {key: value for key, value in folder.mark(out).items() if key != "sums"}
    (out / folder.MARK).write_text(json.dumps({**said, "held": " ".join(held)}), encoding="utf-8")
    assert folder.others(out) == []
    (out / "train.jsonl").write_text("mine", encoding="utf-8")
    assert folder.others(out) == ["train.jsonl"]


def test_the_sum_of_a_file_is_that_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_PIECE", 100)
    monkeypatch.setattr(sums, "_READ", 30)
    held = {f"{size}.bin": os.urandom(size) for size in (0, 1, 99, 100, 101, 350)}
    for name, data in held.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "1.bin")
    os.mkfifo(tmp_path / "pipe")
    found = dict(sums.of_files(tmp_path, [*held, "link", "pipe"]))
    assert {name: found[name] for name in held} == {name: sums.of_bytes(data) for name, data in held.items()}
    assert found["link"] == found["pipe"] != found["0.bin"], "neither is followed"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the code takes for a mount point; a real one needs root."""
    place = tmp_path / "disk"
    (place / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == place)
    return place


def test_a_mount_point_is_written_inside_and_holds_nothing_else(ws: Workspace, uri: str, mount: Path) -> None:
    export.export(ws, uri, mount.parent / "out", "ms-swift")
    wanted, before = tree(mount.parent / "out"), mount.stat().st_ino
    for _ in range(2):
        export.export(ws, uri, mount, "ms-swift")
        assert tree(mount) == wanted and mount.stat().st_ino == before
        assert not [path for path in mount.iterdir() if path.name.startswith(".")]
    export.export(ws, uri, mount, "llava", replace=True)
    assert not (mount / "train.jsonl").exists() and (mount / "train.json").exists()
    folder.remove(mount)
    assert [path.name for path in mount.iterdir()] == ["lost+found"]


_KILLED_AT_A_MOUNT = """
import os, signal, sys
from pathlib import Path
from medmim.data.export import run
from medmim.run.workspace import workspace
left, place = int(sys.argv[4]), Path(sys.argv[3])
os.path.ismount = lambda path: Path(path) == place
real = os.replace
def replace(*given):
    global left
    if place in Path(given[0]).parents:
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return real(*given)
os.replace = replace
run.export(workspace(Path(sys.argv[1])), sys.argv[2], place, "llava", replace=True)
"""


# moves: 6 of what was there, the mark first, then 6, the mark last
@pytest.mark.parametrize(("at", "then"), [(0, "export"), (4, "export"), (8, "export"), (1, "erasure"), (11, "erasure")])
def test_killed_while_it_moves_into_a_mount_point_the_next_command_ends_it(
    at: int, then: str, ws: Workspace, uri: str, mount: Path
) -> None:
    export.export(ws, uri, mount.parent / "out", "llava")
    wanted = tree(mount.parent / "out")
    export.export(ws, uri, mount, "ms-swift")
    given = [sys.executable, "-c", _KILLED_AT_A_MOUNT, str(ws.home), uri, str(mount), str(at)]
    assert subprocess.run(given, check=False).returncode == -signal.SIGKILL
    assert (mount / folder.MARK).exists() == (at == 0), "half of it is never marked as an export"
    if then == "export":
        with pytest.raises(UserError, match="no rows in dev"):
            export.export(
                ws, publish(ws, mount.parent / "few", [sample(1)]), mount, "llava", Choice(("dev",)), replace=True
            )
        assert folder.mark(mount)["for"] == "llava" and folder.others(mount) == []
        export.export(ws, uri, mount, "llava")
    else:
        folder.remove_unfinished(mount)
    assert tree(mount) == wanted and not [path for path in mount.iterdir() if path.name.startswith(".")]


def test_where_a_mount_point_cannot_take_it_what_was_there_is_back(
    ws: Workspace, uri: str, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.export(ws, uri, mount, "ms-swift")
    before, real = tree(mount), os.replace

    def busy(one: Path, other: Path) -> None:
        if Path(other) == mount / "train.json":
            raise OSError(16, "Device or resource busy")
        real(one, other)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(UserError, match="busy"):
        export.export(ws, uri, mount, "llava", replace=True)
    assert tree(mount) == before and folder.others(mount) == []


def test_a_picture_in_the_place_of_another_and_an_edited_file_are_never_replaced(
    ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift")
    picture = next((out / folder.PICTURES).rglob("*.png"))
    picture.unlink()
    assert folder.others(out) == [], "what is gone, as after a killed removal, cannot be lost"
    (out / folder.PICTURES / "mine.png").touch()
    with pytest.raises(UserError, match=r"it would be lost: pictures/mine\.png"):
        export.export(ws, uri, out, "ms-swift")
    (out / folder.PICTURES / "mine.png").unlink()
    (out / "train.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"it would be lost: train\.jsonl"):
        export.export(ws, uri, out, "ms-swift")
    (out / "train.jsonl").unlink()
    (out / "linked").symlink_to(tmp_path)
    with pytest.raises(UserError, match="it would be lost: linked"):
        export.export(ws, uri, out, "ms-swift")
    (out / "linked").unlink()
    export.export(ws, uri, out, "ms-swift")
    assert picture.exists() and folder.others(out) == []


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
