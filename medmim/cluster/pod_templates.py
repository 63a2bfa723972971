"""What a platform wants of the pods of runs: said once, in the chart's values `runPods`, and merged into every pod.

The chart writes a YAML text into ConfigMap `medmim`, under MEDMIM_PODS: for each role (the step's pod; head, worker and
submitter of a Ray job) partial pod templates as Kubernetes writes them, merged one after the other.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmim.cluster.kube import Forbidden, Kube, Object
from medmim.errors import UserError
from medmim.recipe import names

SETTING = "MEDMIM_PODS"
STEP_CONTAINER = "main"  # as Argo calls it
_ROLES = ("step", "head", "worker", "submitter")
_OURS = "app.kubernetes.io/"  # labels by which policies, the sweep and `submit` know our pods
# Lists whose entries are merged, or replaced, by a key of theirs; other lists are replaced as a whole.
_MERGED = {"containers": "name", "initContainers": "name"}
_REPLACED = {"env": "name", "volumes": "name", "imagePullSecrets": "name", "volumeMounts": "mountPath"}
_ADDED = ("tolerations",)
_OUR_VOLUMES = ("cache", "home", "tmp", "ca", "shm", "raw")  # of our pods: one of the same name would replace ours
_FIX = f"correct the chart's runPods and run `helm upgrade`; {SETTING} of ConfigMap {names.SETTINGS} is written by it"


@dataclass(frozen=True)
class PodTemplates:
    """The platform's word on the pods of runs.

    Attributes:
        step: Partial pod templates of a step, in the order in which they are merged; `head`, `worker`, `submitter`
            likewise, of a Ray job.
        job: Labels of the RayJob itself, such as the queue that admits it.
        gpu: The resource that a GPU of `platform.pods.gpus` is.
        gpu_label: The label of nodes that `platform.pods.accelerator` is compared with.
        s3_secret: Whether pods get their key to the store from Secret `medmim-s3`; else from workload identity.
    """

    step: tuple[Object, ...] = ()
    head: tuple[Object, ...] = ()
    worker: tuple[Object, ...] = ()
    submitter: tuple[Object, ...] = ()
    job: Mapping[str, str] = field(default_factory=dict)
    gpu: str = "nvidia.com/gpu"
    gpu_label: str = "nvidia.com/gpu.product"
    s3_secret: bool = True

    def apply(self, role: str, pod: Object) -> Object:
        """A pod template with what the platform adds to those of that role."""
        for template in getattr(self, role):
            pod = merge(pod, template)
        return pod

    @property
    def never_pulled(self) -> bool:
        """Whether steps run an image that nodes have, and no registry: `imagePullPolicy: Never`."""
        pod = self.apply("step", {"spec": {"containers": [{"name": STEP_CONTAINER}]}})
        return bool(pod["spec"]["containers"][0].get("imagePullPolicy") == "Never")


def merge(base: Any, patch: Any) -> Any:
    """One partial pod template over another, as `kubectl patch` merges: neither is changed.

    Mappings are merged key by key, and null takes a key away. Containers are merged by name; volumes, variables and
    mounts are replaced by name or path; tolerations are added; any other list is replaced.
    """
    if not (isinstance(base, dict) and isinstance(patch, dict)):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(base)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, list) and key in _MERGED | _REPLACED:
            merged[key] = _merged_list(merged.get(key) or [], value, key)
        elif isinstance(value, list) and key in _ADDED:
            merged[key] = _unique([*(merged.get(key) or []), *value])
        else:
            merged[key] = merge(merged.get(key) or {}, value) if isinstance(value, dict) else copy.deepcopy(value)
    return merged


def _merged_list(base: Sequence[Object], patch: Sequence[Object], key: str) -> list[Object]:
    by, deep = (_MERGED | _REPLACED)[key], key in _MERGED
    merged = {one[by]: copy.deepcopy(one) for one in base}
    for one in patch:
        merged[one[by]] = merge(merged.get(one[by], {}) if deep else {}, one)
    return list(merged.values())


def _unique(items: Sequence[Object]) -> list[Object]:
    return [copy.deepcopy(one) for number, one in enumerate(items) if one not in items[:number]]


def parse(text: str) -> PodTemplates:
    """Read the text of MEDMIM_PODS; an empty one is a platform that wants nothing.

    Raises:
        UserError: It is something else; every problem at once.
    """
    import yaml

    try:
        said = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{SETTING} is no YAML", reason=str(error)[:300], fix=_FIX) from None
    if not isinstance(said, dict):
        raise UserError(f"{SETTING} is no mapping", reason=str(said)[:100], fix=_FIX)
    gpu, problems = said.get("gpu") or {}, []
    for key in said:
        if key not in (*_ROLES, "job", "gpu", "s3Secret"):
            problems.append(f"{key}: unknown; known are {', '.join(_ROLES)}, job, gpu and s3Secret")
    problems += [f"{key}: is no mapping" for key in ("job", "gpu") if not isinstance(said.get(key) or {}, dict)]
    for role in _ROLES:
        problems += _problems(role, said.get(role) or [])
    if problems:
        raise UserError(f"{SETTING} cannot be read", problems=problems, fix=_FIX)
    return PodTemplates(
        **{role: tuple(said.get(role) or ()) for role in _ROLES},
        job=dict(said.get("job") or {}),
        gpu=gpu.get("resource", PodTemplates.gpu),
        gpu_label=gpu.get("productLabel", PodTemplates.gpu_label),
        s3_secret=bool(said.get("s3Secret", True)),
    )


def _problems(role: str, templates: Any) -> list[str]:
    if not isinstance(templates, list) or not all(isinstance(one, dict) for one in templates):
        return [f"{role}: no list of pod templates"]
    found = []
    for template in templates:
        found += [f"{role}: {key} is no part of a pod template" for key in template if key not in ("metadata", "spec")]
        metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
        if flat := [key for key in ("metadata", "spec") if not isinstance(template.get(key) or {}, dict)]:
            found += [f"{role}: {key} is no mapping" for key in flat]
            continue
        found += [f"{role}: metadata.{key}: not to be set" for key in metadata if key not in ("labels", "annotations")]
        ours = [key for key in metadata.get("labels") or {} if str(key).startswith(_OURS)]
        found += [f"{role}: label {key}: medmim's own" for key in ours]
        found += (wrong := _without_key(role, spec))
        named = [one["name"] for one in spec.get("volumes") or []] if not wrong else []
        found += [f"{role}: volume {one}: medmim's own; give it another name" for one in named if one in _OUR_VOLUMES]
        for key in _MERGED:
            of_kind = spec.get(key) or []
            for container in of_kind if isinstance(of_kind, list) else [of_kind]:
                found += _without_key(role, container)
    return found


def _without_key(role: str, part: Any) -> list[str]:
    """Entries of lists that are merged by a key which they do not have."""
    keys = _MERGED | _REPLACED
    if not isinstance(part, dict):
        return [f"{role}: {str(part)[:100]} is no mapping"]
    return [f"{role}: {name} is no list" for name in keys if not isinstance(part.get(name) or [], list)] or [
        f"{role}: an entry of {name} has no {keys[name]}"
        for name, entries in part.items()
        if name in keys
        for entry in entries or []
        if not isinstance(entry, dict) or not isinstance(entry.get(keys[name]), str)
    ]


def of_namespace(kube: Kube) -> PodTemplates:
    """What the platform says in this namespace: by the environment of a step's pod, or elsewhere by its ConfigMap.

    Raises:
        UserError: What it says cannot be read, or this account may not look; the fix names the right.
        Unavailable: The API server does not answer.
    """
    text = os.environ.get(SETTING)
    if text is None and not os.environ.get("KFP_POD_NAME"):
        try:
            text = ((kube.get("configmaps", names.SETTINGS) or {}).get("data") or {}).get(SETTING)
        except (
            Forbidden
        ) as error:  # without its tolerations, proxies and queue, pods would wait, fail or jump the queue
            raise Forbidden(
                f"what the platform wants of pods is not known: {error.fact}", reason=error.reason, fix=error.fix
            ) from None
    return parse(text or "")
