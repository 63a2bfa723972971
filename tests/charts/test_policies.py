"""Which pods may connect to which: each allowed edge and each that must not exist, from the rendered policies alone."""

from dataclasses import replace
from itertools import pairwise, product

import pytest

from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray.pods import head, submitter, worker
from medmim.recipe.pods import Pods
from pipelines import pod as step_pod
from tests.charts.network import Pod, about, may
from tests.support.chart import CHART, EXAMPLES, PLATFORM, Object, named, render, rendered

RUN, OTHER, PROMOTERS = "radiology", "research", "promoters"


def ours(component: str, namespace: str = PLATFORM, **more: object) -> Pod:
    labels = {"app.kubernetes.io/name": "medmim", "app.kubernetes.io/component": component}
    return Pod(namespace, labels, **more)  # type: ignore[arg-type]


def ray(template: Object, kind: str, namespace: str = RUN) -> Pod:
    """A pod of a Ray job: the labels that medmim gives it, and what KubeRay adds."""
    added = {"app.kubernetes.io/name": "kuberay", "ray.io/node-type": kind} if kind else {}
    return Pod(namespace, template["metadata"]["labels"] | added)


PODS = {
    "mlflow": ours("mlflow", ports={"http": 5000}),
    "nightly": ours("nightly"),
    "promoter": ours("promoter"),
    "gc": ours("gc"),
    "check": ours("test"),
    "server": ours("inference", ports={"http": 8000}),
    "console": ours("console", ports={"http": 8000}),
    "step": Pod(RUN, step_pod.LABELS),
    "run-check": ours("test", RUN),
    "promotion-in-kfp": Pod(PROMOTERS, step_pod.LABELS),
    "sweep": ours("sweep", RUN),
    "head": ray(head(Pods(), PodTemplates(), "image", "lease"), "head"),
    "worker": ray(worker(Pods(), PodTemplates(), "image"), "worker"),
    "submitter": ray(submitter(Pods(), PodTemplates(), "image"), ""),
    "head-of-another-namespace": ray(head(Pods(), PodTemplates(), "image", "lease"), "head", OTHER),
    "kfp": Pod("kubeflow", {"app": "ml-pipeline"}),
    "kfps-driver": Pod(RUN, {"pipelines.kubeflow.org/v2_component": "true", "component": "driver"}),
    "kuberay": Pod("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"}),
    "ingress": Pod("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
    "prometheus": Pod("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "foreign": Pod("foreign", {"app": "foreign"}),
    "foreign-with-our-labels": ours("promoter", "foreign"),
    "neighbour": Pod(RUN, {"app": "notebook"}),
    "dns": Pod("kube-system", {"k8s-app": "kube-dns"}),
    "store": Pod(ip="10.20.0.7"),
    "database": Pod(ip="10.20.1.5"),
    "api": Pod(ip="10.10.0.2"),
    "internet": Pod(ip="93.184.215.14"),
}  # fmt: skip
DNS, STORE, DB, API, MLFLOW, SERVER, DASHBOARD, TORCH = 53, 9443, 5432, 6443, 5000, 8000, 8265, 29500
RAY = ("head", "worker", "submitter")
OURS = (
    "mlflow", "nightly", "promoter", "gc", "check", "server", "console", "step", "run-check", "promotion-in-kfp",
    "sweep", *RAY,
)  # fmt: skip
HEADS = ("head", "head-of-another-namespace")
PORTS = (DNS, STORE, DB, API, MLFLOW, SERVER, DASHBOARD, TORCH, 6379, 8888, 9000)

ALLOWED = {
    *product({*OURS, "head-of-another-namespace"}, ["store"], [STORE]),
    *product(("nightly", "promoter", "gc", "check", "server", "console"), ["mlflow"], [MLFLOW]),
    *product(("step", "run-check", "promotion-in-kfp"), ["mlflow"], [MLFLOW]),
    *product(HEADS, ["mlflow"], [MLFLOW]),
    *product(("ingress", "prometheus"), ["mlflow"], [MLFLOW]),
    *product(("ingress", "prometheus"), ["server"], [SERVER]),
    ("ingress", "console", SERVER),
    *product(("step", "run-check", "promotion-in-kfp", "sweep", *HEADS), ["api"], [API]),
    *product(("step", "run-check", "promotion-in-kfp", "nightly"), ["kfp"], PORTS),
    *product(("mlflow",), ["database"], [DB]),
    *product(RAY, RAY, PORTS),
    *product(["kuberay"], HEADS, [DASHBOARD]),
    ("kuberay", "worker", DASHBOARD),  # which does not listen there
    ("kuberay", "submitter", DASHBOARD),  # nor this
}  # fmt: skip


@pytest.fixture(scope="module")
def policies() -> list[Object]:
    values = {**EXAMPLES["onprem-gpu"], "nightly": {"enabled": True, "recipe": "demo"}}
    values["inference"] = {"enabled": True, "model": "models:/mine@champion", "access": {"anyone": True}}
    values["gc"] = {"enabled": True}
    allowed = values["networkPolicy"]
    values["console"] = {"enabled": True}
    values["networkPolicy"] = {
        **allowed,
        "inferenceFrom": allowed["mlflowFrom"],
        "consoleFrom": EXAMPLES["console"]["networkPolicy"]["consoleFrom"],
    }
    values["promotion"] = {**values.get("promotion", {}), "kfpNamespace": PROMOTERS}
    return [one for one in render(values) if one["kind"] == "NetworkPolicy"]


def test_our_pods_have_the_named_connections_and_no_others(policies: list[Object]) -> None:
    """Every pair and port with one of our pods at an end; pods of others are open at their own end."""
    wrong = []
    closed = {*OURS, "head-of-another-namespace"}
    for (source, a), (target, b), port in product(PODS.items(), PODS.items(), PORTS):
        if source == target or not {source, target} & closed or not a.namespace:
            continue
        names = port == DNS and source in closed and target not in closed  # any address may be a name server
        expected = (source, target, port) in ALLOWED or names
        if may(policies, a, b, port, "UDP" if port == DNS else "TCP") != expected:
            wrong.append(f"{source} -> {target}:{port} {'may not' if expected else 'may'}")
    assert not wrong


def test_pods_of_others_are_not_selected(policies: list[Object]) -> None:
    for name in ("kfp", "kfps-driver", "kuberay", "foreign", "neighbour", "ingress", "dns"):
        for direction in ("Ingress", "Egress"):
            assert about(policies, PODS[name], direction) == [], name
    for one in policies:
        chosen = one["spec"]["podSelector"]["matchLabels"]
        assert (
            chosen.get("app.kubernetes.io/name") == "medmim" or chosen.get("app.kubernetes.io/managed-by") == "medmim"
        )
    assert may(policies, PODS["kfps-driver"], PODS["kfp"], 8888)
    assert may(policies, PODS["neighbour"], PODS["internet"], 443)


def test_a_missing_policy_is_detected(policies: list[Object]) -> None:
    without = [one for one in policies if one["metadata"]["name"] != "medmim-mlflow"]
    assert may(without, PODS["foreign"], PODS["mlflow"], MLFLOW)
    assert not may(policies, PODS["foreign"], PODS["mlflow"], MLFLOW)


def test_each_allowed_edge_has_its_comment() -> None:
    files = (
        "platform/policies.yaml",
        "platform/gc.yaml",
        "run/policies.yaml",
        "inference/policy.yaml",
        "console/policy.yaml",
        "_edges.tpl",
    )
    for file in (f"templates/{name}" for name in files):
        lines = [line.strip() for line in (CHART / file).read_text("utf-8").splitlines()]
        for before, line in pairwise(lines):
            if line.startswith(("- ports:", "- to:", "- from:", "- podSelector:", "- namespaceSelector:")):
                assert before.startswith("#") or before in ("from:", "to:"), f"{file}: {line}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_allows_its_own_traffic(name: str) -> None:
    policies = [one for one in rendered(name) if one["kind"] == "NetworkPolicy"]
    values, server, port = EXAMPLES[name], PODS["mlflow"], MLFLOW
    if not values.get("mlflow", {}).get("enabled", True):
        server, port = Pod(ip="10.20.2.7"), 443
    for run in values["runNamespaces"]:
        step, above = replace(PODS["step"], namespace=run["name"]), replace(PODS["head"], namespace=run["name"])
        below = replace(PODS["worker"], namespace=run["name"])
        assert may(policies, step, server, port) and may(policies, above, server, port)
        assert may(policies, above, below, TORCH) and may(policies, below, above, 6379)
        assert may(policies, PODS["kuberay"], above, DASHBOARD)
        assert not may(policies, below, server, port)
        assert not may(policies, PODS["foreign"], above, DASHBOARD)
    if server is PODS["mlflow"]:  # another's is guarded by others
        assert not may(policies, PODS["foreign"], server, MLFLOW)


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("", 443),
        ("http://minio", 80),
        ("https://minio", 443),
        ("http://minio:9000", 9000),
        ("https://s3.example.org:9443", 9443),
    ],
)
def test_the_stores_port_is_that_of_its_address(endpoint: str, port: int) -> None:
    objects = render({"store": {"endpoint": endpoint}})
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for tried in (80, 443, 9000, 9443):
        assert may(policies, PODS["mlflow"], PODS["internet"], tried) == (tried == port)


def test_a_model_server_that_nobody_is_named_for_is_reached_by_no_one(policies: list[Object]) -> None:
    values = {"inference": {"enabled": True, "model": "models:/mine@champion", "access": {"anyone": True}}}
    closed = [one for one in render(values) if one["kind"] == "NetworkPolicy"]
    for source in ("ingress", "prometheus", "foreign", "check", "promoter"):
        assert not may(closed, PODS[source], PODS["server"], SERVER), source
    assert may(policies, PODS["ingress"], PODS["server"], SERVER)


def test_a_console_that_nobody_is_named_for_is_reached_by_no_one(policies: list[Object]) -> None:
    closed = [one for one in render({"console": {"enabled": True}}) if one["kind"] == "NetworkPolicy"]
    for source in ("ingress", "prometheus", "foreign", "check", "promoter", "step"):
        assert not may(closed, PODS[source], PODS["console"], SERVER), source
    assert may(policies, PODS["ingress"], PODS["console"], SERVER)


def test_they_can_be_turned_off() -> None:
    objects = render({"networkPolicy": {"enabled": False}, "runNamespaces": [{"name": "a"}]})
    assert not [one for one in objects if one["kind"] == "NetworkPolicy"]
    assert named(objects, "Role", "medmim-step", "a")
