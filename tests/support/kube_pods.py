"""The pods of a run as Kubernetes' API server gives them: their list by label, their logs, their Events; its Workflow.

That a real one answers the same is tests/cluster/kfp/test_pods_on_cluster.py.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

Object = dict[str, Any]


def argo_pod(name: str, node: str, run_id: str) -> Object:
    """A pod with what Argo and KFP write on it, before a node has taken it."""
    security = {
        "runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 10001,
    }  # fmt: skip
    annotations = {"workflows.argoproj.io/node-name": node}
    containers = [{"name": one, "image": "i", "securityContext": security} for one in ("wait", "main")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"pipeline/runid": run_id}, "annotations": annotations},
        "spec": {"containers": containers, "restartPolicy": "Never"},
    }


def waits(reason: str, message: str = "", container: str = "main") -> Object:
    """The status of a pod one of whose containers waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    about = {"name": container, "ready": False, "restartCount": 0, "image": "i", "imageID": "", "state": state}
    return {"phase": "Pending", "containerStatuses": [about]}


class Pods:
    """What the API server has; tests change it while it answers."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.logs: dict[str, list[tuple[str, str]]] = {}  # pod -> (time, line)
        self.events: list[Object] = []
        self.status = 200
        self.workflow = True  # each run has one
        self.spec: Object = {}  # of it
        self.other = ""  # a run with a Workflow

    def add(self, name: str, node: str, run_id: str, status: Object | None = None) -> Object:
        pod = argo_pod(name, node, run_id)
        pod["metadata"] |= {"uid": str(uuid4()), "creationTimestamp": f"2026-11-30T10:00:{len(self.pods):02d}Z"}
        pod["status"] = status or {"phase": "Running"}
        self.pods[name] = pod
        return pod

    def write(self, name: str, *lines: str) -> None:
        for line in lines:
            stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            self.logs.setdefault(name, []).append((stamp, line))

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, str]:
        if self.status != 200:
            return self.status, json.dumps({"message": 'pods is forbidden: User "me" cannot list resource "pods"'})
        kind = path.rpartition("/namespaces/")[2].split("/")[1]
        if kind == "services":
            return 200, json.dumps({"metadata": {"name": "ml-pipeline"}})
        if kind == "workflows":
            other = {"metadata": {"labels": {"pipeline/runid": self.other}}}
            found = [{"spec": self.spec}] * self.workflow if "=" in query["labelSelector"][0] else [other]
            return 200, json.dumps({"items": found if self.other or found != [other] else []})
        if path.endswith("/log"):
            name = path.split("/")[6]
            if query["container"] != ["main"] or self.pods.get(name, {}).get("status", {}).get("phase") == "Pending":
                return 400, json.dumps({"message": "container is waiting to start"})
            return 200, "".join(f"{stamp} {line}\n" for stamp, line in self.logs.get(name, []))
        if kind == "events":
            uid = query["fieldSelector"][0].split(",")[0].partition("=")[2]
            return 200, json.dumps({"items": [one for one in self.events if one["involvedObject"]["uid"] == uid]})
        run_id = query["labelSelector"][0].partition("=")[2]
        found = [one for one in self.pods.values() if one["metadata"]["labels"]["pipeline/runid"] == run_id]
        return 200, json.dumps({"items": found})


@contextmanager
def kube_pods() -> Iterator[tuple[Pods, str]]:
    """The pods, and the address of the server that has them."""
    pods = Pods()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            status, text = pods.answer(where.path, parse_qs(where.query))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield pods, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
