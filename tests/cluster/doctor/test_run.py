"""Where the doctor of a cluster takes its settings from, and what it reports without a cluster."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medmim.cli import doctor
from medmim.cluster.doctor import api, servers
from medmim.cluster.doctor.run import Setup
from medmim.cluster.kube import connect
from medmim.doctor.check import run_side_by_side
from medmim.errors import UserError
from medmim.recipe.schema import Platform
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.servers import answering

CONFIGURED = {"MEDMIM_STORE": "s3://b/configured", "MEDMIM_IMAGE": "i:configured", "MLFLOW_TRACKING_URI": "http://m/"}


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CONFIGURED, "KF_PIPELINES_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def test_the_recipe_comes_first_then_this_environment_then_the_config_map(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(Platform(), CONFIGURED)
    assert (setup.store, setup.image, setup.tracking) == ("s3://b/configured", "i:configured", "http://m")
    monkeypatch.setenv("MEDMIM_STORE", "s3://b/here")
    assert setup.store == "s3://b/here"
    assert Setup(Platform(store="s3://b/recipe"), CONFIGURED).store == "s3://b/recipe"
    assert Setup(Platform()).tracking == "" and Setup(Platform()).kfp == "http://ml-pipeline.kubeflow:8888"


def test_the_stores_client_gets_the_settings_that_hold_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "mine")
    configured = {"AWS_ENDPOINT_URL": "http://s3", "AWS_REGION": "theirs", "AWS_CA_BUNDLE": str(tmp_path / "ca.crt")}
    setup = Setup(Platform(), {**CONFIGURED, **configured})
    assert setup.environment == {"AWS_ENDPOINT_URL": "http://s3"}, "a path in a pod is no path here"
    (tmp_path / "ca.crt").write_text("")
    assert setup.environment == {"AWS_ENDPOINT_URL": "http://s3", "AWS_CA_BUNDLE": str(tmp_path / "ca.crt")}


def test_without_a_cluster_servers_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:1")
    app = typer.Typer()
    app.command()(doctor.doctor)
    ended = CliRunner().invoke(app, ["--cluster", "--json"])
    report = json.loads(ended.stdout)
    assert ended.exit_code == 1 and not report["ok"]
    assert {check["name"]: check["exit_code"] for check in report["checks"]} == {
        "cluster": 2, "store": 2, "mlflow": 2, "kfp": 75,
    }  # fmt: skip
    assert "KUBECONFIG" in report["checks"][0]["fix"] and all(check["fix"] for check in report["checks"])


def test_what_is_no_kubernetes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, "<html>Log in</html>", Content_Type="text/html") as uri:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, uri)))
        with pytest.raises(UserError, match=f"what answers at {uri} is no Kubernetes API"):
            api.cluster(connect())


@pytest.mark.parametrize(("version", "works"), [("v1.30.9", False), ("v1.31.0", True), ("v1.36.3+k3s1", True)])
def test_a_kubernetes_that_is_too_old_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, works: bool
) -> None:
    with answering(200, json.dumps({"gitVersion": version})) as uri:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, uri)))
        if works:
            assert api.cluster(connect()).found == f"Kubernetes {version} at {uri}"
        else:
            with pytest.raises(UserError, match=f"Kubernetes {version}"):
                api.cluster(connect())


@pytest.mark.parametrize(("behind", "status"), [(0, "ok"), (20, "warn"), (90, "fail")])
def test_a_clock_that_is_wrong_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: int, status: str
) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(seconds=behind), usegmt=True)
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self, timestamp=None: date)
    with answering(200, "{}") as uri:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, uri)))
        (check,) = run_side_by_side({"clock": lambda: servers.clock(connect(), {"MLflow": uri})})
    assert check.status == status and "from this machine" in check.found
    assert bool(check.fix) == (status != "ok")


@pytest.mark.parametrize("option", ["--namespace", "--recipe"])
def test_options_of_the_cluster_need_the_cluster(option: str) -> None:
    app = typer.Typer()
    app.command()(doctor.doctor)
    raised = CliRunner().invoke(app, [option, "demo"]).exception
    assert isinstance(raised, UserError) and raised.fix == "add --cluster"
