"""A real control plane with KubeRay's operator and simulated GPU nodes, for as long as the tests run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster import kube
from medmim.cluster.kube import Kube
from tests.support import workflows
from tests.support.ray_jobs import on_simulated
from tests.support.waiting import until

FIXED = (10257, 10259)  # of the kit's controller-manager and scheduler
KIT = Path(__file__).parents[3] / "shared" / "cluster"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def taken(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    if not (KIT / "up").exists() or shutil.which("openssl") is None:
        pytest.skip("no cluster: ../shared/cluster (or openssl) is missing")
    if any(taken(port) for port in FIXED):
        pytest.skip("no cluster: another control plane runs on this machine, and its scheduler's ports are fixed")
    folder = Path(tempfile.mkdtemp(prefix="medmim-kit-"))
    ports = {name: str(free_port()) for name in ("ETCD_PORT", "ETCD_PEER_PORT", "API_PORT")}
    try:
        started = subprocess.run(
            [_kit_whose_submitters_run_on(folder / "kit") / "up", folder],
            env=os.environ | ports | {"API_HOST": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
        assert started.returncode == 0, started.stdout + started.stderr
        yield folder / "admin.kubeconfig"
    finally:
        _end(folder)


def _kit_whose_submitters_run_on(folder: Path) -> Path:
    """The kit but for one stage: its simulated nodes end a submitter at once, and KubeRay calls the job failed."""
    shutil.copytree(KIT, folder, ignore=shutil.ignore_patterns("*.tar*"))
    for archive in KIT.glob("*.tar*"):
        (folder / archive.name).symlink_to(archive)
    stages = (KIT / "stages.yaml").read_text().split("\n---\n")
    for path in (folder, folder / "stages.yaml"):
        path.chmod(0o755)
    (folder / "stages.yaml").write_text("\n---\n".join(stage for stage in stages if "name: pod-complete" not in stage))
    return folder


def _end(folder: Path) -> None:
    """By their pids. Not by the kit's `down`: it also removes the bridge that the node of another kit may use."""
    for file in folder.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    """A namespace of the test's own, that enforces the restricted Pod Security Standard."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("MEDMIM_PODS", on_simulated())  # as in a step's pod
    monkeypatch.setenv("MEDMIM_IMAGE", "registry.invalid/medmim@sha256:" + "0" * 64)
    name = f"medmim-{uuid.uuid4().hex[:8]}"
    kubectl(kubeconfig, "create", "namespace", name)
    kubectl(kubeconfig, "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    kubectl(kubeconfig, "-n", name, "create", "serviceaccount", "medmim-ray")
    yield kube.connect(name)
    kubectl(kubeconfig, "delete", "namespace", name, "--wait=false")


@pytest.fixture
def workflow(cluster: Kube, kubeconfig: Path) -> dict[str, Any]:
    """A run's Workflow, as an owner reference."""
    kubectl(kubeconfig, "apply", "-f", "-", stdin=json.dumps(workflows.CRD))
    kubectl(kubeconfig, "wait", "--for=condition=Established", "crd/workflows.argoproj.io", "--timeout=30s")
    made = until(lambda: cluster.create("workflows", workflows.workflow("run")))
    return {"apiVersion": made["apiVersion"], "kind": "Workflow", "name": "run", "uid": made["metadata"]["uid"]}


def kubectl(kubeconfig: Path, *words: str, stdin: str | None = None) -> str:
    """What kubectl prints; fails the test where it fails."""
    binary = kubeconfig.parent / "bin" / "kubectl"
    ended = subprocess.run(
        [str(binary) if binary.exists() else "kubectl", "--kubeconfig", str(kubeconfig), *words],
        capture_output=True,
        text=True,
        input=stdin,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
