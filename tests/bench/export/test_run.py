"""The export to lmms-eval: all that is there, scored as here, whole or not at all. `make peers` runs the real one."""

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from medmim import shards, store
from medmim.bench import metrics, tasks
from medmim.bench.export import lmms_eval
from medmim.bench.export import run as export
from medmim.bench.reader.reply import read
from medmim.cli import bench
from medmim.data.export import folder, records
from medmim.errors import UserError
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Answer
from medmim.store import open_store
from medmim.terms import APACHE, Terms
from tests.bench.reader.test_answers import rows as labelled
from tests.bench.reader.test_answers import sample as asked
from tests.support.bench import World


def load_utils(folder: Path) -> ModuleType:
    """As lmms-eval does it for `!function utils.NAME`."""
    spec = importlib.util.spec_from_file_location("utils", folder / "utils.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_task(path: Path) -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: f"!{loader.construct_scalar(node)}")
    found: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader)  # noqa: S506  a SafeLoader
    return found


def publish(world: World, ws: Workspace, allowed: Terms = APACHE) -> str:
    return store.publish(world.data, ws.store, "data", {}, {"time": "", "terms": allowed.as_dict()}).uri


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    root = tmp_path_factory.mktemp("export")
    ws = workspace(root / "home")
    export.export(ws, publish(world, ws), ("held_in", "held_out"), root / "out", max_new_tokens=7)
    return root / "out", world


def test_each_task_has_its_questions_with_the_bytes_of_their_images(done: tuple[Path, World]) -> None:
    folder, world = done
    images = shards.Images(world.data)
    for name in tasks.DOMAINS:
        items = tasks.select(world.data, [name])
        rows = pq.read_table(folder / f"medmim_{name}.parquet").to_pylist()
        assert len(rows) == len(items.samples) > 0
        for row, sample in zip(rows, items.samples, strict=True):
            assert row["images"] == [images.stored(one) for one in sample.images]
            assert (row["id"], row["prompt"], row["target"]) == (sample.id, sample.prompt, sample.target)
            assert tuple(row["options"]) == sample.options and tuple(row["gold"]) == sample.gold
        by_patient = {(row["patient"], sample.patients[0]) for row, sample in zip(rows, items.samples, strict=True)}
        assert len(by_patient) == len({one for one, _ in by_patient}) == len({one for _, one in by_patient})


def test_a_task_file_says_all_that_lmms_eval_needs(done: tuple[Path, World]) -> None:
    folder, _ = done
    utils = load_utils(folder)
    for name in tasks.DOMAINS:
        task = load_task(folder / f"medmim_{name}.yaml")
        assert task["task"] == f"medmim_{name}"
        assert (folder / task["dataset_kwargs"]["data_files"][task["test_split"]]).is_file()
        assert task["generation_kwargs"]["max_new_tokens"] == 7 and task["generation_kwargs"]["until"] == []
        named = [task[key] for key in ("doc_to_visual", "doc_to_text", "doc_to_messages", "process_results")]
        named += [metric["aggregation"] for metric in task["metric_list"]]
        assert all(callable(getattr(utils, one.removeprefix("!utils."))) for one in named)


def test_chat_models_get_the_images_first_and_others_the_same(done: tuple[Path, World]) -> None:
    folder, world = done
    utils = load_utils(folder)
    (first, *_) = tasks.select(world.data, ["held_in"]).samples
    row = pq.read_table(folder / "medmim_held_in.parquet").to_pylist()[0]
    ((message),) = utils.messages(row)
    kinds = [part["type"] for part in message["content"]]
    assert message["role"] == "user" and kinds == ["image"] * len(first.images) + ["text"]
    assert message["content"][-1]["text"] == utils.text(row) == first.prompt
    images = shards.Images(world.data)
    for shown, visual, name in zip(message["content"], utils.visual(row), first.images, strict=False):
        assert shown["url"].tobytes() == visual.tobytes() == images[name].tobytes() and visual.mode == "RGB"


def test_answers_are_scored_as_here_without_anything_of_medmim(done: tuple[Path, World]) -> None:
    folder, _ = done
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("medmim") for name in named), path
    utils = load_utils(folder)
    scored = 0
    for row in (row for name in ("open", "held_out", "fresh.jsonl", "misleading") for row in labelled(name)):
        sample = asked(row["question"])
        doc = {"options": sample.options, "images": sample.images, "question": sample.question, "gold": sample.gold}
        found = utils.results({**doc, "patient": "3"}, [row["answer"]])
        ours = metrics.score(sample, read(sample, "none", "k", row["answer"], None))
        assert found == {"accuracy": {"score": ours["accuracy"], "patient": "3"}}, row
        scored += 1
    assert scored > 1000


