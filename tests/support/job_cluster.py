"""A cluster that runs one Job to an end of the test's choice, for what follows it; the API server itself is in
tests/cluster.
"""

from typing import Any

from medmim.cluster import kube

Object = dict[str, Any]


class JobCluster:
    """A namespace; a Job in it ends at the third look, its log grows by a line at each.

    Attributes:
        end: `Complete`, `Failed`, or `deleted`.
        code: Exit code of its container; None where the pod was lost.
        text: The lines of its log.
        jobs: Those that are there, by name.
    """

    namespace = "runs"

    def __init__(self, end: str, code: int | None, text: list[str]) -> None:
        self.end, self.code, self.text = end, code, text
        self.jobs: dict[str, Object] = {}
        self.looks = 0

    def check_namespace(self) -> None: ...

    def user(self) -> str:
        return "anna@example.org"

    def create(self, kind: str, body: Object) -> Object | None:
        assert kind == "jobs" and kind in kube.API
        if body["metadata"]["name"] in self.jobs:
            return None
        self.jobs[body["metadata"]["name"]] = body
        return body

    def get(self, kind: str, name: str) -> Object | None:
        if kind == "podtemplates":
            metadata = {"labels": {"app.kubernetes.io/component": "promoter"}}
            return {"template": {"metadata": metadata, "spec": {"containers": [{"name": "promoter", "env": []}]}}}
        self.looks += 1
        if self.end == "deleted" and self.looks > 1:
            return None
        if self.looks > 2:
            self.jobs[name]["status"] = {"conditions": [{"type": self.end, "status": "True"}]}
        return self.jobs[name]

    def list(self, kind: str, selector: str) -> list[Object]:
        key, _, value = selector.partition("=")
        if kind == "jobs":
            return [one for one in self.jobs.values() if one["metadata"]["labels"].get(key) == value]
        pods: list[Object] = []
        for number in (2, 1):  # the newest first, as an API server may
            metadata = {"name": f"{value}-{number}", "creationTimestamp": f"2026-01-0{number}T00:00:00Z"}
            state = {"terminated": {"exitCode": self.code if number == 2 else 99}}
            status = {"containerStatuses": [{"state": state}]} if self.code is not None else {}
            pods.append({"metadata": metadata, "spec": {"containers": [{"name": "c"}]}, "status": status})
        return pods

    def log(self, pod: str, container: str, since: int | None = None) -> str:
        if pod.endswith("-1"):
            return ""
        seen = self.text[: self.looks] if self.looks < 3 else self.text
        return "".join(f"2026-01-02T00:00:0{i}.5Z {line}\n" for i, line in enumerate(seen))
