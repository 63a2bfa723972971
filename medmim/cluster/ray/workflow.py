"""The Workflow of a pipeline run, which owns its Ray jobs: whether the run is over, so that they must end."""

import os
from collections.abc import Sequence

from medmim.cluster.kube import Kube, Object

_ENDED = ("Failed", "Error", "Succeeded")


def of_this_pod(kube: Kube) -> list[Object]:
    """The Workflow as owner, so that our objects are deleted with it. Not this pod: a lost step must not end its job.

    Empty outside a pipeline's pod.
    """
    name = os.environ.get("KFP_POD_NAME")
    pod = kube.get("pods", name) if name else None
    owners = (pod or {}).get("metadata", {}).get("ownerReferences", [])
    return [
        {**{key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}, "blockOwnerDeletion": False}
        for owner in owners
        if owner["kind"] == "Workflow"
    ][:1]


def terminated(kube: Kube, owners: Sequence[Object]) -> str:
    """Why nobody will continue the run of these owners; empty while somebody may."""
    for owner, workflow in _workflows(kube, owners):
        if workflow is None:
            return f"its run {owner['name']} is gone"
        if was_terminated(workflow):
            return f"its run {owner['name']} was terminated"
    return ""


def was_terminated(workflow: Object) -> bool:
    """Whether somebody ended a Workflow.

    KFP terminates a run by `activeDeadlineSeconds: 0`, which stays when the Workflow has ended; Argo has `shutdown`.
    """
    spec = workflow.get("spec", {})
    return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))


def ended_as(kube: Kube, owners: Sequence[Object]) -> str:
    """The phase in which the run of these owners has ended; empty while it runs, and where there is none."""
    phases = [(workflow or {}).get("status", {}).get("phase", "") for _, workflow in _workflows(kube, owners)]
    return next((phase for phase in phases if phase in _ENDED), "")


def _workflows(kube: Kube, owners: Sequence[Object]) -> list[tuple[Object, Object | None]]:
    found = [(owner, kube.get("workflows", owner["name"])) for owner in owners if owner["kind"] == "Workflow"]
    return [(owner, one if one and one["metadata"]["uid"] == owner["uid"] else None) for owner, one in found]
