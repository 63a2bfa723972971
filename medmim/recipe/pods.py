"""The recipe's `platform.pods`: what the pods of a Ray job ask for. None of it changes any content."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medmim.recipe import names
from medmim.recipe.keys import Positive, Section

Cpus = Annotated[float, Field(gt=0)]
Minutes = Annotated[float, Field(gt=0)]
# Kubernetes quantities, and its names (RFC 1123)
Quantity = Annotated[str, Field(pattern=r"^[1-9]\d*(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w.:/@-]*$")]
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?$")]


class Toleration(Section):
    """A taint that the pods may ignore, as Kubernetes writes it."""

    key: str | None = Field(None, description="taint key; none: every taint")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="how `value` compares")
    value: str | None = Field(None, description="taint value, for Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="none: all effects")

    @model_validator(mode="after")
    def _equal_needs_a_value(self) -> "Toleration":
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("a toleration has a value if, and only if, its operator is Equal")
        return self


class Pods(Section):
    """What a Ray job's pods look like, with `platform.ray: rayjob`."""

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
    accelerator: LabelValue | None = Field(None, description="only nodes whose nvidia.com/gpu.product is this")
    head_cpus: Cpus = Field(1.0, description="CPUs of the head pod; nothing trains there")
    head_memory: Quantity = Field("4Gi", description="memory of the head pod, which prepares and publishes")
    shared_memory: Quantity = Field("1Gi", description="size of /dev/shm in each pod; counts as memory")
    ephemeral_storage: Quantity = Field("20Gi", description="scratch disk of each pod: data, base and model once")
    node_selector: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, description="labels that the pods' nodes must have"
    )
    tolerations: tuple[Toleration, ...] = Field((), description="taints that the pods may ignore")
    priority: Name | None = Field(None, description="PriorityClass of all the pods")
    queue: Name | None = Field(None, description="Kueue LocalQueue that admits the job")
    pull_secrets: tuple[Name, ...] = Field((), description="secrets to pull the image with")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="when to pull it")
    service_account: Name = Field(names.RAY_ACCOUNT, description="account of the pods: reads its Lease, no more")
    s3_secret: Name | None = Field(
        names.S3_SECRET, description=f"secret with {' and '.join(names.S3_KEYS)}; null: workload identity"
    )
    tracking_secret: Name | None = Field(None, description=f"secret with {' and '.join(names.TRACKING_KEYS)}")
    ca_config_map: Name | None = Field(
        None, description="ConfigMap whose ca.crt signs the certificate of the S3 endpoint"
    )
    pending_minutes: Minutes = Field(
        15, description="how long pods may wait for nodes, quota or a registry, once admitted"
    )
    grace_seconds: Positive = Field(
        30, ge=10, description="what a pod that is preempted has to save and upload a checkpoint"
    )
    deadline_minutes: Minutes = Field(1440, description="the job is stopped after this long")
    lease_seconds: Positive = Field(1800, ge=30, description="the job stops when its step has been gone this long")
    attempts: Positive = Field(3, description="how often the job is started when its head is lost")
