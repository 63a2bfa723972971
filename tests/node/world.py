"""A namespace with medmim's accounts, settings, secrets and MLflow server, made from infra/cluster as people do."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from minio import Minio


def kubectl_of(kubeconfig: Path) -> Callable[..., str]:
    """kubectl for one cluster: the kit's own binary where the kubeconfig is the kit's."""
    beside = kubeconfig.parent / "bin" / "kubectl"
    binary = str(beside if beside.exists() else "kubectl")

    def call(*words: str, stdin: str | None = None) -> str:
        command = [binary, "--kubeconfig", str(kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, input=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    call.command = [binary, "--kubeconfig", str(kubeconfig)]  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True)
class Namespace:
    """A namespace of the test's own.

    Attributes:
        name: Its name.
        kubectl: For the whole cluster.
        image: medmim's image.
        bucket: Of the test's own, for store and MLflow.
    """

    name: str
    kubectl: Callable[..., str]
    image: str
    bucket: str

    @property
    def store(self) -> str:
        """What MEDMIM_STORE is in the pods."""
        return f"s3://{self.bucket}/store"

    def call(self, *words: str, stdin: str | None = None) -> str:
        """Call kubectl in the namespace."""
        return self.kubectl("-n", self.name, *words, stdin=stdin)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self.call("get", kind, name, "-o", "json"))
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.call("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def make(self, manifests: Path, disk: Path | None) -> None:
        """Everything in infra/cluster, with the settings of this machine; without a folder for its disk, no MLflow."""
        _s3().make_bucket(self.bucket)
        read = {path.stem: list(yaml.safe_load_all(path.read_text())) for path in manifests.glob("*.yaml")}
        label = read.pop("namespace")[0]
        label["metadata"]["name"] = self.name
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(label))
        settings = read.pop("settings")[0]
        settings["data"] |= {
            "MEDMIM_STORE": self.store,
            "MLFLOW_ARTIFACTS": f"s3://{self.bucket}/mlflow",
            "MEDMIM_IMAGE": self.image,
            **{key: os.environ[key] for key in ("AWS_ENDPOINT_URL", "AWS_REGION")},
        }
        keys = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "medmim-s3"}, "stringData": keys}
        server = yaml.safe_dump_all(read.pop("mlflow")).replace("medmim:placeholder", self.image)
        self.apply(settings, secret, *(one for objects in read.values() for one in objects))
        if disk is None:
            return
        if not json.loads(self.kubectl("get", "storageclasses", "-o", "json"))["items"]:
            self._disk(disk)
        self.call("apply", "-f", "-", stdin=server)
        self.call("rollout", "status", "deployment/medmim-mlflow", "--timeout=180s")

    def _disk(self, folder: Path) -> None:
        """A cluster without any storage class gets a folder of its node for MLflow's volume."""
        (folder / "mlflow").mkdir(exist_ok=True)
        node = {"matchExpressions": [{"key": "type", "operator": "In", "values": ["real"]}]}
        spec = {
            "capacity": {"storage": "5Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": self.name, "name": "medmim-mlflow"},
            "local": {"path": str(folder / "mlflow")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [node]}},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.name}, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(volume))

    def remove(self) -> None:
        """The namespace with all that is in it, its volume, its bucket."""
        self.kubectl("delete", "namespace", self.name, "--ignore-not-found", "--timeout=120s")
        self.kubectl("delete", "persistentvolume", self.name, "--ignore-not-found", "--timeout=60s")
        s3 = _s3()
        if s3.bucket_exists(self.bucket):
            for found in s3.list_objects(self.bucket, recursive=True):
                s3.remove_object(self.bucket, str(found.object_name))
            s3.remove_bucket(self.bucket)

    def objects(self, prefix: str) -> list[str]:
        """Keys in the bucket."""
        return [str(found.object_name) for found in _s3().list_objects(self.bucket, prefix, recursive=True)]

    def read(self, key: str) -> str:
        """An object of the bucket as text."""
        return _s3().get_object(self.bucket, key).data.decode("utf-8", "replace")

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """The address here of a service there."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            here = free.getsockname()[1]
        command = [*self.kubectl.command, "-n", self.name, "port-forward", f"service/{service}", f"{here}:{port}"]  # type: ignore[attr-defined]
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert forward.stdout is not None
            first = forward.stdout.readline()
            assert "Forwarding" in first, first
            yield f"http://localhost:{here}"
        finally:
            forward.terminate()
            forward.wait(10)

    def run(self, pod: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Run a pod to its end; returns it as it then is, or fails with its events and its log."""
        name = pod["metadata"]["name"]
        self.apply(pod)
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            found = self.get("pod", name)
            if found["status"].get("phase") in ("Succeeded", "Failed"):
                return found
            time.sleep(1)
        raise AssertionError(f"{name} has not ended: {self.call('describe', 'pod', name)[-3000:]}")


def _s3() -> Minio:
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    return Minio(
        endpoint=address.netloc,
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
        secure=address.scheme == "https",
    )
