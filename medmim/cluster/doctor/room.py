"""Whether the pods of a Ray job would find room: admission, quota, nodes with GPUs, volumes."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from medmim.cluster.doctor.api import Unseen, ask, items
from medmim.cluster.kube import Kube, Object
from medmim.cluster.ray import pods
from medmim.doctor.check import Check
from medmim.errors import UserError
from medmim.recipe.schema import Platform

GPU = "nvidia.com/gpu"
_PRODUCT = "nvidia.com/gpu.product"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def templates(platform: Platform, image: str | None) -> list[tuple[str, int, Object]]:
    """The pods of a Ray job: what each is, how many, and its template."""
    asked = platform.pods
    count = pods.worker_count(asked, platform.workers)
    named = image or "medmim"
    return [
        ("head", 1, pods.head(asked, named, "doctor")),
        ("worker", count, pods.worker(asked, named)),
        ("submitter", 1, pods.submitter(asked, named)),
    ]


def admission(kube: Kube, platform: Platform, image: str | None) -> Check:
    """Whether the API server would let in the pods of a Ray job; a dry run, which starts none."""
    problems = []
    for what, _, template in templates(platform, image):
        body = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {**template["metadata"], "generateName": f"doctor-{what}-"},
            "spec": {"restartPolicy": "Never", **template["spec"]},
        }  # fmt: skip
        path = f"/api/v1/namespaces/{kube.namespace}/pods?dryRun=All&fieldValidation=Strict"
        status, said = ask(kube, "POST", path, body)
        message = str(said.get("message", ""))
        if status == 403 and "cannot create" in message:
            raise Unseen(
                "this account may not create pods, not even on trial", fix="run the doctor as somebody who may"
            )
        if status != 201:
            problems.append(f"{what}: {message[:400] or status}")
    if problems:
        raise UserError(
            "pods of a Ray job would not be let in",
            fix="mend what is named: account, priority class, quota or limit range; or ask for less in platform.pods",
            problems=problems,
        )
    return Check("pods", "ok", "head, worker and submitter would be let in (dry run)")


def quota(kube: Kube, platform: Platform) -> Check:
    """Whether the namespace's quotas have room for all the pods of a Ray job at once."""
    quotas = items(kube, f"/api/v1/namespaces/{kube.namespace}/resourcequotas")
    if not quotas:
        return Check("quota", "ok", "none")
    need, never, now = _need(platform), [], []
    for one in quotas:
        if one["spec"].get("scopes") or one["spec"].get("scopeSelector"):
            continue
        used = one.get("status", {}).get("used", {})
        for key, hard in one["spec"].get("hard", {}).items():
            wanted = need.get(key, Decimal(0))
            text = f"{one['metadata']['name']}: {key} {wanted.normalize():f} wanted, {used.get(key, 0)} of {hard} used"
            if wanted > _amount(hard):
                never.append(text)
            elif wanted + _amount(used.get(key, 0)) > _amount(hard):
                now.append(text)
    if never:
        fix = "ask for less in platform.pods and platform.workers, or have the ResourceQuota raised"
        raise UserError("a Ray job of this recipe never fits", fix=fix, problems=never)
    names = ", ".join(one["metadata"]["name"] for one in quotas)
    if now:
        return Check("quota", "warn", f"no room now: {'; '.join(now)}", "wait for other pods to end, or ask for less")
    return Check("quota", "ok", f"{names}: room for a Ray job")


def nodes(kube: Kube, platform: Platform) -> Check:
    """GPUs and their labels, and whether nodes can take the workers; what runs there already is not counted."""
    found = items(kube, "/api/v1/nodes")
    gpus: dict[str, int] = {}
    for node in found:
        count = int(node["status"].get("allocatable", {}).get(GPU, 0))
        product = node["metadata"].get("labels", {}).get(_PRODUCT, f"without label {_PRODUCT}")
        gpus[product] = gpus.get(product, 0) + count
    there = ", ".join(f"{count} GPUs {product}" for product, count in sorted(gpus.items()) if count)
    text = f"{len(found)} nodes, {there or 'no GPU'}"
    room, reasons = 0, []
    worker = pods.worker(platform.pods, "")["spec"]
    for node in found:
        why = list(_unfit(node, worker, platform))
        reasons += [f"{node['metadata']['name']}: {', '.join(why)}"] if why else []
        room += 0 if why else _copies(node, _requests(worker))
    wanted = pods.worker_count(platform.pods, platform.workers)
    if room < wanted:
        raise UserError(
            f"{text}: room for {room} of {wanted} worker pods",
            fix=_fix(reasons, platform),
            problems=reasons[:5],
        )
    if not there:
        return Check("nodes", "warn", text, "this recipe asks for none; real models need them (platform.pods.gpus)")
    return Check("nodes", "ok", f"{text}; room for {wanted} worker {'pod' if wanted == 1 else 'pods'}")


