"""Checks of the API server, the namespace, the CRDs and KubeRay's operator; each request once, with seconds to answer.

As much as possible is read from what every account may see: version, discovery, reviews of its own rights.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from medmim.cluster.kube import API, Kube, Object, Retryable
from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray import manifest
from medmim.cluster.ray.request import Request
from medmim.doctor.check import Check
from medmim.errors import Unavailable, UserError
from medmim.recipe.schema import Platform

_SECONDS = (2.0, 5.0)  # to connect, to answer
_OLDEST = (1, 31)  # of the chart
_RECONCILED = 8.0  # s in which a running operator reconciles a new job
_LEVEL = "pod-security.kubernetes.io/enforce"


class Unchecked(UserError):
    """Something that this account or this machine cannot check; neither good nor bad."""


def warn_unchecked(name: str, check: Callable[[], Check]) -> Callable[[], Check]:
    """The check, but with a warning where it cannot be made."""

    def checked() -> Check:
        try:
            return check()
        except Unchecked as error:
            return Check(name, "warn", f"not checked: {error.fact}", error.fix)

    return checked


def ask(kube: Kube, method: str, path: str, body: Object | None = None) -> tuple[int, Any]:
    """One request to the API server: status and body of the answer. Raises as `send`."""
    return send(kube, method, path, body)[:2]


def send(kube: Kube, method: str, path: str, body: Object | None = None) -> tuple[int, Any, Mapping[str, str]]:
    """One request to the API server, tried once: status, body and headers of the answer.

    Raises:
        Unavailable: It does not answer.
        UserError: Its certificate is not trusted, or it does not know this account.
    """
    host = kube.api.configuration.host
    try:
        status, text, headers = kube.request(method, path, body, _SECONDS)
    except Retryable as error:
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
        Unchecked: This account may not read it.
    """
    status, answer = ask(kube, "GET", path)
    if status == 404:
        return None
    if status == 403:
        raise Unchecked(f"this account may not read {path}", fix="run the doctor as an administrator")
    if status != 200:
        raise UserError(f"the cluster answers {status} to GET {path}", reason=str(answer.get("message", "")))
    return dict(answer)


def items(kube: Kube, path: str) -> list[Object]:
    """The objects of a list. Raises as `read`."""
    found = read(kube, path) or {}
    return list(found.get("items", []))


def cluster(kube: Kube) -> Check:
    """Whether the API server answers, and its version."""
    version = str((read(kube, "/version") or {}).get("gitVersion", "unknown"))
    parts = re.match(r"v(\d+)\.(\d+)", version)
    if parts and (int(parts[1]), int(parts[2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(f"Kubernetes {version}", reason=f"medmim needs {oldest}", fix="upgrade the cluster")
    return Check("cluster", "ok", f"Kubernetes {version} at {kube.api.configuration.host}")


def namespace(kube: Kube) -> Check:
    """Whether the namespace exists, and which Pod Security Standard it enforces."""
    name = kube.namespace
    found = read(kube, f"/api/v1/namespaces/{name}")
    if found is None:
        raise UserError(
            f"{name} does not exist", fix=f"kubectl create namespace {name}, or give another with --namespace"
        )
    if found.get("status", {}).get("phase") == "Terminating":
        raise UserError(f"{name} is being deleted", fix="wait until it is gone, then make it again")
    level = found["metadata"].get("labels", {}).get(_LEVEL)
    fix = f"kubectl label --overwrite namespace {name} {_LEVEL}=restricted"
    if level not in ("restricted", "baseline"):
        raise UserError(
            f"{name} enforces {level or 'no'} Pod Security level",
            reason="privileged pods are admitted beside medmim's, which pass `restricted`",
            fix=fix,
        )
    if level == "baseline":
        return Check(
            "namespace", "warn", f"{name} enforces baseline", f"where KFP's own pods are in another namespace: {fix}"
        )
    return Check("namespace", "ok", f"{name} enforces restricted")


def crds(kube: Kube) -> Check:
    """Whether the cluster serves RayJobs and Workflows in the versions that medmim uses."""
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
            other = f"; the group has {', '.join(versions)}" if versions else ""
            problems.append(f"no {kind} of {group}/{version}{other}")
            fixes.append(fix)
    if problems:
        raise UserError("; ".join(problems), fix="; ".join(fixes))
    return Check("crds", "ok", f"RayJob {API['rayjobs'][6:]}, Workflow {API['workflows'][6:]}")


def kuberay(kube: Kube, platform: Platform, templates: PodTemplates, image: str | None) -> Check:
    """Whether the API server accepts medmim's RayJob field by field, and KubeRay's operator reconciles it.

    The job is suspended, so that no pod is made of it, and removed at once; `medmim runs sweep` would do so too.
    """
    name = f"doctor-{secrets.token_hex(8)}"
    unqueued = replace(templates, job={})
    body = manifest.rayjob(Request("finetune", "{}", "doctor", {}), "", platform, unqueued, image or "medmim", name, 1)
    body["metadata"] |= {"name": name, "annotations": {}}
    body["spec"]["suspend"] = True
    path = f"{API['rayjobs']}/namespaces/{kube.namespace}/rayjobs"
    begin = time.monotonic()
    status, answer = ask(kube, "POST", f"{path}?fieldValidation=Strict", body)
    if status == 404:
        raise UserError("no RayJob can be made: CRD or namespace is missing", fix="fix the lines above first")
    if status == 403:
        raise Unchecked(f"no RayJob may be made ({answer.get('message')})", fix="see the line `account`")
    if status != 201:
        raise UserError(
            "the cluster does not accept medmim's RayJob",
            reason=str(answer.get("message", ""))[:500],
            fix="upgrade KubeRay, its CRDs too, to 1.5 or newer: an older one drops token authentication",
        )
    try:
        while not (read(kube, f"{path}/{name}") or {}).get("status", {}).get("jobDeploymentStatus"):
            if time.monotonic() - begin > _RECONCILED:
                raise UserError(
                    f"KubeRay's operator did not reconcile a new RayJob within {_RECONCILED:.0f} s",
                    fix="kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator; see its log, and whether it "
                    f"watches namespace {kube.namespace}",
                )
            time.sleep(0.1)
    finally:
        ask(kube, "DELETE", f"{path}/{name}", {"propagationPolicy": "Background"})
    took = time.monotonic() - begin
    return Check("kuberay", "ok", f"accepts medmim's RayJob; the operator reconciled it ({took * 1000:.0f} ms)")
