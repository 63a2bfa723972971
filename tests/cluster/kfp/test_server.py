"""The contract server refuses what KFP 2.17 refuses, row by row, called by the real kfp.Client."""

import os
import subprocess
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from kfp_server_api import ApiException, V2beta1Experiment, V2beta1Pipeline, V2beta1PipelineVersionReference, V2beta1Run

from medmim.cluster.kfp import client, errors, logs
from medmim.cluster.kfp.access import Access
from tests.support.kfp_server import Kfp, kfp_server
from tests.support.kfp_state import LARGEST, REFUSALS
from tests.support.kfp_world import nothing_set

SPEC = (resources.files("medmim.shipped.pipelines") / "train.yaml").read_text()
LONG = "x" * 129


class World:
    """A server with one of each thing, and its real client."""

    def __init__(self, kfp: Kfp, folder: Path) -> None:
        self.kfp, self.folder = kfp, folder
        access = Access(kfp.address, namespace="team-a")
        self.api = client.Api(client._client(access), access, "2.17.0", kfp.state.multi_user)
        space = {"namespace": "team-a"} if kfp.state.multi_user else {}
        self.pipeline = kfp.state.create_pipeline({"name": "medmim-train", **space})["pipeline_id"]
        self.version = self.upload("first", SPEC).pipeline_version_id
        self.experiment = kfp.state.create_experiment({"display_name": "medmim", **space})["experiment_id"]

    def upload(self, name: str, text: str, file: str = "pipeline.yaml", pipeline: str | None = None) -> Any:
        path = self.folder / file
        path.write_text(text)
        query = {"pipelineid": self.pipeline if pipeline is None else pipeline}
        return self.api.client.pipeline_uploads.upload_pipeline_version(
            str(path), name=name, **{key: value for key, value in query.items() if value}
        )

    def start(self, **changes: Any) -> Any:
        parameters = {"recipe": "s3://b/r.json", "home": "/home", "run": "r"}
        body: dict[str, Any] = {
            "display_name": "r", "experiment_id": self.experiment, "runtime_config": {"parameters": parameters},
            "pipeline_version_reference": self.of(),
        }  # fmt: skip
        return self.api.client.runs.run_service_create_run(V2beta1Run(**body | changes))

    def of(self, version: str | None = None, pipeline: str | None = None) -> V2beta1PipelineVersionReference:
        return V2beta1PipelineVersionReference(
            pipeline_id=pipeline or self.pipeline, pipeline_version_id=version or self.version
        )

    def given(self, **parameters: Any) -> dict[str, Any]:
        all_of_them = {"recipe": "s3://b/r.json", "home": "/home", "run": "r", **parameters}
        return {"parameters": {key: value for key, value in all_of_them.items() if value is not None}}

    def runs(self, **query: Any) -> Any:
        return self.api.client.runs.run_service_list_runs(**{"namespace": "team-a", **query})

    def pipelines(self, **body: Any) -> Any:
        return self.api.client.pipelines.pipeline_service_create_pipeline(V2beta1Pipeline(**body))

    def experiments(self, **body: Any) -> Any:
        return self.api.client.experiments.experiment_service_create_experiment(V2beta1Experiment(**body))

    def run_api(self) -> Any:
        return self.api.client.runs

    def raw(self, path: str, body: Any) -> Any:
        """A request that the generated functions do not make, by their own client."""
        rest = self.api.client.runs.run_service_get_run.__self__.api_client
        header = {"Content-Type": "application/json"}
        return rest.call_api(path, "POST", body=body, header_params=header, auth_settings=["Bearer"])

    def ended(self) -> str:
        run = self.kfp.state.runs[self.start().run_id]
        self.kfp.end(run, "SUCCEEDED")
        return str(run["run_id"])

    def without_workflow(self) -> str:
        run = self.kfp.state.runs[self.start().run_id]
        self.kfp.delete_workflow(run)
        return str(run["run_id"])

    def unreached(self) -> str:
        run = self.kfp.state.runs[self.start().run_id]
        self.kfp.unreach_workflow(run)
        return str(run["run_id"])

    def other_criteria(self) -> None:
        for name in "ab":
            self.start(display_name=name)
        token = self.runs(page_size=1, sort_by="created_at").next_page_token
        assert token
        self.runs(page_size=1, sort_by="display_name", page_token=token)

    def without_a_user(self) -> None:
        self.kfp.state.user = ""
        self.runs()

    def another_pipeline(self) -> None:
        space = {"namespace": "team-a"} if self.kfp.state.multi_user else {}
        other = self.kfp.state.create_pipeline({"name": "other", **space})["pipeline_id"]
        self.start(pipeline_version_reference=self.of(pipeline=other))

    def two_specs(self) -> None:
        spec, _, _ = SPEC.partition("\n---\n")
        self.upload("two", f"{spec}\n---\n{spec}")


