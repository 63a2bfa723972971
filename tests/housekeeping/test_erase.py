"""Erasing a patient from a store with models, scores, reports and decisions made from their data."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim import shards, store, tracking
from medmim.bench import crew
from medmim.cli import data as command
from medmim.cli import registry
from medmim.data import build, erased, gallery, kept_pixels
from medmim.data.export import folder as folders
from medmim.data.export import records
from medmim.data.export import run as export
from medmim.data.sources.source import Source
from medmim.errors import UserError
from medmim.housekeeping import erase
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.registry import decisions, lookup
from medmim.registry.decisions import Decision
from medmim.run.lock import locked
from medmim.run.workspace import Workspace
from medmim.sample import Sample, Study
from medmim.store import open_store
from medmim.store.removal import INVENTORY, LOCK
from tests.support.killing import killed_at
from tests.support.registry import artifacts


@pytest.fixture
def demo() -> Recipe:
    data = {"source": "phantom", "patients": 12, "rows_only": True}
    return loading.validate({"name": "chest", "data": data}, "test")


@pytest.fixture
def fill(tmp_path: Path, demo: Recipe) -> Callable[[Workspace], dict[str, str]]:
    """A data set of twelve patients, one of three of them, and what was made of each; name -> address in the store."""

    def publish(ws: Workspace, kind: str, text: str, *parents: str) -> str:
        folder = tmp_path / "publish"
        folder.mkdir(exist_ok=True)
        (folder / "text").write_text(f"{kind} {text}")
        made = {"parents": {str(i): parent.rpartition("/")[2] for i, parent in enumerate(parents)}}
        artifact = store.publish(folder, ws.store, kind, {}, {**made, "recipe": json.loads(demo.dump())})
        return f"{kind}/{artifact.digest}"

    def fill(ws: Workspace) -> dict[str, str]:
        few = demo.model_copy(update={"data": demo.data.model_copy(update={"patients": 3})})
        made = {}
        for size, recipe in (("twelve", demo), ("three", few)):
            data = f"data/{build.run(recipe, ws).digest}"
            model = publish(ws, "model", size, data)
            scores = publish(ws, "bench", size, data, model)
            report = publish(ws, "report", size)
            for stage, name in (("data", data), ("bench", scores), ("report", report)):
                record = json.dumps({"digest": name.rpartition("/")[2]}).encode()
                open_store(ws.store).write(f"runs/{size}/{stage}.json", record)
            for kind, name in (("data", data), ("model", model), ("bench", scores), ("report", report)):
                made[f"{kind} {size}"] = name
        return made

    return fill


def whole(ws: Workspace) -> set[str]:
    return {key.removesuffix("/manifest.json") for key in open_store(ws.store).list() if key.endswith("/manifest.json")}


def only_in_twelve(ws: Workspace, made: dict[str, str]) -> str:
    place = open_store(ws.store)
    return min(erased.patients_of(place, made["data twelve"]) - erased.patients_of(place, made["data three"]))


def test_a_plan_names_what_holds_and_descends_and_changes_nothing(
    ws: Workspace, fill: Callable[[Workspace], dict[str, str]]
) -> None:
    made = fill(ws)
    patient, before = only_in_twelve(ws, made), dict(open_store(ws.store).ages())
    found = erase.plan(ws, [patient])
    assert {(one.name, one.why, one.does) for one in found.artifacts} == {
        (made["data twelve"], "holds", "removed"),
        (made["report twelve"], "may show", "removed"),
        (made["model twelve"], "descends", "marked"),
        (made["bench twelve"], "descends", "marked"),
    }
    assert found.runs == ("runs/twelve",)
    (again,) = found.rebuild
    assert loading.validate(again["recipe"], "rebuild").data.patients == 12
    assert dict(open_store(ws.store).ages()) == before
    both = next(iter(erased.patients_of(open_store(ws.store), made["data three"])))
    assert {one.name for one in erase.plan(ws, [both]).artifacts} == set(made.values())


def test_erased_they_are_in_no_data_set_and_in_no_later_build(
    ws: Workspace, demo: Recipe, fill: Callable[[Workspace], dict[str, str]]
) -> None:
    made = fill(ws)
    patient = only_in_twelve(ws, made)
    page = ws.home / "reports" / "twelve.html"
    page.parent.mkdir()
    page.write_text("a picture")
    pages = {name: ws.home / "reports" / f"bench-of-{name}.html" for name in ("three", "twelve")}
    for name, path in pages.items():  # as `bench page` of an address, or a night, has one
        path.write_bytes(open_store(ws.store).read(f"{made[f'report {name}']}/text"))
    copies = {name: [ws.cache / f"{name.partition('/')[2]}{part}" for part in ("", "-0123")] for name in made.values()}
    for copy in (copy for both in copies.values() for copy in both):
        copy.mkdir(parents=True)
    kept = kept_pixels.of(ws.home)
    assert kept is not None
    kept.keep("scan.png", 32, "sha256:0", b"a picture")
    list(gallery.write(ws, store.get(f"{ws.store}/{made['data twelve']}")))
    unfinished = [
        f"{crew.UNFINISHED}0123/1.jsonl",
        f"{kept_pixels.UNFINISHED}0123/1.pictures",
        "resume/finetune-0123/examples.safetensors",
    ]
    for key in unfinished:
        open_store(ws.store).write(key, b"a picture")
    killed, running = ws.home / "work" / "data-killed", ws.home / "work" / "data-running"
    for folder in (killed, running):
        (folder / "resume").mkdir(parents=True)
        (folder / "resume" / "pixels.bin").write_bytes(b"a picture")
    index = {key: f"steps/{key.partition(' ')[0]}/{key[-5:]}.json" for key in ("data twelve", "data three")}
    for key, entry in index.items():
        open_store(ws.store).write(entry, json.dumps({"digest": made[key].partition("/")[2]}).encode())
    open_store(ws.store).write(INVENTORY, b"the recipes of what gc has read")
    with locked(running, UserError):
        record = erase.erase(ws, [patient], erase.plan(ws, [patient]), "asked for")
    assert [path for path in (ws.home / "work").iterdir()] == [running]
    assert not open_store(ws.store).exists(INVENTORY)
    assert kept.find("scan.png", 32) is None and not (ws.home / "galleries").exists()
    assert not open_store(ws.store).exists(index["data twelve"]) and open_store(ws.store).exists(index["data three"])
    assert list(open_store(ws.store).list("resume/")) == unfinished[2:], "a training is ended by whoever runs it"
    assert whole(ws) == set(made.values()) - {made["data twelve"], made["report twelve"]}
    assert not list(open_store(ws.store).list(made["data twelve"])) and not page.exists()
    assert pages["three"].exists() and not pages["twelve"].exists()
    gone = {name for name, both in copies.items() if not any(copy.exists() for copy in both)}
    assert gone == {made["data twelve"], made["report twelve"]}
    assert all(copy.exists() for name, both in copies.items() if name not in gone for copy in both)
    assert erase.marked(ws) == {made[f"{kind} twelve"].partition("/")[2] for kind in ("model", "bench")}
    assert record["n"] == 1 and record["patients"] == 1
    anew = build.run(demo, ws)
    assert anew.facts["source"]["erased"]["patients"] == 1
    assert patient not in erased.patients_of(open_store(ws.store), f"data/{anew.digest}")
    again = erase.plan(ws, [patient])  # known, though no data set holds them any more
    assert again.artifacts == ()
    place = open_store(ws.store)
    written = " ".join(place.read(key).decode() for key in place.list("erased/"))
    assert patient not in written and patient not in " ".join(place.list("erased/"))


def test_descendants_go_when_asked_but_not_what_a_version_or_a_decision_names(
    ws: Workspace, fill: Callable[[Workspace], dict[str, str]]
) -> None:
    made = fill(ws)
    patient = only_in_twelve(ws, made)
    api = tracking.client(ws)
    api.create_registered_model("chest")
    uri = f"{ws.store}/{made['model twelve']}"
    api.create_model_version("chest", source="file:///x", tags={lookup.URI: uri, lookup.DIGEST: uri.rpartition("/")[2]})
    found = {one.name: one for one in erase.plan(ws, [patient], "removed").artifacts}
    assert found[made["bench twelve"]].does == "removed"
    assert (found[made["model twelve"]].does, found[made["model twelve"]].note) == ("marked", "a version names it")
    bench = made["bench twelve"].partition("/")[2]
    decisions.append(ws, "chest", lambda log: Decision("refused", "1", "d", "u", bench=bench))
    what = erase.plan(ws, [patient], "removed")
    assert {one.note for one in what.artifacts} == {"", "a version names it", "a decision names it"}
    erase.erase(ws, [patient], what, "asked for")
    assert {made["model twelve"], made["bench twelve"]} <= whole(ws) and made["data twelve"] not in whole(ws)
    shown = CliRunner().invoke(registry.app, ["show", "chest/1", "--home", str(ws.home)], catch_exceptions=False)
    assert "an erased patient was in its data" in shown.stderr


def test_an_unknown_patient_is_reported_by_number_and_nobody_by_name(
    ws: Workspace, fill: Callable[[Workspace], dict[str, str]]
) -> None:
    made = fill(ws)
    patient, near = only_in_twelve(ws, made), "chest-00000x"
    before = set(open_store(ws.store).list())
    with pytest.raises(UserError, match="1 of 2 patients are in no data set") as error:
        erase.plan(ws, [patient, near])
    message = str(error.value)
    assert error.value.exit_code == 2 and "number 2" in message and "number 1" not in message
    everybody = erased.patients_of(open_store(ws.store), made["data twelve"])
    assert not any(name in message for name in {*everybody, near})
    assert set(open_store(ws.store).list()) == before


@pytest.mark.long
def test_killed_at_any_moment_the_same_command_finishes_it(
    place: Workspace, fill: Callable[[Workspace], dict[str, str]]
) -> None:
    made, at = fill(place), open_store(place.store)
    patient = only_in_twelve(place, made)
    before = {key: at.read(key) for key in at.list()}

    def go() -> None:
        erase.erase(place, [patient], erase.plan(place, [patient], "removed"), "asked for")

    for number in count():
        killed = killed_at(number, type(at), ("delete", "write", "create"), go)
        if killed:
            if artifacts(place) != set(made.values()):  # while the patient is not on the list, nothing is removed
                assert patient in erased.load(place.store), f"killed at {number}"
            go()
        assert artifacts(place) == {name for key, name in made.items() if key.endswith("three")}, f"killed at {number}"
        left = {key for key in at.list() if not key.startswith(LOCK)}
        assert not [key for key in left if key.startswith(("removing/", made["data twelve"]))]
        if not killed:
            break
        for key in left - set(before):
            at.delete(key)
        for key in set(before) - left:  # put all back, which is faster than making it anew
            at.write(key, before[key])
    assert number > 10


def test_the_command_shows_first_then_removes_and_prints_no_name(
    ws: Workspace, fill: Callable[[Workspace], dict[str, str]]
) -> None:
    made = fill(ws)
    patient = only_in_twelve(ws, made)

    def call(*arguments: str, given: str = "") -> Any:
        return CliRunner().invoke(
            command.app, ["erase", *arguments, "--home", str(ws.home)], input=given, catch_exceptions=False
        )

    shown = call("-", given=f"{patient}\n")
    assert shown.exit_code == 0 and "nothing was changed" in shown.output and patient not in shown.output
    assert made["data twelve"] in whole(ws)
    with pytest.raises(UserError, match="needs its reason"):
        call(patient, "--yes")
    done = call(patient, "--yes", "--why", "asked for", "--json")
    facts = json.loads(done.stdout)
    assert facts["done"] and facts["record"] == 1 and patient not in done.output
    assert made["data twelve"] not in whole(ws)
    (file,) = facts["recipes"]
    again = loading.load(file)
    assert patient not in erased.patients_of(open_store(ws.store), f"data/{build.run(again, ws).digest}")


def data_of(ws: Workspace, folder: Path, *patients: tuple[str, str]) -> str:
    """A data set with a question on each (source, patient)."""
    samples = [
        Sample(
            "temporal", "f", source, "train", False, (name,), (f"{source}/{name}",), (f"{source}/{name}",), "?", (), "a"
        )
        for source, name in patients
    ]
    shards.write(folder, samples, ())
    recipe = {"name": "drawn", "platform": {"show_patients": True}}
    return f"data/{store.publish(folder, ws.store, 'data', {}, {'parents': {}, 'recipe': recipe}).digest}"


def test_a_patient_is_erased_from_every_set_of_the_population_and_no_other(ws: Workspace, tmp_path: Path) -> None:
    mimic = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"), ("MS_CXR_T", "p10000002"))
    other = data_of(ws, tmp_path / "b", ("mmxu", "10000001"))
    covid = data_of(ws, tmp_path / "c", ("covid-chestxray", "10000001"))
    for given in ("p10000001", "mimic/10000001"):
        assert {one.name for one in erase.plan(ws, [given]).artifacts} == {mimic, other}
    assert {one.name for one in erase.plan(ws, ["10000001"]).artifacts} == {mimic, other, covid}
    erase.erase(ws, ["p10000001"], erase.plan(ws, ["p10000001"]), "asked for")
    assert whole(ws) == {covid}
    listed = erased.load(ws.store)
    assert listed.holds("MS_CXR_T", "p10000001") and listed.holds("chest-imagenome", "10000001")
    assert not listed.holds("covid-chestxray", "10000001") and not listed.holds("mmxu", "10000002")
    sets = ("ms_cxr_t", "covid-chestxray")
    films = Source(str.encode, studies=[Study(name, "10000001", name, "X-ray") for name in sets])
    assert [study.source for study in erased.leave_out(films, listed).studies or []] == ["covid-chestxray"]
    assert erase.plan(ws, ["p10000001"]).artifacts == ()  # known, though nothing holds them any more
    with pytest.raises(UserError, match="in no data set"):
        erase.plan(ws, ["mimic/10000002"])


def test_what_is_shown_of_an_erasure_names_nobody(ws: Workspace, tmp_path: Path) -> None:
    data_of(ws, tmp_path / "a", ("mmxu", "10000001"))
    result = CliRunner().invoke(command.app, ["erase", "10000001", "--json", "--home", str(ws.home)])
    assert result.exit_code == 0 and "10000001" not in result.output and "artifacts" in result.output


def test_exports_that_hold_the_patient_are_named_with_their_rows_and_removed_where_they_can_be(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"), ("MS_CXR_T", "p10000002"))
    other = data_of(ws, tmp_path / "b", ("MS_CXR_T", "p10000002"))
    for name, uri in (("mine", both), ("theirs", both), ("shared", both), ("free", other)):
        if name == "theirs":
            monkeypatch.setattr(records, "node", lambda: "another")
        export.export(ws, f"{ws.store}/{uri}", tmp_path / name, "med-mim", in_house=True)
        monkeypatch.undo()
    (tmp_path / "shared" / "notes.txt").touch()
    (tmp_path / "theirs").rename(tmp_path / "moved")
    found = {Path(one.folder).name: one for one in erase.plan(ws, ["p10000001"]).exports}
    assert {name: (one.state, one.does) for name, one in found.items()} == {
        "mine": ("here", "removed"), "theirs": ("elsewhere", "named"), "shared": ("here", "named"),
    }  # fmt: skip
    (row,) = found["mine"].rows
    held = json.loads((tmp_path / "mine" / "Med_MIM_train_inherent_Temporal.json").read_text("utf-8"))
    assert [one["id"] for one in held if "MS_CXR_T/p10000001" in one["images"][0]] == [row]

    def call(*arguments: str) -> Any:
        words = ["erase", "p10000001", *arguments, "--home", str(ws.home)]
        return CliRunner().invoke(command.app, words, catch_exceptions=False)

    shown = call()
    assert f"export for med-mim holds 1 rows of them, would be removed: {tmp_path / 'mine'}" in shown.output
    assert f"another:{tmp_path / 'theirs'}" in shown.output and "it is not reached (another machine's)" in shown.output
    assert "it holds other files: notes.txt" in shown.output and "copies" in shown.output
    assert "p10000001" not in shown.output.replace(str(tmp_path), "")
    assert (tmp_path / "mine").is_dir()
    facts = json.loads(call("--yes", "--why", "asked for", "--json").stdout)
    assert {Path(one["folder"]).name: one["rows"] for one in facts["exports"]}["theirs"] == [row]
    assert not (tmp_path / "mine").exists()
    assert (tmp_path / "shared").is_dir() and (tmp_path / "moved").is_dir() and (tmp_path / "free").is_dir()
    again = {Path(one.folder).name for one in erase.plan(ws, ["p10000001"]).exports}
    assert again == {"theirs", "shared"}, "still named when their data set is gone"


def test_a_patient_of_an_export_alone_is_erased_too_and_a_killed_removal_is_finished(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"))
    export.export(ws, f"{ws.store}/{name}", tmp_path / "out", "med-mim", in_house=True)
    place = open_store(ws.store)
    for key in list(place.list(name)):  # as a garbage collection does
        place.delete(key)
    what = erase.plan(ws, ["p10000001"])
    assert (what.artifacts, what.who) == ((), ("mimic/10000001",))
    (tmp_path / "out" / "pictures").mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "shutil", SimpleNamespace(rmtree=killed))
    with pytest.raises(KeyboardInterrupt):
        erase.erase(ws, ["p10000001"], what, "asked for")
    monkeypatch.undo()
    assert (tmp_path / "out" / folders.MARK).exists()
    erase.erase(ws, ["p10000001"], erase.plan(ws, ["p10000001"]), "asked for")
    assert not (tmp_path / "out").exists()
    assert erased.load(ws.store).holds("MS_CXR_T", "p10000001")
    with pytest.raises(UserError, match="in no data set and no export"):
        erase.plan(ws, ["p10000002"])


def test_an_export_that_cannot_be_removed_keeps_nothing_else_and_is_told(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"))
    for to in ("held", "linked", "moved", "free"):
        export.export(ws, f"{ws.store}/{name}", tmp_path / to, "med-mim", in_house=True)
    (tmp_path / "held" / "pictures").mkdir()
    (tmp_path / "linked" / "theirs").symlink_to(tmp_path / "a")
    (tmp_path / "moved").rename(tmp_path / "disk")
    (tmp_path / "moved").symlink_to(tmp_path / "disk")

    def rmtree(path: Path, **_: Any) -> None:
        if Path(path).parent == tmp_path / "held":
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folders, "shutil", SimpleNamespace(rmtree=rmtree))
    words = ["erase", "p10000001", "--yes", "--why", "asked for", "--json", "--home", str(ws.home)]
    result = CliRunner().invoke(command.app, words)
    error = result.exception
    assert isinstance(error, UserError) and error.exit_code == 2
    assert [line.partition(":")[0] for line in error.problems] == [str(tmp_path / "held")]
    assert name not in whole(ws)
    assert (
        not any((tmp_path / to).exists() for to in ("moved", "disk", "free")) and not (tmp_path / "moved").is_symlink()
    )
    assert (tmp_path / "a").is_dir() and (tmp_path / "linked" / folders.MARK).exists()
    told = {Path(one["folder"]).name: one for one in json.loads(result.stdout)["exports"]}
    (record,) = [json.loads(open_store(ws.store).read(key)) for key in open_store(ws.store).list("erased/records/")]
    assert {Path(one["folder"]).name: one for one in record["exports"]} == told
    assert {to: one["does"] for to, one in told.items()} == {
        "held": "named", "linked": "named", "moved": "removed", "free": "removed",
    }  # fmt: skip
    assert "no permission" in told["held"]["note"] and "theirs" in told["linked"]["note"]
    monkeypatch.undo()
    (tmp_path / "linked" / "theirs").unlink()
    assert CliRunner().invoke(command.app, words).exit_code == 0
    assert not (tmp_path / "held").exists() and not (tmp_path / "linked").exists()


def test_what_came_into_an_export_after_the_plan_stays(ws: Workspace, tmp_path: Path) -> None:
    name = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"))
    for to in ("out", "moved"):
        export.export(ws, f"{ws.store}/{name}", tmp_path / to, "med-mim", in_house=True)
    what = erase.plan(ws, ["p10000001"])
    (tmp_path / "out" / "thesis").mkdir()
    (tmp_path / "out" / "thesis" / "x").touch()
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "mine").touch()
    record = erase.erase(ws, ["p10000001"], what, "asked for")
    assert (tmp_path / "out" / "thesis" / "x").exists() and (tmp_path / "moved" / "mine").exists()
    notes = {Path(one["folder"]).name: (one["does"], one["note"]) for one in record["exports"]}
    assert notes == {
        "out": ("named", "it holds other files: thesis/x"),
        "moved": ("named", "it was replaced or moved meanwhile"),
    }


def test_an_export_that_was_moved_or_replaced_is_named_until_an_erasure_has_removed_it(
    ws: Workspace, tmp_path: Path
) -> None:
    name = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"))
    for to in ("out", "out", "moved"):
        export.export(ws, f"{ws.store}/{name}", tmp_path / to, "med-mim", in_house=True)
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    what = erase.plan(ws, ["p10000001"])
    assert sorted((Path(one.folder).name, one.state, one.does) for one in what.exports) == [
        ("moved", "gone", "named"), ("out", "here", "removed"), ("out", "replaced", "named"),
    ]  # fmt: skip
    words = ["erase", "p10000001", "--home", str(ws.home)]
    shown = CliRunner().invoke(command.app, words, catch_exceptions=False).output
    assert f"{tmp_path / 'moved'}" in shown and "not where it was written" in shown
    erase.erase(ws, ["p10000001"], what, "asked for")
    assert sorted(one.state for one in erase.plan(ws, ["p10000001"]).exports) == ["gone", "gone"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from medmim.data.export import run
from medmim.run.workspace import workspace
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[4] == "first":
    run.folder.write_mark = kill
else:
    real = os.replace
    def replace(source, target):
        real(source, target)
        if str(source) == sys.argv[3]:
            kill()
    os.replace = replace
run.export(workspace(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), "med-mim", in_house=True)
"""


