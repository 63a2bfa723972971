"""The pods of a Ray job: head, workers and submitter, each within the restricted Pod Security Standard.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

import os
from collections.abc import Sequence
from math import ceil

from medmim import ray_nodes
from medmim.cluster.kube import Object
from medmim.cluster.pod_templates import PodTemplates
from medmim.data import kept_pixels
from medmim.recipe import names
from medmim.recipe.pods import Pods

_INHERITED = (  # settings of the step's pod that are no secrets
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI",
    "MEDMIM_PATIENCE", "MEDMIM_USER", "MEDMIM_CACHE_GIB",
)  # fmt: skip
_GRACE = 15  # s that the submitter has, which saves nothing
_END = 5  # s of it that Ray needs to end
_PATIENCE = 300  # s that a call to the store or MLflow is retried while the server restarts


def head(pods: Pods, platform: PodTemplates, image: str, lease: str, raw: str = "") -> Object:
    """The head: Ray's control processes and the driver, which watches the Lease. Arguments as for `worker`."""
    container = _ray("ray-head", pods, platform, image, pods.head_cpus, pods.head_memory)
    container["env"] += _secret(names.TRACKING_SECRET, names.TRACKING_KEYS, optional=True)  # it alone calls MLflow
    container["env"].append({"name": "MEDMIM_LEASE", "value": lease})
    container["ports"] = [{"containerPort": port, "name": name} for name, port in names.RAY_PORTS.items()]
    spec = _pod(pods, container, account_token=True)
    _mount_raw_data(spec, raw)
    spec["restartPolicy"] = "Never"  # a restarted head has lost the job: the step makes a new attempt
    return platform.apply("head", _template(spec))


def worker(pods: Pods, platform: PodTemplates, image: str, raw: str = "") -> Object:
    """A worker: trains, asks the model, or reads images.

    Args:
        pods: The recipe's section: sizes.
        platform: What the platform adds.
        image: The image.
        raw: The claim with raw data to mount, read-only; empty: none.
    """
    container = _ray("ray-worker", pods, platform, image, pods.cpus, pods.memory)
    spec = _pod(pods, container)
    _mount_raw_data(spec, raw)
    if pods.gpus:
        for kind in ("requests", "limits"):
            container["resources"][kind][platform.gpu] = str(pods.gpus)
    if pods.accelerator:
        spec["nodeSelector"] = {platform.gpu_label: pods.accelerator}
    return platform.apply("worker", _template(spec))


def worker_count(pods: Pods, workers: int) -> int:
    """How many worker pods hold so many training workers: one on each GPU, or one a pod without GPUs."""
    return ceil(workers / max(1, pods.gpus))


def submitter(pods: Pods, platform: PodTemplates, image: str) -> Object:
    """The submitter: submits the entrypoint to the head and prints the driver's log, which the step reads."""
    container = _container("submitter", image, "1", "1Gi", request="50m")
    spec = _pod(pods, container)
    spec["restartPolicy"] = "Never"
    return platform.apply("submitter", _template(spec))


def _template(spec: Object) -> Object:
    return {"metadata": {"labels": {"app.kubernetes.io/managed-by": "medmim"}}, "spec": spec}


def _pod(pods: Pods, container: Object, account_token: bool = False) -> Object:
    spec: Object = {
        "automountServiceAccountToken": account_token,
        "serviceAccountName": names.RAY_ACCOUNT,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE if container["name"] == "submitter" else pods.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER,
            "runAsGroup": names.USER,
            "fsGroup": names.USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "home", "emptyDir": {"sizeLimit": pods.ephemeral_storage}},
        ],
    }
    if any(mount["name"] == "cache" for mount in container["volumeMounts"]):
        claim = {"claimName": os.environ["MEDMIM_CACHE_CLAIM"]}
        spec["volumes"].append({"name": "cache", "persistentVolumeClaim": claim})
    if container["name"] != "submitter":
        spec["volumes"].append({"name": "ca", "configMap": {"name": names.CA_CONFIG_MAP, "optional": True}})
        container["volumeMounts"].append({"name": "ca", "mountPath": names.CA_FOLDER, "readOnly": True})
        container["env"] += [_setting(key) for key in names.CA_KEYS]
        spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}})
        container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    return spec


def _mount_raw_data(spec: Object, claim: str) -> None:
    if claim:
        spec["volumes"].append({"name": "raw", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mount = {"name": "raw", "mountPath": names.RAW_FOLDER, "readOnly": True}
        spec["containers"][0]["volumeMounts"].append(mount)


def _ray(name: str, pods: Pods, platform: PodTemplates, image: str, cpus: float, memory: str) -> Object:
    # a fraction of a CPU is a share that may burst to a whole one: throttled to it, Ray alone starts for minutes
    container = _container(name, image, str(ceil(cpus)), memory, request=f"{round(cpus * 1000)}m")
    for kind in ("requests", "limits"):
        container["resources"][kind]["ephemeral-storage"] = pods.ephemeral_storage
    container["env"] += [{"name": key, "value": os.environ[key]} for key in _INHERITED if os.environ.get(key)]
    if not os.environ.get("MEDMIM_PATIENCE"):
        container["env"].append({"name": "MEDMIM_PATIENCE", "value": str(_PATIENCE)})
    if os.environ.get("MEDMIM_CACHE_CLAIM"):
        container["volumeMounts"].append({"name": "cache", "mountPath": names.CACHE_FOLDER})
        container["env"].append({"name": "MEDMIM_CACHE", "value": names.CACHE_FOLDER})
    container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", ray_nodes.pre_stop(pods.grace_seconds)]}}}
    container["env"] += _secret(names.S3_SECRET, names.S3_KEYS) if platform.s3_secret else []
    container["env"] += [
        {"name": "MEDMIM_EVENTS", "value": "-"},
        {"name": kept_pixels.LIMIT, "value": "0"},  # the home ends with the pod: no later build would find them
        {"name": "RAY_worker_niceness", "value": "0"},
        {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": str(_END)},  # after the hook; a head is never idle
        # what the driver of a job that is deleted has to save
        {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(pods.grace_seconds - _END)},
        {"name": "OMP_NUM_THREADS", "value": str(max(1, int(cpus)))},
    ]
    return container


def _container(name: str, image: str, cpu: str, memory: str, request: str) -> Object:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "HOME", "value": names.HOME}, {"name": "MEDMIM_HOME", "value": f"{names.HOME}/.medmim"}],
        "resources": {
            "requests": {"cpu": request, "memory": memory},
            "limits": {"cpu": cpu, "memory": memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": names.HOME}],  # noqa: S108
    }


def _secret(name: str, keys: Sequence[str], optional: bool = False) -> list[Object]:
    """Environment variables by reference: no value of a secret is ever written into a spec."""
    more = {"optional": True} if optional else {}
    return [{"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key, **more}}} for key in keys]


def _setting(key: str) -> Object:
    return {"name": key, "valueFrom": {"configMapKeyRef": {"name": names.SETTINGS, "key": key, "optional": True}}}
