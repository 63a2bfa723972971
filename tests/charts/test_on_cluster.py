"""The chart on a real API server, with simulated nodes: admitted, applied, upgraded, rolled back, uninstalled."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.cluster import pod_templates
from medmim.cluster.ray.pods import head, submitter, worker
from medmim.recipe.pods import Pods
from tests.charts.network import Pod, about
from tests.cluster.conftest import kubectl
from tests.support.chart import CHART, VALUES, Object, helm, named, render
from tests.support.chart_scripts import helm_test
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

ON_SIMULATED = {
    "nodeSelector": {"type": "simulated"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
}
KINDS = (
    "deployments,jobs,cronjobs,pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,"
    "persistentvolumeclaims,ingresses,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers"
)
STEP_MAY = [
    ("get", "rayjobs.ray.io"), ("create", "rayjobs.ray.io"), ("delete", "rayjobs.ray.io"),
    ("create", "leases"), ("patch", "leases"), ("get", "pods"), ("list", "pods"), ("list", "events"),
]  # fmt: skip
NO_ACCOUNT_MAY = [
    ("create", "rolebindings"), ("escalate", "roles"), ("impersonate", "serviceaccounts"),
    ("delete", "networkpolicies"), ("update", "configmaps"), ("delete", "leases"), ("patch", "rayjobs.ray.io"),
]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Two namespaces of the test's own, one for the release, one for runs, and requests about them."""

    kubeconfig: Path
    name: str

    @property
    def runs(self) -> str:
        return f"{self.name}-runs"

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return kubectl(self.kubeconfig, *words, stdin=stdin)

    def release(self) -> Any:
        return helm.Config(kubeconfig_path=self.kubeconfig, namespace=self.name)

    def values(self, **more: Any) -> Object:
        mlflow = {**ON_SIMULATED, "volume": {"size": "1Gi"}}
        return {"runNamespaces": [{"name": self.runs, "create": True}], "mlflow": mlflow, "jobs": ON_SIMULATED, **more}

    def ours(self) -> set[str]:
        """What carries the chart's label, in both namespaces."""
        found = set()
        for namespace in (self.name, self.runs):
            listed = json.loads(
                self.kubectl("-n", namespace, "get", KINDS, "-l", "app.kubernetes.io/name=medmim", "-o", "json")
            )
            found |= {f"{one['kind']}/{one['metadata']['name']}" for one in listed["items"]}
        return found

    def may(self, account: str, verb: str, resource: str, namespace: str) -> bool:
        """Whether an account of the run namespace may do that: the API server's own answer."""
        who = f"system:serviceaccount:{self.runs}:{account}"
        binary = self.kubeconfig.parent / "bin" / "kubectl"
        command = [
            binary,
            "--kubeconfig",
            self.kubeconfig,
            "-n",
            namespace,
            "auth",
            "can-i",
            verb,
            resource,
            "--as",
            who,
        ]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() == "yes"


