"""The bench asks checkpoints of the zoo's classes like any model: from a folder or a store, once, by both protocols."""

import shutil
from pathlib import Path

import pytest

from medmim.bench import answers, run
from medmim.bench.engines import engine
from medmim.errors import UserError
from medmim.finetune import run as finetune
from medmim.lvlm import checkpoint, llava
from medmim.lvlm.ask import Question
from medmim.recipe.loading import load
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from tests.support import zoo_models
from tests.support.bench import World, publish


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    llava.quiet_transformers()
    root = tmp_path_factory.mktemp("zoo")
    return {kind: zoo_models.build(kind, root / kind) for kind in ("qwen2_5_vl", "gemma3", "mllama")}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home")


def test_two_models_of_the_zoo_are_benched_and_nothing_is_asked_twice(
    world: World, folders: dict[str, Path], ws: Workspace
) -> None:
    models = {"tuned": str(folders["qwen2_5_vl"]), "base": str(folders["gemma3"])}
    settings = Bench(max_new_tokens=2, probes=("blind",), limit=8, protocol="both")
    artifact, cached = run.bench(ws, publish(world, ws.store), models, settings)
    assert not cached
    scores = run.scores(ws, artifact.uri)
    assert {row["metric"] for row in scores["leaderboard"]} >= {"accuracy", "likelihood"}
    assert "failures" not in scores and scores["models"]["base"]["digest"] == checkpoint.digest(folders["gemma3"])
    both = [
        answer
        for probes in scores["answers"].values()
        for digest in probes.values()
        for answer in answers.load(Path(ws.store) / "answers" / digest)
    ]
    assert len(both) > 24 and not any(answer.error for answer in both) and len({answer.key for answer in both}) > 20
    assert run.bench(ws, publish(world, ws.store), models, settings)[1]


def test_a_checkpoint_in_a_store_is_asked_as_the_folder_is(folders: dict[str, Path], ws: Workspace) -> None:
    folder = str(folders["qwen2_5_vl"])
    uri = checkpoint.upload_if_local(folder, ws)
    there, here = engine(uri, ws), engine(folder, ws)
    assert uri.startswith(f"{ws.store}/model/") and there.template == here.template and len(here.template) == 64
    questions = [Question("one"), Question("two", options=("left", "right"))]
    assert list(there.ask(questions, 2, 3)) == list(here.ask(questions, 2, 3))
    assert here.compare is not None and there.compare is not None
    assert list(there.compare(questions[1:], 2)) == list(here.compare(questions[1:], 2))
    here.release()
    assert [reply.error for reply in here.ask(questions, 2, 3)] == ["", ""]


def test_the_template_in_the_key_of_answers_holds_the_chat_template(folders: dict[str, Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folders["gemma3"], tmp_path / "copy"))
    before = engine(str(copied), workspace(tmp_path / "home"))
    (copied / "chat_template.jinja").write_text("{{ messages[0].content[-1].text }}")
    after = engine(str(copied), workspace(tmp_path / "home"))
    assert before.template != after.template and before.digest != after.digest


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("mllama", lambda folder: None, "'mllama', which is not proven"),
        ("gemma3", lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        ("gemma3", lambda folder: (folder / "adapter_config.json").write_text("{}"), "is adapters of a gemma3 model"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(
    folders: dict[str, Path], ws: Workspace, tmp_path: Path, kind: str, change, words: str
) -> None:
    copied = Path(shutil.copytree(folders[kind], tmp_path / "copy"))
    change(copied)
    with pytest.raises(UserError, match=words) as caught:
        engine(str(copied), ws)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "fix"), [("qwen3-vl-8b", "hf download Qwen/Qwen3-VL-8B-Instruct"), ("mantis-8b", "base import")]
)
def test_a_name_of_the_zoo_is_told_from_one_that_means_nothing(ws: Workspace, name: str, fix: str) -> None:
    with pytest.raises(UserError, match=f"{name} is a model of the zoo") as caught:
        engine(name, ws)
    assert fix in caught.value.fix
    with pytest.raises(UserError, match="no model 'qwen4'"):
        engine("qwen4", ws)


def test_a_model_of_the_zoo_is_no_base_to_tune(folders: dict[str, Path], ws: Workspace) -> None:
    with pytest.raises(UserError, match="another family: qwen2_5_vl") as caught:
        finetune.run(load("demo"), ws, "no data set is read", str(folders["qwen2_5_vl"]))
    assert "zoo list` shows can be asked, not fine-tuned" in caught.value.fix
