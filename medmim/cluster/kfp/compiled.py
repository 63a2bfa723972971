"""The compiled pipelines that come with medmim: the version that made them, and the image that they run."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from importlib import resources
from typing import Any

import yaml

from medmim import __version__
from medmim.cluster.kfp import step_template
from medmim.cluster.kube import Object
from medmim.errors import UserError
from medmim.recipe import names

CPU, CUDA = "medmim-cpu:placeholder", "medmim-cuda:placeholder"
VERSION_LABEL = "app.kubernetes.io/version"  # each pod's, and so the IR's
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time
_FIX = "use the pipelines of one medmim: pip install it again, or `make compile` in a checkout"


@dataclass(frozen=True)
class Ir:
    """A compiled pipeline.

    Attributes:
        text: Two YAML documents: the pipeline and its platform spec.
        name: The pipeline's.
        sdk: Version of the KFP SDK that compiled it.
        steps: Names of the tasks that are containers.
    """

    text: str
    name: str
    sdk: str
    steps: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load(pipeline: str) -> Ir:
    """A shipped pipeline.

    Raises:
        UserError: There is none, it is damaged, or another version of medmim made it.
    """
    try:
        text = (resources.files("medmim.shipped.pipelines") / f"{pipeline}.yaml").read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"this medmim has no pipeline '{pipeline}'", fix=_FIX) from None
    return parse(text, pipeline)


def parse(text: str, where: str) -> Ir:
    """Read an IR and check the version and the images in it. Raises as `load`."""
    try:
        spec, platform = yaml.load_all(text, _LOADER)
        executors = spec["deploymentSpec"]["executors"]
        images = {executor["container"]["image"] for executor in executors.values()}
        if _on_kubernetes(platform).keys() != executors.keys():
            raise ValueError("not every step says what its pod looks like")
        metadata = _metadata(platform)
        made_by = {one["labels"].get(VERSION_LABEL, "an unknown version") for one in metadata}
        ir = Ir(text, spec["pipelineInfo"]["name"], spec["sdkVersion"], _steps(spec))
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the pipeline '{where}' is damaged", reason=str(error)[:200], fix=_FIX) from None
    if made_by != {__version__}:
        raise UserError(
            f"the pipeline '{where}' was made by medmim {', '.join(sorted(made_by))}, and this is {__version__}",
            reason="its steps call functions of exactly that version",
            fix=_FIX,
        )
    if others := images - {CPU, CUDA}:
        raise UserError(f"the pipeline '{where}' names the images {', '.join(sorted(others))}", fix=_FIX)
    return ir


def pinned(ir: Ir, image: str, cuda_image: str) -> Ir:
    """The same pipeline with images in place of the placeholders."""
    text = ir.text
    for placeholder, named in ((CPU, image), (CUDA, cuda_image)):
        text = re.sub(rf"\b{re.escape(placeholder)}\b", named, text)
    return Ir(text, ir.name, ir.sdk, ir.steps)


def with_cache(ir: Ir, claim: str) -> Ir:
    """The same pipeline with a claim of the run's namespace as the cache of each step; KFP has no optional volumes."""
    spec, platform = yaml.load_all(ir.text, _LOADER)
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"].setdefault("env", []).append({"name": "MEDMIM_CACHE", "value": names.CACHE_FOLDER})
    for executor in _on_kubernetes(platform).values():
        executor.setdefault("pvcMount", []).append(_mount(claim, names.CACHE_FOLDER))
    return Ir(yaml.safe_dump_all([spec, platform], sort_keys=True), ir.name, ir.sdk, ir.steps)


def with_raw_data(ir: Ir, claim: str) -> Ir:
    """The same pipeline with a claim of the run's namespace, the raw data, in the step `data` and no other."""
    spec, platform = yaml.load_all(ir.text, _LOADER)
    executor = _on_kubernetes(platform).get("exec-data")
    if executor is not None:
        executor.setdefault("pvcMount", []).append(_mount(claim, names.RAW_FOLDER))
    return Ir(yaml.safe_dump_all([spec, platform], sort_keys=True), ir.name, ir.sdk, ir.steps)


