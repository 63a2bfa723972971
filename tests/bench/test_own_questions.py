"""Questions in JSONL as a task: built once, asked as a data set with the same questions is, and found again."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from medmim import shards, store
from medmim.bench import data_sets, run, tasks
from medmim.cli import bench
from medmim.errors import UserError
from medmim.recipe.schema import Bench
from medmim.run.provenance import terms_of
from medmim.run.workspace import workspace
from medmim.sample import Sample
from medmim.terms import Terms
from tests.support.bench import World, picture, samples


def pictured(name: str) -> bytes:
    """An image of more than one colour: a blank one is refused."""
    image = Image.open(io.BytesIO(picture(int(name[7:]))))
    image.paste((0, 0, 0), (4, 4, 20, 20))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def rows(folder: Path, named: bool = True) -> Iterator[dict[str, object]]:
    """The questions of `samples`, as a reader would write them beside the files of the images."""
    for name in {name for one in samples() for name in one.images}:
        (folder / f"{name[7:]}.png").write_bytes(pictured(name))
    for one in samples():
        yield {
            "question": one.question, "images": [f"{name[7:]}.png" for name in one.images], "answer": one.answer,
            **({"options": one.options} if one.options else {}), **({"patients": one.patients} if named else {}),
            "ability": one.ability, "source": one.source, "held_out": one.held_out,
        }  # fmt: skip


def write(folder: Path, lines: list[dict[str, object]], name: str = "mine.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    folder = tmp_path / "own"
    folder.mkdir()
    return write(folder, list(rows(folder)))


def test_the_same_questions_get_the_same_answers_and_are_built_once(own: str, world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    uri = data_sets.built(ws, own)
    asked = tasks.select(ws.fetch(uri), tasks.DOMAINS)
    plain = [(one.question, one.options, one.gold, one.patients, one.ability, one.held_out) for one in samples()]
    said = [(one.question, one.options, one.gold, one.patients, one.ability, one.held_out) for one in asked.samples]
    assert said == plain
    settings = Bench(probes=("blind", "swap"), max_new_tokens=2)
    names = sorted({name for one in samples() for name in one.images})
    shards.write(tmp_path / "data", samples(), [(name, name, pictured(name)) for name in names])
    plainly = store.publish(tmp_path / "data", ws.store, "data", {}, {"time": ""}).uri
    answered = []
    for data in (uri, plainly):
        artifact, _ = run.bench(ws, data, {"model": str(world.models[0])}, settings)
        answered.append([row["answers"]["model"]["none"]["text"] for row in run.predictions(ws, artifact.uri)])
    assert answered[0] == answered[1] and any(answered[0])
    before = list(Path(ws.store).glob("data/*"))
    assert data_sets.built(ws, own) == uri and list(Path(ws.store).glob("data/*")) == before


def test_another_file_of_equal_lines_is_the_same_data_set(own: str, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    copy = Path(own).with_name("renamed.jsonl")
    copy.write_bytes(Path(own).read_bytes())
    assert data_sets.built(ws, own) == data_sets.built(ws, str(copy))


def test_without_patients_there_is_an_interval_from_twenty_images_on(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    nameless = list(rows(folder, named=False))
    ws = workspace(tmp_path / "home")
    for lines, few in ((nameless, False), (nameless[:6], True)):
        uri = data_sets.built(ws, write(folder, lines))
        settings = Bench(probes=(), max_new_tokens=2)
        artifact, _ = run.bench(ws, uri, {"model": str(world.models[0])}, settings)
        board = run.scores(ws, artifact.uri)["leaderboard"]
        row = next(row for row in board if (row["group"], row["metric"]) == ("held_in", "accuracy"))
        closed = [one for one in samples()[: len(lines)] if one.options and not one.held_out]
        assert row["patients"] == len({name for one in closed for name in one.images})
        assert (row["low"] is None) == few


def test_bad_lines_are_told_together_and_nothing_is_built(own: str, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    lines = [json.loads(line) for line in Path(own).read_text("utf-8").splitlines()]
    lines[3]["answer"] = "no option"
    lines[7]["images"] = ["absent.png"]
    lines[9] |= {"options": ["a mass", "a mass "], "answer": "A"}
    with pytest.raises(UserError) as raised:
        data_sets.built(ws, write(Path(own).parent, lines))
    said = str(raised.value)
    assert (
        "3 lines of" in said
        and "line 10, options: all are the same: 'a mass'" in said
        and "line 4, answer: 'no option'" in said
    )
    assert "line 8, images.0: there is no file 'absent.png'" in said
    assert not list(Path(ws.store).glob("data/*"))


def test_an_image_that_is_none_ends_the_build(own: str, tmp_path: Path) -> None:
    (Path(own).parent / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UserError, match=r"000\.png"):
        data_sets.built(workspace(tmp_path / "home"), own)


def test_the_terms_beside_the_file_are_those_of_its_data_set(own: str, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    assert not terms_of(store.get(data_sets.built(ws, own))).serve
    written = Terms(serve=True, text=("ward 7: own use",))
    Path(own).with_suffix(".terms.json").write_text(written.dump(), encoding="utf-8")
    later = workspace(tmp_path / "later")
    assert terms_of(store.get(data_sets.built(later, own))) == written


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(bench.app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_takes_a_file_alone_and_with_names(own: str, world: World, tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "home")]
    model = ["run", "--model", str(world.models[0]), "--max-new-tokens", "1", "--json", *home]
    whole = json.loads(invoke(*model, "--task", own))
    assert whole["items"] == 48 and whole["tasks"] == ["held_in", "held_out"]
    part = json.loads(invoke(*model, "--task", own, "--task", "temporal"))
    assert part["items"] == sum(one.ability == "temporal" for one in samples()) and part["data"] == whole["data"]
    counted = {
        row["name"]: row["questions"] for row in json.loads(invoke("tasks", "--data", own, "--json", *home))["tasks"]
    }
    assert counted["temporal"] == part["items"] and counted["clean"] is None


def test_a_file_is_exported_alone_and_is_not_the_default_where_there_is_another(own: str, tmp_path: Path) -> None:
    lines = [{**line, "held_out": True} for line in rows(Path(own).parent)]
    home, away = ["--home", str(tmp_path / "home")], write(Path(own).parent, lines, "away.jsonl")
    to = ["export", str(tmp_path / "out"), "--to", "lmms-eval", "--in-house", "--json"]
    assert json.loads(invoke(*to, "--task", away, *home))["questions"] == {"held_out": 48}
    ws = workspace(tmp_path / "home")
    assert data_sets.newest(ws) == data_sets.built(ws, away)  # the only one
    folder = tmp_path / "built"
    folder.mkdir()
    (folder / "a").write_text("a", "utf-8")
    made = {"step": "data", "revision": 1, "time": "2020-01-01T00:00:00+00:00", "recipe": {"name": "demo"}}
    uri = store.publish(folder, ws.store, "data", {}, made).uri
    assert data_sets.newest(ws) == uri  # built before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "OWN", "--task", "other.jsonl"], "more than one data set"),
        (["--task", "OWN", "--data", "some/uri"], "more than one data set"),
        (["--task", "absent.jsonl"], "there is no file absent.jsonl"),
    ],
)
def test_what_cannot_be_combined_is_said(arguments, message, own, world, tmp_path) -> None:
    given = [own if word == "OWN" else word for word in arguments]
    with pytest.raises(UserError, match=message):
        invoke("run", "--model", str(world.models[0]), *given, "--home", str(tmp_path / "home"))


def test_a_recipe_names_such_a_file_as_a_source(own: str) -> None:
    with pytest.raises(UserError, match="is a data set, not a task"):
        tasks.check(["held_in", own])


def test_samples_are_what_the_file_says(own: str, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    found: list[Sample] = shards.read_samples(ws.fetch(data_sets.built(ws, own)))
    assert {one.split for one in found} == {"test"} and {one.source for one in found} == {
        one.source for one in samples()
    }
