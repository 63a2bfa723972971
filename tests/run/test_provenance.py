"""provenance.json says who made an artifact, from what, with which recipe."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import medmim
from medmim import __version__, store
from medmim.errors import UserError
from medmim.recipe import loading
from medmim.run.cache import cached_step
from medmim.run.provenance import code_version, provenance_of, recorded, shows_patients, terms_of
from medmim.run.workspace import workspace
from medmim.terms import APACHE, UNKNOWN, Terms


def writes(text: str) -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "text").write_text(text)
        return {}

    return make


def test_no_record_holds_the_password_of_the_tracking_uri(tmp_path: Path) -> None:
    recipe = loading.load("demo", ["platform.tracking=postgresql://me:XQ/ZJ@h/db?sslmode=require&sslpassword=XQZ"])
    artifact, _ = cached_step(workspace(tmp_path), "data", 3, {}, {}, writes("x"), recipe=recipe)
    text = (Path(artifact.uri) / "provenance.json").read_text("utf-8")
    assert json.loads(text)["recipe"]["platform"]["tracking"] == "postgresql://h/db?sslmode=require&sslpassword=***"
    assert "XQ" not in text and "ZJ" not in text
    assert {**recipe.record(), "platform": {}} == {**json.loads(recipe.dump()), "platform": {}}


def test_provenance_says_who_made_it_from_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "text").write_text("x")
        return {}

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.delenv("MEDMIM_USER", raising=False)
    ws = workspace(tmp_path / "home")
    artifact, _ = cached_step(ws, "data", 3, {}, {"base": "abc"}, make, recipe=loading.load("demo"))
    said = json.loads((Path(artifact.uri) / "provenance.json").read_text())
    assert said["who"] == f"uid {os.getuid()}" and said["parents"] == {"base": "abc"} and said["revision"] == 3
    assert said["recipe"]["name"] == "demo" and said["time"].endswith("+00:00")


def edited(artifact: store.Artifact, **changes: Any) -> store.Artifact:
    file = Path(artifact.uri) / "provenance.json"
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))
    return artifact


def test_terms_travel_in_the_provenance(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    allowed = Terms(serve=True, text=("served only",))
    artifact, _ = cached_step(ws, "data", 1, {}, {}, writes("x"), terms=allowed)
    assert terms_of(artifact) == allowed
    assert terms_of(cached_step(ws, "data", 2, {}, {}, writes("other"))[0]) == UNKNOWN
    (Path(artifact.uri) / "provenance.json").write_text("{")
    assert terms_of(artifact) == UNKNOWN


def test_terms_of_a_model_are_part_of_its_content(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    inside = Terms(release_weights=True, text=("weights only",))

    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "terms.json").write_text(inside.dump())
        return {}

    artifact, _ = cached_step(ws, "finetune", 1, {}, {}, make, kind="model", terms=APACHE)
    assert terms_of(artifact) == inside
    (Path(artifact.uri) / "terms.json").write_text(Terms(serve=True, text=("written over",)).dump())
    with pytest.raises(UserError, match="is damaged"):
        terms_of(artifact)


@pytest.mark.parametrize(
    ("kind", "source", "base", "expected"),
    [
        ("data", "phantom", "tiny-mantis", APACHE),
        ("audit", "phantom", "llama", APACHE),
        ("data", "published", "tiny-mantis", UNKNOWN),
        ("model", "phantom", "tiny-mantis", APACHE),
        ("model", "phantom", "s3://b/model/x", UNKNOWN),
        ("model", "published", "tiny-mantis", UNKNOWN),
        ("answers", "phantom", "tiny-mantis", UNKNOWN),
    ],
)
def test_an_artifact_from_before_terms_has_those_of_phantoms_and_shipped_bases_alone(
    tmp_path: Path, kind: str, source: str, base: str, expected: Terms
) -> None:
    ws = workspace(tmp_path / "home")
    artifact, _ = cached_step(ws, "step", 1, {}, {}, writes("x"), kind=kind)
    recipe = {"data": {"source": source}, "finetune": {"base": base}}
    assert terms_of(edited(artifact, terms=None, recipe=recipe)) == expected
    assert terms_of(edited(artifact, recipe=None)) == UNKNOWN


def test_the_code_version_names_package_and_commit() -> None:
    found = code_version()
    assert found["medmim"] == __version__
    checkout = (Path(medmim.__file__).parents[1] / ".git").exists()
    assert ("commit" in found) == checkout


@pytest.mark.parametrize(
    ("text", "kept", "told"),
    [
        ("{", {}, "is cut off"),
        ("[1]", {}, "is cut off"),
        ("[" * 100_000, {}, "is cut off"),
        ('{"who": "ann"}', {"who": "ann"}, ""),
        ('{"who": "ann", "recipe": null}', {"who": "ann", "recipe": None}, ""),
        ('{"who": "ann", "time": 7, "parents": "x"}', {"who": "ann"}, "says what no step writes of: parents, time"),
        ('{"who": "ann", "refs": {"base": 7}}', {"who": "ann"}, "says what no step writes of: refs"),
        ('{"who": "ann", "recipe": {"platform": "all"}}', {"who": "ann"}, "says what no step writes of: recipe"),
        ('{"recipe": {"platform": {"show_patients": true}}}', {"recipe": {"platform": {"show_patients": True}}}, ""),
    ],
    ids=str,
)
def test_what_of_a_record_is_damaged_is_left_out_and_said(tmp_path: Path, text: str, kept: object, told: str) -> None:
    artifact, _ = cached_step(workspace(tmp_path), "data", 3, {}, {}, writes("x"))
    path = Path(artifact.uri) / store.PROVENANCE
    path.write_text(text)
    record, doubt = recorded(artifact)
    assert record == kept == provenance_of(artifact) and (told in doubt if told else doubt == "")
    assert shows_patients(record) is ("true" in text)
    path.unlink()
    assert recorded(artifact) == ({}, "")


def test_a_recipe_without_a_section_gives_no_terms(tmp_path: Path) -> None:
    artifact, _ = cached_step(workspace(tmp_path), "data", 3, {}, {}, writes("x"))
    (Path(artifact.uri) / store.PROVENANCE).write_text('{"recipe": {"data": null, "finetune": null}}')
    assert terms_of(artifact) == UNKNOWN
