"""A base or data that cannot be trained on are refused before any work is done."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.finetune import examples, run
from medmim.finetune.plan import plan
from medmim.finetune.worker import Job
from medmim.run.workspace import Workspace
from tests.support.finetune import make_data, make_samples
from tests.support.finetune_run import of_one_family, on_s3, recipe
from tests.support.s3_proxy import Proxy


@of_one_family
def test_the_best_model_needs_dev_items(world: tuple[Workspace, str, str], bare: list[Job]) -> None:
    ws, data, base = world
    with pytest.raises(UserError, match=r"there are no dev items") as raised:
        run.run(recipe(base, keep="best"), ws, data)
    assert "data.dev_fraction" in raised.value.fix and bare == []
    with pytest.raises(UserError, match="keep: best needs"):
        recipe(base, keep="best", validation={"items": 0})


@of_one_family
@pytest.mark.parametrize(
    ("where", "how"), [("folder", "cluster"), ("store", "dry run"), ("bucket", "local"), ("bucket", "cluster")]
)
@pytest.mark.parametrize("what", ["no weights", "cut off", "a pointer"])
def test_a_damaged_base_is_refused_before_anything_is_tokenized(
    what: str,
    where: str,
    how: str,
    world: tuple[Workspace, str, str],
    bare: list[Job],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a bucket, the dry run and the head of a cluster have the manifest and the files that they fetch to tell."""
    ws, data, _ = world
    ws = dataclasses.replace(ws, home=tmp_path / "home")
    folder = Path(shutil.copytree(world[2], tmp_path / "base"))
    weights = folder / "model.safetensors"
    if what == "no weights":
        weights.rename(folder / "pytorch_model.bin")
        message = r"has no \*.safetensors"
    elif what == "cut off":
        weights.write_bytes(weights.read_bytes()[:-4])
        message = "weights in .* are damaged"
    else:
        (folder / "tokenizer_config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        message = "a Git LFS pointer"
    base = str(folder)
    if where != "folder":
        place = ws.store if where == "store" else request.getfixturevalue("bucket")
        base = store.publish(folder, place, "model", {}, {}).uri

    def tokenize(*_: object) -> None:
        raise UserError("it was tokenized")

    monkeypatch.setattr(examples, "tokenize", tokenize)
    made = recipe(base)
    ray = "127.0.0.1:1" if how == "cluster" else "local"
    made = made.model_copy(update={"platform": made.platform.model_copy(update={"ray": ray})})
    if (what, where) == ("cut off", "bucket") and how != "local":
        message = "it was tokenized"
    with pytest.raises(UserError, match=message):
        if how == "dry run":
            plan(made, ws, data)
        else:
            run.run(made, ws, data)
    assert bare == []


@of_one_family
def test_of_a_damaged_base_no_data_is_fetched(
    far: tuple[Workspace, store.Artifact, store.Artifact], bucket: str, proxy: Proxy, bare: list[Job], tmp_path: Path
) -> None:
    ws, data, base = far
    damaged = shutil.copytree(ws.fetch(base.uri), tmp_path / "damaged", ignore=shutil.ignore_patterns("manifest.json"))
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-4])
    uri = store.publish(damaged, bucket, "model", {}, {}).uri
    with pytest.raises(UserError, match="weights in .* are damaged"):
        run.run(on_s3(uri, bucket), ws, data.uri)
    assert not [name for name in proxy.names() if name.endswith("parquet")] and bare == []


@of_one_family
@pytest.mark.parametrize("what", ["nothing", "another kind", "no train rows"])
def test_data_that_cannot_be_trained_on_is_refused(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path, what: str
) -> None:
    ws, _, base = world
    if what == "nothing":
        uri, message = f"{ws.store}/data/{'0' * 64}", "no artifact"
    elif what == "another kind":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "f").write_text("x")
        uri, message = store.publish(tmp_path / "a", ws.store, "answers", {}, {}).uri, "not a data set"
    else:
        made = make_data(tmp_path / "d", make_samples(3, "test"))
        uri, message = store.publish(made, ws.store, "data", {}, {}).uri, "no train rows"
    with pytest.raises(UserError, match=message):
        run.run(recipe(base), ws, uri)
    assert bare == []


def test_a_base_without_weights_or_of_another_family_is_refused(
    world: tuple[Workspace, str, str], bare: list[Job], tmp_path: Path
) -> None:
    ws, data, base = world
    config = (Path(base) / "config.json").read_text()
    other = config.replace('"llama"', '"gpt2"').replace('"mistral"', '"gpt2"')
    for name, text, message in (("empty", config, "no \\*.safetensors"), ("gpt", other, "another family")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        with pytest.raises(UserError, match=message):
            run.run(recipe(str(tmp_path / name)), ws, data)
