"""What is reported of MLflow, KFP, object store and clocks, each right or wrong in one way. No cluster."""

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

from medmim import errors
from medmim.cluster.doctor import mlflow, servers
from medmim.cluster.doctor.api import Unchecked
from medmim.cluster.doctor.servers import Unresolved
from medmim.cluster.kube import Kube, connect
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support import jobs_server
from tests.support.kfp_server import kfp_server
from tests.support.servers import KFP, answering, mlflow_server

CREDENTIALS = ("USERNAME", "PASSWORD", "TOKEN")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of MLflow's server and its artifacts."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def mlflow_port(folder: Path, mlflow_database: Path) -> Iterator[int]:
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with mlflow_server(folder, folder / "mlflow.db") as port:
        yield port


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in CREDENTIALS:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{key}", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def test_mlflow_is_written_to_and_but_for_one_experiment_left_empty(mlflow_port: int, folder: Path) -> None:
    uri = f"http://localhost:{mlflow_port}"
    for _ in range(2):
        check = mlflow.mlflow(uri, "")
        assert check.status == "ok" and "writes, reads, deletes a model and an artifact" in check.found
    api = f"{uri}/api/2.0/mlflow"
    assert not requests.get(f"{api}/registered-models/search").json().get("registered_models")
    experiments = requests.get(f"{api}/experiments/search", {"max_results": 9}).json()["experiments"]
    assert sorted(one["name"] for one in experiments) == ["Default", mlflow.EXPERIMENT]
    assert not list(folder.rglob("check.json"))


def test_an_experiment_that_was_deleted_is_restored(mlflow_port: int) -> None:
    uri = f"http://localhost:{mlflow_port}"
    assert mlflow.mlflow(uri, "").status == "ok"
    found = requests.get(f"{uri}/api/2.0/mlflow/experiments/get-by-name", {"experiment_name": mlflow.EXPERIMENT}).json()
    deleted = {"experiment_id": found["experiment"]["experiment_id"]}
    requests.post(f"{uri}/api/2.0/mlflow/experiments/delete", json=deleted).raise_for_status()
    assert mlflow.mlflow(uri, "").status == "ok"


def test_an_artifact_store_that_fails_is_reported(
    mlflow_port: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "EXPERIMENT", "unwritable")
    uri = f"http://localhost:{mlflow_port}"
    location = mlflow._experiment(uri)
    (folder / location.rpartition("/")[2]).write_text("a file in the place of the experiment's folder")
    with pytest.raises(Unavailable, match="answers 500 to artifacts/.*/check.json") as raised:
        mlflow.mlflow(uri, "")
    assert "artifact store" in raised.value.fix


def test_artifacts_that_do_not_go_through_the_server_are_a_warning(
    mlflow_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "EXPERIMENT", "direct")
    uri = f"http://localhost:{mlflow_port}"
    body = {"name": "direct", "artifact_location": "s3://bucket/direct"}
    requests.post(f"{uri}/api/2.0/mlflow/experiments/create", json=body).raise_for_status()
    check = mlflow.mlflow(uri, "")
    assert check.status == "warn" and "clients write s3://bucket/direct themselves" in check.found and check.fix


def test_a_host_name_that_mlflow_rejects_is_named(mlflow_port: int) -> None:
    with pytest.raises(UserError, match=f"rejects the host name 127.0.0.1:{mlflow_port}") as raised:
        mlflow.mlflow(f"http://127.0.0.1:{mlflow_port}", "")
    assert raised.value.fix.startswith(f"add 127.0.0.1:{mlflow_port} to --allowed-hosts")


def test_the_host_name_that_pods_use_is_tried_from_here(mlflow_port: int) -> None:
    with pytest.raises(UserError, match="rejects the host name medmim-mlflow:5000"):
        mlflow.mlflow(f"http://localhost:{mlflow_port}", "http://medmim-mlflow:5000")


