"""What the pod of each step asks of a cluster: the part of the IR that a laptop ignores.

KFP itself drops all capabilities, forbids escalation, sets the seccomp profile and gives KFP_POD_NAME. The rest of the
restricted Pod Security Standard, and what a namespace calls its secrets and settings, is said here. A field that the
server does not know is dropped without a word, so kfp-kubernetes is pinned to the server's version.
"""

from dataclasses import dataclass
from importlib.metadata import version

from kfp import kubernetes
from kfp.dsl import PipelineTask

from medmim.recipe import names

LABELS = {
    "app.kubernetes.io/name": "medmim", "app.kubernetes.io/component": "step",  # what the chart's policies choose
    "app.kubernetes.io/version": version("medmim"),  # whose IR it is: `medmim submit` refuses another version's
}  # fmt: skip
# Nothing starts an evicted or drained step again (docs/runs.md), so no autoscaler may empty its node for economy.
ANNOTATIONS = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


@dataclass(frozen=True)
class Size:
    """CPUs and memory: (what a node must have free, what is the limit)."""

    cpu: tuple[str, str]
    memory: tuple[str, str]


SMALL = Size(("200m", "2"), ("1Gi", "4Gi"))
LARGE = Size(("500m", "4"), ("3Gi", "8Gi"))  # where Ray is `local`; else `medmim submit` makes the watching step small
LARGE_STEPS = ("finetune", "bench", "rebench")


def in_pod(task: PipelineTask) -> PipelineTask:
    """Say what a task's pod looks like, and never take a result from KFP's cache: the store has its own.

    Every secret and setting is optional: a namespace may use workload identity, AWS itself or no CA of its own, and a
    step that misses something says so better than a pod that does not start.

    Args:
        task: A task of the graph.

    Returns:
        The task.
    """
    size = LARGE if task.component_spec.name in LARGE_STEPS else SMALL
    task.set_caching_options(False)
    task.set_cpu_request(size.cpu[0]).set_cpu_limit(size.cpu[1])
    task.set_memory_request(size.memory[0]).set_memory_limit(size.memory[1])
    kubernetes.set_security_context(task, run_as_user=names.USER, run_as_group=names.USER, run_as_non_root=True)
    for key, value in LABELS.items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in ANNOTATIONS.items():
        kubernetes.add_pod_annotation(task, key, value)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp")  # noqa: S108
    kubernetes.empty_dir_mount(task, "home", names.HOME)
    if size is LARGE:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="1Gi")  # noqa: S108  Ray's
    for secret, keys in ((names.S3_SECRET, names.S3_KEYS), (names.TRACKING_SECRET, names.TRACKING_KEYS)):
        kubernetes.use_secret_as_env(task, secret, {key: key for key in keys}, optional=True)
    kubernetes.use_config_map_as_env(task, names.SETTINGS, {key: key for key in names.SETTINGS_KEYS}, optional=True)
    kubernetes.use_field_path_as_env(task, names.RUN_ID, "metadata.labels['pipeline/runid']")  # KFP labels each pod
    kubernetes.use_config_map_as_volume(task, names.CA_CONFIG_MAP, names.CA_FOLDER, optional=True)
    return task