def with_templates(ir: Ir, templates: Sequence[Object]) -> Ir:
    """The same pipeline with what the platform wants of each step's pod.

    Raises:
        UserError: A part of it is beyond KFP.
    """
    if not any(templates):
        return ir
    spec, platform = yaml.load_all(ir.text, _LOADER)
    containers = spec["deploymentSpec"]["executors"]
    for name, executor in _on_kubernetes(platform).items():
        volumes: list[Object] = []  # of those before, too: the chart names some for all pods, and steps mount them
        for template in templates:
            pod = template.get("spec") or {}
            volumes = [*volumes, *(pod.get("volumes") or [])]
            own = {**template, "spec": {**pod, "volumes": volumes}}
            step_template.apply(executor, containers[name]["container"], own)
    return Ir(yaml.safe_dump_all([spec, platform], sort_keys=True), ir.name, ir.sdk, ir.steps)


def watching(ir: Ir) -> Ir:
    """The same pipeline where Ray's pods do the work: each step is as small as those that never compute.

    What asks for less than it uses is evicted first, and what asks for more finds no node: the peak of a step that
    watches is 320 MB. The node of such a step has no use for torch, either: so this comes before `pinned`.
    """
    spec, platform = yaml.load_all(ir.text, _LOADER)
    containers = [executor["container"] for executor in spec["deploymentSpec"]["executors"].values()]
    small = min((one["resources"] for one in containers), key=lambda one: float(one["memoryRequest"]))
    for one in containers:
        one["resources"] = dict(small)
        one["image"] = CPU
    return Ir(yaml.safe_dump_all([spec, platform], sort_keys=True), ir.name, ir.sdk, ir.steps)


def _on_kubernetes(platform: Any) -> dict[str, Any]:
    executors: dict[str, Any] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return executors


def _mount(claim: str, folder: str) -> dict[str, Any]:
    return {
        "mountPath": folder,
        "constant": claim,
        "pvcNameParameter": {"runtimeValue": {"constant": claim}},
    }


def step_names() -> tuple[str, ...]:
    """The steps of every shipped pipeline, each pipeline's in the order of its graph."""
    return tuple(dict.fromkeys(name for spec, _ in _shipped() for name in _steps(spec)))


def metadata_counts() -> set[tuple[int, int]]:
    """How many annotations and labels the pods of shipped pipelines have."""
    found = [one for _, platform in _shipped() for one in _metadata(platform)]
    return {(len(one.get("annotations", {})), len(one["labels"])) for one in found}


@cache
def _shipped() -> tuple[tuple[Any, Any], ...]:
    files = sorted(
        resources.files("medmim.shipped.pipelines").iterdir(), key=lambda one: (one.name != "train.yaml", one.name)
    )
    wanted = [one for one in files if one.name.endswith(".yaml") and not one.name.startswith("step-")]
    return tuple(tuple(yaml.load_all(one.read_text("utf-8"), _LOADER)) for one in wanted)


def _metadata(platform: Any) -> list[Any]:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return [one["podMetadata"] for one in executors.values()]


def _steps(spec: dict[str, Any]) -> tuple[str, ...]:
    """Tasks of containers in the order of the graph; what ends a run comes last."""
    executed = {name for name, one in spec["components"].items() if "executorLabel" in one}
    dags = [one["dag"] for one in spec["components"].values() if "dag" in one] + [spec["root"]["dag"]]
    tasks = {
        name: task for dag in dags for name, task in dag["tasks"].items() if task["componentRef"]["name"] in executed
    }
    waits = {name: [one for one in task.get("dependentTasks", []) if one in tasks] for name, task in tasks.items()}
    order = TopologicalSorter(waits).static_order()
    return tuple(sorted(order, key=lambda name: "triggerPolicy" in tasks[name]))