def test_mlflow_that_is_no_server_is_reported() -> None:
    for uri in ("", "sqlite:///mlflow.db"):
        with pytest.raises(UserError, match="MLflow is") as raised:
            mlflow.mlflow(uri, "")
        assert "MLFLOW_TRACKING_URI" in raised.value.fix


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, "no", "text/plain", "requires a login: 401"),
        (200, "<html>Log in</html>", "text/html; charset=utf-8", "a login page answers"),
        (403, "\n<!DOCTYPE html>Sign in", "text/html", "a login page answers"),
        (200, "hello", "text/plain", "is not MLflow"),
        (500, "no space left on device", "text/plain", "answers 500"),
        (404, "{}", "application/json", "answers 404"),
    ],
)
def test_what_answers_in_mlflows_place_is_reported(status: int, body: str, kind: str, message: str) -> None:
    with answering(status, body, Content_Type=kind) as uri, pytest.raises(UserError, match=message) as raised:
        mlflow.mlflow(uri, "")
    assert raised.value.fix and isinstance(raised.value, Unavailable) == (status == 500)


@pytest.mark.parametrize(
    ("tag", "status"), [("2.17.0", "ok"), ("2.17.3", "ok"), ("2.18.0", "warn"), ("master", "warn")]
)
def test_kfps_version_is_reported(tag: str, status: str) -> None:
    with answering(200, json.dumps({**KFP, "tag_name": tag}), Content_Type="application/json") as uri:
        check = servers.kfp(uri)
    assert (check.status, bool(check.fix)) == (status, status == "warn") and check.found.startswith(tag)