def storage(kube: Kube) -> Check:
    """Whether volumes of no named class would be made, such as MLflow's."""
    classes = items(kube, "/apis/storage.k8s.io/v1/storageclasses")
    names = [one["metadata"]["name"] for one in classes]
    default = [
        one["metadata"]["name"] for one in classes if one["metadata"].get("annotations", {}).get(_DEFAULT) == "true"
    ]
    if default:
        return Check("storage", "ok", f"default class {default[0]}")
    named = names[0] if names else "NAME"
    mark = json.dumps({"metadata": {"annotations": {_DEFAULT: "true"}}})
    fix = f"kubectl patch storageclass {named} -p '{mark}', or name a class in each claim"
    text = f"no default class; there {'are' if names else 'is'} {', '.join(names) or 'none at all'}"
    claims = items(kube, f"/api/v1/namespaces/{kube.namespace}/persistentvolumeclaims")
    waiting = [
        one["metadata"]["name"]
        for one in claims
        if one.get("status", {}).get("phase") == "Pending" and not one["spec"].get("storageClassName")
    ]
    if waiting:
        raise UserError(f"{text}; {', '.join(waiting)} waits for one", fix=fix)
    return Check("storage", "warn", text, fix)


def _unfit(node: Object, worker: Object, platform: Platform) -> Iterator[str]:
    """Why a node never takes a worker pod."""
    labels = node["metadata"].get("labels", {})
    if node["spec"].get("unschedulable"):
        yield "cordoned"
    for condition in node["status"].get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] != "True":
            yield "not ready"
    for key, value in worker.get("nodeSelector", {}).items():
        if labels.get(key) != value:
            yield f"{key} is {labels.get(key, 'absent')}, not {value}"
    for taint in node["spec"].get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not _tolerated(taint, platform):
            yield f"taint {taint['key']} is not tolerated"
    if not _copies(node, _requests(worker)):
        asked = ", ".join(f"{key} {value.normalize():f}" for key, value in _requests(worker).items())
        yield f"too small for {asked}"


def _fix(reasons: list[str], platform: Platform) -> str:
    taints = sorted({key for one in reasons for key in re.findall(r"taint (\S+) is not tolerated", one)})
    fixes = [f"platform.pods.tolerations: [{', '.join(f'{{key: {key}}}' for key in taints)}]"] if taints else []
    if platform.pods.gpus or platform.pods.accelerator:
        fixes.append("nodes with GPUs need NVIDIA's device plugin and feature labels (GPU operator)")
    return "; ".join([*fixes, "ask for what nodes have: `medmim recipe explain platform.pods`"])


def _tolerated(taint: Object, platform: Platform) -> bool:
    return any(
        (one.key is None or one.key == taint["key"])
        and (one.effect is None or one.effect == taint["effect"])
        and (one.operator == "Exists" or one.value == taint.get("value", ""))
        for one in platform.pods.tolerations
    )


def _copies(node: Object, asked: dict[str, Decimal]) -> int:
    """How many pods of that size an empty node holds."""
    has = node["status"].get("allocatable", {})
    return int(min(_amount(has.get(key, 0)) // value for key, value in asked.items() if value))


def _requests(spec: Object) -> dict[str, Decimal]:
    return {key: _amount(value) for key, value in spec["containers"][0]["resources"]["requests"].items()}


def _need(platform: Platform) -> dict[str, Decimal]:
    """What a quota would count of a Ray job, by the quota's own words."""
    need = {"pods": Decimal(0), "count/pods": Decimal(0), "count/rayjobs.ray.io": Decimal(1)}
    for _, count, template in templates(platform, None):
        resources = template["spec"]["containers"][0]["resources"]
        need["pods"] += count
        need["count/pods"] += count
        for kind in ("requests", "limits"):
            for key, value in resources[kind].items():
                names = [f"{kind}.{key}"] + ([key] if kind == "requests" and key in ("cpu", "memory") else [])
                for name in names:
                    need[name] = need.get(name, Decimal(0)) + count * _amount(value)
    return need


def _amount(quantity: Any) -> Decimal:
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(str(quantity)))
