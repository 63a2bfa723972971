"""A cluster that lacks nothing, and its doctor."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.cluster.kube import Kube
from medmim.recipe.loading import read_text
from tests.cluster.conftest import kubectl
from tests.cluster.doctor.world import MINIO, SECRET, Doctor, run, served
from tests.cluster.test_accounts import objects
from tests.support import workflows
from tests.support.servers import KFP, answering, mlflow_server
from tests.support.waiting import until


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with mlflow_server(folder, folder / "mlflow.db") as port:
        yield f"http://localhost:{port}"


@pytest.fixture(scope="session")
def kfp() -> Iterator[str]:
    with answering(200, json.dumps(KFP), Content_Type="application/json") as uri:
        yield uri


@pytest.fixture
def kube_apply(kubeconfig: Path, cluster: Kube) -> Callable[..., None]:
    def apply(*wanted: dict[str, Any]) -> None:
        kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))

    return apply


@pytest.fixture
def good(
    cluster: Kube,
    kubeconfig: Path,
    kube_apply: Callable[..., None],
    bucket: str,
    mlflow: str,
    kfp: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Doctor]:
    """A cluster that lacks nothing; calling it runs the doctor on it. A test's name says what the test breaks."""
    for name in ("MEDMIM_STORE", "MEDMIM_IMAGE", "MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "MEDMIM_STORE": f"{bucket}/store", "MLFLOW_TRACKING_URI": mlflow, "KF_PIPELINES_ENDPOINT": kfp,
        "AWS_REGION": "us-east-1", "MEDMIM_IMAGE": "registry.example/medmim@sha256:" + "0" * 64,
    }  # fmt: skip
    kube_apply(
        workflows.CRD,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "medmim"}, "data": settings},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "medmim-s3"}, "stringData": SECRET},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": MINIO},
            "stringData": {"accesskey": "a", "secretkey": "b"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kfp-launcher"},
            "data": {"defaultPipelineRoot": ""},
        },
        *(one for name in ("step", "sweep", "ray") for one in objects(f"medmim-{name}", cluster.namespace)),
    )
    for path, kind in (("argoproj.io/v1alpha1", "workflows"), ("ray.io/v1", "rayjobs")):  # the kit may have just begun
        until(lambda path=path, kind=kind: kind in served(cluster, path))

    def check(*options: str, pods: dict[str, Any] | None = None, exits: int, **platform: Any) -> dict[str, Any]:
        recipe = yaml.safe_load(read_text("demo")[0])
        recipe["platform"] = {"ray": "rayjob", "workers": 16, "pods": {"gpus": 8, **(pods or {})}, **platform}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return run("-n", cluster.namespace, "--recipe", str(path), *options, exits=exits)

    yield check
    until(lambda: not kubectl(kubeconfig, "-n", cluster.namespace, "get", "rayjobs,rayclusters,leases", "-o", "name"))
