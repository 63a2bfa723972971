"""Decides where a stage runs: in this process, or in a Ray job on another cluster.

A step takes its lock before it starts a job: the second of two equal runs waits without GPUs. The job's driver renews
the lock too, and the step that replaces a lost one shares it, as it adopts the job.
"""

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any

from medmim import store
from medmim.cluster import raw_data
from medmim.cluster.ray.request import Request
from medmim.data import build
from medmim.errors import UserError
from medmim.finetune import run as training
from medmim.recipe.schema import Recipe
from medmim.redact import shown
from medmim.run.stage import Outcome
from medmim.run.step_lock import step_lock
from medmim.run.workspace import Workspace, sqlite_path
from medmim.sample import digest_of

_DECIDING = {  # sections of the recipe that decide what a stage does
    "data": {"data"},
    "finetune": {"data", "finetune"},
    "bench": {"bench"},
    "rebench": {"bench", "nightly"},
}


def is_remote(recipe: Recipe) -> bool:
    """Whether `platform.ray` names a cluster that this process is not part of."""
    return recipe.platform.ray != "local" and not recipe.platform.node_of


def data_set(recipe: Recipe, ws: Workspace) -> Outcome:
    """The data set of a recipe, found or built where `platform.ray` says. No job is started for one that is found.

    Raises:
        UserError: As `build.run`; or a root that another cluster cannot read.
    """
    if not is_remote(recipe):
        return build.run(recipe, ws)
    rayjob, in_pod = recipe.platform.ray == "rayjob", bool(os.environ.get("KFP_POD_NAME"))
    problems = list(raw_data.unreadable(recipe.data, os.environ.get("MEDMIM_RAW_CLAIM", ""), rayjob, in_pod))
    found = None
    with suppress(UserError) if problems else nullcontext():  # what is wrong first is the root
        found = build.find(recipe, ws)
    if found is not None:
        return found
    if problems:
        raise UserError(
            f"recipe {recipe.name} cannot be built on the Ray cluster {recipe.platform.ray}",
            problems=problems,
            fix="change what is named; or build it on this machine first, with platform.ray: local and the same store: "
            "then it is found",
        )
    made = store.get(run(recipe, ws, "data", {}))
    return Outcome("data", uri=made.uri, digest=made.digest, facts=dict(made.counts))


def run(recipe: Recipe, ws: Workspace, stage: str, arguments: Mapping[str, Any]) -> str:
    """Run a stage in a Ray job on the cluster of `platform.ray`, and wait for it and for an equal one of another run.

    Args:
        recipe: The run's recipe.
        ws: The workspace; its store is what this process and the job share.
        stage: `data`, `finetune`, `bench` or `rebench`.
        arguments: What the stage's function takes beside recipe and workspace; plain JSON.

    Returns:
        URI of the stage's artifact.

    Raises:
        UserError: What the stage raised in the job, or how the job ended.
    """
    if not ws.store.startswith("s3://"):
        raise UserError(
            f"platform.ray is {recipe.platform.ray}, and the store is {ws.store}",
            reason="the pods or nodes of a Ray job see no folder of this machine",
            fix="set platform.store (or MEDMIM_STORE) to s3://BUCKET/PREFIX",
        )
    platform = recipe.platform.model_copy(
        update={
            "ray": "auto",
            "store": ws.store,
            "tracking": shown(ws.tracking) if sqlite_path(ws.tracking) is None else None,  # it lies in the store
            "threads": recipe.platform.threads or max(1, int(recipe.platform.pods.cpus)),
        }
    )
    request = Request(stage, recipe.model_copy(update={"platform": platform}).dump(), ws.run, dict(arguments))
    with step_lock(store.open_store(ws.store), lock_name(stage, recipe, arguments), ws.run, request.digest) as lock:
        found = _find(recipe, ws, stage, arguments) if lock.waited or stage == "finetune" else None
        if found is not None:
            return found.uri
        if recipe.platform.ray == "rayjob":
            from medmim.cluster.ray import runner

            return runner.run(request, recipe.platform, ws.store)
        from medmim.cluster.ray import jobs_api

        return jobs_api.run(request, recipe.platform, ws.store)


def lock_name(stage: str, recipe: Recipe, arguments: Mapping[str, Any]) -> str:
    """Name of the lock of a stage that runs in a Ray job: the same for equal ones of several runs."""
    section = recipe.model_dump(mode="json", include=_DECIDING[stage])
    deciding = [stage, json.dumps(section, sort_keys=True), json.dumps(dict(arguments), sort_keys=True)]
    return f"{stage}-job-{digest_of(deciding)[:16]}"


def _find(recipe: Recipe, ws: Workspace, stage: str, arguments: Mapping[str, Any]) -> Outcome | None:
    """What a job would find done, as far as this process can tell: none is started for it."""
    if stage == "data":
        return build.find(recipe, ws)
    return training.find(recipe, ws, **arguments) if stage == "finetune" else None
