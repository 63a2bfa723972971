"""`medmim base | zoo import --on-cluster`: the import as a Job, from the Hub or S3 into the store, past this machine.

The pod is a step's: its account, settings, S3 secret and certificate, under the restricted Pod Security Standard.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from medmim import __version__
from medmim.cluster import images, jobs, kube
from medmim.cluster.kube import Object
from medmim.errors import UserError
from medmim.progress import forward, parse, say
from medmim.recipe import names
from medmim.sample import digest_of

_DEADLINE = 12 * 3600  # s
_KEPT = 24 * 3600  # s that a finished Job and its log stay
_POLL = 5.0  # s
_SIZE = re.compile(r"[1-9]\d*(\.\d+)?(Gi|Ti|G|T)")
_RESOURCES = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "4", "memory": "4Gi"}}


def job(
    source: str,
    store: str | None,
    words: Sequence[str] = (),
    image: str | None = None,
    disk: str = "64Gi",
    verb: Sequence[str] = ("base", "import"),
) -> Object:
    """The Job that imports a checkpoint.

    Args:
        source: `s3://` or a hub name: what its pod can reach.
        store: `s3://`; that of the settings of the namespace where none is given.
        words: Further options of the command.
        image: medmim's image with torch. [default: MEDMIM_CUDA_IMAGE, or MEDMIM_IMAGE]
        disk: Scratch disk, as Kubernetes writes sizes.
        verb: The command, and what stands before its source.

    Returns:
        A `batch/v1` Job. Equal imports have equal names, so that two do not run at once.

    Raises:
        UserError: A source, store or file that the pod could not reach, or no image.
    """
    from medmim.lvlm.importing.source import is_hub_name

    words = list(words)
    clip = words[words.index("--clip") + 1 : words.index("--clip") + 2] if "--clip" in words else []
    for ref in (source, *clip):
        if not ref.startswith("s3://") and not is_hub_name(ref):
            raise UserError(
                f"{ref} is a folder of this machine",
                reason="the pods of the cluster do not see it",
                fix="give s3://BUCKET/PREFIX or a hub name with --hub; or import here, with --store s3://BUCKET/PREFIX",
            )
        if is_hub_name(ref) and "--hub" not in words:
            raise UserError(f"{ref} is a hub name", reason="medmim goes online only when told to", fix="add --hub")
    if store is not None and not store.startswith("s3://"):
        raise UserError(f"--store is {store}", reason="a pod's folder is gone with it", fix="give s3://BUCKET/PREFIX")
    if "--terms" in words and Path(words[words.index("--terms") + 1]).is_file():
        raise UserError(
            "--terms names a file of this machine",
            reason="the pods of the cluster do not see it",
            fix="put terms.json beside the checkpoint, or name known terms, such as --terms llama3",
        )
    _, image = images.chosen((image, None), images.of_environment())  # weights are read with torch
    if not image:
        raise UserError("no image for the Job", fix="give --image registry/medmim@sha256:..., or set MEDMIM_CUDA_IMAGE")
    if not _SIZE.fullmatch(disk):
        raise UserError(f"--disk is '{disk}'", fix="give a size such as 64Gi")
    command = ["medmim", *verb, source, *(["--store", store] if store else []), *words]
    labels = {
        "app.kubernetes.io/name": "medmim",
        "app.kubernetes.io/component": "step",  # what the network policies of the chart choose
        "app.kubernetes.io/managed-by": "medmim",
        "app.kubernetes.io/version": __version__,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{verb[0]}-import-{digest_of([image, *command])[:16]}", "labels": labels},
        "spec": {
            "backoffLimit": 2,
            "activeDeadlineSeconds": _DEADLINE,
            "ttlSecondsAfterFinished": _KEPT,
            "template": {"metadata": {"labels": labels}, "spec": _pod(image, command, disk)},
        },
    }


def _pod(image: str, command: Sequence[str], disk: str) -> Object:
    return {
        "restartPolicy": "Never",
        "serviceAccountName": names.STEP_ACCOUNT,
        "automountServiceAccountToken": False,  # it asks the cluster nothing
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.USER,
            "runAsGroup": names.USER,
            "fsGroup": names.USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "import",
                "image": image,
                "args": list(command),
                "env": _environment(),
                "resources": {kind: {**asked, "ephemeral-storage": disk} for kind, asked in _RESOURCES.items()},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                    "runAsNonRoot": True,
                },
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
                    {"name": "home", "mountPath": names.HOME},
                    {"name": "ca", "mountPath": names.CA_FOLDER, "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "home", "emptyDir": {"sizeLimit": disk}},
            {"name": "ca", "configMap": {"name": names.CA_CONFIG_MAP, "optional": True}},
        ],
    }


def _environment() -> list[Object]:
    """Settings and secrets by reference, all optional: as the pods of steps have them."""
    env: list[Object] = [
        {"name": "HOME", "value": names.HOME},
        {"name": "MEDMIM_HOME", "value": f"{names.HOME}/.medmim"},
        {"name": "MEDMIM_EVENTS", "value": "-"},
    ]
    for key in names.SETTINGS_KEYS:
        settings = {"name": names.SETTINGS, "key": key, "optional": True}
        env.append({"name": key, "valueFrom": {"configMapKeyRef": settings}})
    for key in names.S3_KEYS:
        secret = {"name": names.S3_SECRET, "key": key, "optional": True}
        env.append({"name": key, "valueFrom": {"secretKeyRef": secret}})
    return env


def run(manifest: Object, namespace: str | None) -> str:
    """Create the Job, or find it running, follow it, and return what it printed.

    Raises:
        UserError: The cluster refuses it, or the import failed: its last lines, with its exit code.
        Unavailable: The API server does not answer.
    """
    cluster = kube.connect(namespace)
    cluster.check_namespace()
    name = manifest["metadata"]["name"]
    made = cluster.create("jobs", manifest)
    say(f"Job {name} in {cluster.namespace} {'started' if made else 'is there already'}; this may be interrupted")
    lines: list[str] = []

    def on_line(line: str) -> None:
        event = parse(line)
        if event:
            forward(event)
        elif line:
            lines.append(line)

    code = jobs.follow(cluster, name, on_line, _POLL)
    if code:
        raise UserError(
            f"the import failed in Job {name} of {cluster.namespace}",
            reason="; ".join(lines[-4:]) or "its pod left no log",
            fix=f"`kubectl -n {cluster.namespace} describe job {name}`; delete it to try again",
            exit_code=code,
        )
    return "\n".join(lines)
