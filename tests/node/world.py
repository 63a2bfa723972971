"""The chart installed as people do it: MLflow in a release's namespace, accounts and settings in one for runs."""

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

import pytest
import yaml
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from tests.support import s3_policy
from tests.support.chart import CHART, helm, render


def kubectl_of(kubeconfig: Path) -> Callable[..., str]:
    """kubectl for one cluster: the kit's own binary where the kubeconfig is the kit's."""
    beside = kubeconfig.parent / "bin" / "kubectl"
    binary = str(beside if beside.exists() else "kubectl")

    def call(*words: str, stdin: str | None = None) -> str:
        command = [binary, "--kubeconfig", str(kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, input=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    call.kubeconfig = kubeconfig  # type: ignore[attr-defined]
    call.command = [binary, "--kubeconfig", str(kubeconfig)]  # type: ignore[attr-defined]
    return call


REAL = {"type": "real"}  # the label of the node where pods really run


@dataclass(frozen=True)
class Namespace:
    """A namespace for runs, beside that of a release; both are the test's own.

    Attributes:
        name: Its name.
        kubectl: For the whole cluster.
        kubeconfig: Of the cluster.
        image: medmim's image.
        bucket: Of the test's own, for store and MLflow.
    """

    name: str
    kubectl: Callable[..., str]
    kubeconfig: Path
    image: str
    bucket: str

    @property
    def platform(self) -> str:
        """Where the release is."""
        return f"{self.name}-platform"

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

    def values(self) -> dict[str, Any]:
        """Of the chart: the laptop's example, with the addresses of this machine."""
        repository, _, tag = self.image.rpartition(":")
        return {
            "image": {"repository": repository, "tag": tag},
            "cudaImage": {"repository": repository},  # one image on the node, for all
            "runNamespaces": [{"name": self.name, "create": True}],
            "runPods": {"nodeSelector": REAL},
            "store": {
                "artifacts": self.store,
                "mlflow": f"s3://{self.bucket}/mlflow",
                "endpoint": os.environ["AWS_ENDPOINT_URL"],
                "region": os.environ["AWS_REGION"],
            },
            "mlflow": {"nodeSelector": REAL, "volume": {"size": "1Gi"}},
            "jobs": {"nodeSelector": REAL},
            "sweep": {"enabled": False},  # two busy cores: each start of Python takes seconds from what is tested
        }

    def release(self) -> Any:
        """Helm on the release's namespace; a context manager."""
        return helm.Config(kubeconfig_path=self.kubeconfig, namespace=self.platform)

    def prepare(self, disk: Path | None) -> None:
        """The bucket, the release's namespace with its key, and MLflow's volume where a disk is given."""
        _s3().make_bucket(self.bucket)
        self.kubectl("create", "namespace", self.platform)
        self.kubectl("label", "namespace", self.platform, "pod-security.kubernetes.io/enforce=restricted")
        self.key(self.platform)
        if disk and not json.loads(self.kubectl("get", "storageclasses", "-o", "json"))["items"]:
            self._volume(disk)

    def key(self, namespace: str, name: str = "medmim-s3", role: str = "") -> dict[str, str]:
        """A Secret with a key of the store, returned too: of a user with `infra/s3/ROLE.json`, else the test's own."""
        keys = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        if role:
            user = f"{role}-{self.bucket}"
            admin = _admin()
            admin.policy_add(user, policy=s3_policy.load(role, self.bucket))
            admin.user_add(user, "secret-of-this-user")
            admin.policy_set(user, user=user)
            keys = {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": "secret-of-this-user"}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys}
        self.kubectl("-n", namespace, "apply", "-f", "-", stdin=yaml.safe_dump(secret))
        return keys

    def need(self, *images: str) -> None:
        """Skip the test where an image is not on the node."""
        known = self.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names[*]}").split()
        if missing := sorted(set(images) - set(known)):
            pytest.skip(f"not on the node: {', '.join(missing)}; docs/image.md says how to build and import it")

    def address(self, service: str) -> str:
        """Host and port of a service of the release, as this machine reaches it where it is the node."""
        found = json.loads(self.kubectl("-n", self.platform, "get", "service", service, "-o", "json"))["spec"]
        return f"{found['clusterIP']}:{found['ports'][0]['port']}"

    def install(self) -> None:
        """The release."""
        with self.release() as release:
            release.install(CHART, "medmim", self.values(), namespace=self.platform, wait="watcher", timeout=300)
        self.key(self.name)

    def install_for_runs_only(self) -> None:
        """What the chart puts into the namespace for runs, and nothing else."""
        objects = [one for one in render(self.values(), self.platform) if self.name in _places(one)]
        for early in (True, False):  # a namespace before what is in it
            some = [one for one in objects if (one["kind"] == "Namespace") == early]
            self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(some))
        self.key(self.name)

    def _volume(self, folder: Path) -> None:
        """A cluster without any storage class gets a folder of its node for MLflow's volume."""
        (folder / "mlflow").mkdir(exist_ok=True)
        node = {"matchExpressions": [{"key": key, "operator": "In", "values": [value]} for key, value in REAL.items()]}
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": self.platform, "name": "medmim-mlflow"},
            "local": {"path": str(folder / "mlflow")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [node]}},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.name}, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(volume))

    def remove(self) -> None:
        """Both namespaces with all that is in them, the volume, the bucket."""
        self.kubectl("delete", "namespace", self.name, self.platform, "--ignore-not-found", "--timeout=180s")
        self.kubectl("delete", "persistentvolume", self.name, "--ignore-not-found", "--timeout=60s")
        s3 = _s3()
        if s3.bucket_exists(self.bucket):
            for found in s3.list_objects(self.bucket, recursive=True):
                s3.remove_object(self.bucket, str(found.object_name))
            s3.remove_bucket(self.bucket)
        admin = _admin()
        for user in json.loads(admin.user_list()):
            if user.endswith(f"-{self.bucket}"):
                admin.user_remove(user)
                admin.policy_remove(user)

    def objects(self, prefix: str) -> list[str]:
        """Keys in the bucket."""
        return [str(found.object_name) for found in _s3().list_objects(self.bucket, prefix, recursive=True)]

    def read(self, key: str) -> str:
        """An object of the bucket as text."""
        return _s3().get_object(self.bucket, key).data.decode("utf-8", "replace")

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """The address here of a service of the release."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            here = free.getsockname()[1]
        command = [*self.kubectl.command, "-n", self.platform, "port-forward", f"service/{service}", f"{here}:{port}"]  # type: ignore[attr-defined]
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


def _places(one: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Where an object is, or which namespace it is."""
    name = one["metadata"]["name"] if one["kind"] == "Namespace" else None
    hook = one["metadata"].get("annotations", {}).get("helm.sh/hook")
    return () if hook else (name, one["metadata"].get("namespace"))


def _s3() -> Minio:
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    return Minio(
        endpoint=address.netloc,
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region=os.environ["AWS_REGION"],
        secure=address.scheme == "https",
    )


def _admin() -> MinioAdmin:
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    root = StaticProvider(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return MinioAdmin(endpoint=address.netloc, credentials=root, secure=address.scheme == "https")
