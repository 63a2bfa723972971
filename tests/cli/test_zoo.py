"""medmim zoo: list, show, check, and what it says where it cannot."""

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medmim.cli.app import app
from medmim.errors import Refused, Unavailable, UserError
from medmim.lvlm import checkpoint, llava
from tests.support import hub_server, zoo_models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    llava.quiet_transformers()
    root = tmp_path_factory.mktemp("zoo")
    return {kind: zoo_models.build(kind, root / kind) for kind in ("qwen2_5_vl", "mllama")}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def ran(*words: object):
        ended = CliRunner().invoke(app, ["zoo", *map(str, words)])
        if isinstance(ended.exception, UserError):
            raise ended.exception
        assert ended.exit_code == 0, ended.output
        return ended

    return ran


def test_the_ten_are_listed_with_hub_terms_and_sibling(run) -> None:
    text = run("list").stdout
    listed = {one["name"]: one for one in json.loads(run("list", "--json").stdout)}
    assert len(listed) == 10
    for name, one in listed.items():
        assert all(f"{word}" in text for word in (name, one["hub"], one["classes"][0], one["sibling"], one["terms"]))
    assert not any(one["imported"] for one in listed.values())


def test_what_the_store_has_is_listed_with_its_name(run, folders: dict[str, Path]) -> None:
    own = run("import", "mine", folders["qwen2_5_vl"]).stdout.splitlines()[0]
    named = {one["name"]: one["imported"] for one in json.loads(run("list", "--json").stdout)}
    assert named["mine"] == [own] and not any(uris for name, uris in named.items() if name != "mine")
    assert run("list").stdout.splitlines()[-2:] == ["zoo:mine", f"  in the store: {own}"]


def test_a_name_shows_what_its_file_declares(run) -> None:
    facts = json.loads(run("show", "lingshu-7b", "--json").stdout)
    assert facts["sibling"] == "qwen2.5-vl-7b" and facts["pixels"]["max_pixels"] == 1003520
    assert "max_pixels: 1003520" in run("show", "lingshu-7b").stdout


def test_a_checkpoint_shows_its_class_and_how_it_is_asked(run, folders: dict[str, Path]) -> None:
    facts = json.loads(run("show", folders["qwen2_5_vl"], "--json").stdout)
    assert facts["model_type"] == "qwen2_5_vl" and facts["adapter"] == "qwen-vl"
    assert facts["siblings"] == ["lingshu-7b", "qwen2.5-vl-7b"]
    assert facts["digest"] == checkpoint.digest(folders["qwen2_5_vl"]) and len(facts["template"]) == 64
    assert "not proven" in run("show", folders["mllama"]).stdout
    shown = run("show", "tiny-mantis").stdout
    assert "mantis-8b" in shown and "mantis" in shown


def test_a_checkpoint_that_passes_is_told_in_numbers(run, folders: dict[str, Path]) -> None:
    ended = run("check", folders["qwen2_5_vl"])
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert [line[0] for line in lines] == ["ok"] * 6 and "2 of" not in ended.stdout
    assert str(folders["qwen2_5_vl"]) in ended.stderr


def test_mllama_is_refused_with_exit_code_1(run, folders: dict[str, Path]) -> None:
    with pytest.raises(Refused, match="did not pass: blind, order, tokens") as caught:
        run("check", folders["mllama"])
    assert caught.value.exit_code == 1


