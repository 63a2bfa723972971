"""A step pod that starts a Ray job as KFP would: the finetune container of the golden IR, owned by a Workflow."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim.data import build
from medmim.recipe import loading
from medmim.run.workspace import Workspace, workspace
from tests.node.kfp_driver import Pipeline, output_of
from tests.node.world import Namespace
from tests.support import workflows
from tests.support.waiting import until

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
STEPS, SAVE = 60, 10
LEASE = 60  # s
TUNED = {
    "data.patients": 200,
    "finetune.steps": STEPS,
    "finetune.save_every": SAVE,
    "finetune.batch_size": 32,
    "finetune.max_tokens": 2048,
    "platform.workers": 2,
    "bench.limit": 50,
}
PODS = {
    "platform.ray": "rayjob",
    "platform.pods": json.dumps(
        {
            "cpus": 0.4, "memory": "2Gi", "head_cpus": 0.4, "head_memory": "3Gi", "shared_memory": "256Mi",
            "ephemeral_storage": "2Gi", "lease_seconds": LEASE,
        }
    ),
}  # fmt: skip


def sets(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


@dataclass
class Run:
    """A pipeline run that has come to its step finetune.

    Attributes:
        namespace: Where.
        name: Of the run and its Workflow.
        workflow: UID of the Workflow.
        data: URI of the data set.
        pods: The step pods so far, the newest last.
        settings: Of the recipe, beside the usual ones.
    """

    namespace: Namespace
    name: str
    workflow: str
    data: str
    pods: list[str] = field(default_factory=list)
    steps: int = STEPS
    settings: dict[str, Any] = field(default_factory=dict)

    def step(self, stage: str = "finetune", **more: str) -> str:
        """Start a step pod; returns its name. Each of a stage has the same input: it is the same task, tried again."""
        pipeline = Pipeline(ROOT / "medmim" / "shipped" / "pipelines" / "train.yaml")
        values = {
            "recipe": loading.load("demo", sets(TUNED | PODS | {"finetune.steps": self.steps} | self.settings)).dump(),
            "home": "/home/medmim/.medmim",
            "run": self.name,
            "data": self.data,
            **more,
        }
        pod = pipeline.pod(
            stage, values, self.namespace.image, "medmim-step", f"s3://{self.namespace.bucket}/kfp/{self.name}"
        )
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": self.name, "uid": self.workflow}
        pod["metadata"] |= {"name": f"{self.name}-{stage}-{len(self.pods) + 1}", "ownerReferences": [owner]}
        pod["spec"]["containers"][0]["resources"] = {
            "requests": {"cpu": "100m", "memory": "1Gi"},
            "limits": {"cpu": "1", "memory": "1Gi"},
        }
        self.namespace.apply(pod)
        self.pods.append(pod["metadata"]["name"])
        return self.pods[-1]

    def kill_step(self) -> None:
        """As a lost node would: without SIGTERM."""
        self.namespace.call("delete", "pod", self.pods[-1], "--grace-period=0", "--force")

    def end(self, seconds: float = 900) -> str:
        """Wait for the step's success; returns what it made."""
        pod = until(lambda: self._ended(), seconds, "the step ends")
        assert pod["status"]["phase"] == "Succeeded", self.log()
        return output_of(pod)["Output"]

    def _ended(self) -> Object | None:
        pod = self.namespace.get("pod", self.pods[-1])
        return pod if pod["status"].get("phase") in ("Succeeded", "Failed") else None

    def log(self) -> str:
        """The log of the newest step pod; nothing while its container is being made."""
        state = self.namespace.get("pod", self.pods[-1])["status"].get("containerStatuses", [{}])[0].get("state", {})
        return "" if not state or "waiting" in state else self.namespace.call("logs", self.pods[-1])

    def wait_for_step(self, number: int) -> None:
        """Until the training has passed that optimizer step."""

        def passed() -> bool:
            done = [int(line.split()[1].split("/")[0]) for line in self.log().splitlines() if line.startswith("step ")]
            return bool(done) and done[-1] >= number

        until(passed, 600, f"step {number}")

    def ray(self, kind: str, selector: str = "") -> list[Object]:
        """Objects of the run's Ray jobs."""
        words = ["get", kind, "-o", "json", *(["-l", selector] if selector else [])]
        found: list[Object] = json.loads(self.namespace.call(*words))["items"]
        return found

    def losses(self, uri: str, home: Path) -> list[tuple[int, float]]:
        folder = Workspace(home, self.namespace.store, "").fetch(uri)
        lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in lines]


def a_run(namespace: Namespace, name: str, home: Path) -> Run:
    """A run that has built its data."""
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(workflows.CRD))
    namespace.kubectl("wait", "--for=condition=Established", "crd/workflows.argoproj.io", "--timeout=30s")
    namespace.apply(workflows.workflow(name))
    parsed = loading.load("demo", [*sets(TUNED), f"platform.store={namespace.store}"])
    data = build.run(parsed, workspace(home, parsed)).uri
    return Run(namespace, name, namespace.get("workflow", name)["metadata"]["uid"], data)
