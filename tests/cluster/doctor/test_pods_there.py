"""The doctor on clusters where the pods of a Ray job would lack a secret, an image, room or a volume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kube import Kube
from tests.charts.chart import named, render
from tests.cluster.conftest import kubectl
from tests.cluster.doctor.world import Doctor, only
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def test_missing_secret_key(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    change = '{"data": {"AWS_SECRET_ACCESS_KEY": null}}'
    kubectl(kubeconfig, "-n", cluster.namespace, "patch", "secret", "medmim-s3", "-p", change)
    check = only(good(exits=1), "secrets")
    assert check["found"] == "secret medmim-s3 has no key AWS_SECRET_ACCESS_KEY"


def test_missing_secrets_of_the_recipe(good: Doctor) -> None:
    pods = {"tracking_secret": "ours", "pull_secrets": ["medmim-s3", "away"], "ca_config_map": "kube-root-ca.crt"}
    check = only(good(pods=pods, exits=1), "secrets")
    assert "no secret ours; medmim-s3 is no secret of a registry; no pull secret away" in check["found"]
    assert "ConfigMap" not in check["found"], "every namespace has kube-root-ca.crt"


def test_workload_identity_needs_no_secret(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "secret", "medmim-s3")
    assert only(good(exits=1), "secrets")["found"] == "no secret medmim-s3"
    assert good(pods={"s3_secret": None}, exits=0)["secrets"]["found"] == "none is referred to"


def test_an_image_by_tag_is_a_warning(good: Doctor) -> None:
    check = good(pods={"image": "registry.example/medmim:1"}, exits=0)["image"]
    assert check["status"] == "warn" and "@sha256" in check["fix"]


def waiting_pod(name: str, image: str) -> dict[str, Any]:
    """A pod that no node will ever have."""
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
    """Simulated nodes pull nothing: the kubelet's word is put into the status of a pod that waits for no node."""
    image = "registry.example/medmim@sha256:" + "1" * 64
    kube_apply(waiting_pod("the-step", image))
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    said = {"name": "main", "image": image, "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
    kubectl(
        kubeconfig, "-n", cluster.namespace, "patch", "pod", "the-step", "--subresource=status", "-p",
        json.dumps({"status": {"containerStatuses": [said]}}),
    )  # fmt: skip
    check = only(good(pods={"image": image}, exits=1), "image")
    assert check["found"] == f"pod the-step cannot pull {image}; ImagePullBackOff: not found"
    assert good(exits=0)["image"]["status"] == "ok", "another image is none of its business"


def test_pods_that_are_not_let_in(good: Doctor) -> None:
    check = only(good(pods={"priority": "no-such-class"}, exits=1), "pods")
    assert "no-such-class" in check["found"]


def test_a_quota_that_a_job_never_fits(good: Doctor, kubeconfig: Path, kube_apply: Callable[..., None]) -> None:
    hard = {"requests.nvidia.com/gpu": "8", "pods": "50"}
    kube_apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}})
    check = only(good(exits=1), "quota")
    assert (
        "team: requests.nvidia.com/gpu 16 wanted" in check["found"] and "pods" not in check["found"].split("wanted")[0]
    )
    assert good(workers=8, exits=0)["quota"]["status"] == "ok"


def test_a_quota_that_is_used_up_is_a_warning(good: Doctor, kube_apply: Callable[..., None], kubeconfig: Path) -> None:
    hard = {"count/pods": "17", "count/rayjobs.ray.io": "5"}
    kube_apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}})
    assert good(exits=0)["quota"]["found"] == "team: room for a Ray job"
    kube_apply(*(waiting_pod(f"pod-{number}", "none") for number in range(14)))
    check = until(lambda: (found := good(exits=0)["quota"])["status"] == "warn" and found)
    assert "count/pods 4 wanted, 14 of 17 used" in check["found"] and "rayjobs" not in check["found"]


def test_no_gpu_nodes(good: Doctor, kubeconfig: Path) -> None:
    gone = '{"status": {"allocatable": {"nvidia.com/gpu": "%s"}, "capacity": {"nvidia.com/gpu": "%s"}}}'
    for count in (0, 8):
        for node in ("gpu-0", "gpu-1"):
            kubectl(kubeconfig, "patch", "node", node, "--subresource=status", "-p", gone % (count, count))
        if not count:
            found = good(exits=1)
            check = only(found, "nodes")
            assert check["found"].startswith("2 nodes, no GPU: room for 0 of 2 worker pods")
            assert "too small for" in check["found"] and "device plugin" in check["fix"]
            assert good(pods={"gpus": 0}, exits=0)["nodes"]["status"] == "warn"


def test_gpus_of_another_kind(good: Doctor) -> None:
    check = only(good(pods={"accelerator": "NVIDIA-B200"}, exits=1), "nodes")
    assert "nvidia.com/gpu.product is NVIDIA-H100-80GB-HBM3, not NVIDIA-B200" in check["found"]


def test_no_default_storage_class(
    good: Doctor, cluster: Kube, kubeconfig: Path, kube_apply: Callable[..., None]
) -> None:
    kubectl(kubeconfig, "delete", "storageclass", "standard")
    assert good(exits=0)["storage"]["status"] == "warn", "nobody waits for one"
    kube_apply(named(render({}, cluster.namespace), "PersistentVolumeClaim", "medmim-mlflow", cluster.namespace))
    check = only(good(exits=1), "storage")
    assert "medmim-mlflow waits for one" in check["found"]
