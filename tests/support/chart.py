"""The chart as Helm renders it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "medmim"
LAST = Path(__file__).with_name("medmim-0.1.0.tgz")  # the chart's version before, by `helm package`
EXAMPLES = {
    path.stem: yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
    for path in sorted((CHART / "examples").glob("*.yaml"))
}
PLATFORM = "platform"  # the release's namespace
OF_THE_CLUSTER = ("Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")  # in no namespace
Object = dict[str, Any]

# What no example turns on.
ALL_ON: dict[str, Any] = {
    "runNamespaces": [{"name": "team-a", "create": True}],
    "nightly": {"enabled": True, "recipe": "name: mine\ndata: {source: phantom}\n"},
    "image": {"digest": "sha256:" + "0" * 64},
    "cudaImage": {"digest": "sha256:" + "1" * 64},
    "kfp": {"ui": "https://kubeflow.example.org/pipeline"},
    "promotion": {
        "autoPromote": True,
        "promoters": [{"kind": "User", "name": "anna@example.org"}],
        "kfpNamespace": "promoters",
    },
    "alerts": {"enabled": True},
    "gc": {"enabled": True, "remove": True},
    "cache": {"existingClaim": "copies"},
    "inference": {
        "enabled": True,
        "model": "models:/mine@champion",
        "engine": "vllm",
        "image": {"repository": "medmim-inference-vllm"},
        "access": {"identityHeader": "X-Forwarded-User", "proxies": ["10.244.0.0/16", "fd00::/8"]},
        "extraArgs": ["--max-images=8"],
        "metrics": {"enabled": True},
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
    "console": {
        "enabled": True,
        "promotion": {
            "enabled": True,
            "tokensSecret": "medmim-console-tokens",
            "identityHeader": "X-Forwarded-User",
            "promoters": ["anna@example.org", "Zoë Núñez"],
        },
        "proxies": ["10.244.0.0/16", "fd00::/8"],
        "names": ["medmim.internal"],
        "links": {"mlflow": "https://mlflow.example.org", "ray": "https://ray.example.org"},
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
    "networkPolicy": {
        "inferenceFrom": [{"podSelector": {}}],
        "consoleFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
    },
    "mlflow": {
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "podAnnotations": {"a": "b"},
    },
    "jobs": {
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "extraEnv": [{"name": "HTTPS_PROXY", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "url"}}}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "podAnnotations": {"a": "b"},
    },
}
VALUES: dict[str, Object] = {"default": {}, "all-on": ALL_ON, **EXAMPLES}


def render(values: Object, namespace: str = PLATFORM, path: Path = CHART) -> list[Object]:
    """The objects, hooks and tests among them, each with its namespace."""
    with helm.Chart.load(path) as chart:
        files = chart.render(values, name="medmim", namespace=namespace)
    found = []
    for name, text in files.items():
        if name.endswith(".yaml"):
            found += [one for one in yaml.load_all(text, yaml.CSafeLoader) if one]
    for one in found:
        if one["kind"] not in OF_THE_CLUSTER:
            one["metadata"].setdefault("namespace", namespace)
    return found


@cache
def rendered(name: str) -> list[Object]:
    """The objects of one of VALUES; not to be changed."""
    return render(VALUES[name])


def pods(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Where a pod is written, its metadata and its spec."""
    for one in objects:
        at = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield at, one["metadata"], one["spec"]
        elif one["kind"] == "PodTemplate":
            yield at, one["template"]["metadata"], one["template"]["spec"]
        elif one["kind"] in ("Deployment", "Job"):
            yield at, one["spec"]["template"]["metadata"], one["spec"]["template"]["spec"]
        elif one["kind"] == "CronJob":
            template = one["spec"]["jobTemplate"]["spec"]["template"]
            yield at, template["metadata"], template["spec"]


def containers(spec: Object) -> list[Object]:
    """Init containers and containers."""
    found: list[Object] = spec.get("initContainers", []) + spec["containers"]
    return found


def named(objects: list[Object], kind: str, name: str, namespace: str = PLATFORM) -> Object:
    """The one object of that name."""
    (found,) = [
        one
        for one in objects
        if (one["kind"], one["metadata"]["name"], one["metadata"].get("namespace")) == (kind, name, namespace)
    ]
    return found
