"""medmim registry: what a user types, and the JSON that a script reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim import tracking
from medmim.cli.registry import app
from medmim.cluster import jobs, kube
from medmim.errors import UserError
from medmim.registry import lookup, retired
from medmim.run.workspace import Workspace, workspace
from tests.support.job_cluster import JobCluster
from tests.support.registry import digest_of, model


@pytest.fixture
def ws(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home with a model of two versions."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path))
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    ws = workspace(None)
    api = tracking.client(ws)
    api.create_registered_model("chest")
    for made in (model(ws, "a"), model(ws, "b")):
        tags = {lookup.DIGEST: made.digest, lookup.URI: made.uri, "medmim.recipe_name": "demo"}
        api.create_model_version("chest", source=tmp_path.as_uri(), tags=tags)
    return ws


def call(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def refuse(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return str(error.value)


def test_promote_roll_back_and_reconcile(ws: Workspace) -> None:
    (row,) = call("list")
    assert row["champion"] is None and [v["version"] for v in row["versions"]] == ["1", "2"]
    done = call("promote", "chest", "1", "--why", "first")
    assert done["aliases"] == {"champion": "1"} and done["changed"] and done["decision"] == 1
    assert not call("promote", "chest", "1", "--why", "again")["changed"]
    assert call("promote", "chest", "2", "--why", "better")["aliases"] == {"champion": "2", "previous-champion": "1"}
    back = call("rollback", "chest", "--why", "worse")
    assert (back["version"], back["verdict"], back["decision"]) == ("1", "rolled-back", 3)
    tracking.client(ws).set_registered_model_alias("chest", "champion", "2")
    (row,) = call("list")
    assert row["champion"] == "1" and len(row["drift"]) == 1
    assert call("reconcile") == {"chest": row["drift"]}
    assert call("reconcile", "chest") == {"chest": []}
    shown = call("show", "chest@champion")
    assert shown["version"] == "1" and shown["aliases"] == ["champion"] and shown["digest"] == digest_of("a")
    assert [entry["why"] for entry in shown["decisions"]] == ["first", "worse"]
    assert shown["lineage"]["recipe_name"] == "demo"


def test_people_read_tables_and_sentences(ws: Workspace) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["promote", "chest", "2", "--why", "it is good"], catch_exceptions=False)
    assert done.stdout == "version 2 of chest is champion now (decision 1, promoted)\n"
    assert str(ws.home) in done.stderr
    listed = runner.invoke(app, ["list"], catch_exceptions=False).stdout
    assert "chest" in listed and "champion" in listed and digest_of("b")[:12] in listed
    shown = runner.invoke(app, ["show", "chest@champion"], catch_exceptions=False).stdout
    assert "it is good" in shown and "models:/chest/2" in shown


def test_a_terminal_of_80_columns_shows_every_version_whole(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    api, recipe = tracking.client(ws), "lungs-and-hearts-of-2026"
    for version in "12":
        for key, value in (("recipe_name", recipe), ("base", "tiny-llava-med")):
            api.set_model_version_tag("chest", version, f"medmim.{key}", value)
    for alias, number in (("champion", "2"), ("challenger", "2"), ("previous-champion", "1")):
        api.set_registered_model_alias("chest", alias, number)
    listed = CliRunner().invoke(app, ["list"], catch_exceptions=False).stdout
    assert max(map(len, listed.splitlines())) <= 80 and "…" not in listed
    name, second, made_of, first, _ = listed.splitlines()
    assert name == "chest" and second.split()[:2] == ["version", "2"] and second.endswith("challenger, champion")
    assert first.endswith("previous-champion")
    assert made_of.strip() == f"recipe {recipe}, base tiny-llava-med, digest {digest_of('b')[:12]}"


def test_a_version_that_the_gate_refused_is_shown_as_retired_and_promoted_only_on_request(ws: Workspace) -> None:
    api = tracking.client(ws)
    api.set_model_version_tag("chest", "2", retired.WHY, "held_in: -3.0 points")
    api.set_model_version_tag("chest", "2", retired.RETIRED, "2026-11-30T09:00:00+00:00")
    (row,) = call("list")
    assert [v["retired"] for v in row["versions"]] == ["", "the gate refused it: held_in: -3.0 points"]
    lines = CliRunner().invoke(app, ["list"], catch_exceptions=False).stdout.splitlines()
    assert ["retired" in line for line in lines if "version" in line] == [True, False]  # the newest first
    assert "--despite-gate" in refuse("promote", "chest", "2", "--why", "better")
    assert call("promote", "chest", "2", "--why", "better", "--despite-gate")["changed"]
    (row,) = call("list")
    assert [v["retired"] for v in row["versions"]] == ["", ""]


def test_a_person_retires_a_version(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_USER", "jane")
    done = CliRunner().invoke(app, ["retire", "chest", "2", "--why", "out of use"], catch_exceptions=False)
    assert done.stdout == "version 2 of chest is retired now (decision 1, retired)\n"
    assert not call("retire", "chest", "2", "--why", "again")["changed"]
    (row,) = call("list")
    assert row["versions"][1]["retired"] == "jane retired it in decision 1: out of use"
    (entry,) = call("show", "chest/2")["decisions"]
    assert (entry["verdict"], entry["who"], entry["why"]) == ("retired", "jane", "out of use")


def test_what_a_promoters_job_runs_promotes_under_the_name_of_who_asked_for_it(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Job of a real --on-cluster, its container run here with its arguments and environment."""

    class Running(JobCluster):
        def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any] | None:
            (container,) = body["spec"]["template"]["spec"]["containers"]
            with pytest.MonkeyPatch.context() as patch:
                for one in container["env"]:
                    patch.setenv(one["name"], one["value"].replace("$$", "$"))
                words = [word.replace("$$", "$") for word in container["args"][2:]]
                done = CliRunner().invoke(app, words, catch_exceptions=False)
            self.code, self.text = done.exit_code, done.output.splitlines()
            return super().create(kind, body)

    monkeypatch.setattr(kube, "connect", lambda namespace: Running("Complete", 0, []))
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    why = 'it "costs" $5, and --json says so'
    done = call("promote", "chest", "2", "--why", why, "--on-cluster")
    assert (done["version"], done["changed"]) == ("2", True) and call("list")[0]["champion"] == "2"
    (entry,) = call("show", "chest/2")["decisions"]
    assert (entry["who"], entry["why"]) == ("anna@example.org", why)
    assert call("promote", "chest", "1", "--why", "better", "--on-cluster")["aliases"]["previous-champion"] == "2"
    assert call("rollback", "chest", "--why", "--home is no option here", "--on-cluster")["version"] == "2"
    assert call("refuse", "chest", "1", "--why", "no", "--on-cluster")["verdict"] == "refused"


