"""A request as a KubeRay RayJob: its name and its spec.

One owner for each kind of failure: Ray Train replaces a lost worker, the step makes a new attempt when the head is
lost, the platform replaces a lost step pod, and the replacement adopts the job. So KubeRay itself retries nothing.
https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/rayjob-quick-start.html
"""

import os
import re
from importlib.metadata import version

from medmim.cluster import images, raw_data
from medmim.cluster.kube import Object
from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray import pods
from medmim.cluster.ray.request import Request, entrypoint
from medmim.errors import UserError
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Platform
from medmim.sample import digest_of

REQUEST, SPEC = "medmim/order", "medmim/spec"  # annotations: the request's folder, the job's identity
STAGE, RUN, ATTEMPT = "medmim/stage", "medmim/run", "medmim/attempt"
_TTL = 30  # s that Ray's pods stay after the end: the step archives their logs
_HASH = 16
_ASKING = ("bench", "rebench")  # stages that ask models
_RECORDS = 100_000_000  # bytes of Ray's object store: only small records pass through it


def identity(request: Request, image: str) -> str:
    """Equal for all attempts of the same job: the request, whose recipe names the pods, and the image."""
    return digest_of([request.digest, image])


def name(stage: str, job: str, attempt: int) -> str:
    """`finetune-0123456789abcdef-1`: under KubeRay's 47 characters, and a DNS label."""
    return f"{stage}-{job[:_HASH]}-{attempt}"


def rayjob(
    request: Request, uri: str, platform: Platform, templates: PodTemplates, image: str, job: str, attempt: int
) -> Object:
    """The whole RayJob but for its owner.

    Args:
        request: What to run.
        uri: The folder that holds the request.
        platform: The recipe's section.
        templates: What the cluster wants of pods.
        image: The image of every pod.
        job: The `identity`.
        attempt: From 1.
    """
    job_name = name(request.stage, job, attempt)
    labels = {
        **templates.job,
        "app.kubernetes.io/name": "medmim",
        "app.kubernetes.io/managed-by": "medmim",
        STAGE: request.stage,
        ATTEMPT: str(attempt),
        RUN: re.sub(r"[^\w.-]", "-", request.run, flags=re.ASCII)[:63].strip("-_."),
    }
    raw = ""
    if request.stage == "data":
        raw, platform = _raw_claim(request), _without_gpus(platform)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": job_name, "labels": labels, "annotations": {REQUEST: uri, SPEC: job}},
        "spec": spec(platform, templates, image, uri, job_name, raw),
    }


def _raw_claim(request: Request) -> str:
    """The claim with raw data, where a root of the request's recipe is in it."""
    return os.environ.get("MEDMIM_RAW_CLAIM", "") if raw_data.needs_claim(from_dump(request.recipe).data) else ""


def _without_gpus(platform: Platform) -> Platform:
    """As many pods as a training has, on any node: no image is decoded by a GPU."""
    count = pods.worker_count(platform.pods, platform.workers)
    plain = platform.pods.model_copy(update={"gpus": 0, "accelerator": None})
    return platform.model_copy(update={"workers": count, "pods": plain})


def spec(platform: Platform, templates: PodTemplates, image: str, uri: str, lease: str, raw: str = "") -> Object:
    """The RayJob's spec; `raw` is the claim with raw data that its head and workers read, if any."""
    asked = platform.pods
    count = pods.worker_count(asked, platform.workers)
    return {
        "entrypoint": entrypoint(uri),
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,
        "submitterConfig": {"backoffLimit": 0},
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _TTL,
        "activeDeadlineSeconds": max(1, round(asked.deadline_minutes * 60)),
        "submitterPodTemplate": pods.submitter(asked, templates, image),
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {
                    "dashboard-host": "0.0.0.0",  # noqa: S104  inside the pod; the token guards it
                    "num-cpus": "0",
                    "object-store-memory": str(_RECORDS),
                },
                "template": pods.head(asked, templates, image, lease, raw),
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": count,
                    "minReplicas": count,
                    "maxReplicas": count,
                    # said, since KubeRay knows GPUs by names of resources that end in `gpu`
                    "rayStartParams": {"object-store-memory": str(_RECORDS), "num-gpus": str(asked.gpus)},
                    "template": pods.worker(asked, templates, image, raw),
                }
            ],
        },
    }


def image(request: Request, platform: Platform) -> str:
    """The image of the pods: without torch where data is built, with vLLM in a benchmark by it, else with torch.

    Raises:
        UserError: Neither recipe nor environment names one.
    """
    served = request.stage in _ASKING and from_dump(request.recipe).bench.engine == "vllm"
    small, cuda = images.chosen(images.of_recipe(platform.pods), images.of_environment())
    found = small if request.stage == "data" else (served and platform.pods.vllm_image) or cuda
    if not found:
        raise UserError(
            "no image for the pods of the Ray job",
            reason="neither platform.pods.image nor MEDMIM_IMAGE is set",
            fix="set platform.pods.image, by digest: registry/medmim@sha256:...",
        )
    return found
