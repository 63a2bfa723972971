"""Models of the zoo in a store: imported under a name with their terms, and found by it."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medmim import store, terms
from medmim.bench.engines import engine
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.zoo import entry as zoo
from medmim.lvlm.zoo import lookup, stored
from medmim.registry.lookup import resolve
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace, workspace

Folders = Callable[[str], Path]


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return workspace(tmp_path / "home")


def test_a_model_is_found_by_its_name_with_the_answers_and_terms_that_it_had(ws: Workspace, folder_of: Folders) -> None:
    folder = folder_of("gemma3")
    (folder / "notes.bin").write_text("not part of a model")
    made = stored.import_model("medgemma-4b", str(folder), ws)
    assert resolve("zoo:medgemma-4b", ws) == resolve("medgemma-4b", ws) == made.uri
    assert lookup.find("medgemma-4b", ws) == (Path(made.uri), zoo.find("medgemma-4b"))
    found = engine(resolve("medgemma-4b", ws), ws)
    assert checkpoint.digest(made) == checkpoint.digest(folder) and found.template == engine(str(folder), ws).template
    assert found.terms == terms_of(made) == terms.PUBLISHED["medgemma"]
    assert "notes.bin" not in made.files and json.loads(store.read_file(made, terms.FILE)) == found.terms.as_dict()
    record = json.loads(store.open_store(made.uri).read(store.PROVENANCE))
    assert record["asking"]["pixels"] == zoo.find("medgemma-4b").pixels and record["source"] == str(folder)
    assert stored.import_model("medgemma-4b", str(folder), ws) == made and not list((ws.home / "work").iterdir())
    with pytest.raises(UserError, match="has this checkpoint already, as zoo:medgemma-4b"):
        stored.import_model("mine", str(folder), ws, allowed=terms.PUBLISHED["medgemma"])


def test_terms_that_are_given_or_beside_the_weights_are_stricter_than_a_name(ws: Workspace, folder_of: Folders) -> None:
    folder = ws.home / "copy"
    shutil.copytree(folder_of("gemma3"), folder)
    assert terms_of(stored.import_model("own", str(folder), ws)) == terms.UNKNOWN
    (folder / terms.FILE).write_text(terms.PUBLISHED["llava-med"].dump())
    assert terms_of(stored.import_model("gemma-3-4b", str(folder), ws)) == terms.PUBLISHED["llava-med"]
    given = stored.import_model("gemma-3-4b", str(folder), ws, allowed=terms.PUBLISHED["gemma"])
    assert terms_of(given) == terms.PUBLISHED["gemma"]
    with pytest.raises(UserError, match="2 checkpoints were imported under this name") as raised:
        resolve("zoo:gemma-3-4b", ws)
    assert given.uri in raised.value.problems and len(raised.value.problems) == 2


@pytest.mark.parametrize(
    ("ref", "fact", "fix"),
    [
        ("zoo:lingshu-7b", "zoo:lingshu-7b: no such model was imported", "zoo import lingshu-7b Lingshu-7B"),
        ("medgemma-4b", "zoo:medgemma-4b: no such", "accept the terms on https://huggingface.co/google/medgemma-4b-it"),
        ("mantis-8b", "no base of this family", "base import Mantis-8B-siglip-llama3 --terms llama3"),
        ("zoo:lingsu-7b", "zoo:lingsu-7b: no such", "did you mean 'zoo:lingshu-7b'"),
        ("zoo:tiny-lingshu-7b", "zoo:tiny-lingshu-7b: no such", "zoo tiny"),
    ],
)
def test_a_name_without_a_model_says_how_one_comes_in(ws: Workspace, ref: str, fact: str, fix: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve(ref, ws)
    assert fact in raised.value.fact and fix in raised.value.fix


def test_a_folder_of_that_name_is_the_folder(ws: Workspace) -> None:
    Path("lingshu-7b").mkdir()
    assert resolve("lingshu-7b", ws) == "lingshu-7b"


def test_what_is_not_the_named_model_is_refused_and_nothing_published(ws: Workspace, folder_of: Folders) -> None:
    gemma, mllama, ours = folder_of("gemma3"), folder_of("mllama"), checkpoint.resolve("tiny-mantis")
    for name, source, fact, fix in (
        ("lingshu-7b", gemma, "is not lingshu-7b: its model_type is 'gemma3', not 'qwen2_5_vl'", "name of your own"),
        ("own", mllama, "model_type 'mllama', which is not proven", "zoo check"),
        ("own", ours, "asked in its own format", "base import"),
        ("mantis-8b", gemma, "mantis-8b is asked in its own format", "base import"),
        ("lingsu-7b", "", "no model 'lingsu-7b' in the zoo", "did you mean 'lingshu-7b'"),
        ("Own/Name", gemma, "cannot be the name of a model", "zoo import NAME SOURCE"),
        ("lingshu-7b", "", "is the name of a checkpoint on the Hugging Face Hub", "add --hub"),
    ):
        with pytest.raises(UserError) as raised:
            stored.import_model(name, str(source), ws)
        assert fact in raised.value.fact and fix in raised.value.fix
    assert not list(store.open_store(ws.store).list("model/"))


def test_another_chat_template_than_the_checked_one_is_refused(
    ws: Workspace, folder_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (folder_of("gemma3") / "chat_template.jinja").read_text()
    entry = replace_template(zoo.find("gemma-3-4b"), hashlib.sha256(template.encode()).hexdigest())
    monkeypatch.setattr(zoo, "named", lambda name: entry)
    stored.import_model("gemma-3-4b", str(folder_of("gemma3")), ws)
    other = ws.home / "other"
    shutil.copytree(folder_of("gemma3"), other)
    (other / "chat_template.jinja").write_text(template + " ")
    with pytest.raises(UserError, match="another chat template than gemma-3-4b"):
        stored.import_model("gemma-3-4b", str(other), ws)


def replace_template(entry: zoo.Entry, template: str) -> zoo.Entry:
    return entry.model_copy(update={"template": template})
