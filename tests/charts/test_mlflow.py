"""MLflow's server as the chart starts it: its users, its host names, and who may move `champion`."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from medmim import tracking
from medmim.cli import doctor
from medmim.errors import UserError
from medmim.recipe.names import LOGIN_KEYS
from medmim.recipe.schema import Bench
from medmim.registry import approval, decisions, lookup, promote, pyfunc_model, register
from medmim.run.workspace import Workspace
from tests.support.chart import containers, named, render
from tests.support.chart_scripts import PATH, helm_test, run
from tests.support.registry import model
from tests.support.waiting import until

for module in ("flask_wtf", "prometheus_flask_exporter"):
    pytest.importorskip(module, reason="the server's extras are not installed: mlflow[auth], prometheus-flask-exporter")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402  it comes with the exporter

VALUES = {
    "mlflow": {
        "auth": {"enabled": True},
        "ingress": {"enabled": True, "host": "mlflow.example.org", "tlsSecret": "tls"},
        "metrics": {"enabled": True, "existingSecret": "metrics"},
    },
    "networkPolicy": {"enabled": False},
}
POD_IP = "10.1.2.3"


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    @property
    def uri(self) -> str:
        return f"http://localhost:{self.port}"

    def headers(self, host: str, user: str = "root") -> dict[str, str]:
        login = base64.b64encode(f"{user}:a-password-of-{user}".encode()).decode()
        known = {"Authorization": f"Basic {login}"} if user else {}
        return {"Host": host, "Content-Type": "application/json"} | known

    def status(
        self,
        path: str,
        host: str,
        user: str = "root",
        origin: str = "",
        body: bytes | None = None,
        method: str | None = None,
    ) -> int:
        """What it answers to a Host header, a user and an Origin; 0 where it does not answer."""
        headers = self.headers(host, user) | ({"Origin": origin} if origin else {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Server]:
    """The chart's own init container and arguments, but for folder, port and the store."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Server(free.getsockname()[1])
    pod = named(render(VALUES), "Deployment", "medmim-mlflow")["spec"]["template"]["spec"]
    prepare, container = containers(pod)
    uri, auth = f"sqlite:///{folder}/mlflow.db", folder / "auth.ini"
    env = {one["name"]: one["value"] for one in (*prepare["env"], *container["env"]) if "value" in one}
    env |= {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_AUTH_CONFIG_PATH": str(auth)}
    done = run("prepare_mlflow.py", **env)
    assert done.returncode == 0, done.stderr
    env |= {"MLFLOW_AUTH_ADMIN_USERNAME": "root", "MLFLOW_AUTH_ADMIN_PASSWORD": "a-password-of-root"}
    env |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"}
    changed = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={made.port}",
        "--artifacts-destination=$(MLFLOW_ARTIFACTS)": f"--artifacts-destination={folder}/artifacts",
        "--expose-prometheus=/tmp/metrics": f"--expose-prometheus={folder}/metrics",
    }
    words = [changed.get(word, word).replace("$(POD_IP)", POD_IP) for word in container["args"]]
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(words, env={**os.environ, "PATH": PATH, **env}, stdout=log, stderr=log)
    try:
        until(lambda: made.status("/health", "any.thing", user="") == 200, 120, "MLflow's start")
        yield made
    finally:
        started.terminate()
        started.wait(30)


def add_user(server: Server, name: str) -> None:
    body = json.dumps({"username": name, "password": f"a-password-of-{name}"}).encode()
    assert server.status("/api/2.0/mlflow/users/create", "medmim-mlflow", body=body) in (200, 201)


SEARCH = "/api/2.0/mlflow/experiments/search"


def test_it_accepts_its_own_host_names_only(server: Server) -> None:
    for host in ("medmim-mlflow.platform.svc:5000", "medmim-mlflow", "mlflow.example.org", f"localhost:{server.port}"):
        assert server.status(f"{SEARCH}?max_results=1", host) == 200, host
    for host in ("evil.example", "medmim-mlflow.evil.example", "10.0.0.1:5000"):
        assert server.status(f"{SEARCH}?max_results=1", host) == 403, host


def test_a_browser_may_write_from_the_ingress_only(server: Server) -> None:
    host, body = "mlflow.example.org", b'{"max_results": 1}'
    assert server.status(SEARCH, host, origin="https://mlflow.example.org", body=body) == 200
    assert server.status(SEARCH, host, origin="https://evil.example", body=body) == 403


def test_prometheus_gets_metrics_by_the_pods_address_and_needs_a_login(server: Server) -> None:
    assert server.status("/metrics", f"{POD_IP}:5000") == 200
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/metrics", headers=server.headers(f"{POD_IP}:5000")
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        families = {one.name for one in text_string_to_metric_families(answer.read().decode())}
    assert "mlflow_http_request" in families, families
    assert server.status("/metrics", f"{POD_IP}:5000", user="") == 401
    assert server.status(f"{SEARCH}?max_results=1", "medmim-mlflow", user="nobody") == 401


