"""The doctor on clusters where the pods of a Ray job would lack a secret or an image, or would not be admitted."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kube import Kube
from tests.cluster.conftest import kubectl
from tests.cluster.doctor.world import MINIO, Doctor, only
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def test_missing_secret_key(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    change = '{"data": {"AWS_SECRET_ACCESS_KEY": null}}'
    kubectl(kubeconfig, "-n", cluster.namespace, "patch", "secret", "medmim-s3", "-p", change)
    check = only(good(exits=1), "secrets")
    assert check["found"] == "secret medmim-s3 has no key AWS_SECRET_ACCESS_KEY"


def test_missing_secrets_of_the_platform(good: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = [
        {"name": "a", "configMap": {"name": "kube-root-ca.crt"}},  # every namespace has it
        {"name": "b", "secret": {"secretName": "gone"}},
        {"name": "c", "secret": {"secretName": "not-there", "optional": True}},
    ]
    spec = {"imagePullSecrets": [{"name": "medmim-s3"}, {"name": "away"}], "volumes": volumes}
    monkeypatch.setenv("MEDMIM_PODS", json.dumps({"head": [{"spec": spec}]}))
    check = only(good(exits=1), "secrets")
    assert "medmim-s3 is not a registry secret; no pull secret away; no secret gone" in check["found"]
    assert "kube-root" not in check["found"] and "not-there" not in check["found"]


def test_workload_identity_needs_no_secret(
    good: Doctor, cluster: Kube, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "secret", "medmim-s3")
    assert only(good(exits=1), "secrets")["found"] == "no secret medmim-s3"
    monkeypatch.setenv("MEDMIM_PODS", "s3Secret: false")
    assert good(exits=0)["secrets"]["found"] == "none is referred to"


def test_missing_secret_of_kfp_and_the_command_that_copies_it(
    good: Doctor, cluster: Kube, kubeconfig: Path, kube_apply: Callable[..., None], tmp_path: Path
) -> None:
    """The fix is run as it is printed, from a namespace that has the Secret, and brings it whole."""
    kubectl(kubeconfig, "create", "namespace", "kubeflow")
    try:
        values = {"accesskey": "an id", "secretkey": "p$a's\"s"}
        literals = [f"--from-literal={key}={value}" for key, value in values.items()]
        kubectl(kubeconfig, "-n", "kubeflow", "create", "secret", "generic", MINIO, *literals)
        kubectl(kubeconfig, "-n", cluster.namespace, "delete", "secret", MINIO)
        check = only(good(exits=1), "launcher")
        assert check["found"].startswith(f"no secret {MINIO}")
        (tmp_path / "kubectl").symlink_to(kubeconfig.parent / "bin" / "kubectl")
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": str(kubeconfig)}
        subprocess.run(["sh", "-c", check["fix"]], env=env, check=True)
        found = json.loads(kubectl(kubeconfig, "-n", cluster.namespace, "get", "secret", MINIO, "-o", "json"))["data"]
        assert {key: base64.b64decode(value).decode() for key, value in found.items()} == values
        assert good(exits=0)["launcher"]["status"] == "ok"
    finally:
        kubectl(kubeconfig, "delete", "namespace", "kubeflow", "--wait=false")


def test_an_image_by_tag_is_a_warning(good: Doctor) -> None:
    check = good(pods={"image": "registry.example/medmim:1"}, exits=0)["image"]
    assert check["status"] == "warn" and "@sha256" in check["fix"]


def waiting_pod(name: str, image: str) -> dict[str, Any]:
    """A pod that fits no node."""
    security = {
        "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    spec = {
        "nodeSelector": {"no": "node"},
        "containers": [{"name": "main", "image": image, "securityContext": security}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_an_image_that_cannot_be_pulled(
    good: Doctor, cluster: Kube, kubeconfig: Path, kube_apply: Callable[..., None]
) -> None:
    """Simulated nodes pull nothing: what a kubelet would report is put into the status of a pod that fits no node."""
    image = "registry.example/medmim@sha256:" + "1" * 64
    kube_apply(waiting_pod("the-step", image))
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    reported = {"name": "main", "image": image, "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
    kubectl(
        kubeconfig, "-n", cluster.namespace, "patch", "pod", "the-step", "--subresource=status", "-p",
        json.dumps({"status": {"containerStatuses": [reported]}}),
    )  # fmt: skip
    check = only(good(pods={"image": image}, exits=1), "image")
    assert check["found"] == f"pod the-step cannot pull {image}; ImagePullBackOff: not found"
    assert good(exits=0)["image"]["status"] == "ok", "only the image that is configured counts"


def test_pods_that_are_not_admitted(good: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_PODS", json.dumps({"worker": [{"spec": {"priorityClassName": "no-such-class"}}]}))
    check = only(good(exits=1), "pods")
    assert "no-such-class" in check["found"]


def test_a_pod_that_exceeds_a_quota_is_refused_in_the_api_servers_words(
    good: Doctor, cluster: Kube, kubeconfig: Path, kube_apply: Callable[..., None]
) -> None:
    hard = {"requests.nvidia.com/gpu": "4"}
    kube_apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}})
    status = ("-n", cluster.namespace, "get", "resourcequota", "team", "-o", "jsonpath={.status}")
    until(lambda: "hard" in kubectl(kubeconfig, *status))
    found = only(good(exits=1), "pods")["found"]
    assert "worker: " in found and "exceeded quota: team" in found and "head: " not in found
    assert good(pods={"gpus": 4}, exits=0)["pods"]["status"] == "ok"


def test_the_nodes_and_their_gpus_are_reported(good: Doctor, kubeconfig: Path) -> None:
    assert good(exits=0)["nodes"]["found"] == "2 nodes, 16 GPUs NVIDIA-H100-80GB-HBM3"
    status = '{"status": {"allocatable": {"nvidia.com/gpu": "%s"}, "capacity": {"nvidia.com/gpu": "%s"}}}'
    for count, expected in ((0, "2 nodes, no GPU"), (8, "2 nodes, 16 GPUs NVIDIA-H100-80GB-HBM3")):
        for node in ("gpu-0", "gpu-1"):
            kubectl(kubeconfig, "patch", "node", node, "--subresource=status", "-p", status % (count, count))
        assert good(exits=0)["nodes"]["found"] == expected
