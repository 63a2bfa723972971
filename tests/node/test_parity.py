"""The laptop and the cluster are the same platform: the compiled pipeline as pods gives what `medmim run` gives."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from medmim import store, tracking
from medmim.nightly import records
from medmim.recipe import loading
from medmim.recipe.registry import CANDIDATE
from medmim.run.stage import NIGHTLY, STAGES, outcomes
from medmim.run.workspace import Workspace, workspace
from tests.node.kfp_driver import Failed, Pipeline, output_of
from tests.node.world import Namespace

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.patients": 220,
    "data.test_fraction": 0.3,
    "finetune.steps": 12,
    "finetune.save_every": 6,
    "finetune.batch_size": 16,
    "bench.limit": 100,
    "register.model": "parity",
}
SETS = [f"{key}={value}" for key, value in SMALL.items()]


def on_this_machine(home: Path, verb: str = "run") -> dict[str, Any]:
    sets = [word for one in SETS for word in ("--set", one)]
    command = [sys.executable, "-m", "medmim.cli.main", verb, "demo", "--home", str(home), "--json", *sets]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def in_pods(namespace: Namespace, run: str, graph: str = "train") -> dict[str, dict[str, Any]]:
    """Run a pipeline; returns every task's pod as it ended."""
    pipeline = Pipeline(ROOT / "medmim" / "shipped" / "pipelines" / f"{graph}.yaml")
    pods: dict[str, dict[str, Any]] = {}

    def step(name: str, values: dict[str, str]) -> dict[str, str]:
        root = f"s3://{namespace.bucket}/kfp/{run}"
        pod = pipeline.pod(name, values, namespace.image, "medmim-step", root)
        pods[name] = namespace.run(pod, 900)
        log = namespace.call("logs", name, "--timestamps")
        print_times(pods[name], log)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in json.dumps(pods[name]) + log
        return output_of(pods[name])

    uri = f"{namespace.store}/runs/{run}/recipe.json"  # as `medmim submit` passes it
    store.open_store(namespace.store).write(f"runs/{run}/recipe.json", loading.load("demo", SETS).dump().encode())
    arguments = {"recipe": uri, "home": "/home/medmim/.medmim", "run": run}
    with suppress(Failed):  # the exit codes show it
        pipeline.run(arguments, step)
    return pods


def print_times(pod: dict[str, Any], log: str) -> None:
    """One line for docs/cluster.md: how long the pod took, and from its container's start to its first line."""
    state = ended(pod)
    begun, over = moment(state["startedAt"]), moment(state["finishedAt"])
    lines = [line.partition(" ") for line in log.splitlines()]
    # but for KFP's own lines and its executor input
    written = [when for when, _, text in lines if text and text[0] not in "[{ }"]
    print(
        f"{pod['metadata']['name']}: exit {state['exitCode']}, {over - begun:.0f} s, "
        f"started {begun - moment(pod['metadata']['creationTimestamp']):.0f} s after it was made, "
        f"first line {moment(written[0]) - begun if written else 0:.0f} s later"
    )


def ended(pod: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def moment(text: str) -> float:
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def losses(ws: Workspace, uri: str) -> list[float]:
    lines = (ws.fetch(uri) / "losses.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def scores(ws: Workspace, uri: str) -> dict[tuple[str, str, str], float]:
    rows = json.loads((ws.fetch(uri) / "scores.json").read_text())["leaderboard"]
    return {(row["model"], row["group"], row["metric"]): row["value"] for row in rows}


def test_the_pipeline_in_pods_gives_what_the_laptop_gives(namespace: Namespace, tmp_path: Path) -> None:
    local = on_this_machine(tmp_path / "home")
    pods = in_pods(namespace, "parity")

    assert list(pods) == list(STAGES), "every stage, the report last though promote refused"
    codes = {name: ended(pod)["exitCode"] for name, pod in pods.items()}
    assert codes == dict.fromkeys(STAGES, 0) | {"promote": 1}, "a bench that was cut short is not comparable"

    here = workspace(tmp_path / "home", run=Path(local["report"]).stem)
    there = Workspace(tmp_path / "there", namespace.store, "", "parity")
    mine, theirs = outcomes(here), outcomes(there)
    assert theirs["data"].digest == mine["data"].digest == local["digests"]["data"]
    assert theirs["audit"].digest == mine["audit"].digest
    expected = losses(here, mine["finetune"].uri)
    assert len(expected) == SMALL["finetune.steps"]
    assert losses(there, theirs["finetune"].uri) == pytest.approx(expected, abs=1e-4)
    assert scores(there, theirs["bench"].uri) == pytest.approx(scores(here, mine["bench"].uri), abs=0.03)
    assert theirs["promote"].status == mine["promote"].status == "refused"
    assert theirs["gate"].facts["reasons"] == mine["gate"].facts["reasons"]
    assert (there.fetch(theirs["report"].uri) / "report.html").read_text().startswith("<!")

    with namespace.forwarded("medmim-mlflow", 5000) as address:
        known = tracking.registered(Workspace(tmp_path, namespace.store, address))
    listed = known[f"parity{CANDIDATE}"].versions  # approval is required there, and not on this machine
    assert [version.tags["medmim.digest"] for version in listed] == [theirs["finetune"].digest]
    assert theirs["register"].facts["version"] == listed[0].number
    assert any(key.endswith("recipe.json") for key in namespace.objects("mlflow/")), "the server keeps artifacts in S3"


def test_a_night_in_pods_sees_what_the_laptop_sees(namespace: Namespace, tmp_path: Path) -> None:
    local = on_this_machine(tmp_path / "home", "nightly")
    pods = in_pods(namespace, "demo-nightly-pods", "nightly")

    assert {name: ended(pod)["exitCode"] for name, pod in pods.items()} == dict.fromkeys(NIGHTLY, 0)
    there = Workspace(tmp_path / "there", namespace.store, "", "demo-nightly-pods")
    seen = outcomes(there, NIGHTLY)["watch"].facts
    (row,) = records.read(there, "demo")
    assert (row.alarms, local["alarms"], local["verdict"]) == ([], [], "quiet")
    assert row.run == "demo-nightly-pods"
    assert {role: one["changed"] for role, one in seen["canary"].items()} == {"base": 0}

    def values(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
        return {(one["model"], one["group"], one["metric"]): one["value"] for one in rows}

    assert values(row.scores) == pytest.approx(values(local["scores"]), abs=0.03)
