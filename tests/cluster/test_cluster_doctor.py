"""`medmim doctor --cluster` on a good cluster, and on clusters that are each broken in one way."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from cluster.conftest import free_port, kubectl
from cluster.servers import KFP, mlflow_server, saying
from cluster.test_accounts import INFRA, objects
from typer.testing import CliRunner
from waiting import until

from medmim.cli import doctor
from medmim.cluster import checks_api
from medmim.cluster.checks_api import read
from medmim.cluster.kube import MINE, Kube
from medmim.errors import UserError
from medmim.recipe import Platform

pytestmark = pytest.mark.cluster

NAMES = [
    "cluster", "namespace", "account", "accounts", "crds", "kuberay", "settings", "secrets", "image", "pods", "quota",
    "nodes", "storage", "store", "mlflow", "kfp", "clock",
]  # fmt: skip
WORKFLOWS = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "workflows.argoproj.io"},
    "spec": {
        "group": "argoproj.io", "scope": "Namespaced", "names": {"kind": "Workflow", "plural": "workflows"},
        "versions": [{
            "name": "v1alpha1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        }],
    },
}  # fmt: skip
STANDARD = {
    "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "none",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
}  # fmt: skip
SECRET = {"AWS_ACCESS_KEY_ID": "the-key-itself", "AWS_SECRET_ACCESS_KEY": "the-secret-itself"}
Doctor = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with mlflow_server(folder, folder / "mlflow.db") as port:
        yield f"http://localhost:{port}"


@pytest.fixture(scope="module")
def kfp() -> Iterator[str]:
    with saying(200, json.dumps(KFP), Content_Type="application/json") as uri:
        yield uri


@pytest.fixture
def kube_apply(kubeconfig: Path, cluster: Kube) -> Callable[..., None]:
    def apply(*wanted: dict[str, Any]) -> None:
        kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(wanted))

    return apply


@pytest.fixture
def good(
    cluster: Kube,
    kubeconfig: Path,
    kube_apply: Callable[..., None],
    bucket: str,
    mlflow: str,
    kfp: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Doctor]:
    """A cluster that lacks nothing; asks its doctor. What each test breaks is told by its name."""
    for name in ("MEDMIM_STORE", "MEDMIM_IMAGE", "MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "MEDMIM_STORE": f"{bucket}/store", "MLFLOW_TRACKING_URI": mlflow, "KF_PIPELINES_ENDPOINT": kfp,
        "AWS_REGION": "us-east-1", "MEDMIM_IMAGE": "registry.example/medmim@sha256:" + "0" * 64,
    }  # fmt: skip
    kube_apply(
        WORKFLOWS,
        STANDARD,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "medmim"}, "data": settings},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "medmim-s3"}, "stringData": SECRET},
        *(one for file in ("step-account", "sweep-account", "ray-account") for one in objects(file)),
    )
    for path, kind in (("argoproj.io/v1alpha1", "workflows"), ("ray.io/v1", "rayjobs")):  # the kit may have just begun
        until(lambda path=path, kind=kind: kind in served(cluster, path))

    def ask(*options: str, pods: dict[str, Any] | None = None, exits: int, **platform: Any) -> dict[str, Any]:
        recipe = yaml.safe_load((Path(doctor.__file__).parents[1] / "recipes" / "demo.yaml").read_text())
        asked = {"tolerations": [{"key": "nvidia.com/gpu"}], "gpus": 8, **(pods or {})}
        recipe["platform"] = {"ray": "rayjob", "workers": 16, "pods": asked, **platform}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return run("-n", cluster.namespace, "--recipe", str(path), *options, exits=exits)

    yield ask
    until(lambda: not kubectl(kubeconfig, "-n", cluster.namespace, "get", "rayjobs,rayclusters,leases", "-o", "name"))


def served(cluster: Kube, path: str) -> set[str]:
    return {one["name"] for one in (read(cluster, f"/apis/{path}") or {}).get("resources", [])}


def run(*options: str, exits: int) -> dict[str, Any]:
    """What the doctor says, by check; no value of a secret among it."""
    app = typer.Typer()
    app.command()(doctor.doctor)
    ended = CliRunner().invoke(app, ["--cluster", "--json", *options])
    assert not any(value in ended.output for value in SECRET.values())
    told = json.loads(ended.stdout)
    found = {check["name"]: check for check in told["checks"]}
    assert ended.exit_code == exits == int(not told["ok"]), found
    return found


def only(found: dict[str, Any], *names: str) -> dict[str, Any]:
    """The check of the first name; those named, and no other, failed, and each says how to mend it."""
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


def test_a_good_cluster_passes_and_nothing_stays(good: Doctor, cluster: Kube) -> None:
    found = good(exits=0)
    assert list(found) == NAMES
    assert {check["status"] for check in found.values()} == {"ok"}, found
    assert found["nodes"]["found"].startswith("2 nodes, 16 GPUs NVIDIA-H100-80GB-HBM3")
    assert "2.17.0" in found["kfp"]["found"] and "enforces restricted" in found["namespace"]["found"]
    assert "clock" in found and "the store" in found["clock"]["found"] and "MLflow" in found["clock"]["found"]
    assert not cluster.list("pods", MINE)


def test_lines_for_people_name_check_and_fix(good: Doctor, cluster: Kube) -> None:
    app = typer.Typer()
    app.command()(doctor.doctor)
    ended = CliRunner().invoke(app, ["--cluster", "-n", cluster.namespace])  # no recipe: no GPU's taint is tolerated
    lines = {line.split()[1]: line for line in ended.stdout.splitlines()}
    assert list(lines) == NAMES and ended.exit_code == 1
    assert (
        lines["nodes"].startswith("fail")
        and "fix: platform.pods.tolerations: [{key: nvidia.com/gpu}]" in lines["nodes"]
    )


def test_the_documented_pod_of_a_doctor_is_let_in(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    text = (INFRA.parents[1] / "docs" / "cluster.md").read_text().split("<<END\n")[1].split("\nEND\n")[0]
    assert "$IMAGE" in text
    options = ("apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-")
    pod = json.loads(
        kubectl(kubeconfig, "-n", cluster.namespace, *options, stdin=text.replace("$IMAGE", "registry.example/medmim"))
    )
    assert pod["spec"]["serviceAccountName"] == "medmim-step"


def test_no_namespace(good: Doctor) -> None:
    found = run("-n", "medmim-nowhere", exits=1)
    assert found["namespace"]["fix"].startswith("kubectl create namespace medmim-nowhere")
    assert found["crds"]["status"] == found["cluster"]["status"] == "ok", "the rest is still looked at"


@pytest.mark.parametrize("level", ["privileged", None])
def test_wrong_pod_security_level(good: Doctor, cluster: Kube, kubeconfig: Path, level: str | None) -> None:
    label = "pod-security.kubernetes.io/enforce"
    kubectl(
        kubeconfig, "label", "--overwrite", "namespace", cluster.namespace, f"{label}={level}" if level else f"{label}-"
    )
    check = only(good(exits=1), "namespace")
    assert check["fix"] == f"kubectl label --overwrite namespace {cluster.namespace} {label}=restricted"
    kubectl(kubeconfig, *check["fix"].split()[1:])
    assert good(exits=0)["namespace"]["status"] == "ok", "the fix mends it"


def without(file: str, resource: str, verb: str) -> dict[str, Any]:
    """The Role of an account but for one verb."""
    role = next(one for one in objects(file) if one["kind"] == "Role")
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rule["verbs"].remove(verb)
    return {**role, "rules": [rule for rule in role["rules"] if rule["verbs"]]}


def test_missing_verb_of_the_sweep(good: Doctor, kube_apply: Callable[..., None]) -> None:
    kube_apply(without("sweep-account", "workflows", "get"))
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
    """The doctor as a step's account: without KFP's rules, which are no business of medmim's."""
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "rolebinding", "medmim-step-kfp")
    config = yaml.safe_load(kubectl(kubeconfig, "config", "view", "--raw", "--minify"))
    token = kubectl(kubeconfig, "-n", cluster.namespace, "create", "token", "medmim-step").strip()
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "step.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return good