PROVOKE: dict[str, Callable[[World], Any]] = {
    "unknown field": lambda w: w.raw("/apis/v2beta1/experiments", {"display_name": "x", "colour": "red"}),
    "page size": lambda w: w.runs(page_size=-1),
    "page token": lambda w: w.runs(page_token="!"),
    "other criteria": lambda w: w.other_criteria(),
    "sort field": lambda w: w.runs(sort_by="colour"),
    "filter": lambda w: w.runs(filter='{"predicates": [{"operation": "EQUALS", "colour": "red"}]}'),
    "filter field": lambda w: w.runs(filter=client.where(colour="red")),
    "no identity": lambda w: w.without_a_user(),
    "namespace of another user": lambda w: w.runs(namespace="team-b"),
    "pipeline without a name": lambda w: w.pipelines(description="no name", namespace="team-a"),
    "pipeline name too long": lambda w: w.pipelines(name=LONG, namespace="team-a"),
    "pipeline name taken": lambda w: w.pipelines(name="medmim-train", namespace="team-a"),
    "version without a file": lambda w: w.raw("/apis/v2beta1/pipelines/upload_version", {}),
    "version of no format": lambda w: w.upload("new", SPEC, file="pipeline.txt"),
    "version too large": lambda w: w.upload("new", SPEC + "#" * LARGEST),
    "version of no pipeline": lambda w: w.upload("new", SPEC, pipeline=""),
    "version of an unknown pipeline": lambda w: w.upload("new", SPEC, pipeline="nothing"),
    "version name too long": lambda w: w.upload("x" * 128, SPEC),
    "version that is no pipeline": lambda w: w.upload("new", "hello: world\n"),
    "version of another schema": lambda w: w.upload(
        "new", SPEC.replace("schemaVersion: 2.1.0", "schemaVersion: 2.0.0")
    ),
    "version with two specs": lambda w: w.two_specs(),
    "version with a bad name inside": lambda w: w.upload("new", SPEC.replace("name: medmim-train", "name: Medmim")),
    "version name taken": lambda w: w.upload("first", SPEC),
    "experiment without a name": lambda w: w.experiments(namespace="team-a"),
    "experiment name too long": lambda w: w.experiments(display_name=LONG, namespace="team-a"),
    "experiment without a namespace": lambda w: w.experiments(display_name="new"),
    "experiment name taken": lambda w: w.experiments(display_name="medmim", namespace="team-a"),
    "run without a name": lambda w: w.start(display_name=None),
    "run of no experiment": lambda w: w.start(experiment_id=None),
    "run of an unknown experiment": lambda w: w.start(experiment_id="nothing"),
    "run of an unknown version": lambda w: w.start(pipeline_version_reference=w.of(version="nothing")),
    "run of another pipeline's version": lambda w: w.another_pipeline(),
    "parameter missing": lambda w: w.start(runtime_config=w.given(run=None)),
    "parameter of another type": lambda w: w.start(runtime_config=w.given(run=7)),
    "parameter too many": lambda w: w.start(runtime_config=w.given(colour="red")),
    "run unknown": lambda w: w.run_api().run_service_get_run("nothing"),
    "runs without a namespace": lambda w: w.runs(namespace=""),
    "retry an unknown run": lambda w: w.run_api().run_service_retry_run("nothing"),
    "retry a run that has not failed": lambda w: w.run_api().run_service_retry_run(w.ended()),
    "terminate an unknown run": lambda w: w.run_api().run_service_terminate_run("nothing"),
    "terminate an ended run": lambda w: w.run_api().run_service_terminate_run(w.ended()),
    "terminate a run whose Workflow is gone": lambda w: w.run_api().run_service_terminate_run(w.without_workflow()),
    "terminate a run while Kubernetes is away": lambda w: w.run_api().run_service_terminate_run(w.unreached()),
}


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    nothing_set(monkeypatch, str(tmp_path))
    with kfp_server(multi_user="multi-user" in getattr(request, "param", {}).get("request", "")) as kfp:
        yield World(kfp, tmp_path)


ROWS = [row for name, row in REFUSALS.items() if row["status"] != 200]


@pytest.mark.parametrize(("world", "row"), [(r, r) for r in ROWS], ids=[r["name"] for r in ROWS], indirect=["world"])
def test_each_row_is_refused_as_in_the_table(world: World, row: dict[str, Any]) -> None:
    with pytest.raises(ApiException) as raised:
        PROVOKE[row["name"]](world)
    text = raised.value.body.decode() if isinstance(raised.value.body, bytes) else str(raised.value.body)
    assert raised.value.status == row["status"], text
    first = row["message"].partition("{")[0]
    assert first in errors._message(text)
    assert ('"code"' in text) == (row["code"] is not None)
    error = errors.from_response(world.api.access, "this", raised.value.status, raised.value.body)
    assert error.exit_code == 2 and first in error.reason, "what KFP refuses is bad input, also with status 500"


@pytest.mark.parametrize("name", [name for name, row in REFUSALS.items() if row["status"] == 200])
def test_an_absent_log_comes_with_200(world: World, name: str) -> None:
    run_id = "nothing" if name.endswith("unknown run") else world.start().run_id
    if name == "no log":
        world.kfp.begin(world.kfp.state.runs[run_id], "data", log="running, and KFP serves one user\n")
    text = world.kfp.state.log(run_id, "no-pod")
    assert REFUSALS[name]["message"].format(run=run_id, pod="no-pod") in text
    assert logs._read(world.api, run_id, "no-pod") is None


