"""Every pod of the chart passes the restricted Pod Security Standard, and no secret is written anywhere."""

import copy
import json
from collections.abc import Callable

import pytest

from tests.support.chart import PLATFORM, VALUES, Object, containers, named, pods, rendered

# Pods that hold a token of their account: those that call the API server.
TOKENS = {"medmim-sweep", "medmim-check-access"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
CASES = [
    pytest.param(at, metadata, spec, id=f"{name}-{at}-{number}")
    for name in VALUES
    for number, (at, metadata, spec) in enumerate(pods(rendered(name)))
]


def faults(spec: Object) -> list[str]:
    """Where a pod fails the restricted standard, and what we ask beyond it.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    found = []
    whole = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            found.append(key)
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [f"volume {one['name']}" for one in spec["volumes"] if not set(one) - {"name"} <= allowed]
    for one in containers(spec):
        own = one.get("securityContext", {})
        checks = {
            "runs as root": whole.get("runAsNonRoot") is True and whole.get("runAsUser", 1) > 0,
            "seccomp": whole.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "escalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "privileged": not own.get("privileged"),
            "host port": not any("hostPort" in port for port in one.get("ports", [])),
            "writable root": own.get("readOnlyRootFilesystem") is True,
            "no requests": {"cpu", "memory"} <= set(one["resources"].get("requests", {})),
            "no limits": {"cpu", "memory"} <= set(one["resources"].get("limits", {})),
            "no tmp": "/tmp" in {mount["mountPath"] for mount in one["volumeMounts"]},
        }
        found += [f"{one['name']}: {what}" for what, good in checks.items() if not good]
    if "automountServiceAccountToken" not in spec:
        found.append("token by default")
    if spec.get("enableServiceLinks") is not False:
        found.append("service links")
    return found


@pytest.mark.parametrize(("at", "metadata", "spec"), CASES)
def test_a_pod_is_restricted_and_holds_a_token_only_where_it_needs_one(at: str, metadata: Object, spec: Object) -> None:
    assert faults(spec) == []
    assert spec["automountServiceAccountToken"] == (at.split("/")[1] in TOKENS)
    assert {"app.kubernetes.io/name", "app.kubernetes.io/component"} <= set(metadata["labels"])


def _root(spec: Object) -> None:
    spec["securityContext"]["runAsUser"] = 0


def _writable(spec: Object) -> None:
    del spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def _host_path(spec: Object) -> None:
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


def _init_escalates(spec: Object) -> None:
    spec["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = True


def _token(spec: Object) -> None:
    del spec["automountServiceAccountToken"]


@pytest.mark.parametrize("worse", [_root, _writable, _host_path, _init_escalates, _token])
def test_a_less_restricted_pod_is_detected(worse: Callable[[Object], None]) -> None:
    spec = copy.deepcopy(named(rendered("laptop"), "Deployment", "medmim-mlflow")["spec"]["template"]["spec"])
    worse(spec)
    assert faults(spec)


@pytest.mark.parametrize("name", VALUES)
def test_secrets_are_referred_to_and_never_written(name: str) -> None:
    assert not [one for one in rendered(name) if one["kind"] == "Secret"]
    secretive = ("PASSWORD", "SECRET", "ACCESS_KEY", "USERNAME", "TOKEN")
    for _, _, spec in pods(rendered(name)):
        for container in containers(spec):
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in secretive):
                    assert set(variable) == {"name", "valueFrom"} and "secretKeyRef" in variable["valueFrom"]
    for one in rendered(name):
        if one["kind"] == "ConfigMap":
            assert not [key for key in one["data"] if any(word in key for word in secretive)]


@pytest.mark.parametrize("name", VALUES)
def test_no_step_can_read_the_promoters_secrets(name: str) -> None:
    """A step may read every Secret of its namespace, since KFP requires that right; so they are in another."""
    objects = rendered(name)
    runs = {one["metadata"].get("namespace") for one in objects} - {PLATFORM, None}
    guarded = {"medmim-promoter-s3", "medmim-promoter-mlflow", "medmim-mlflow-admin", "medmim-mlflow-db", "db"}
    guarded |= {"medmim-inference-s3", "medmim-inference-mlflow", "medmim-inference-tokens"}
    guarded |= {"medmim-console-s3", "medmim-console-mlflow", "medmim-console-tokens"}
    for one in objects:
        if one["metadata"].get("namespace") in runs:
            assert not [secret for secret in guarded if f'"{secret}"' in json.dumps(one)]
        if one["kind"] == "RoleBinding" and one["metadata"]["name"] == "medmim-promotion":  # people's, by value
            role = named(objects, "Role", "medmim-promotion")
            assert "secrets" not in {kind for rule in role["rules"] for kind in rule["resources"]}
        elif one["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            assert one["kind"] == "RoleBinding" and one["metadata"]["namespace"] in runs
            if one["metadata"]["name"] == "medmim-nightly":  # from outside, with rights in KFP only
                role = named(objects, "Role", "medmim-nightly", one["metadata"]["namespace"])
                assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {"pipelines.kubeflow.org"}
                continue
            assert {subject["namespace"] for subject in one["subjects"]} == {one["metadata"]["namespace"]}
    holding = [spec for _, _, spec in pods(objects) if "medmim-promoter-" in json.dumps(spec["containers"])]
    holders = {spec["serviceAccountName"] for spec in holding}
    console = VALUES[name].get("console", {}).get("promotion", {}).get("enabled")
    assert holders <= {"medmim-promoter", *(["medmim-console"] if console else [])}
