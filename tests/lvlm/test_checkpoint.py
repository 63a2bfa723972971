"""Where a reference leads, what a checkpoint is called and allows, and refusing what is none."""

import json
import shutil

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import checkpoint, llava
from medmim.run.workspace import workspace
from medmim.terms import APACHE, UNKNOWN, Terms


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["mantis"], tmp_path / "model")


def test_a_readme_beside_the_weights_does_not_change_the_digest(copy):
    before = checkpoint.digest(copy)
    (copy / "README.md").write_text("notes")
    assert checkpoint.digest(copy) == before
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert checkpoint.digest(copy) != before


def test_a_folder_and_an_artifact_resolve(copy, tmp_path):
    assert checkpoint.resolve(str(copy)) == copy
    artifact = store.publish(copy, str(tmp_path / "store"), "model", {}, {})
    assert llava.load(checkpoint.resolve(artifact.uri), device="cpu").digest == checkpoint.digest(copy)
    assert llava.load(checkpoint.resolve(f"file://{copy}"), device="cpu").digest == checkpoint.digest(copy)


def test_an_artifact_of_another_kind_is_refused(copy, tmp_path):
    artifact = store.publish(copy, str(tmp_path / "store"), "data", {}, {})
    with pytest.raises(UserError, match="is not a model"):
        checkpoint.resolve(artifact.uri)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="no model 'tiny-mantiss'"):
        checkpoint.resolve("tiny-mantiss")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        llava.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "qwen2"}', "\x00"])
def test_a_config_of_something_else_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(UserError, match="not a LLaVA configuration"):
        llava.load(copy)


def test_another_family_is_refused_by_name(copy):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["model_type"] = "qwen2"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"another family: siglip_vision_model \+ qwen2"):
        llava.load(copy)


def test_a_damaged_model_is_not_uploaded(copy, tmp_path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    ws = workspace(tmp_path / "home")
    with pytest.raises(UserError, match="weights in .* are damaged"):
        checkpoint.upload_if_local(str(copy), ws)
    assert not list(store.open_store(ws.store).list())


def test_a_base_carries_its_terms(copy, tmp_path):
    assert checkpoint.terms_of("tiny-mantis") == checkpoint.terms_of("tiny-llava-med") == APACHE
    assert checkpoint.terms_of(str(copy)) == UNKNOWN
    ws = workspace(tmp_path / "home")
    without = checkpoint.upload_if_local(str(copy), ws)
    assert checkpoint.terms_of(without) == UNKNOWN
    (copy / "terms.json").write_text(Terms(serve=True).dump())
    assert checkpoint.terms_of(checkpoint.upload_if_local(f"file://{copy}", ws)) == Terms(serve=True)


@pytest.mark.parametrize("ref", ["x" * 300, "Which image is it? " * 40, "a\0b", "\ud83d", "ü" * 200, "~nobody-x/y"])
def test_a_text_that_is_no_path_is_no_model(ref):
    with pytest.raises(UserError, match="no model") as caught:
        checkpoint.resolve(ref)
    assert len(caught.value.fact) < 150