def test_what_killed_exports_have_left_is_listed_and_removed_but_not_what_is_being_written(
    ws: Workspace, tmp_path: Path
) -> None:
    name = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001"))
    again, first, open_one = tmp_path / "b" / "again", tmp_path / "c" / "first", tmp_path / "d" / "open"
    export.export(ws, f"{ws.store}/{name}", again, "med-mim", in_house=True)
    for out, at in ((again, "renaming"), (first, "first")):
        given = [str(ws.home), f"{ws.store}/{name}", str(out), at]
        killed = subprocess.run([sys.executable, "-c", _KILLED, *given], check=False)
        assert killed.returncode == -signal.SIGKILL and not out.exists()
    left = [path for out in (again, first) for path in out.parent.iterdir() if path.suffix != ".lock"]
    assert len(left) == 2 and sum(path.is_file() for one in left for path in one.rglob("*.json")) > 2
    records.announce(ws.store, open_one)
    with folders.whole(open_one) as part:
        written = str(part.parent)
        what = erase.plan(ws, ["p10000001"])
        assert what.unfinished == tuple(sorted([*map(str, left), written]))
        words = ["erase", "p10000001", "--yes", "--why", "asked for", "--home", str(ws.home)]
        shown = CliRunner().invoke(command.app, words, catch_exceptions=False).output
        assert f"may still be written: {written}" in shown and f"is removed: {left[0]}" in shown
        assert part.is_dir() and not list(again.parent.iterdir()) and not list(first.parent.iterdir())


def test_what_a_killed_export_moved_out_of_the_way_is_put_back_by_the_next_one(ws: Workspace, tmp_path: Path) -> None:
    name, out = data_of(ws, tmp_path / "a", ("MS_CXR_T", "p10000001")), tmp_path / "b" / "out"
    export.export(ws, f"{ws.store}/{name}", out, "med-mim", in_house=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    given = [str(ws.home), f"{ws.store}/{name}", str(out), "renaming"]
    subprocess.run([sys.executable, "-c", _KILLED, *given], check=False)
    assert not out.exists()
    with pytest.raises(ZeroDivisionError), folders.whole(out):
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(out.parent.iterdir()) == [out]
