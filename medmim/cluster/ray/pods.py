"""The pods of a Ray job: head, workers and submitter, each within the restricted Pod Security Standard.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

import os
from collections.abc import Sequence
from math import ceil

from medmim import ray_nodes
from medmim.cluster.kube import Object
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


def head(pods: Pods, image: str, lease: str, raw: str = "") -> Object:
    """The head: Ray's control processes and the driver, which watches the Lease. `raw`: as for `worker`."""
    container = _ray("ray-head", pods, image, pods.head_cpus, pods.head_memory)
    container["env"].append({"name": "MEDMIM_LEASE", "value": lease})
    container["ports"] = [{"containerPort": port, "name": name} for name, port in names.RAY_PORTS.items()]
    spec = _pod(pods, container, account_token=True)
    _mount_raw_data(spec, raw)
    spec["restartPolicy"] = "Never"  # a restarted head has lost the job: the step makes a new attempt
    return _template(spec)


def worker(pods: Pods, image: str, raw: str = "") -> Object:
    """A worker: trains, asks the model, or reads images.

    Args:
        pods: The recipe's section.
        image: The image.
        raw: The claim with raw data to mount, read-only; empty: none.
    """
    container = _ray("ray-worker", pods, image, pods.cpus, pods.memory)
    spec = _pod(pods, container)
    _mount_raw_data(spec, raw)
    if pods.gpus:
        for kind in ("requests", "limits"):
            container["resources"][kind]["nvidia.com/gpu"] = str(pods.gpus)
    if pods.accelerator:
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), "nvidia.com/gpu.product": pods.accelerator}
    return _template(spec)


def worker_count(pods: Pods, workers: int) -> int:
    """How many worker pods hold so many training workers: one on each GPU, or one a pod without GPUs."""
    return ceil(workers / max(1, pods.gpus))


def submitter(pods: Pods, image: str) -> Object:
    """The submitter: submits the entrypoint to the head and prints the driver's log, which the step reads."""
    container = _container("submitter", pods, image, "1", "1Gi", request="50m")
    spec = _pod(pods, container)
    spec["restartPolicy"] = "Never"
    return _template(spec)


def _template(spec: Object) -> Object:
    return {"metadata": {"labels": {"app.kubernetes.io/managed-by": "medmim"}}, "spec": spec}


def _pod(pods: Pods, container: Object, account_token: bool = False) -> Object:
    spec: Object = {
        "automountServiceAccountToken": account_token,
        "serviceAccountName": pods.service_account,
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
    if pods.node_selector:
        spec["nodeSelector"] = dict(pods.node_selector)
    if pods.tolerations:
        spec["tolerations"] = [t.model_dump(exclude_none=True) for t in pods.tolerations]
    if pods.priority:
        spec["priorityClassName"] = pods.priority
    if pods.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pods.pull_secrets]
    if pods.ca_config_map:
        spec["volumes"].append({"name": "ca", "configMap": {"name": pods.ca_config_map}})
        container["volumeMounts"].append({"name": "ca", "mountPath": names.CA_FOLDER, "readOnly": True})
        container["env"].append({"name": "AWS_CA_BUNDLE", "value": names.CA_FILE})
    if any(mount["name"] == "cache" for mount in container["volumeMounts"]):
        claim = {"claimName": os.environ["MEDMIM_CACHE_CLAIM"]}
        spec["volumes"].append({"name": "cache", "persistentVolumeClaim": claim})
    if container["name"] != "submitter":
        spec["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pods.shared_memory}})
        container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108
    return spec


def _mount_raw_data(spec: Object, claim: str) -> None:
    if claim:
        spec["volumes"].append({"name": "raw", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mount = {"name": "raw", "mountPath": names.RAW_FOLDER, "readOnly": True}
        spec["containers"][0]["volumeMounts"].append(mount)


def _ray(name: str, pods: Pods, image: str, cpus: float, memory: str) -> Object:
    # a fraction of a CPU is a share that may burst to a whole one: throttled to it, Ray alone starts for minutes
    container = _container(name, pods, image, str(ceil(cpus)), memory, request=f"{round(cpus * 1000)}m")
    for kind in ("requests", "limits"):
        container["resources"][kind]["ephemeral-storage"] = pods.ephemeral_storage
    container["env"] += [{"name": key, "value": os.environ[key]} for key in _INHERITED if os.environ.get(key)]
    if not os.environ.get("MEDMIM_PATIENCE"):
        container["env"].append({"name": "MEDMIM_PATIENCE", "value": str(_PATIENCE)})
    if os.environ.get("MEDMIM_CACHE_CLAIM"):
        container["volumeMounts"].append({"name": "cache", "mountPath": names.CACHE_FOLDER})
        container["env"].append({"name": "MEDMIM_CACHE", "value": names.CACHE_FOLDER})
    container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", ray_nodes.pre_stop(pods.grace_seconds)]}}}
    container["env"] += _secret(pods.s3_secret, names.S3_KEYS)
    container["env"] += _secret(pods.tracking_secret, names.TRACKING_KEYS)
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


def _container(name: str, pods: Pods, image: str, cpu: str, memory: str, request: str) -> Object:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": pods.pull_policy,
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


def _secret(name: str | None, keys: Sequence[str]) -> list[Object]:
    """Environment variables by reference: no value of a secret is ever written into a spec."""
    return [{"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}} for key in keys if name]
