"""The accounts of the chart have the rights that medmim uses on a cluster, and no others."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.cluster import kube
from medmim.cluster.kube import API, Kube
from medmim.cluster.ray import lease, runner
from medmim.cluster.ray import workflow as workflow_of
from medmim.cluster.ray.sweep import sweep
from medmim.errors import UserError
from tests.cluster.conftest import kubectl
from tests.support.chart import render
from tests.support.ray_jobs import Step, a_request, driver_succeeds, job_of, nothing_left, platform

pytestmark = pytest.mark.cluster

Verb = tuple[str, str, str]


def objects(account: str, namespace: str = "runs") -> list[dict[str, Any]]:
    """What the chart makes for an account of a namespace for runs."""
    kinds = ("ServiceAccount", "Role", "RoleBinding")
    found = [one for one in render({"runNamespaces": [{"name": namespace}]}) if one["kind"] in kinds]
    return [
        one
        for one in found
        if one["metadata"].get("namespace") == namespace and one["metadata"]["name"].startswith(account)
    ]


def granted(role: str) -> set[Verb]:
    rules = next(one for one in objects(role) if one["kind"] == "Role" and one["metadata"]["name"] == role)["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[Verb]:
    """The verbs that an account uses from now on; the administrator's own calls are left out."""
    seen: set[Verb] = set()
    call = Kube._retry

    def recorded(self: Kube, method: str, verb: str, kind: str, path: str, *more: Any) -> Any:
        if "Impersonate-User" in self.api.default_headers and kind != "version":  # every account may read it
            group = API[kind].split("/")[2] if API[kind].startswith("/apis") else ""
            seen.add((group, "pods/log" if path.partition("?")[0].endswith("/log") else kind, verb))
        return call(self, method, verb, kind, path, *more)

    monkeypatch.setattr(Kube, "_retry", recorded)
    return seen


def account(cluster: Kube, name: str) -> Kube:
    """The cluster as one of its service accounts sees it."""
    as_account = kube.connect(cluster.namespace)
    as_account.api.set_default_header("Impersonate-User", f"system:serviceaccount:{cluster.namespace}:{name}")
    return as_account


def give(kubeconfig: Path, cluster: Kube, name: str) -> None:
    """Apply an account with only the role of its own name: KFP's rules are for KFP."""
    wanted = [one for one in objects(name, cluster.namespace) if one["metadata"]["name"] == name]
    kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))


@pytest.fixture
def step_account(cluster: Kube, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    """Steps in this test run as medmim-step, with our own rules and none of KFP's."""
    give(kubeconfig, cluster, "medmim-step")
    as_step = account(cluster, "medmim-step")
    monkeypatch.setattr(runner, "connect", lambda namespace=None: as_step)
    yield as_step


def test_a_step_uses_exactly_what_its_role_grants(
    cluster: Kube,
    step_account: Kube,
    workflow: dict[str, Any],
    used: set[Verb],
    kubeconfig: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "the-step"},
        "spec": {"serviceAccountName": "medmim-step", "nodeSelector": {"no": "node"}, "containers": [{
            "name": "main", "image": "none", "securityContext": {
                "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }}]},
    }  # fmt: skip
    kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    monkeypatch.setenv("KFP_POD_NAME", "the-step")
    step = Step(a_request(), platform(cluster), tmp_path)
    driver_succeeds(job_of(cluster, "Running"))
    step.join(120)
    assert step.error is None
    assert workflow_of.terminated(step_account, [workflow]) == ""  # as on SIGTERM
    assert used == granted("medmim-step")


@pytest.mark.parametrize(
    "missing",
    [("ray.io", "rayjobs", "create"), ("coordination.k8s.io", "leases", "create"), ("", "events", "list")],
    ids=lambda verb: "-".join(verb),
)
def test_a_rule_that_is_missing_is_named(
    cluster: Kube, step_account: Kube, kubeconfig: Path, tmp_path: Path, missing: Verb
) -> None:
    group, resource, verb = missing
    role = next(one for one in objects("medmim-step", cluster.namespace) if one["kind"] == "Role")
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rule["verbs"].remove(verb)
    role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=yaml.safe_dump(role))
    with nothing_left(cluster):
        step = Step(a_request(), platform(cluster), tmp_path)
        step.join(120)
        assert isinstance(step.error, UserError)
        assert f"may not {verb} {resource}" in step.error.fact
        assert f'{{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}' in step.error.fix


def test_the_sweep_uses_exactly_what_its_role_grants(
    cluster: Kube, workflow: dict[str, Any], used: set[Verb], kubeconfig: Path, tmp_path: Path
) -> None:
    give(kubeconfig, cluster, "medmim-sweep")
    step = Step(a_request(), platform(cluster), tmp_path)
    job = job_of(cluster, "Running")
    name = job["metadata"]["name"]
    as_sweep = account(cluster, "medmim-sweep")
    cluster.patch("rayjobs", name, {"metadata": {"ownerReferences": [workflow]}})
    cluster.patch("workflows", workflow["name"], {"status": {"phase": "Succeeded"}})
    removed = {one.name for one in sweep(as_sweep)}
    step.join(120)
    assert removed == {name}
    assert used == granted("medmim-sweep")


def test_the_driver_uses_exactly_what_its_role_grants(
    cluster: Kube, used: set[Verb], kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(kubeconfig, cluster, "medmim-ray")
    as_head = account(cluster, "medmim-ray")
    monkeypatch.setattr(lease, "connect", lambda: as_head)
    stale = threading.Event()
    spec = {"leaseDurationSeconds": 2, "renewTime": "2020-01-01T00:00:00.000000Z"}
    cluster.create(
        "leases",
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "held"}, "spec": spec},
    )
    with lease.watched([lease.look_in_cluster("held")], lambda reason: stale.set(), 60):
        assert stale.wait(30)
    assert used == granted("medmim-ray")
