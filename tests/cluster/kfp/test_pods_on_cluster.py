"""The pods of a run on a real API server, with Argo's labels: what they wait for, and the log of one that runs.

A simulated node has no kubelet to ask for a log: one that gives logs alone stands in for it.
"""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from medmim.cluster.kfp import client, logs, runs, submit
from medmim.cluster.kfp.access import resolve
from medmim.cluster.kube import Kube
from tests.cluster.conftest import kubectl
from tests.support.kfp_world import World, a_world
from tests.support.kube_pods import argo_pod, waits
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

Apply = Callable[..., None]


@pytest.fixture
def world(
    cluster: Kube, kubeconfig: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A KFP for one user, whose runs are in the test's namespace."""
    monkeypatch.setattr(logs, "POLL", 0.2)
    with a_world(tmp_path, f"{bucket}/store", monkeypatch) as found:
        submit.start(submit.plan("train", found.recipe, "demo-1", access=lambda: found.access, image=found.image))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield found


@pytest.fixture
def api(world: World, cluster: Kube) -> client.Api:
    return client.connect(resolve(world.kfp.address, cluster.namespace))


@pytest.fixture
def kubelet(kubeconfig: Path, tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """Pod -> lines of its log; the pods are on node `stand-in`."""
    lines: dict[str, list[str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            assert where.path.endswith("/main") and parse_qs(where.query)["timestamps"] == ["true"], self.path
            text = "".join(lines[where.path.split("/")[3]]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            pass

    key = ["-keyout", tmp_path / "key", "-out", tmp_path / "crt", "-subj", "/CN=stand-in", "-days", "1"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_port}},
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "stand-in"}, "spec": {"unschedulable": True}}
        kubectl(kubeconfig, "apply", "-f", "-", stdin=json.dumps(node))
        patched = json.dumps({"status": status})
        kubectl(kubeconfig, "patch", "node", "stand-in", "--subresource=status", "-p", patched)
        yield lines
        kubectl(kubeconfig, "delete", "node", "stand-in")
        server.shutdown()


def make(
    kubeconfig: Path, cluster: Kube, pod: dict[str, Any], status: dict[str, Any] | None = None, **spec: Any
) -> str:
    name = str(pod["metadata"]["name"])
    pod["spec"] |= spec
    kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=json.dumps(pod))
    if status:
        words = ("patch", "pod", name, "--subresource=status", "-p", json.dumps({"status": status}))
        kubectl(kubeconfig, "-n", cluster.namespace, *words)
    return name


def test_what_the_pods_of_a_step_wait_for(world: World, api: client.Api, cluster: Kube, kubeconfig: Path) -> None:
    """The scheduler's own words; a kubelet's, put into a status; an Event's."""
    run = world.kfp.run("demo-1")
    driver = world.kfp.node(run, "data").replace(".data(0).executor(0)", ".data-driver(0)")
    never = {"nodeSelector": {"no": "node"}}
    make(kubeconfig, cluster, argo_pod("driver", driver, run["run_id"]), **never)
    world.kfp.begin(run, "data", state="PENDING")
    found = until(lambda: runs.find(api, "demo-1").steps[0].waiting)
    assert found.startswith("Unschedulable: 0/2 nodes are available: ")
    time.sleep(1)  # creation times are whole seconds
    pod = argo_pod("executor", world.kfp.node(run, "data"), run["run_id"])
    make(kubeconfig, cluster, pod, {"phase": "Pending", "conditions": []}, **never)
    make(kubeconfig, cluster, argo_pod("other", world.kfp.node(run, "data"), "another-run"), waits("Wrong"), **never)
    uid = json.loads(kubectl(kubeconfig, "-n", cluster.namespace, "get", "pod", "executor", "-o", "json"))["metadata"][
        "uid"
    ]
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "type": "Warning", "reason": "FailedMount",
        "message": 'secret "mlpipeline-minio-artifact" not found', "lastTimestamp": "2099-11-30T10:00:00Z",
        "involvedObject": {"kind": "Pod", "name": "executor", "namespace": cluster.namespace, "uid": uid},
    }  # fmt: skip
    kubectl(kubeconfig, "-n", cluster.namespace, "apply", "-f", "-", stdin=json.dumps(event))
    scheduled = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
    make(kubeconfig, cluster, pod, scheduled)
    assert runs.find(api, "demo-1").steps[0].waiting == f"FailedMount: {event['message']}"
    make(kubeconfig, cluster, pod, {**scheduled, **waits("ErrImagePull", "manifest unknown")})
    assert runs.find(api, "demo-1").steps[0].waiting == "ErrImagePull: manifest unknown"


def test_the_log_of_a_running_pod_is_read_and_followed(
    world: World, api: client.Api, cluster: Kube, kubeconfig: Path, kubelet: dict[str, list[str]]
) -> None:
    run = world.kfp.run("demo-1")
    world.kfp.begin(run, "data")
    name = world.kfp.pod(run, "data")
    kubelet[name] = ["2026-11-30T10:00:01.5Z one\n"]
    pod = argo_pod(name, world.kfp.node(run, "data"), run["run_id"])
    make(kubeconfig, cluster, pod, {"phase": "Running"}, nodeName="stand-in")
    found = runs.find(api, "demo-1")
    assert logs.of_step(api, found, found.steps[0], logs.reach(api, found)) == "one\n"
    seen: list[str] = []

    def course() -> None:
        until(lambda: seen)
        kubelet[name].append("2026-11-30T10:00:02Z two\n")
        until(lambda: len(seen) > 1)
        world.kfp.end(run, "SUCCEEDED")

    threading.Thread(target=course, daemon=True).start()
    for _, lines in logs.follow(api, found, "data", lambda *_: None):
        seen += lines
    assert seen == ["one", "two"]