def test_a_name_is_checked_on_what_the_hub_gives_and_its_file_is_written(
    run, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub/Qwen").mkdir(parents=True)
    (tmp_path / "hub/Qwen/Qwen2.5-VL-7B-Instruct").symlink_to(folders["qwen2_5_vl"])
    with hub_server.serving(tmp_path / "hub") as url:
        online(monkeypatch, url)
        report = json.loads(run("check", "qwen2.5-vl-7b", "--hub", "--write", "new.yaml", "--json").stdout)
    assert [one["name"] for one in report["checks"]][-1] == "template"
    assert yaml.safe_load(Path("new.yaml").read_text())["template"] == report["template"]


def online(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """As a process that was started with this address of the Hub."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "1"))  # so that it is put back
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


def test_a_gated_model_without_access_says_what_to_do(
    run, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub/google").mkdir(parents=True)
    (tmp_path / "hub/google/medgemma-4b-it").symlink_to(folders["qwen2_5_vl"])
    with hub_server.serving(tmp_path / "hub", gated=True) as url:
        online(monkeypatch, url)
        for command, folder in (("check", "medgemma-4b-it"), ("import", "medgemma-4b medgemma-4b-it")):
            with pytest.raises(UserError, match="medgemma-4b-it is gated: its terms must be accepted") as caught:
                run(command, "medgemma-4b", "--hub")
            assert "accept them on https://huggingface.co/google/medgemma-4b-it, `hf auth login`" in caught.value.fix
            assert f"zoo {command} {folder}" in caught.value.fix


def test_a_checkpoint_is_imported_by_its_name_from_the_hub_or_a_folder(
    run, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub/Qwen").mkdir(parents=True)
    (tmp_path / "hub/Qwen/Qwen2.5-VL-7B-Instruct").symlink_to(folders["qwen2_5_vl"])
    with hub_server.serving(tmp_path / "hub") as url:
        online(monkeypatch, url)
        uri, line = run("import", "qwen2.5-vl-7b", "--hub").stdout.splitlines()
    assert line.startswith("zoo:qwen2.5-vl-7b, qwen2_5_vl, ") and checkpoint.locate(uri).digest in uri
    by_hand = run("import", "qwen2.5-vl-7b", folders["qwen2_5_vl"], "--store", "elsewhere").stdout.splitlines()[0]
    assert by_hand.startswith(str(tmp_path / "elsewhere")) and by_hand.rpartition("/")[2] == uri.rpartition("/")[2]
    for ref in ("qwen2.5-vl-7b", "zoo:qwen2.5-vl-7b"):
        assert [line.split()[0] for line in run("check", ref).stdout.splitlines()] == ["ok"] * 7
    assert json.loads(run("show", "zoo:qwen2.5-vl-7b", "--json").stdout)["ref"] == uri


def test_the_import_can_run_in_a_job_of_the_cluster(run) -> None:
    words = ("--hub", "--store", "s3://b/lab", "--on-cluster", "--image", f"r/m@sha256:{'0' * 64}", "--dry-run")
    job = yaml.safe_load(run("import", "medgemma-4b", *words).stdout)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command = ["medmim", "zoo", "import", "medgemma-4b", "google/medgemma-4b-it", "--store", "s3://b/lab", "--hub"]
    assert container["args"] == command and job["metadata"]["name"].startswith("zoo-import-")


def test_without_a_network_the_lines_to_type_elsewhere_are_given(run, monkeypatch: pytest.MonkeyPatch) -> None:
    online(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        run("check", "smolvlm2-2.2b", "--hub")
    assert "hf download HuggingFaceTB/SmolVLM2-2.2B-Instruct" in caught.value.fix


@pytest.mark.parametrize(
    ("words", "fact", "fix"),
    [
        (["check", "qwen2.5-vl"], "no model 'qwen2.5-vl' in the zoo", "did you mean 'qwen2.5-vl-7b'"),
        (["show", "qwen2.5-vl"], "no model 'qwen2.5-vl' in the zoo", "did you mean 'qwen2.5-vl-7b'"),
        (["check", "zoo:my-own"], "zoo:my-own: no such model was imported", "names: "),
        (["show", "zoo:gemma-3-4b"], "zoo:gemma-3-4b: no such model was imported", "zoo import gemma-3-4b --hub"),
        (["check", "./nothing"], "no model './nothing'", "shipped bases"),
        (["check", "medgemma-4b"], "google/medgemma-4b-it is the name of a checkpoint", "accept the terms on"),
        (["check", "qwen3-vl-8b"], "Qwen/Qwen3-VL-8B-Instruct is the name of a checkpoint", "add --hub"),
        (["check", "llava-med-7b"], "llava-med-7b is asked in its own format", "base import"),
        (["check", "tiny-mantis", "--write", "x"], "--write is for a NAME", "zoo list"),
    ],
)
def test_what_cannot_be_checked_is_refused_with_what_to_do(run, words: list[str], fact: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        run(*words)
    assert fact in caught.value.fact and fix in caught.value.fix
    assert not Path("x").exists()
