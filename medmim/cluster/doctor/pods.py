"""Whether the API server admits the pods of a Ray job, and which nodes there are; whether they fit is the scheduler's.

A dry run passes the same admission as a real pod: account, priority class, Pod Security, limit ranges, quotas.
"""

from medmim.cluster.doctor.api import Unchecked, ask, items
from medmim.cluster.kube import Kube, Object
from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray import pods
from medmim.doctor.check import Check
from medmim.errors import UserError
from medmim.recipe.schema import Platform

_GPU = "nvidia.com/gpu"
_PRODUCT = "nvidia.com/gpu.product"


def admission(kube: Kube, platform: Platform, templates: PodTemplates, image: str | None) -> Check:
    """Whether the API server would admit each pod of a Ray job; a dry run, which starts none."""
    problems = []
    for role, template in _templates(platform, templates, image).items():
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "generateName": f"doctor-{role}-"},
            "spec": {"restartPolicy": "Never", **template["spec"]},
        }
        path = f"/api/v1/namespaces/{kube.namespace}/pods?dryRun=All&fieldValidation=Strict"
        status, answer = ask(kube, "POST", path, body)
        message = str(answer.get("message", ""))
        if status == 403 and "cannot create" in message:
            raise Unchecked(
                "this account may not create pods, not even in a dry run", fix="run the doctor as an account that may"
            )
        if status != 201:
            problems.append(f"{role}: {message[:400] or status}")
    if problems:
        raise UserError(
            "pods of a Ray job would not be admitted",
            fix="fix what is named: quota, limit range or the chart's runPods; or ask for less in platform.pods",
            problems=problems,
        )
    return Check("pods", "ok", "head, worker and submitter would be admitted (dry run)")


def nodes(kube: Kube) -> Check:
    """The nodes and their allocatable GPUs, as the cluster reports them."""
    found = items(kube, "/api/v1/nodes")
    gpus: dict[str, int] = {}
    for node in found:
        product = node["metadata"].get("labels", {}).get(_PRODUCT, f"without label {_PRODUCT}")
        count = int(node["status"].get("allocatable", {}).get(_GPU, 0))
        gpus[product] = gpus.get(product, 0) + count
    listed = ", ".join(f"{count} GPUs {product}" for product, count in sorted(gpus.items()) if count)
    return Check("nodes", "ok", f"{len(found)} nodes, {listed or 'no GPU'}")


def _templates(platform: Platform, templates: PodTemplates, image: str | None) -> dict[str, Object]:
    """The pods of a Ray job by their role; of workers, which are all alike, one."""
    name = image or "medmim"
    return {
        "head": pods.head(platform.pods, templates, name, "doctor"),
        "worker": pods.worker(platform.pods, templates, name),
        "submitter": pods.submitter(platform.pods, templates, name),
    }
