"""The doctor on clusters whose namespace, accounts, CRDs or operator are broken, each in one way."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.cluster.doctor import api
from medmim.cluster.kube import Kube
from medmim.cluster.pod_templates import PodTemplates
from medmim.errors import UserError
from medmim.recipe.schema import Platform
from tests.cluster.conftest import kubectl
from tests.cluster.doctor.world import Doctor, changed, only, run, served
from tests.cluster.test_accounts import objects
from tests.support import workflows
from tests.support.chart import named
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def test_no_namespace(good: Doctor) -> None:
    found = run("-n", "medmim-nowhere", exits=1)
    assert found["namespace"]["fix"].startswith("kubectl create namespace medmim-nowhere")
    assert found["crds"]["status"] == found["cluster"]["status"] == "ok", "the rest is still checked"


@pytest.mark.parametrize("level", ["privileged", None])
def test_wrong_pod_security_level(good: Doctor, cluster: Kube, kubeconfig: Path, level: str | None) -> None:
    label = "pod-security.kubernetes.io/enforce"
    kubectl(
        kubeconfig, "label", "--overwrite", "namespace", cluster.namespace, f"{label}={level}" if level else f"{label}-"
    )
    check = only(good(exits=1), "namespace")
    assert check["fix"] == f"kubectl label --overwrite namespace {cluster.namespace} {label}=restricted"
    kubectl(kubeconfig, *check["fix"].split()[1:])
    assert good(exits=0)["namespace"]["status"] == "ok", "the fix works"


def without(account: str, namespace: str, resource: str, verb: str) -> dict[str, Any]:
    """The Role of an account but for one verb."""
    role = named(objects(account, namespace), "Role", account, namespace)
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rule["verbs"].remove(verb)
    return {**role, "rules": [rule for rule in role["rules"] if rule["verbs"]]}


def test_missing_verb_of_the_sweep(good: Doctor, cluster: Kube, kube_apply: Callable[..., None]) -> None:
    kube_apply(without("medmim-sweep", cluster.namespace, "workflows", "get"))
    check = only(good(exits=1), "accounts")
    assert "medmim-sweep may not get workflows.argoproj.io" in check["found"]
    assert check["fix"].endswith('{apiGroups: ["argoproj.io"], resources: ["workflows"], verbs: [get]}')


def test_no_account_for_ray(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "serviceaccount", "medmim-ray")
    found = good(exits=1)
    assert "no service account medmim-ray" in only(found, "accounts", "pods")["found"]
    assert '"medmim-ray" not found' in found["pods"]["found"]


@pytest.fixture
def as_step(good: Doctor, cluster: Kube, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """The doctor as a step's account, with medmim's own rules and none of KFP's."""
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "rolebinding", "medmim-step-kfp")
    config = yaml.safe_load(kubectl(kubeconfig, "config", "view", "--raw", "--minify"))
    token = kubectl(kubeconfig, "-n", cluster.namespace, "create", "token", "medmim-step").strip()
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "step.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return good


def test_what_a_step_may_not_read_is_a_warning(as_step: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_IMAGE", "registry.example/medmim@sha256:" + "0" * 64)  # as in a step's pod
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    found = as_step(exits=1, store="s3://medmim-no-such-bucket/store")
    only(found, "store", "mlflow")
    unchecked = {name for name, check in found.items() if check["found"].startswith("not checked")}
    assert unchecked == {"namespace", "accounts", "settings", "secrets", "launcher", "pods", "nodes", "kfp"}
    assert {found[name]["status"] for name in unchecked} == {"warn"}
    assert "medmim-step has all rights that medmim-step needs" in found["account"]["found"]
    assert found["kuberay"]["status"] == "ok"


def test_missing_verb_of_the_acting_account(as_step: Doctor, cluster: Kube, kube_apply: Callable[..., None]) -> None:
    kube_apply(without("medmim-step", cluster.namespace, "leases", "patch"))
    check = as_step(exits=1)["account"]
    assert check["status"] == "fail" and "may not patch leases.coordination.k8s.io" in check["found"]
    assert 'resources: ["leases"], verbs: [patch]' in check["fix"]


def test_crd_absent(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "delete", "crd", "workflows.argoproj.io")
    until(lambda: not served(cluster, "argoproj.io/v1alpha1"))
    check = only(good(exits=1), "crds")
    assert check["found"] == "no Workflow of argoproj.io/v1alpha1"
    assert "Kubeflow Pipelines 2.17" in check["fix"]


def test_crd_of_another_version(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "delete", "crd", "workflows.argoproj.io")
    other = json.loads(json.dumps(workflows.CRD))
    other["spec"]["versions"][0]["name"] = "v2"
    kubectl(kubeconfig, "apply", "-f", "-", stdin=json.dumps(other))
    try:
        until(lambda: served(cluster, "argoproj.io/v2") and not served(cluster, "argoproj.io/v1alpha1"))
        assert only(good(exits=1), "crds")["found"] == "no Workflow of argoproj.io/v1alpha1; the group has v2"
    finally:
        kubectl(kubeconfig, "delete", "crd", "workflows.argoproj.io")


def test_a_kuberay_without_token_authentication(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    def older(crd: dict[str, Any]) -> None:
        for version in crd["spec"]["versions"]:
            cluster = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].get("rayClusterSpec")
            (cluster or {"properties": {}})["properties"].pop("authOptions", None)

    with changed(kubeconfig, "crd", "rayjobs.ray.io", older):
        until(lambda: not accepts_our_job(cluster))  # the API server takes a moment to serve the older one
        check = only(good(exits=1), "kuberay")
    assert 'unknown field "spec.rayClusterSpec.authOptions"' in check["found"]
    assert check["fix"].startswith("upgrade KubeRay")
    until(lambda: accepts_our_job(cluster))


def accepts_our_job(cluster: Kube) -> bool:
    try:
        return api.kuberay(cluster, Platform(), PodTemplates(), None).status == "ok"
    except UserError:
        return False


def test_no_operator_running(good: Doctor, kubeconfig: Path) -> None:
    operator = int((kubeconfig.parent / "kuberay.pid").read_text())
    os.kill(operator, signal.SIGSTOP)
    try:
        check = only(good(exits=1), "kuberay")
    finally:
        os.kill(operator, signal.SIGCONT)
    assert "operator did not reconcile a new RayJob" in check["found"] and "kuberay-operator" in check["fix"]