@pytest.mark.parametrize("multi_user", [False, True])
def test_a_kfp_for_one_user_must_be_in_the_namespace_that_is_checked(
    multi_user: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs all pods there, whatever namespace is given."""

    def found(path: str) -> bool:
        return path == "/api/v1/namespaces/kubeflow/services/ml-pipeline"

    health = json.dumps({**KFP, "multi_user": multi_user})
    with answering(200, health, Content_Type="application/json") as uri, answering(200, "{}", only=found) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, cluster)))
        assert servers.kfp(uri, connect("kubeflow")).status == "ok"
        if multi_user:
            assert servers.kfp(uri, connect("medmim-runs")).status == "ok"
            return
        with pytest.raises(UserError, match="its own namespace, kubeflow, not in medmim-runs") as raised:
            servers.kfp(uri, connect("medmim-runs"))
    assert "--namespace kubeflow" in raised.value.fix and "runNamespaces" in raised.value.fix


def test_an_older_kfp_is_refused() -> None:
    with answering(200, json.dumps({**KFP, "tag_name": "2.5.0"})) as uri, pytest.raises(UserError, match="KFP 2.5.0"):
        servers.kfp(uri)


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (200, "<html>dex</html>", {"Content_Type": "text/html"}, "a login page answers"),
        (302, "", {"Location": "/dex/auth"}, "a login page answers"),
        (403, "RBAC: access denied", {}, "does not accept this login"),
        (503, "", {}, "answers 503"),
        (404, "", {}, "is no KFP API"),
        (200, "[]", {}, "is no KFP API"),
    ],
)
def test_what_answers_in_kfps_place_is_reported(status: int, body: str, headers: dict[str, str], message: str) -> None:
    with answering(status, body, **headers) as uri, pytest.raises(UserError, match=message) as raised:
        servers.kfp(uri)
    assert raised.value.fix


@pytest.mark.parametrize("name", ["KFP_TOKEN", "KFP_TOKEN_FILE", "KFP_COOKIE"])
def test_kfp_is_asked_with_the_login_of_submit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A KFP behind a login failed for everybody, those included whose runs it started."""
    for other in ("KFP_TOKEN", "KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH", "KFP_COOKIE"):
        monkeypatch.delenv(other, raising=False)
    (tmp_path / "token").write_text("good\n")
    with kfp_server() as found:
        setattr(found.front, "cookie" if name == "KFP_COOKIE" else "token", "good")
        found.front.login = "refuse"
        with pytest.raises(UserError, match="does not accept this login") as raised:
            servers.kfp(found.address)
        assert raised.value.reason == "sent no token and no cookie" and "KFP_TOKEN" in raised.value.fix
        monkeypatch.setenv(name, str(tmp_path / "token") if name == "KFP_TOKEN_FILE" else "good")
        assert servers.kfp(found.address).status == "ok"


def test_a_server_that_is_down_is_reported_in_seconds() -> None:
    with pytest.raises(Unavailable, match="http://127.0.0.1:1 does not answer"):
        servers.kfp("http://127.0.0.1:1")


def test_a_name_that_does_not_resolve_is_reported_without_the_password_in_its_address() -> None:
    with pytest.raises(Unresolved) as raised:
        mlflow.mlflow("http://me:secret@no-such-host.invalid:5000", "")
    assert "no-such-host.invalid" in raised.value.fact and "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["minio", "minio.medmim", "minio.medmim.svc", "minio.medmim.svc.cluster.local"])
def test_a_service_cannot_be_checked_from_outside(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(servers, "read", lambda kube, path: read.append(path) or {})
    with pytest.raises(Unchecked, match="this machine is outside") as raised:
        servers.unchecked_outside(Kube(None, "medmim"), unresolved(host))()
    assert read == ["/api/v1/namespaces/medmim/services/minio"]
    assert raised.value.fix.startswith("kubectl -n medmim port-forward svc/minio 9000")


def test_a_service_that_does_not_exist_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "read", lambda kube, path: None)
    with pytest.raises(UserError, match="the cluster has no Service minio in other"):
        servers.unchecked_outside(Kube(None, "medmim"), unresolved("minio.other"))()


def test_a_public_name_that_does_not_resolve_is_no_service() -> None:
    with pytest.raises(Unresolved):
        servers.unchecked_outside(Kube(None, "medmim"), unresolved("s3.amazonaws.com"))()


def test_a_pod_resolves_the_names_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(Unresolved):
        servers.unchecked_outside(Kube(None, "medmim"), unresolved("minio"))()


def unresolved(host: str) -> Callable[[], Check]:
    def check() -> Check:
        raise Unresolved(host, 9000, "check it")

    return check


def test_a_folder_is_no_store_for_pods() -> None:
    for uri in ("", "/data"):
        with pytest.raises(UserError, match="the store is"):
            servers.store(uri)


def test_a_bucket_is_checked(bucket: str) -> None:
    check = servers.store(f"{bucket}/store")
    assert check.status == "ok" and "creates once" in check.found


def test_a_bucket_that_does_not_exist_is_reported(bucket: str) -> None:
    with pytest.raises(UserError, match="there is no bucket"):
        servers.store("s3://medmim-no-such-bucket/store")


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@given(MOMENTS, st.floats(-1e6, 1e6), st.floats(0, 0.5))
def test_a_clocks_offset_is_found_to_a_second(now: datetime, ahead: float, took: float) -> None:
    date = now + timedelta(seconds=took / 2 + ahead)
    found = servers.skew(format_datetime(date, usegmt=True), now, now + timedelta(seconds=took))
    assert found is not None and abs(found - ahead) <= 1 + took
    assert abs(ahead) > took / 2 or found == 0, "what a second's fraction may explain is no offset"


@given(st.text())
def test_no_date_is_no_offset(text: str) -> None:
    now = datetime.now(UTC)
    found = servers.skew(text, now, now)
    assert found is None or isinstance(found, float)


def test_clocks_are_compared_with_each_other() -> None:
    assert servers.apart([0.0, -40.0, 30.0]) == 70.0


def test_a_ray_cluster_of_ones_own_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "MIN_TRIES", 1)
    with jobs_server.serving() as jobs:
        check = servers.ray(jobs.url)
        assert (check.status, check.name) == ("warn", "ray") and "no sweep" in check.found and "rayjob" in check.fix
        jobs.away.set()
        with pytest.raises(Unavailable, match="does not answer"):
            servers.ray(jobs.url)
    with answering(403, "forbidden") as url, pytest.raises(UserError, match="does not accept this account"):
        servers.ray(url)
    with answering(404, "nothing here") as url, pytest.raises(UserError, match="refuses a request") as caught:
        servers.ray(url)
    assert "Ray dashboard" in caught.value.fix
    with answering(200, "<html>a login page</html>") as url, pytest.raises(UserError):
        servers.ray(url)