@pytest.fixture
def place(kubeconfig: Path) -> Iterator[Place]:
    made = Place(kubeconfig, f"medmim-{uuid.uuid4().hex[:6]}")
    made.kubectl("create", "namespace", made.name)
    made.kubectl("label", "namespace", made.name, "pod-security.kubernetes.io/enforce=restricted")
    secret = ["create", "secret", "generic", "medmim-s3", "--from-literal=AWS_ACCESS_KEY_ID=a"]
    made.kubectl("-n", made.name, *secret, "--from-literal=AWS_SECRET_ACCESS_KEY=b")
    claim = {"namespace": made.name, "name": "medmim-mlflow"}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "claimRef": claim,
        "hostPath": {"path": "/x"},
    }
    disk = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": made.name}, "spec": spec}
    made.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(disk))
    yield made
    made.kubectl("delete", "namespace", made.name, made.runs, "--ignore-not-found", "--wait=false")
    made.kubectl("delete", "persistentvolume", made.name, "--wait=false")


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_accepts_every_object_in_restricted_namespaces(place: Place, name: str) -> None:
    """A server-side dry run, with admission: what is not restricted is refused (pods) or warned about (Deployments)."""
    renamed = json.loads(json.dumps(VALUES[name]))
    made = [f"{place.name}-{i}" for i, _ in enumerate(renamed.get("runNamespaces", []))]
    for name, one in zip(made, renamed.get("runNamespaces", []), strict=True):
        one["name"] = name
    if renamed.get("promotion", {}).get("kfpNamespace"):
        renamed["promotion"]["kfpNamespace"] = f"{place.name}-promoters"
        made.append(f"{place.name}-promoters")
    for name in made:
        place.kubectl("create", "namespace", name)
        for kind in ("enforce", "warn"):
            place.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/{kind}=restricted")
    place.kubectl("label", "namespace", place.name, "pod-security.kubernetes.io/warn=restricted")
    # Prometheus' operator is not there; its objects are validated against their CRDs in test_render.py.
    absent = ("ServiceMonitor", "PrometheusRule", "Namespace")
    objects = [one for one in render(renamed, place.name) if one["kind"] not in absent]
    objects += [one for run in renamed.get("runNamespaces", []) for one in _ray_pods(objects, run["name"])]
    for kind, of in (("PriorityClass", {"value": 1}), ("RuntimeClass", {"handler": "runc"})):  # examples name these
        group = "scheduling.k8s.io/v1" if kind == "PriorityClass" else "node.k8s.io/v1"
        body = {
            "apiVersion": group,
            "kind": kind,
            "metadata": {"name": "medmim" if of.get("value") else "nvidia"},
            **of,
        }
        place.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
    accounts = [one for one in objects if one["kind"] == "ServiceAccount"]  # a pod's must be there
    place.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(accounts))
    binary = place.kubeconfig.parent / "bin" / "kubectl"
    done = subprocess.run(
        [binary, "--kubeconfig", place.kubeconfig, "apply", "--server-side", "--dry-run=server", "-f", "-"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
    )
    for name in made:
        place.kubectl("delete", "namespace", name, "--wait=false")
    assert done.returncode == 0, done.stderr
    assert "violate" not in done.stderr
    assert done.stdout.count("serverside-applied") == len(objects)


def _ray_pods(objects: list[Object], namespace: str) -> list[Object]:
    """Those that a step would make there, as the settings of the namespace want them."""
    told = pod_templates.parse(named(objects, "ConfigMap", "medmim", namespace)["data"][pod_templates.SETTING])
    asked = Pods(gpus=1)
    made = {
        "head": head(asked, told, "registry.example/medmim", "lease"),
        "worker": worker(asked, told, "registry.example/medmim"),
        "submitter": submitter(asked, told, "registry.example/medmim"),
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**one["metadata"], "name": f"ray-{role}", "namespace": namespace},
            "spec": one["spec"],
        }
        for role, one in made.items()
    ]


def test_it_is_installed_upgraded_rolled_back_and_uninstalled_but_for_what_is_kept(place: Place) -> None:
    with place.release() as release:
        release.install(CHART, "medmim", place.values(), namespace=place.name, wait="watcher", timeout=120)
        disk = json.loads(place.kubectl("-n", place.name, "get", "pvc", "medmim-mlflow", "-o", "json"))
        job = _ray_job(place)

        place.kubectl("-n", place.runs, "create", "job", "now", "--from=cronjob/medmim-sweep")
        until(lambda: "sweep" in place.kubectl("-n", place.runs, "get", "pods", "-l", "job-name=now", "-o", "yaml"))

        release.upgrade(
            CHART, "medmim", place.values(patienceSeconds=60), namespace=place.name, wait="watcher", timeout=120
        )
        assert _setting(place, "MEDMIM_PATIENCE") == "60"
        release.rollback("medmim", version=1, wait="watcher", timeout=120)
        assert _setting(place, "MEDMIM_PATIENCE") == "300"
        after = json.loads(place.kubectl("-n", place.runs, "get", "rayjob", "kept", "-o", "json"))
        for key in ("uid", "generation"):
            assert after["metadata"][key] == job["metadata"][key]

        release.uninstall("medmim", wait="watcher", timeout=120)
        place.kubectl("-n", place.runs, "delete", "job", "now", "--ignore-not-found")
        until(lambda: place.ours() == {"PersistentVolumeClaim/medmim-mlflow"}, 60, f"the end of {place.ours()}")
        assert place.kubectl("get", "namespace", place.runs, "-o", "name").strip() == f"namespace/{place.runs}"

        release.install(CHART, "medmim", place.values(), namespace=place.name, wait="watcher", timeout=120)
        again = json.loads(place.kubectl("-n", place.name, "get", "pvc", "medmim-mlflow", "-o", "json"))
        assert again["metadata"]["uid"] == disk["metadata"]["uid"]
        release.uninstall("medmim")


