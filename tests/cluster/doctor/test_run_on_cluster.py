"""`medmim doctor --cluster` as a whole: on a good cluster, without settings, without a cluster."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medmim.cli import doctor
from medmim.cluster.kube import MANAGED_BY_MEDMIM, Kube
from tests.cluster.conftest import free_port, kubectl
from tests.cluster.doctor.world import NAMES, Doctor, only

pytestmark = pytest.mark.cluster


def test_a_good_cluster_passes_and_nothing_stays(good: Doctor, cluster: Kube) -> None:
    found = good(exits=0)
    assert list(found) == NAMES
    assert {check["status"] for check in found.values()} == {"ok"}, found
    assert "2.17.0" in found["kfp"]["found"] and "enforces restricted" in found["namespace"]["found"]
    assert "clock" in found and "the store" in found["clock"]["found"] and "MLflow" in found["clock"]["found"]
    assert not cluster.list("pods", MANAGED_BY_MEDMIM)


def test_lines_for_people_name_check_and_fix(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "secret", "medmim-s3")
    app = typer.Typer()
    app.command()(doctor.doctor)
    ended = CliRunner().invoke(app, ["--cluster", "-n", cluster.namespace])
    lines = {line.split()[1]: line for line in ended.stdout.splitlines()}
    assert list(lines) == NAMES and ended.exit_code == 1
    assert lines["secrets"].startswith("fail") and f"fix: kubectl -n {cluster.namespace} create" in lines["secrets"]


def test_the_documented_pod_of_a_doctor_is_admitted(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text().split("<<END\n")[1].split("\nEND\n")[0]
    assert "$IMAGE" in text
    options = ("apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    pod = json.loads(
        kubectl(kubeconfig, "-n", cluster.namespace, *options, stdin=text.replace("$IMAGE", "registry.example/medmim"))
    )
    assert pod["spec"]["serviceAccountName"] == "medmim-step"


def test_no_settings(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "configmap", "medmim")
    found = good(exits=1)
    assert (
        f"no ConfigMap medmim in {cluster.namespace}"
        in only(found, "settings", "image", "store", "mlflow", "kfp")["found"]
    )
    assert "MEDMIM_STORE in ConfigMap medmim" in found["store"]["fix"]


def test_no_cluster(good: Doctor, tmp_path: Path, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are checked all the same, as far as recipe and environment name them."""
    path = tmp_path / "away"
    server = json.loads(kubectl(kubeconfig, "config", "view", "--raw", "-o", "json"))["clusters"][0]["cluster"][
        "server"
    ]
    path.write_text(kubeconfig.read_text().replace(server, f"https://127.0.0.1:{free_port()}"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = good(exits=1)
    assert list(found) == ["cluster", "store", "mlflow", "kfp"]
    assert "does not answer" in found["cluster"]["found"] and "KUBECONFIG" in found["cluster"]["fix"]