def test_a_refused_version_is_promoted_only_on_request_and_the_champion_is_not_refused(ws: Workspace) -> None:
    done = call("refuse", "chest", "1", "--why", "blurred images")
    assert (done["verdict"], done["version"], done["changed"], done["aliases"]) == ("refused", "1", True, {})
    again = CliRunner().invoke(app, ["refuse", "chest", "1", "--why", "still"], catch_exceptions=False)
    assert again.stdout == "version 1 of chest was refused before (decision 1, refused)\n"
    told = refuse("promote", "chest", "1", "--why", "better")
    assert "blurred images" in told and "--despite-gate" in told
    call("promote", "chest", "1", "--why", "better", "--despite-gate")
    assert "roll back first" in refuse("refuse", "chest", "1", "--why", "no")
    assert "has no version 7" in refuse("refuse", "chest", "7", "--why", "no")


def test_mistakes_are_errors(ws: Workspace) -> None:
    assert "did you mean 'chest'" in refuse("show", "chst@champion")
    assert "no alias 'champion'" in refuse("show", "chest@champion")
    assert "names no model version" in refuse("show", "chest")
    assert "has no version 7" in refuse("promote", "chest", "7", "--why", "x")
    assert "no champion to roll back to" in refuse("rollback", "chest", "--why", "x")
    assert "no decision has been made about 'nobody'" in refuse("reconcile", "nobody")
    assert CliRunner().invoke(app, ["promote", "chest", "1"]).exit_code == 2


def test_an_empty_home_lists_nothing(tmp_path: Path) -> None:
    assert call("list", "--home", str(tmp_path / "new")) == []
