"""Whether a recipe can run on a cluster at all: what pods cannot reach, and what is missing on the cluster."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medmim.bench.engines import OPENAI
from medmim.cluster import raw_data
from medmim.cluster.doctor import access, api, image, mlflow
from medmim.cluster.doctor.setup import Setup, resolve
from medmim.cluster.kfp import pods
from medmim.cluster.kfp.client import Api
from medmim.cluster.kube import Kube, connect
from medmim.cluster.pod_templates import PodTemplates
from medmim.doctor.check import Check, run_side_by_side
from medmim.errors import Unavailable, UserError
from medmim.lvlm import checkpoint, llava
from medmim.recipe import names
from medmim.recipe.schema import Recipe
from medmim.redact import shown
from medmim.registry import lookup, policy
from medmim.run.workspace import Workspace

_RUN = re.compile(r"[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?")
_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s@]+@")
_LONGEST = {"experiment": 128, "namespace": 63}  # KFP 2.17: backend/src/apiserver/validation/length.go, LengthSpecs


@dataclass(frozen=True)
class Place:
    """Where the pods of a run will be.

    Attributes:
        kube: The cluster, in their namespace; None where it cannot be asked.
        namespace: Theirs; empty where it is not known.
        setup: What they would work with.
        notes: What could not be checked, and where they run in another namespace than the one that was given.
    """

    kube: Kube | None
    namespace: str
    setup: Setup
    notes: tuple[str, ...]


def place(kfp: Api, recipe: Recipe) -> Place:
    """Where a KFP runs pods, and what they would work with."""
    notes, kube = [], None
    try:
        pods.ask(kfp, api.cluster)
        reached = pods.reach(kfp)
        kube, namespace = reached.kube, reached.kube.namespace if reached.known else ""
    except UserError as error:
        notes.append(f"the Kubernetes cluster was not checked: {error.fact}")
        namespace = kfp.namespace or pods.namespace_of_server(kfp.access.host, None)
    given = kfp.access.namespace
    if not kfp.multi_user and namespace and given not in ("", namespace):
        notes.append(f"KFP at {kfp.access.host} serves one user: its pods run in {namespace}, its own, not in {given}")
    elif not namespace and (kube or given):
        checked = f"; checked was {kube.namespace}" if kube else ""
        notes.append(
            f"KFP at {kfp.access.host} serves one user: its pods run in the namespace of its Service "
            f"{names.KFP_SERVICE}, which was not found{checked}"
        )
    return Place(kube, namespace, resolve(kube, recipe.platform), tuple(notes))


def without_kfp(recipe: Recipe, namespace: str) -> Place:
    """What pods would work with, as far as it is known without KFP, which decides where they run."""
    try:
        kube = connect(namespace or recipe.platform.pods.namespace)
        setup = resolve(kube, recipe.platform)
    except UserError:
        return Place(None, "", Setup(recipe.platform), ())
    return Place(None, "", Setup(recipe.platform) if setup.unread else setup, ())


def unsupported(recipe: Recipe, setup: Setup) -> list[str]:
    """What of a recipe is for this machine only; each with its key.

    Args:
        recipe: As the user wrote it.
        setup: What pods would work with.
    """
    return [
        *raw_data.unreadable(recipe.data, setup.get("MEDMIM_RAW_CLAIM"), "://" not in recipe.platform.ray),
        *_models(recipe),
        *_platform(recipe, setup),
        *_memory(recipe),
        *_passwords(json.loads(recipe.dump())),
    ]


def invalid_names(run: str, experiment: str, namespace: str, uri: str) -> list[str]:
    """Names that KFP or Kubernetes would refuse, or in which Argo would expand a template."""
    problems = []
    if not _RUN.fullmatch(run):
        problems.append(f"run '{run}': up to 128 lower-case letters, digits and hyphens")
    for what, name in (("experiment", experiment), ("namespace", namespace)):
        if len(name.encode()) > _LONGEST[what]:
            problems.append(f"{what} '{name[:40]}...': {len(name.encode())} bytes, at most {_LONGEST[what]}")
    for what, text in (("run", run), ("the recipe's URI", uri)):
        problems += [
            f"{what} '{text}' has {mark}: KFP expands it as a template" for mark in ("{{", "[[") if mark in text
        ]
    return problems


def missing(kube: Kube, recipe: Recipe, templates: PodTemplates, kfp: str) -> list[str]:
    """What the steps of this recipe need and the cluster does not have, as far as this account may check it."""
    checks = {
        "namespace": lambda: _namespace(kube),
        "account": lambda: _account(kube),
        "secrets": lambda: image.secrets(kube, templates),
        "launcher": lambda: image.launcher(kube, kfp),
    }
    if recipe.platform.ray == "rayjob":
        checks["crds"] = lambda: api.crds(kube)
        checks["accounts"] = lambda: access.accounts(kube, names.RAY_ACCOUNT)
    found = run_side_by_side({name: api.warn_unchecked(name, check) for name, check in checks.items()})
    return [f"{one.name}: {one.found}; fix: {one.fix}" for one in found if one.status == "fail"]


def mlflow_notes(kube: Kube | None, setup: Setup) -> list[str]:
    """What MLflow says to the question that a run asks first, where it answers here and refuses it.

    Raises:
        UserError: It requires a login, and pods have none: their runs would end at `finetune`.
    """
    try:
        if setup.tracking.startswith(("http://", "https://")):
            mlflow.ask(setup.tracking)
    except Unavailable:  # its name may be a Service's, which pods alone resolve; and steps wait for it
        return []
    except UserError as error:
        with suppress(api.Unchecked):
            if isinstance(error, mlflow.Denied) and kube and not image.has_login(kube):
                raise error from None
        return [f"{error.fact}; that is what this environment gets, and pods have a login of their own"]
    return []


def _models(recipe: Recipe) -> Iterator[str]:
    base = recipe.finetune.base
    if base.startswith(OPENAI) or lookup.is_local(base):
        yield f"finetune.base: {base} is neither a shipped base, nor s3://..., models:/NAME@ALIAS nor imported:FAMILY"
    if recipe.gate.policy not in policy.shipped():
        yield f"gate.policy: {recipe.gate.policy} is a file of this machine; pods have the shipped policies only"
    for name, ref in recipe.bench.models.items():
        if lookup.is_local(ref):
            kinds = "a shipped base, nor s3://..., models:/NAME@ALIAS, imported:FAMILY, zoo:NAME nor openai:URL#NAME"
            found = "on this machine" if ref.startswith(OPENAI) else f"neither {kinds}"
            yield f"bench.models.{name}: {ref} is {found}"


def refuse_missing_models(recipe: Recipe, store: str) -> None:
    """Refuse models of `bench.models` that were not imported into the store: the bench comes after hours of work.

    Those of MLflow are left to it: its address is for pods.

    Raises:
        UserError: Every one that is missing is named, with the commands that bring it in; so is a malformed address.
    """
    ours = {name: ref for name, ref in recipe.bench.models.items() if not ref.startswith("models:/")}
    lookup.further(ours, Workspace(Path(".medmim"), store, ""))


def _platform(recipe: Recipe, setup: Setup) -> Iterator[str]:
    ray = recipe.platform.ray
    if ray not in ("local", "rayjob") and "://" not in ray:
        yield f"platform.ray: {ray} is for a process on a node of a Ray cluster, which a step's pod is not; use rayjob"
    if "://" in ray and urlsplit(ray).hostname in lookup.LOCAL_HOSTS:
        yield f"platform.ray: {ray} is this machine"
    if not setup.store.startswith("s3://"):
        yield (
            f"platform.store: {setup.store or 'not configured, nor MEDMIM_STORE'}; pods share no folder: "
            "s3://BUCKET/PREFIX, the same as in the cluster's ConfigMap medmim"
        )
    tracking = recipe.platform.tracking or setup.configured.get("MLFLOW_TRACKING_URI", "")
    if tracking and (
        not tracking.startswith(("http://", "https://")) or urlsplit(tracking).hostname in lookup.LOCAL_HOSTS
    ):
        yield f"platform.tracking: {shown(tracking)} is on this machine; pods need http(s)://HOST:PORT"
    checked = setup.configured or (setup.unread and not isinstance(setup.unread, api.Unchecked))
    if not tracking and checked:
        yield f"platform.tracking: not configured, nor MLFLOW_TRACKING_URI in ConfigMap {names.SETTINGS}; http(s)://HOST:PORT"


def _memory(recipe: Recipe) -> Iterator[str]:
    """What a training worker needs beside the size of its pod, where torch and the base can be read from here.

    Which rows the data will make is not known yet: rows of `finetune.max_tokens`, full of images.
    """
    base, pods = recipe.finetune.base, recipe.platform.pods
    readable = base in checkpoint.shipped() or base.startswith("s3://")
    if recipe.pipeline != "train" or recipe.platform.ray != "rayjob" or not readable or find_spec("torch") is None:
        return
    from kubernetes.utils.quantity import parse_quantity

    from medmim.finetune import memory_plan

    try:
        config = llava.load_config(checkpoint.locate(base))
    except UserError:  # finetune reports it, with what it can reach
        return
    on_gpu = re.search(r"(\d+)GB", pods.accelerator or "") if pods.gpus else None
    room = memory_plan.Room(
        device=int(on_gpu[1]) * 2**30 if on_gpu else None,
        host=int(parse_quantity(pods.memory)),
        says=f"a pod of platform.pods (memory {pods.memory}{f', {pods.accelerator}' if on_gpu else ''})",
    )
    gpu, settings = pods.gpus > 0, recipe.finetune
    bf16 = settings.precision == "bf16" or settings.precision == "auto" and gpu
    row = memory_plan.usual_row(config, settings)
    sharing = min(recipe.platform.workers, max(1, pods.gpus))
    try:
        memory_plan.check(config, settings, recipe.platform.workers, row, room, gpu=gpu, bf16=bf16, sharing=sharing)
    except UserError as error:
        yield f"platform.pods: {error.fact} ({'; '.join(error.problems)}); {error.fix}"


def _passwords(values: Any, key: str = "") -> Iterator[str]:
    """Addresses with a password: the recipe lies in the store, and everyone who reads that would have it."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _passwords(value, f"{key}.{name}" if key else name)
    elif isinstance(values, list):
        for value in values:
            yield from _passwords(value, key)
    elif isinstance(values, str) and _PASSWORD.search(values):
        yield (
            f"{key}: an address with a password in it; recipes are no place for secrets: "
            "pods have the Secrets of their namespace"
        )


def _namespace(kube: Kube) -> Check:
    kube.check_namespace()
    return Check("namespace", "ok", kube.namespace)


def _account(kube: Kube) -> Check:
    path = f"/api/v1/namespaces/{kube.namespace}/serviceaccounts/{names.STEP_ACCOUNT}"
    if api.read(kube, path) is None:
        raise UserError(
            f"no service account {names.STEP_ACCOUNT} in {kube.namespace}",
            fix="install charts/medmim with this namespace among its runNamespaces",
        )
    return Check("account", "ok", names.STEP_ACCOUNT)
