"""What the tests of `medmim doctor --cluster` share: running it, and what a good cluster has."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from medmim.cli import doctor
from medmim.cluster.doctor.api import read
from medmim.cluster.kube import Kube
from tests.cluster.conftest import kubectl

NAMES = [
    "cluster", "namespace", "account", "accounts", "crds", "kuberay", "settings", "secrets", "launcher", "image",
    "pods", "nodes", "store", "mlflow", "kfp", "clock",
]  # fmt: skip
SECRET = {"AWS_ACCESS_KEY_ID": "the-key-itself", "AWS_SECRET_ACCESS_KEY": "the-secret-itself"}
MINIO = "mlpipeline-minio-artifact"  # which KFP's own manifests give a profile's namespace
Doctor = Callable[..., dict[str, Any]]


def served(cluster: Kube, path: str) -> set[str]:
    return {one["name"] for one in (read(cluster, f"/apis/{path}") or {}).get("resources", [])}


def run(*options: str, exits: int) -> dict[str, Any]:
    """What the doctor reports, by check; no value of a secret among it."""
    app = typer.Typer()
    app.command()(doctor.doctor)
    ended = CliRunner().invoke(app, ["--cluster", "--json", *options])
    assert not any(value in ended.output for value in SECRET.values())
    report = json.loads(ended.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert ended.exit_code == exits == int(not report["ok"]), found
    return found


def only(found: dict[str, Any], *names: str) -> dict[str, Any]:
    """The check of the first name; those named, and no other, failed, and each names its fix."""
    failed = {name: check for name, check in found.items() if check["status"] == "fail"}
    assert set(failed) == set(names), failed
    assert all(check["fix"] for check in failed.values())
    first: dict[str, Any] = found[names[0]]
    return first


@contextmanager
def changed(kubeconfig: Path, kind: str, name: str, change: Callable[[dict[str, Any]], Any]) -> Iterator[None]:
    """An object of the whole cluster with a change, for as long as the block lasts."""
    before = json.loads(kubectl(kubeconfig, "get", kind, name, "-o", "json"))
    for key in ("resourceVersion", "uid", "generation", "creationTimestamp"):
        before["metadata"].pop(key, None)
    after = json.loads(json.dumps(before))
    change(after)
    kubectl(kubeconfig, "replace", "-f", "-", stdin=json.dumps(after))
    try:
        yield
    finally:
        kubectl(kubeconfig, "replace", "-f", "-", stdin=json.dumps(before))