def test_pods_of_the_model_server_are_admitted_in_a_restricted_namespace_and_replaced_one_by_one(place: Place) -> None:
    """Simulated nodes: the pods are admitted, scheduled and started; no process runs in them."""
    secret = ["create", "secret", "generic"]
    for name, key in (("medmim-inference-s3", "AWS_ACCESS_KEY_ID"), ("tokens", "tokens")):
        place.kubectl("-n", place.name, *secret, name, f"--from-literal={key}=a-token-of-a-program")
    asked = {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": 1},
    }
    inference = {
        **ON_SIMULATED, "enabled": True, "model": "models:/mine@champion", "replicas": 2, "resources": asked,
        "access": {"tokensSecret": "tokens"},
    }  # fmt: skip
    chosen = ("-n", place.name, "get", "pods", "-l", "app.kubernetes.io/component=inference", "-o", "json")

    def running(seconds: int) -> list[Object]:
        found = json.loads(place.kubectl(*chosen))["items"]
        there = [one for one in found if "deletionTimestamp" not in one["metadata"]]
        new = [one for one in there if f"--seconds={seconds}" in one["spec"]["containers"][0]["args"]]
        return new if [one["status"]["phase"] for one in new] == ["Running"] * 2 else []

    with place.release() as release:
        release.install(
            CHART, "medmim", place.values(inference=inference), namespace=place.name, wait="watcher", timeout=120
        )
        for pod in until(lambda: running(120), 60, "two replicas"):
            assert pod["spec"]["serviceAccountName"] == "medmim-inference"
            assert not [one for one in pod["spec"]["volumes"] if "projected" in one], "no token of the API server"
        assert until(lambda: _allowed(place) == 1, 60, "a replica that a drain may take")
        scaled = {"enabled": True, "minReplicas": 2}  # without `replicas`, Kubernetes begins with one
        shorter = place.values(inference={**inference, "requestSeconds": 30, "autoscaling": scaled})
        release.upgrade(CHART, "medmim", shorter, namespace=place.name, wait="watcher", timeout=120)
        until(lambda: running(30), 60, "the replicas of the upgrade")
        scaler = json.loads(place.kubectl("-n", place.name, "get", "hpa", "medmim-inference", "-o", "json"))
        assert scaler["spec"]["scaleTargetRef"]["name"] == "medmim-inference"
        release.upgrade(CHART, "medmim", place.values(), namespace=place.name, timeout=120)
        until(lambda: not [one for one in place.ours() if "inference" in one], 60, "the end of the server")
        release.uninstall("medmim")


def test_the_console_is_admitted_in_a_restricted_namespace_with_the_keys_that_its_values_say(place: Place) -> None:
    """Simulated nodes, as above."""
    secret = ["create", "secret", "generic"]
    for name, key in (
        ("medmim-console-s3", "AWS_ACCESS_KEY_ID"),
        ("medmim-promoter-s3", "AWS_ACCESS_KEY_ID"),
        ("people", "tokens"),
    ):
        place.kubectl("-n", place.name, *secret, name, f"--from-literal={key}=ann a-token-of-a-promoter")
    asked = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    console = {**ON_SIMULATED, "enabled": True, "resources": asked}
    chosen = ("-n", place.name, "get", "pods", "-l", "app.kubernetes.io/component=console", "-o", "json")

    def running(holding: str) -> list[Object]:
        found = json.loads(place.kubectl(*chosen))["items"]
        there = [one for one in found if one["status"]["phase"] == "Running" and holding in json.dumps(one["spec"])]
        return there if len(found) == len(there) == 1 else []

    with place.release() as release:
        release.install(
            CHART, "medmim", place.values(console=console), namespace=place.name, wait="watcher", timeout=120
        )
        (pod,) = until(lambda: running("medmim-console-s3"), 60, "a console that reads")
        assert pod["spec"]["serviceAccountName"] == "medmim-console"
        assert not [one for one in pod["spec"]["volumes"] if "projected" in one], "no token of the API server"
        promotes = place.values(console={**console, "promotion": {"enabled": True, "tokensSecret": "people"}})
        release.upgrade(CHART, "medmim", promotes, namespace=place.name, wait="watcher", timeout=120)
        until(lambda: running("medmim-promoter-s3"), 60, "a console that promotes, alone")
        release.upgrade(CHART, "medmim", place.values(), namespace=place.name, timeout=120)
        until(lambda: not [one for one in place.ours() if "console" in one], 60, "the end of the console")
        release.uninstall("medmim")


def test_each_account_has_its_rights_and_no_others(place: Place) -> None:
    with place.release() as release:
        release.install(CHART, "medmim", place.values(), namespace=place.name)
        for verb, resource in STEP_MAY:
            assert place.may("medmim-step", verb, resource, place.runs), (verb, resource)
        for account in ("medmim-step", "medmim-ray", "medmim-sweep"):
            for verb, resource in NO_ACCOUNT_MAY:
                assert not place.may(account, verb, resource, place.runs), (account, verb, resource)
            for verb, resource in (("get", "secrets"), ("create", "pods"), ("get", "configmaps"), ("list", "pods")):
                assert not place.may(account, verb, resource, place.name), (account, verb, resource)
        assert place.may("medmim-ray", "get", "leases", place.runs)
        assert not place.may("medmim-ray", "list", "pods", place.runs)
        assert place.may("medmim-sweep", "delete", "rayjobs.ray.io", place.runs)
        assert not place.may("medmim-sweep", "create", "rayjobs.ray.io", place.runs)
        assert not place.may("medmim-sweep", "get", "secrets", place.runs)
        release.uninstall("medmim")