def test_a_steps_user_registers_candidates_and_cannot_move_champion(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the chart's README makes them: the user who makes a model manages it, and the others read."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def as_user(name: str) -> MlflowClient:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"a-password-of-{name}")
        return MlflowClient(server.uri)

    for name in ("steps", "promoter"):
        add_user(server, name)
    model = b'{"name": "production"}'
    assert server.status("/api/2.0/mlflow/registered-models/create", "medmim-mlflow", "promoter", body=model) == 200

    step = as_user("steps")
    pod = named(render({"runNamespaces": [{"name": "team-a"}]}), "Pod", "medmim-check-mlflow", "team-a")
    passed = helm_test(pod, MLFLOW_TRACKING_URI=server.uri)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert passed.stdout.startswith("ok    mlflow") and "deletes a model and an artifact" in passed.stdout
    step.create_registered_model("candidate")
    own = step.create_run(step.create_experiment("training")).info.run_id
    step.log_text(own, "weights", "model/weights.txt")
    step.create_model_version("candidate", source=f"runs:/{own}/model", run_id=own)
    for forbidden in (
        lambda: step.set_registered_model_alias("production", "champion", "1"),
        lambda: step.create_model_version("production", source=f"runs:/{own}/model", run_id=own),
        lambda: step.delete_registered_model("production"),
        lambda: step.set_registered_model_tag("production", "a", "b"),
    ):
        with pytest.raises(MlflowException, match="403"):
            forbidden()


@pytest.mark.long
def test_a_steps_user_replaces_neither_the_champion_nor_the_code_that_its_consumers_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow runs a version's own file where it is loaded: whoever writes that file runs code in every consumer."""
    from mlflow import MlflowClient, artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.tracking._tracking_service import utils
    from requests import HTTPError

    def as_user(name: str) -> MlflowClient:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"a-password-of-{name}")
        return tracking.client(ws)

    def propose(name: str) -> str:
        """A candidate of the step's; gives the id of its logged model."""
        made = model(ws, "good")
        step.create_registered_model(f"{name}-candidate")
        run = step.create_run(step.create_experiment(f"{name}-candidate")).info.run_id
        lineage = {lookup.DIGEST: made.digest, lookup.URI: made.uri, "medmim.recipe_name": "demo"}
        register.add_version(step, ws, f"{name}-candidate", run, lineage, Bench(), {})
        return str(step.get_model_version(f"{name}-candidate", "1").tags[lookup.LOGGED])

    def consumed(name: str) -> bytes:
        """The code that MLflow would run of the champion."""
        folder = artifacts.download_artifacts(f"models:/{name}@champion")
        return (Path(folder) / "pyfunc_model.py").read_bytes()

    ws = Workspace(tmp_path / "home", str(tmp_path / "store"), server.uri)
    monkeypatch.setattr(utils, "_tracking_uri", server.uri)  # of consumers
    monkeypatch.setenv("MEDMIM_USER", "jane")
    for user in ("a-step", "a-promoter"):
        add_user(server, user)
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    (swapped / "pyfunc_model.py").write_text("print('a step runs here')")

    step = as_user("a-step")
    theirs = propose("prod")
    step.create_experiment("prod-promoted")  # the name is taken before the promoter comes
    step.log_model_artifacts(theirs, str(swapped))  # allowed: the candidate is the step's
    as_user("a-promoter")
    entry = promote.promote(ws, "prod-candidate", "1", "looked at it", despite_gate=True)
    assert entry.version == "1" and consumed("prod") == Path(pyfunc_model.__file__).read_bytes()

    step = as_user("a-step")
    version = step.get_model_version_by_alias("prod", "champion")
    ours = version.tags[lookup.LOGGED]
    experiment = step.get_logged_model(ours).experiment_id
    assert ours != theirs and version.source == f"models:/{ours}"
    for forbidden in (
        lambda: step.log_model_artifacts(ours, str(swapped)),
        lambda: step.log_artifacts(version.run_id, str(swapped)),
        lambda: step.set_logged_model_tags(ours, {"a": "b"}),
        lambda: step.delete_logged_model(ours),
        lambda: step.delete_experiment(experiment),
        lambda: step.set_registered_model_tag("prod", approval.EXPERIMENT, "1"),
        lambda: step.delete_registered_model_alias("prod", "champion"),
        lambda: step.set_registered_model_alias("prod", "champion", "1"),
    ):
        with pytest.raises((MlflowException, HTTPError), match="403"):
            forbidden()
    path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/models/{ours}/artifacts/pyfunc_model.py"
    assert server.status(path, "medmim-mlflow", "a-step", body=b"print()", method="PUT") == 403
    assert consumed("prod") == Path(pyfunc_model.__file__).read_bytes()

    # a name that a step took first is the step's, whatever it grants to others
    propose("taken")
    step.create_registered_model("taken")
    as_user("a-promoter")
    with pytest.raises(UserError, match="the registered model taken is not the promoter's alone"):
        promote.promote(ws, "taken-candidate", "1", "looked at it", despite_gate=True)
    as_user("root")
    with pytest.raises(UserError, match="is not the promoter's alone") as caught:
        promote.promote(ws, "taken-candidate", "1", "an administrator may write anywhere", despite_gate=True)
    assert "user a-step may write it, too" in caught.value.reason
    # and so is an experiment of a step's where the promoter's is named
    promoter = as_user("a-promoter")
    theirs = promoter.get_experiment_by_name("taken-candidate").experiment_id
    promoter.set_registered_model_tag("prod", approval.EXPERIMENT, theirs)
    second = model(ws, "fair")
    step = as_user("a-step")
    run = step.create_run(theirs).info.run_id
    register.add_version(
        step, ws, "prod-candidate", run, {lookup.DIGEST: second.digest, lookup.URI: second.uri}, Bench(), {}
    )
    as_user("a-promoter")
    with pytest.raises(UserError, match=f"experiment {theirs}, in which prod is written, is not the promoter's alone"):
        promote.promote(ws, "prod-candidate", "2", "looked at it", despite_gate=True)
    assert decisions.names(ws) == ["prod"] and len(decisions.read(ws, "prod")) == 1