def test_a_step_sees_what_it_may_and_is_told_the_rest(as_step: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_IMAGE", "registry.example/medmim@sha256:" + "0" * 64)  # a step's pod is told
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    found = as_step(exits=1, store="s3://medmim-no-such-bucket/store")
    only(found, "store", "mlflow")
    unseen = {name for name, check in found.items() if check["found"].startswith("not looked at")}
    assert unseen == {"namespace", "accounts", "settings", "secrets", "pods", "quota", "nodes", "storage", "kfp"}
    assert {found[name]["status"] for name in unseen} == {"warn"}
    assert "medmim-step may all that medmim-step needs" in found["account"]["found"]
    assert found["kuberay"]["status"] == "ok"


def test_missing_verb_of_the_acting_account(as_step: Doctor, kubeconfig: Path, kube_apply: Callable[..., None]) -> None:
    kube_apply(without("step-account", "leases", "patch"))
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
    other = json.loads(json.dumps(WORKFLOWS))
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
        until(lambda: not takes_our_job(cluster))  # the API server takes a moment to serve the older one
        check = only(good(exits=1), "kuberay")
    assert 'unknown field "spec.rayClusterSpec.authOptions"' in check["found"]
    assert check["fix"].startswith("upgrade KubeRay")
    until(lambda: takes_our_job(cluster))


def takes_our_job(cluster: Kube) -> bool:
    try:
        return checks_api.kuberay(cluster, Platform(), None).status == "ok"
    except UserError:
        return False


def test_no_operator_acting(good: Doctor, kubeconfig: Path) -> None:
    operator = int((kubeconfig.parent / "kuberay.pid").read_text())
    os.kill(operator, signal.SIGSTOP)
    try:
        check = only(good(exits=1), "kuberay")
    finally:
        os.kill(operator, signal.SIGCONT)
    assert "operator has not looked at a new RayJob" in check["found"] and "kuberay-operator" in check["fix"]


def test_no_settings(good: Doctor, cluster: Kube, kubeconfig: Path) -> None:
    kubectl(kubeconfig, "-n", cluster.namespace, "delete", "configmap", "medmim")
    found = good(exits=1)
    assert (
        f"no ConfigMap medmim in {cluster.namespace}"
        in only(found, "settings", "image", "store", "mlflow", "kfp")["found"]
    )
    assert "MEDMIM_STORE in ConfigMap medmim" in found["store"]["fix"]


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


def test_no_default_storage_class(good: Doctor, kubeconfig: Path, kube_apply: Callable[..., None]) -> None:
    kubectl(kubeconfig, "delete", "storageclass", "standard")
    assert good(exits=0)["storage"]["status"] == "warn", "nobody waits for one"
    volumes = (one for one in yaml.safe_load_all((INFRA / "mlflow.yaml").read_text()))
    kube_apply(*(one for one in volumes if one["kind"] == "PersistentVolumeClaim"))
    check = only(good(exits=1), "storage")
    assert "medmim-mlflow waits for one" in check["found"]


def test_no_bucket(good: Doctor) -> None:
    check = only(good(exits=1, store="s3://medmim-no-such-bucket/store"), "store")
    assert "there is no bucket 'medmim-no-such-bucket'" in check["found"]


def test_a_store_that_overwrites_what_was_to_be_created_once(good: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmim.store_s3 import S3Store

    monkeypatch.setattr(S3Store, "create", lambda self, key, data: self.write(key, data) or True)
    assert "If-None-Match" in only(good(exits=1), "store")["fix"]


def test_no_mlflow(good: Doctor) -> None:
    found = good(exits=1, tracking=f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in only(found, "mlflow")["found"]


def test_an_mlflow_that_does_not_know_its_name(good: Doctor, mlflow: str) -> None:
    check = only(good(exits=1, tracking=mlflow.replace("localhost", "127.0.0.1")), "mlflow")
    assert "--allowed-hosts" in check["fix"]


def test_a_login_page_in_front_of_kfp(good: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    with saying(200, "<html>dex</html>", Content_Type="text/html") as uri:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", uri)
        check = only(good(exits=1), "kfp")
    assert "a login page answers" in check["found"] and "port-forward" in check["fix"]


def test_no_cluster(good: Doctor, tmp_path: Path, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are looked at all the same, as far as recipe and environment name them."""
    path = tmp_path / "away"
    server = json.loads(kubectl(kubeconfig, "config", "view", "--raw", "-o", "json"))["clusters"][0]["cluster"][
        "server"
    ]
    path.write_text(kubeconfig.read_text().replace(server, f"https://127.0.0.1:{free_port()}"))
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = good(exits=1)
    assert list(found) == ["cluster", "store", "mlflow", "kfp"]
    assert "does not answer" in found["cluster"]["found"] and "KUBECONFIG" in found["cluster"]["fix"]
