"""What is reported of a cluster that cannot be used: a fact, a reason, a fix, and nothing left behind."""

import json
import subprocess
from pathlib import Path

import pytest

from medmim.cluster import kube
from medmim.cluster.kube import Kube
from medmim.cluster.ray import runner
from medmim.cluster.ray.sweep import sweep
from medmim.errors import BAD_INPUT, TRY_AGAIN, UserError
from tests.cluster.conftest import free_port
from tests.support.ray_jobs import a_request, platform


def kubeconfig_of(folder: Path, server: str, **user: str) -> Path:
    path = folder / "config"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )  # fmt: skip
    return path


@pytest.mark.parametrize("text", [None, "", "{", "a: [b", "clusters: 3", "kind: Config"])
def test_a_kubeconfig_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(UserError) as raised:
        kube.connect()
    assert raised.value.exit_code == BAD_INPUT
    assert str(path) in raised.value.fact
    assert "KUBECONFIG" in raised.value.fix


def test_a_login_command_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-login", "interactiveMode": "Never"}
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, "https://127.0.0.1:1", exec=command)))
    with pytest.raises(UserError, match="not logged in") as raised:
        kube.connect()
    assert "no-such-login" in raised.value.reason


def test_a_server_that_does_not_answer_is_retried_and_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, f"https://127.0.0.1:{free_port()}")))
    monkeypatch.setenv("MEDMIM_PATIENCE", "1")
    with pytest.raises(UserError, match="does not answer") as raised:
        kube.connect().list("pods")
    assert raised.value.exit_code == TRY_AGAIN


@pytest.mark.cluster
def test_a_wrong_certificate_is_reported(
    cluster: Kube, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "ca.crt"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*make, "-keyout", tmp_path / "key", "-out", other], check=True, capture_output=True)
    text = kubeconfig.read_text().replace(str(kubeconfig.parent / "pki" / "ca.crt"), str(other))
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(UserError, match="is not trusted") as raised:
        kube.connect(cluster.namespace).list("pods")
    assert raised.value.exit_code == BAD_INPUT


@pytest.mark.cluster
def test_expired_credentials_are_reported(cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = cluster.api.configuration.host
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, server, token="nobody")))
    with pytest.raises(UserError, match="does not know this account") as raised:
        kube.connect(cluster.namespace).list("pods")
    assert raised.value.exit_code == BAD_INPUT


@pytest.mark.cluster
def test_without_credentials_the_error_says_to_log_in(
    cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, cluster.api.configuration.host)))
    with pytest.raises(UserError, match="does not know this account") as raised:
        kube.connect(cluster.namespace).list("pods")
    assert "log in" in raised.value.fix


@pytest.mark.cluster
def test_a_sweep_of_a_namespace_that_does_not_exist_is_an_error(cluster: Kube) -> None:
    with pytest.raises(UserError, match="namespace medmim-nowhere does not exist"):
        sweep(Kube(cluster.api, "medmim-nowhere"))


@pytest.mark.cluster
def test_a_namespace_that_does_not_exist_is_reported(cluster: Kube, tmp_path: Path) -> None:
    nowhere = Kube(cluster.api, "medmim-nowhere")
    with pytest.raises(UserError, match="namespace medmim-nowhere does not exist"):
        runner.run(a_request(), platform(nowhere), str(tmp_path))
    assert not list(tmp_path.rglob("order.json"))


@pytest.mark.cluster
def test_a_cluster_without_kuberays_version_is_reported(
    cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kube.API, "rayjobs", "/apis/ray.io/v9")  # a version that this API server does not serve
    with pytest.raises(UserError, match="has no rayjobs.ray.io of v9") as raised:
        runner.run(a_request(), platform(cluster), str(tmp_path))
    assert raised.value.exit_code == BAD_INPUT
    assert "KubeRay 1.5" in raised.value.fix
    assert not list(tmp_path.rglob("order.json"))
