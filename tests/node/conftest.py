"""A cluster with a node where pods really run.

KUBECONFIG names one; else ../shared/cluster is started in a folder of its own, which takes root. MEDMIM_IMAGE is the
image, which must be on the node. Pods reach S3 at AWS_ENDPOINT_URL, by default where the kit's MinIO listens.
"""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.world import Namespace, kubectl_of

ROOT = Path(__file__).parents[2]
KIT = ROOT.parent / "shared" / "cluster"
IMAGE = os.environ.get("MEDMIM_IMAGE", "localhost/medmim:dev")
BRIDGE = "10.244.0.1"
S3 = {
    "AWS_ENDPOINT_URL": f"http://{BRIDGE}:19000",
    "AWS_ACCESS_KEY_ID": "medmim",
    "AWS_SECRET_ACCESS_KEY": "medmim-secret",
    "AWS_REGION": "us-east-1",
}


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Callable[..., str]]:
    """Calls kubectl on the cluster."""
    if os.environ.get("KUBECONFIG"):
        yield kubectl_of(Path(os.environ["KUBECONFIG"]))
        return
    folder = Path(tempfile.mkdtemp(prefix="medmim-node-"))
    try:
        yield kubectl_of(_start_kit(folder))
    finally:
        if KIT.exists():
            subprocess.run([KIT / "down", folder, "--wipe"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _start_kit(folder: Path) -> Path:
    missing = [name for name in ("runc", "iptables", "ip", "openssl") if shutil.which(name) is None]
    missing += ["../shared/cluster"] * (not (KIT / "node").exists()) + ["root"] * (os.geteuid() != 0)
    if missing:
        pytest.skip(f"no node: KUBECONFIG is not set, and to start one this is missing: {', '.join(missing)}")
    if Path("/sys/class/net/medkube0").exists():
        pytest.skip("no node: another kit's node runs on this machine; set KUBECONFIG to its admin.kubeconfig")
    for script, more in (("up", {"API_HOST": BRIDGE}), ("node", {}), ("minio", {"HOST": BRIDGE})):
        done = subprocess.run([KIT / script, folder], env=os.environ | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    archive = os.environ.get("MEDMIM_IMAGE_ARCHIVE")  # of `docker save` or `buildah push NAME docker-archive:FILE:NAME`
    if archive:
        ctr = [folder / "bin" / "ctr", "-a", folder / "containerd" / "sock", "-n", "k8s.io"]
        subprocess.run([*ctr, "images", "import", archive], check=True, capture_output=True)
    return folder / "admin.kubeconfig"


@pytest.fixture
def namespace(kubectl: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """A namespace for runs of a release that the chart installed, with a bucket of its own; removed afterwards."""
    with _namespace(kubectl, monkeypatch, tmp_path) as made:
        made.install()
        yield made


@pytest.fixture
def bare_namespace(kubectl: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """The same without MLflow."""
    with _namespace(kubectl, monkeypatch, None) as made:
        made.install_for_runs_only()
        yield made


@pytest.fixture
def empty_namespace(
    kubectl: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Namespace]:
    """The same before the chart is installed; MLflow's volume is the folder `mlflow` of `tmp_path`."""
    with _namespace(kubectl, monkeypatch, tmp_path) as made:
        yield made


@contextmanager
def _namespace(kubectl: Callable[..., str], monkeypatch: pytest.MonkeyPatch, disk: Path | None) -> Iterator[Namespace]:
    images = kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}").split()
    if IMAGE not in images:
        pytest.skip(f"no image {IMAGE} on the node: `make image-cuda`, import it (docs/image.md), set MEDMIM_IMAGE")
    for key, value in S3.items():
        monkeypatch.setenv(key, os.environ.get(key, value))
    name = f"medmim-node-{uuid.uuid4().hex[:6]}"
    made = Namespace(name, kubectl, kubectl.kubeconfig, IMAGE, bucket=name)  # type: ignore[attr-defined]
    try:
        made.prepare(disk)
        yield made
    finally:
        made.remove()