# What `medmim doctor --cluster` reports of a server with users

SECRET = " and ".join(LOGIN_KEYS) + " from Secret medmim-mlflow"


@pytest.fixture
def checked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The doctor's line of MLflow for a user; without a cluster it checks servers only."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    app = Typer()
    app.command()(doctor.doctor)

    def checked(user: str = "", password: str = "") -> dict[str, Any]:
        for key, value in zip(LOGIN_KEYS, (user, password), strict=True):
            monkeypatch.setenv(key, value)
        ended = CliRunner().invoke(app, ["--cluster", "--json"])
        assert not password or password not in ended.output
        (row,) = [one for one in json.loads(ended.stdout)["checks"] if one["name"] == "mlflow"]
        return dict(row)

    return checked


def test_every_user_with_the_right_password_writes(server: Server, checked: Callable[..., dict[str, Any]]) -> None:
    """The second, too, who may only read the experiment that the first one's check has made."""
    for user in ("writer", "second-writer"):
        add_user(server, user)
        row = checked(user, f"a-password-of-{user}")
        assert row["status"] == "ok", row
        assert re.match(r"3\.\d+.*: accepts localhost.*; writes, reads, deletes a model and an artifact", row["found"])


def test_a_wrong_password_is_reported_with_the_secret_that_holds_it(
    server: Server, checked: Callable[..., dict[str, Any]]
) -> None:
    add_user(server, "forgetful")
    for user in ("forgetful", "unknown"):
        row = checked(user, "a-wrong-password")
        assert row["status"] == "fail" and row["exit_code"] == 2
        assert row["found"].startswith(
            f"MLflow at {server.uri} rejects the login of user {user}: 401; the password is wrong"
        )
        assert SECRET in row["fix"] and "charts/medmim/README.md" in row["fix"]
    anew = b'{"username": "forgetful", "password": "a-newer-password"}'  # as that README says
    assert server.status("/api/2.0/mlflow/users/update-password", "medmim-mlflow", body=anew, method="PATCH") == 200
    assert checked("forgetful", "a-newer-password")["status"] == "ok"


def test_a_missing_login_is_reported_by_its_variables(server: Server, checked: Callable[..., dict[str, Any]]) -> None:
    for given, unset in ((("", ""), " and ".join(LOGIN_KEYS) + " are"), (("steps", ""), LOGIN_KEYS[1] + " is")):
        row = checked(*given)
        assert row["status"] == "fail"
        assert row["found"] == f"MLflow at {server.uri} requires a login: 401; {unset} not set here"
        assert SECRET in row["fix"]


def test_a_user_without_permission_to_write_is_reported_with_what_was_denied(
    server: Server, checked: Callable[..., dict[str, Any]]
) -> None:
    add_user(server, "reader")
    denied = {"username": "reader", "resource_type": "registered_model", "resource_id": "*", "permission": "DENY"}
    permissions, body = "/api/3.0/mlflow/users/permissions", json.dumps(denied).encode()
    assert server.status(f"{permissions}/grant", "medmim-mlflow", body=body) == 200
    row = checked("reader", "a-password-of-reader")
    assert row["status"] == "fail"
    assert row["found"] == (
        f"MLflow at {server.uri} accepts user reader, but denies registered-models/create: 403; Permission denied"
    )
    assert "an administrator revokes the denial" in row["fix"] and SECRET in row["fix"]
    assert server.status(f"{permissions}/revoke", "medmim-mlflow", body=body) == 200
    assert checked("reader", "a-password-of-reader")["status"] == "ok"
