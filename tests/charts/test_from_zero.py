"""The commands of docs/from-zero.md that can run here, in the order of the page and in one shell: a real API server, a
real MinIO with the policies that the page's keys have, the contract server in place of KFP.
"""

# ruff: noqa: F811
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from tests.cluster.conftest import kubectl
from tests.support import doc_commands, workflows
from tests.support.chart import CHART, helm
from tests.support.kfp_server import kfp_server
from tests.support.kfp_world import nothing_set, registry_server
from tests.support.waiting import until

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
NAMESPACES = ("kubeflow", "medmim", "seaweedfs")
# `helm install NAME CHART -n NAMESPACE -f FILE`, by Helm's own library: the program is not on each machine
HELM = f"""#!{sys.executable}
import sys
import helm_python, yaml
command, name, chart, *more = sys.argv[1:]
options = dict(zip(more[::2], more[1::2]))
assert command == "install" and options.keys() == {{"-n", "-f"}}, sys.argv
with helm_python.Config(kubeconfig_path=%r, namespace=options["-n"]) as release:
    release.install(chart, name, yaml.safe_load(open(options["-f"])), namespace=options["-n"])
print("NAME:", name)
"""

# As KFP's own manifests make it.
OF_KFP = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "mlpipeline-minio-artifact"},
    "stringData": {"accesskey": "a", "secretkey": "b"},
}


@pytest.fixture
def machine(
    kubeconfig: Path, tmp_path: Path, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A machine where the steps before are done: KFP's namespace, a store with a bucket, a registry with the images."""
    nothing_set(monkeypatch, str(tmp_path))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "helm").write_text(HELM % str(kubeconfig))
    (programs / "helm").chmod(0o755)
    real = kubeconfig.parent / "bin" / "kubectl"
    (programs / "kubectl").symlink_to(real if real.exists() else subprocess.getoutput("command -v kubectl"))
    kubectl(kubeconfig, "create", "namespace", "kubeflow")
    for one in (workflows.CRD, OF_KFP):
        kubectl(kubeconfig, "-n", "kubeflow", "apply", "-f", "-", stdin=json.dumps(one))
    with kfp_server() as kfp, registry_server() as registry:
        registry.push("0.2.0")
        for name, value in {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "KUBECONFIG": str(kubeconfig),
            "KFP_ENDPOINT": kfp.address,
            "AWS_ENDPOINT_URL": s3_server["AWS_ENDPOINT_URL"],
            "AWS_REGION": s3_server["AWS_REGION"],
            "MEDMIM_IMAGE": f"{registry.address}/medmim:0.2.0",
            "MEDMIM_CUDA_IMAGE": f"{registry.address}/medmim-cuda:0.2.0",
            "MEDMIM_USER": "anna@example.org",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }.items():
            monkeypatch.setenv(name, value)
        try:
            yield tmp_path
        finally:
            with suppress(helm.HelmError), helm.Config(kubeconfig_path=kubeconfig, namespace="medmim") as release:
                release.uninstall("medmim")
            kubectl(kubeconfig, "delete", "namespace", *NAMESPACES, "--ignore-not-found", "--wait=false")


def as_the_store_would(config: str, server: dict[str, str]) -> None:
    """What SeaweedFS reads of its Secret when it starts, MinIO is told; and the bucket."""
    root = StaticProvider(server["AWS_ACCESS_KEY_ID"], server["AWS_SECRET_ACCESS_KEY"])
    address = server["AWS_ENDPOINT_URL"].removeprefix("http://")
    admin, told = MinioAdmin(endpoint=address, credentials=root, secure=False), json.loads(config)
    store = Minio(address, credentials=root, secure=False, region=server["AWS_REGION"])
    if not store.bucket_exists("medmim"):
        store.make_bucket("medmim")
    for policy in told["policies"]:
        admin.policy_add(policy["name"], policy=json.loads(policy["content"]))
    for one in told["identities"]:
        (key,) = one["credentials"]
        admin.user_add(key["accessKey"], key["secretKey"])
        admin.policy_set(*one["policyNames"], user=key["accessKey"])


def test_the_commands_of_the_page_run_in_its_order(
    machine: Path,
    kubeconfig: Path,
    s3_server: dict[str, str],
) -> None:
    scripts = [text for run, text in doc_commands.blocks("from-zero.md") if run]
    said, environment = "", dict(os.environ)
    for script in scripts:
        kept = machine / "environment"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{script}\nenv -0 >'{kept}'"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
        environment = dict(one.split("=", 1) for one in kept.read_text().split("\0") if one)
        if "s3_keys.py" in script:
            words = ("-n", "seaweedfs", "get", "secret", "seaweedfs-users", "-o", "json")
            found = json.loads(kubectl(kubeconfig, *words))["data"]["seaweedfs_s3_config"]
            as_the_store_would(base64.b64decode(found).decode(), s3_server)
    for line in ("pipeline  medmim-train", "run       demo-nightly-", "medmim-cuda@sha256:"):
        assert line in said, said
    settings = json.loads(kubectl(kubeconfig, "-n", "kubeflow", "get", "configmap", "medmim", "-o", "json"))["data"]
    values = yaml.safe_load((CHART / "examples" / "from-zero.yaml").read_text("utf-8"))
    assert settings["MEDMIM_IMAGE"] == f"{values['image']['repository']}:{values['image']['tag']}"
    assert settings["MEDMIM_CUDA_IMAGE"] == f"{values['image']['repository']}-cuda:{values['image']['tag']}"
    until(lambda: "medmim-mlflow" in kubectl(kubeconfig, "-n", "medmim", "get", "pods"))
