"""Decides where a stage runs: in this process, or in a Ray job on another cluster."""

import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any

from medmim import store
from medmim.cluster import raw_data
from medmim.cluster.ray.request import Request
from medmim.data import build
from medmim.errors import UserError
from medmim.recipe.schema import Recipe
from medmim.run.stage import Outcome
from medmim.run.workspace import Workspace, sqlite_path


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
    """Run a stage in a Ray job on the cluster of `platform.ray`, and wait for it.

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
            "tracking": ws.tracking if sqlite_path(ws.tracking) is None else None,
            "threads": recipe.platform.threads or max(1, int(recipe.platform.pods.cpus)),
        }
    )
    request = Request(stage, recipe.model_copy(update={"platform": platform}).dump(), ws.run, dict(arguments))
    if recipe.platform.ray == "rayjob":
        from medmim.cluster.ray import runner

        return runner.run(request, recipe.platform, ws.store)
    from medmim.cluster.ray import jobs_api

    return jobs_api.run(request, recipe.platform.ray, ws.store)
