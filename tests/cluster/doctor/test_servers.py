"""What is told of MLflow, KFP, object store and clocks, each right or wrong in a way of its own. No cluster."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from medmim.cluster.doctor import mlflow, servers
from medmim.cluster.doctor.api import Unseen
from medmim.cluster.doctor.servers import Unresolved
from medmim.cluster.kube import Kube
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError
from tests.cluster.servers import KFP, mlflow_server, saying

CREDENTIALS = ("USERNAME", "PASSWORD", "TOKEN")


@pytest.fixture(scope="module")
def mlflow_port(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with mlflow_server(folder, folder / "mlflow.db") as port:
        yield port


@pytest.fixture(autouse=True)
def nobody_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in CREDENTIALS:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{key}", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def test_mlflow_is_written_to_and_left_empty(mlflow_port: int) -> None:
    uri = f"http://localhost:{mlflow_port}"
    check = mlflow.mlflow(uri, "")
    assert check.status == "ok" and "writes, reads, deletes" in check.found
    models = requests.get(f"{uri}/api/2.0/mlflow/registered-models/search").json()
    assert not models.get("registered_models")


def test_a_host_that_mlflow_does_not_let_in_is_named(mlflow_port: int) -> None:
    with pytest.raises(UserError, match=f"does not let the host name 127.0.0.1:{mlflow_port} in") as raised:
        mlflow.mlflow(f"http://127.0.0.1:{mlflow_port}", "")
    assert raised.value.fix.startswith(f"add 127.0.0.1:{mlflow_port} to --allowed-hosts")


def test_the_name_that_pods_use_is_tried_from_here(mlflow_port: int) -> None:
    with pytest.raises(UserError, match="does not let the host name medmim-mlflow:5000 in"):
        mlflow.mlflow(f"http://localhost:{mlflow_port}", "http://medmim-mlflow:5000")


def test_mlflow_that_is_no_server_is_told() -> None:
    for uri in ("", "sqlite:///mlflow.db"):
        with pytest.raises(UserError, match="MLflow is") as raised:
            mlflow.mlflow(uri, "")
        assert "MLFLOW_TRACKING_URI" in raised.value.fix


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (401, "no", "text/plain", "has users, and nobody logs in: 401"),
        (200, "<html>Log in</html>", "text/html; charset=utf-8", "a login page answers"),
        (403, "\n<!DOCTYPE html>Sign in", "text/html", "a login page answers"),
        (200, "hello", "text/plain", "is not MLflow"),
        (500, "no space left on device", "text/plain", "answers 500"),
        (404, "{}", "application/json", "answers 404"),
    ],
)
def test_what_answers_in_mlflows_place_is_told(status: int, body: str, kind: str, told: str) -> None:
    with saying(status, body, Content_Type=kind) as uri, pytest.raises(UserError, match=told) as raised:
        mlflow.mlflow(uri, "")
    assert raised.value.fix and isinstance(raised.value, Unavailable) == (status == 500)


@pytest.mark.parametrize(
    ("tag", "status"), [("2.17.0", "ok"), ("2.17.3", "ok"), ("2.18.0", "warn"), ("master", "warn")]
)
def test_kfp_tells_its_version(tag: str, status: str) -> None:
    with saying(200, json.dumps({**KFP, "tag_name": tag}), Content_Type="application/json") as uri:
        check = servers.kfp(uri)
    assert (check.status, bool(check.fix)) == (status, status == "warn") and check.found.startswith(tag)


def test_an_older_kfp_is_refused() -> None:
    with saying(200, json.dumps({**KFP, "tag_name": "2.5.0"})) as uri, pytest.raises(UserError, match="KFP 2.5.0"):
        servers.kfp(uri)


@pytest.mark.parametrize(
    ("status", "body", "headers", "told"),
    [
        (200, "<html>dex</html>", {"Content_Type": "text/html"}, "a login page answers"),
        (302, "", {"Location": "/dex/auth"}, "a login page answers"),
        (403, "RBAC: access denied", {}, "wants a login"),
        (503, "", {}, "answers 503"),
        (404, "", {}, "is no KFP API"),
        (200, "[]", {}, "is no KFP API"),
    ],
)
def test_what_answers_in_kfps_place_is_told(status: int, body: str, headers: dict[str, str], told: str) -> None:
    with saying(status, body, **headers) as uri, pytest.raises(UserError, match=told) as raised:
        servers.kfp(uri)
    assert raised.value.fix


def test_a_server_that_is_away_is_told_in_seconds() -> None:
    with pytest.raises(Unavailable, match="http://127.0.0.1:1 does not answer"):
        servers.kfp("http://127.0.0.1:1")


def test_a_name_that_nobody_knows_is_told_without_the_password_in_its_address() -> None:
    with pytest.raises(Unresolved) as raised:
        mlflow.mlflow("http://me:secret@no-such-host.invalid:5000", "")
    assert "no-such-host.invalid" in raised.value.fact and "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["minio", "minio.medmim", "minio.medmim.svc", "minio.medmim.svc.cluster.local"])
def test_a_service_cannot_be_looked_at_from_outside(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(servers, "read", lambda kube, path: asked.append(path) or {})
    with pytest.raises(Unseen, match="this machine is outside") as raised:
        servers.known_in_pods(Kube(None, "medmim"), unresolved(host))()
    assert asked == ["/api/v1/namespaces/medmim/services/minio"]
    assert raised.value.fix.startswith("kubectl -n medmim port-forward svc/minio 9000")


def test_a_service_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "read", lambda kube, path: None)
    with pytest.raises(UserError, match="the cluster has no Service minio in other"):
        servers.known_in_pods(Kube(None, "medmim"), unresolved("minio.other"))()


def test_a_public_name_that_is_not_known_is_no_service() -> None:
    with pytest.raises(Unresolved):
        servers.known_in_pods(Kube(None, "medmim"), unresolved("s3.amazonaws.com"))()


def test_a_pod_knows_the_names_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(Unresolved):
        servers.known_in_pods(Kube(None, "medmim"), unresolved("minio"))()


def unresolved(host: str) -> Callable[[], Check]:
    def look() -> Check:
        raise Unresolved(host, 9000, "check it")

    return look


def test_a_folder_is_no_store_for_pods() -> None:
    for uri in ("", "/data"):
        with pytest.raises(UserError, match="the store is"):
            servers.store(uri)


def test_a_bucket_is_looked_at(bucket: str) -> None:
    check = servers.store(f"{bucket}/store")
    assert check.status == "ok" and "creates once" in check.found


def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(UserError, match="there is no bucket"):
        servers.store("s3://medmim-no-such-bucket/store")


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@given(MOMENTS, st.floats(-1e6, 1e6), st.floats(0, 0.5))
def test_a_clocks_offset_is_found_to_a_second(now: datetime, ahead: float, took: float) -> None:
    there = now + timedelta(seconds=took / 2 + ahead)
    found = servers.skew(format_datetime(there, usegmt=True), now, now + timedelta(seconds=took))
    assert found is not None and abs(found - ahead) <= 1 + took
    assert abs(ahead) > took / 2 or found == 0, "what a second's fraction may explain is no offset"


@given(st.text())
def test_no_date_is_no_offset(text: str) -> None:
    now = datetime.now(UTC)
    found = servers.skew(text, now, now)
    assert found is None or isinstance(found, float)


def test_clocks_are_compared_with_each_other() -> None:
    assert servers.apart([0.0, -40.0, 30.0]) == 70.0
