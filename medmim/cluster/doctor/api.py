"""What a doctor asks of the API server: each question once, with seconds to answer, and told where it may not be asked.

From what every account may see (version, discovery, reviews of its own rights) as much as possible is read.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from medmim.cluster.kube import API, Kube, Object, Silent
from medmim.cluster.ray import manifest
from medmim.cluster.ray.request import Order
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError
from medmim.recipe.schema import Platform

_SECONDS = (2.0, 5.0)  # to connect, to answer
_OLDEST = (1, 31)  # of the chart
_ACTS = 8.0  # s in which an operator that runs takes up a new job
_LEVEL = "pod-security.kubernetes.io/enforce"


class Unseen(UserError):
    """Something that this account or this machine cannot look at; neither good nor bad."""


def unseen_warns(name: str, look: Callable[[], Check]) -> Callable[[], Check]:
    """The look, but for a warning where it cannot be made."""

    def looked() -> Check:
        try:
            return look()
        except Unseen as error:
            return Check(name, "warn", f"not looked at: {error.fact}", error.fix)

    return looked


def ask(kube: Kube, method: str, path: str, body: Object | None = None) -> tuple[int, Any]:
    """One request to the API server: its status and what it says. Raises as `send`."""
    return send(kube, method, path, body)[:2]


def send(kube: Kube, method: str, path: str, body: Object | None = None) -> tuple[int, Any, Mapping[str, str]]:
    """One request to the API server, tried once: its status, what it says, and its headers.

    Raises:
        Unavailable: It does not answer.
        UserError: Its certificate is not trusted, or it does not know this account.
    """
    host = kube.api.configuration.host
    try:
        status, text, headers = kube.request(method, path, body, _SECONDS)
    except Silent as error:
        status, text, headers = 503, str(error), {}
    if status >= 500:
        fix = "check KUBECONFIG, its context and the network"
        raise Unavailable(f"the Kubernetes API at {host} does not answer", text[-300:], fix)
    if status == 401:
        fix = "log in to the cluster again, or set KUBECONFIG to a file with valid credentials"
        raise UserError("the Kubernetes API does not know this account", fix=fix)
    try:
        return status, json.loads(text or "{}"), headers
    except ValueError:
        if status >= 300:
            return status, {"message": text[:300]}, headers
        raise UserError(
            f"what answers at {host} is no Kubernetes API", fix="check KUBECONFIG and its context"
        ) from None


def read(kube: Kube, path: str) -> Object | None:
    """An object or list, None where there is none.

    Raises:
        Unseen: This account may not read it.
    """
    status, said = ask(kube, "GET", path)
    if status == 404:
        return None
    if status == 403:
        raise Unseen(f"this account may not read {path}", fix="run the doctor as an administrator")
    if status != 200:
        raise UserError(f"the cluster answers {status} to GET {path}", reason=str(said.get("message", "")))
    return dict(said)


def items(kube: Kube, path: str) -> list[Object]:
    """The objects of a list. Raises as `read`."""
    found = read(kube, path) or {}
    return list(found.get("items", []))


def cluster(kube: Kube) -> Check:
    """Whether the API server answers, and its version."""
    said = read(kube, "/version") or {}
    version = str(said.get("gitVersion", "unknown"))
    parts = re.match(r"v(\d+)\.(\d+)", version)
    if parts and (int(parts[1]), int(parts[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(f"Kubernetes {version}", reason=f"medmim needs {oldest}", fix="upgrade the cluster")
    return Check("cluster", "ok", f"Kubernetes {version} at {kube.api.configuration.host}")


def namespace(kube: Kube) -> Check:
    """Whether the namespace is there, and which Pod Security Standard it enforces."""
    name = kube.namespace
    found = read(kube, f"/api/v1/namespaces/{name}")
    if found is None:
        raise UserError(
            f"{name} is not there", fix=f"kubectl create namespace {name}, or give another with --namespace"
        )
    if found.get("status", {}).get("phase") == "Terminating":
        raise UserError(f"{name} is being deleted", fix="wait until it is gone, then make it again")
    level = found["metadata"].get("labels", {}).get(_LEVEL)
    fix = f"kubectl label --overwrite namespace {name} {_LEVEL}=restricted"
    if level not in ("restricted", "baseline"):
        raise UserError(
            f"{name} enforces {level or 'no'} Pod Security level",
            reason="pods that may do everything are let in beside medmim's, which pass `restricted`",
            fix=fix,
        )
    if level == "baseline":
        return Check("namespace", "warn", f"{name} enforces baseline", f"where KFP's own pods are elsewhere: {fix}")
    return Check("namespace", "ok", f"{name} enforces restricted")


def crds(kube: Kube) -> Check:
    """Whether the cluster serves RayJobs and Workflows in the versions that medmim speaks."""
    problems, fixes = [], []
    for kind, resource, fix in (
        ("RayJob", "rayjobs", "install KubeRay 1.5 or newer (its chart brings operator and CRDs)"),
        ("Workflow", "workflows", "install Kubeflow Pipelines 2.17, which brings Argo Workflows"),
    ):
        path = API[resource]
        group, version = path.split("/")[2:]
        served = (read(kube, path) or {}).get("resources", [])
        if resource not in {one["name"] for one in served}:
            versions = [one["version"] for one in (read(kube, f"/apis/{group}") or {}).get("versions", [])]
            there = f"; the group has {', '.join(versions)}" if versions else ""
            problems.append(f"no {kind} of {group}/{version}{there}")
            fixes.append(fix)
    if problems:
        raise UserError("; ".join(problems), fix="; ".join(fixes))
    return Check("crds", "ok", f"RayJob {API['rayjobs'][6:]}, Workflow {API['workflows'][6:]}")


def kuberay(kube: Kube, platform: Platform, image: str | None) -> Check:
    """Whether the API server takes our RayJob field by field, and KubeRay's operator takes it up.

    The job is suspended, so that no pod is made of it, and removed at once; `medmim runs sweep` would do so too.
    """
    name = f"doctor-{secrets.token_hex(8)}"
    asked = platform.model_copy(update={"pods": platform.pods.model_copy(update={"queue": None})})
    body = manifest.manifest(Order("finetune", "{}", "doctor", {}), "", asked, image or "medmim", name, 1)
    body["metadata"] |= {"name": name, "annotations": {}}
    body["spec"]["suspend"] = True
    path = f"{API['rayjobs']}/namespaces/{kube.namespace}/rayjobs"
    begin = time.monotonic()
    status, said = ask(kube, "POST", f"{path}?fieldValidation=Strict", body)
    if status == 404:
        raise UserError("no RayJob can be made: CRD or namespace is missing", fix="mend the lines above first")
    if status == 403:
        raise Unseen(f"no RayJob may be made ({said.get('message')})", fix="see the line `account`")
    if status != 201:
        raise UserError(
            "the cluster does not take medmim's RayJob",
            reason=str(said.get("message", ""))[:500],
            fix="upgrade KubeRay, its CRDs too, to 1.5 or newer: an older one drops token authentication",
        )
    try:
        while not (read(kube, f"{path}/{name}") or {}).get("status", {}).get("jobDeploymentStatus"):
            if time.monotonic() - begin > _ACTS:
                raise UserError(
                    f"KubeRay's operator has not looked at a new RayJob for {_ACTS:.0f} s",
                    fix="kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator; see its log, and whether it "
                    f"watches namespace {kube.namespace}",
                )
            time.sleep(0.1)
    finally:
        ask(kube, "DELETE", f"{path}/{name}", {"propagationPolicy": "Background"})
    took = time.monotonic() - begin
    return Check("kuberay", "ok", f"takes medmim's RayJob; the operator took it up ({took * 1000:.0f} ms)")