def test_kuberays_pods_carry_the_labels_that_the_policies_select(place: Place) -> None:
    with place.release() as release:
        release.install(CHART, "medmim", place.values(), namespace=place.name)
        _ray_job(place)
        policies = json.loads(place.kubectl("-n", place.runs, "get", "networkpolicies", "-o", "json"))["items"]

        def pods() -> list[Object]:
            listed = json.loads(place.kubectl("-n", place.runs, "get", "pods", "-o", "json"))["items"]
            return listed if len(listed) == 2 else []

        chosen = set()
        for pod in until(pods, 120, "head and submitter"):
            here = Pod(place.runs, pod["metadata"]["labels"])
            chosen.add(tuple(sorted(one["metadata"]["name"] for one in about(policies, here, "Egress"))))
        assert chosen == {("medmim-ray", "medmim-ray-head"), ("medmim-ray",)}
        release.uninstall("medmim")


def test_helm_tests_check_of_rights_passes_as_a_step_and_reports_what_is_wrong(place: Place, tmp_path: Path) -> None:
    with place.release() as release:
        release.install(CHART, "medmim", place.values(), namespace=place.name)
        as_step = yaml.safe_load(place.kubeconfig.read_text())
        token = place.kubectl("-n", place.runs, "create", "token", "medmim-step").strip()
        as_step["users"][0]["user"] = {"token": token}
        as_step["contexts"][0]["context"]["namespace"] = place.runs
        config = tmp_path / "kubeconfig"
        config.write_text(yaml.safe_dump(as_step))
        pod = named(render(place.values(), place.name), "Pod", "medmim-check-access", place.runs)

        done = helm_test(pod, KUBECONFIG=str(config))
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("ok    ") == 2 and "5 rights are denied" in done.stdout
        place.kubectl("-n", place.runs, "delete", "rolebinding", "medmim-step", "medmim-step-kfp")
        everything = ["create", "rolebinding", "too-much", "--clusterrole=admin"]
        place.kubectl("-n", place.name, *everything, f"--serviceaccount={place.runs}:medmim-step")
        done = helm_test(pod, KUBECONFIG=str(config))
        assert done.returncode == 2
        account, denied = done.stdout.splitlines()
        assert account.startswith("fail  account") and "create rayjobs.ray.io" in account and place.runs in account
        assert denied.startswith("fail  denied") and f"it may get secrets in {place.name}" in denied
        release.uninstall("medmim")


def test_a_release_with_an_existing_namespace_makes_none(place: Place) -> None:
    place.kubectl("create", "namespace", place.runs)
    values = place.values() | {"runNamespaces": [{"name": place.runs}]}
    with place.release() as release:
        release.install(CHART, "medmim", values, namespace=place.name)
        assert place.kubectl("-n", place.runs, "get", "serviceaccount", "medmim-step", "-o", "name")
        release.uninstall("medmim")
    assert place.kubectl("get", "namespace", place.runs, "-o", "name").strip()


def _allowed(place: Place) -> int:
    """How many replicas a drain may take now."""
    found = json.loads(place.kubectl("-n", place.name, "get", "pdb", "medmim-inference", "-o", "json"))
    return int(found.get("status", {}).get("disruptionsAllowed", 0))


def _setting(place: Place, key: str) -> str:
    found = json.loads(place.kubectl("-n", place.runs, "get", "configmap", "medmim", "-o", "json"))
    return str(found["data"][key])


def _ray_job(place: Place) -> Object:
    """A training run that upgrade and rollback must not touch, once KubeRay has taken it."""
    templates = pod_templates.parse(json.dumps({role: [{"spec": ON_SIMULATED}] for role in ("head", "submitter")}))
    spec = {
        "entrypoint": "sleep 600",
        "submitterPodTemplate": submitter(Pods(), templates, "none"),
        "rayClusterSpec": {
            "headGroupSpec": {"rayStartParams": {}, "template": head(Pods(), templates, "none", "lease")}
        },
    }
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "kept"}, "spec": spec}
    place.kubectl("-n", place.runs, "apply", "-f", "-", stdin=yaml.safe_dump(job))

    def settled() -> Object | None:
        found: Object = json.loads(place.kubectl("-n", place.runs, "get", "rayjob", "kept", "-o", "json"))
        return found if found.get("status", {}).get("rayClusterName") else None

    found: Object = until(settled)

    return found
