"""medmim base import, list and show, as a user types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medmim import store, terms
from medmim.cli.base import app
from medmim.errors import UserError
from tests.support.originals import LLAVA_MED, MANTIS, write_original


def run(*words: str, home: Path) -> Result:
    return CliRunner().invoke(app, [*words, "--home", str(home)])


def test_a_base_is_imported_listed_and_shown(tmp_path: Path) -> None:
    write_original(tmp_path / "mantis", MANTIS)
    write_original(tmp_path / "llava", LLAVA_MED)
    home = tmp_path / "home"
    done = run("import", str(tmp_path / "mantis"), "--terms", "llama3", home=home)
    assert done.exit_code == 0, done.output
    uri, line = done.stdout.splitlines()
    assert line.startswith("mantis, ") and line.endswith("15 tokens per image, vision tower: checkpoint")
    done = run("import", str(tmp_path / "llava"), "--vision-tower", "checkpoint", home=home)
    assert done.exit_code == 0, done.output
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text("{}")
    store.publish(tmp_path / "tuned", str(home / "store"), "model", {"steps": 3}, {})  # a model, and no base
    listed = json.loads(run("list", "--json", home=home).stdout)
    assert [one["family"] for one in listed[:2]] == ["llava-med", "mantis"]  # shipped
    assert {one["ref"] for one in listed[2:]} == {uri, done.stdout.splitlines()[0]}
    lines = run("list", home=home).stdout.splitlines()
    assert lines[lines.index("tiny-mantis") + 2] == "  from: medmim, terms: apache-2.0"
    assert lines[lines.index(uri) + 2] == "  from: mantis, terms: llama3"
    assert lines[lines.index(done.stdout.splitlines()[0]) + 2] == "  from: llava, terms: llava-med"
    assert [one["terms"] for one in listed if one["ref"] == uri] == [terms.PUBLISHED["llama3"].as_dict()]
    shown = json.loads(run("show", uri, "--json", home=home).stdout)
    assert shown["source"] == str(tmp_path / "mantis") and shown["dtype"] == "BF16" and shown["family"] == "mantis"
    assert shown["terms"] == terms.PUBLISHED["llama3"].as_dict()
    text = run("show", uri, home=home).stdout
    assert "release weights   yes" in text and "Built with Meta Llama 3" in text
    assert f"artifact digest   {uri.rpartition('/')[2]}\ncontent digest    {shown['digest']}\n" in text
    assert json.loads(run("show", "tiny-mantis", "--json", home=home).stdout)["terms"] == terms.APACHE.as_dict()


def test_terms_that_do_not_exist_and_options_of_the_job_alone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, message in (
        (["--terms", "mine"], "no terms 'mine'"),
        (["--dry-run"], "are for --on-cluster"),
        (["--image", "x"], "are for --on-cluster"),
    ):
        error = run("import", str(tmp_path), *words, home=tmp_path / "home").exception
        assert isinstance(error, UserError) and message in error.fact and error.fix
    (tmp_path / "own.json").write_text('{"serve": 1}')
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(tmp_path / "own.json"), "~/own.json"):
        error = run("import", str(tmp_path), "--terms", path, home=tmp_path / "home").exception
        assert isinstance(error, UserError) and "not a record of terms" in error.fact