@pytest.mark.parametrize(("said", "gold"), [("The mass grew!", "a mass grew"), ("stable", "worse"), ("", "")])
def test_open_answers_have_our_token_f1(said: str, gold: str, done: tuple[Path, World]) -> None:
    from dataclasses import replace

    sample = replace(asked(next(iter(labelled("open")))["question"]), options=(), gold=(), answer=gold)
    found = load_utils(done[0]).results({"options": [], "answer": gold, "patient": "0"}, [said])
    ours = metrics.score(sample, Answer(sample.id, "none", "k", said, None, "parsed"))
    assert found["token_f1"]["score"] == pytest.approx(ours["token_f1"])


def test_a_request_that_failed_is_in_no_score(done: tuple[Path, World]) -> None:
    utils = load_utils(done[0])
    doc = {"options": ["x", "y"], "images": [], "question": "?", "gold": [0], "patient": "0"}
    assert utils.results(doc, ["[LMMS_EVAL_REQUEST_FAILED after 3 retries] A"]) == {}
    assert utils.results(doc, ["A"])["accuracy"]["score"] == 1
    assert utils.mean([{"score": 1.0}, {"score": 0.0}]) == 0.5


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_questions_give_equal_bytes_and_an_export_is_replaced_whole(
    done: tuple[Path, World], tmp_path: Path
) -> None:
    folder, world = done
    ws = workspace(tmp_path / "home")
    uri, out = publish(world, ws), tmp_path / "a" / "out"
    export.export(ws, uri, ("temporal",), out, limit=2)
    assert pq.read_table(out / "medmim_temporal.parquet").num_rows == 2
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "utils.pyc").touch()  # which Python leaves when the task is loaded
    export.export(ws, uri, ("held_in", "held_out"), out, max_new_tokens=7)
    assert tree(out) == tree(folder)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def _fails(*_: Any) -> str:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failed_export_leaves_what_was_there(
    earlier: bool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = workspace(tmp_path / "home")
    uri, out = publish(world, ws), tmp_path / "a" / "out"
    if earlier:
        export.export(ws, uri, ("temporal",), out)
    before = tree(out) if earlier else {}
    monkeypatch.setattr(lmms_eval, "_write_reader", _fails)  # after the questions are written
    with pytest.raises(UserError, match="disk is full"):
        export.export(ws, uri, ("temporal",), out)
    assert [path.name for path in out.parent.iterdir()] == (["out"] if earlier else [])
    assert (tree(out) if earlier else {}) == before


_KILLED = """
import os, signal, sys
from pathlib import Path
from medmim.bench.export import run as export
from medmim.data.export import folder
from medmim.run.workspace import workspace
real, times = os.replace, []
def replace(*given):
    if Path(given[1]).name in ("out", "earlier"):
        times.append(given)
        if len(times) == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
    real(*given)
folder.os.replace = replace
export.export(workspace(Path(sys.argv[1])), sys.argv[2], ("temporal",), Path(sys.argv[3]), limit=2)
"""


@pytest.mark.parametrize("step", ["1", "2"])
def test_after_a_kill_at_either_renaming_the_next_export_leaves_nothing_else(
    step: str, world: World, tmp_path: Path
) -> None:
    ws, out = workspace(tmp_path / "home"), tmp_path / "a" / "out"
    uri = publish(world, ws)
    export.export(ws, uri, ("temporal",), out)
    whole = tree(out)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(ws.home), uri, str(out), step], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert out.exists() == (step == "1") and (step == "2" or tree(out) == whole)
    export.export(ws, uri, ("temporal",), out)
    assert tree(out) == whole and [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_was_there_is_put_back_where_the_new_one_cannot_be(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws, out, real = workspace(tmp_path / "home"), tmp_path / "a" / "out", os.replace
    uri = publish(world, ws)
    export.export(ws, uri, ("temporal",), out)
    before = tree(out)

    def replace(source: Path | str, target: Path) -> None:
        if Path(source).name == "export":
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(folder.os, "replace", replace)
    with pytest.raises(UserError):
        export.export(ws, uri, ("temporal",), out, limit=2)
    assert tree(out) == before and [path.name for path in out.parent.iterdir()] == ["out"]


def _file(out: Path) -> None:
    out.touch()


def _other(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work", encoding="utf-8")


def _among(out: Path) -> None:
    _other(out)
    (out / folder.MARK).write_text(json.dumps({"for": "lmms-eval", "files": ["README.md"]}), encoding="utf-8")


@pytest.mark.parametrize("made", [_file, _other, _among])
def test_what_is_no_export_is_never_replaced(made: Callable[[Path], None], world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    out = tmp_path / "out"
    made(out)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="is not a folder|no export of medmim|more than an export of medmim"):
        export.export(ws, publish(world, ws), ("temporal",), out)
    assert {name: data for name, data in tree(tmp_path).items() if not name.startswith("home")} == before


@pytest.mark.parametrize("form", export.FORMATS)
def test_no_task_takes_the_place_of_another(form: str, world: World, tmp_path: Path) -> None:
    ws, files = workspace(tmp_path / "home"), [tmp_path / "my-pairs.yaml", tmp_path / "My pairs.yaml"]
    for file, ability in zip(files, ("temporal", "comparison"), strict=True):
        file.write_text(f"description: d\nabilities: [{ability}]\n", encoding="utf-8")
    with pytest.raises(UserError, match="would have one name"):
        export.export(ws, publish(world, ws), list(map(str, files)), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_the_command_says_the_terms(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    ws = workspace(tmp_path / "home")
    publish(world, ws, Terms(redistribute_data=False, serve=True, text=("EMBED: research only",)))
    arguments = ["export", str(tmp_path / "out"), "--to", "lmms-eval", "--home", str(tmp_path / "home")]
    refused = CliRunner().invoke(bench.app, [*arguments, "--task", "temporal"])
    assert isinstance(refused.exception, UserError) and refused.exception.exit_code == 2
    assert "not allowed by EMBED" in str(refused.exception) and not (tmp_path / "out").exists()
    assert records.load(open_store(ws.store)) == []
    arguments.append("--in-house")
    said = CliRunner().invoke(bench.app, [*arguments, "--task", "temporal"])
    assert said.exit_code == 0, said.output
    assert records.load(open_store(ws.store))[0].private
    assert "redistribute_data: not allowed by EMBED" in said.stdout
    readme = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Keep this folder to yourself" in readme and "* EMBED: research only" in readme
    found = json.loads(CliRunner().invoke(bench.app, [*arguments, "--json"]).stdout)
    assert found["questions"] == {"held_in": 42, "held_out": 6} and found["terms"]["serve"] is True


def test_vlmevalkit_gets_the_closed_questions_with_their_images(world: World, tmp_path: Path) -> None:
    """As its classes read a table: pandas, then `image` and `image_path` as lists where they look like one."""
    import ast
    import base64
    import io

    import pandas as pd
    from PIL import Image

    ws = workspace(tmp_path / "home")
    export.export(ws, publish(world, ws), ("held_in",), tmp_path / "out", "vlmevalkit")
    table = pd.read_csv(tmp_path / "out" / "medmim_held_in.tsv", sep="\t")
    closed = [sample for sample in tasks.select(world.data, ["held_in"]).samples if sample.options]
    images = shards.Images(world.data)
    assert len(table) == len(closed) > 0
    named: dict[str, str] = {}
    for row, sample in zip(table.to_dict("records"), closed, strict=True):
        assert [row[letter] for letter in "ABC"] == list(sample.options)
        assert row["question"] == sample.question and "ABC".index(row["answer"]) in sample.gold
        shown = zip(ast.literal_eval(row["image"]), ast.literal_eval(row["image_path"]), sample.images, strict=True)
        for encoded, path, name in shown:
            pixels = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
            assert pixels.tobytes() == images[name].tobytes() and path.endswith(".png")
            assert named.setdefault(path, name) == name  # one file name, one image
    assert "6 open questions are left out" in (tmp_path / "out" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("text", ["N/A", "null"])
def test_a_text_that_vlmevalkit_would_lose_is_refused(text: str, world: World, tmp_path: Path) -> None:
    from dataclasses import replace

    (first, *_) = tasks.select(world.data, ["held_in"]).samples
    lost = replace(first, options=(text, *first.options[1:]), answer=text)
    source = shards.Images(world.data)
    shards.write(tmp_path / "data", [lost], [(name, name, source.stored(name)) for name in lost.images])
    ws = workspace(tmp_path / "home")
    uri = store.publish(tmp_path / "data", ws.store, "data", {}, {"time": "", "terms": APACHE.as_dict()}).uri
    with pytest.raises(UserError, match="cannot be written for VLMEvalKit"):
        export.export(ws, uri, ("held_in",), tmp_path / "out", "vlmevalkit")
    assert not (tmp_path / "out").exists()