def listed(world: World, run: dict[str, Any]) -> list[Any]:
    return list(world.run_api().run_service_get_run(run["run_id"]).run_details.task_details)


def test_the_tree_of_a_step_is_retry_dag_retry_pod_by_ids_of_children_only(world: World) -> None:
    """As a real 2.17.0 with KFP's settings of Argo lists it (docs/runs.md)."""
    run = world.kfp.state.runs[world.start().run_id]
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.kfp.begin(run, "audit", state="PENDING")
    tasks = {one.display_name: one for one in listed(world, run) if one.display_name not in ("executor", "executor(0)")}
    assert set(tasks) == {
        f"{step}{mark}" for step in ("data", "audit") for mark in ("", "(0)", "-driver", "-driver(0)")
    }
    children = {name: [child.pod_name for child in one.child_tasks or []] for name, one in tasks.items()}
    assert all(len(found) == 1 and found[0].startswith(run["_workflow"]) for found in children.values())
    assert children["data"] != children["data(0)"] != children["data-driver(0)"]
    states = [(one.display_name, one.state) for one in listed(world, run) if one.display_name.startswith("executor")]
    assert sorted(states) == [
        ("executor", "RUNNING"), ("executor", "SUCCEEDED"), ("executor(0)", "PENDING"), ("executor(0)", "SUCCEEDED"),
    ]  # fmt: skip
    after = [one.child_tasks for one in listed(world, run) if one.display_name == "executor(0)" and one.child_tasks]
    assert len(after) == 1, "audit's driver is a child of data's pod"


@pytest.mark.parametrize("world", [{"request": "multi-user"}, {"request": ""}], indirect=True)
def test_a_log_is_found_by_its_pods_name_or_archived_by_a_node_above_it(world: World) -> None:
    run = world.kfp.state.runs[world.start().run_id]
    world.kfp.begin(run, "data", log="one\n")
    pod, (top,) = world.kfp.pod(run, "data"), [one for one in listed(world, run) if one.display_name == "data"]
    node = top.child_tasks[0].pod_name
    assert logs._read(world.api, run["run_id"], pod) == ("one\n" if world.kfp.state.multi_user else None)
    assert logs._read(world.api, run["run_id"], node) is None
    world.kfp.begin(run, "data", log="one\ntwo\n", state="SUCCEEDED")
    assert {logs._read(world.api, run["run_id"], name) for name in (pod, node)} == {"one\ntwo\n"}


def test_a_state_that_is_not_known_is_left_out_and_can_be_filtered_by(world: World) -> None:
    run = world.kfp.state.runs[world.start(description="medmim").run_id]
    world.kfp.report_unspecified(run)
    world.kfp.omit(run, "audit", "finetune")
    shown = world.run_api().run_service_get_run(run["run_id"])
    assert (shown.state, [one.state for one in shown.state_history]) == (None, ["PENDING", None])
    tasks = {one.display_name: one for one in shown.run_details.task_details}
    assert {one.state for one in tasks.values()} == {None}
    assert tasks["audit"].start_time == tasks["audit"].end_time, "it took no time"
    driver = tasks["finetune-driver"]
    assert tasks["audit"].child_tasks and driver.child_tasks, "what comes next is a child"
    states = {"operation": "IN", "key": "state", "string_values": {"values": ["RUNTIME_STATE_UNSPECIFIED"]}}
    assert [one.run_id for one in world.runs(filter=client.filtered(states)).runs] == [run["run_id"]]


def test_a_run_whose_workflow_is_gone_is_canceling_for_ever(world: World) -> None:
    run = world.kfp.state.runs[world.without_workflow()]
    for status in (500, 400):
        with pytest.raises(ApiException) as raised:
            world.run_api().run_service_terminate_run(run["run_id"])
        assert (raised.value.status, run["state"]) == (status, "CANCELING")


def test_nothing_else_is_refused(world: World) -> None:
    for name in ("one", "two"):
        world.start(display_name=name)
    assert [one.display_name for one in world.runs(sort_by="display_name desc").runs] == ["two", "one"]
    found = world.runs(filter=client.where(display_name="one"))
    assert [one.display_name for one in found.runs] == ["one"]


@pytest.mark.parametrize("row", REFUSALS.values(), ids=list(REFUSALS))
def test_each_row_is_in_kfps_source_where_it_says(row: dict[str, Any]) -> None:
    source = os.environ.get("MEDMIM_KFP_SOURCE")
    if not source:
        pytest.skip("MEDMIM_KFP_SOURCE names no git directory of kubeflow/pipelines with the tag of this kfp")
    for one in row["source"]:
        shown = subprocess.run(
            ["git", "-C", source, "show", f"{version('kfp')}:{one['file']}"], capture_output=True, text=True, check=True
        )
        assert one["text"] in shown.stdout.splitlines()[one["line"] - 1]
