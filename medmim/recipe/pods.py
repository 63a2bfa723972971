"""The recipe's `platform.pods`: how large the pods of a Ray job are. None of it changes any content.

What a cluster wants of pods, whoever runs what in them, is the platform's: the chart's values `runPods`.
"""

from typing import Annotated

from pydantic import Field

from medmim.recipe.keys import Positive, Section

Cpus = Annotated[float, Field(gt=0)]
Minutes = Annotated[float, Field(gt=0)]
# Kubernetes quantities, and its names (RFC 1123)
Quantity = Annotated[str, Field(pattern=r"^[1-9]\d*(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w.:/@-]*$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?$")]


class Pods(Section):
    """How large a Ray job's pods are, with `platform.ray: rayjob`."""

    image: Image | None = Field(
        None, description="medmim's image; default: MEDMIM_IMAGE, which the cluster's settings say"
    )
    cuda_image: Image | None = Field(
        None,
        description="the one with torch, of what trains or asks a model; default: `image`, or MEDMIM_CUDA_IMAGE",
    )
    vllm_image: Image | None = Field(
        None, description="medmim's image with vLLM, by digest: of the pods of a benchmark with bench.engine: vllm"
    )
    namespace: Name | None = Field(None, description="default: that of the step's pod, or of the kubeconfig's context")
    cpus: Cpus = Field(1.0, description="CPUs of a worker pod")
    memory: Quantity = Field("4Gi", description="memory of a worker pod")
    gpus: int = Field(0, ge=0, description="GPUs of a worker pod, a training worker each")
    accelerator: LabelValue | None = Field(
        None, description="only nodes with this kind of GPU, as their label nvidia.com/gpu.product names it"
    )
    head_cpus: Cpus = Field(1.0, description="CPUs of the head pod; nothing trains there")
    head_memory: Quantity = Field("4Gi", description="memory of the head pod, which prepares and publishes")
    shared_memory: Quantity = Field("1Gi", description="size of /dev/shm in each pod; counts as memory")
    ephemeral_storage: Quantity = Field("20Gi", description="scratch disk of each pod: data, base and model once")
    pending_minutes: Minutes = Field(
        15, description="how long pods may wait for nodes, quota or a registry, once admitted"
    )
    grace_seconds: Positive = Field(
        30, ge=10, description="what a pod that is preempted has to save and upload a checkpoint"
    )
    deadline_minutes: Minutes = Field(1440, description="the job is stopped after this long")
    lease_seconds: Positive = Field(1800, ge=30, description="the job stops when its step has been gone this long")
    attempts: Positive = Field(3, description="how often the job is started when its head is lost")
