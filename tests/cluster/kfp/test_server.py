"""The contract server refuses what KFP 2.17 refuses, row by row, called by the real kfp.Client."""

import os
import subprocess
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
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
    "terminate an unknown run": lambda w: w.run_api().run_service_terminate_run("nothing"),
    "terminate an ended run": lambda w: w.run_api().run_service_terminate_run(w.ended()),
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


def test_an_absent_log_comes_with_200(world: World) -> None:
    run = SimpleNamespace(run_id=world.start().run_id)
    text = world.kfp.state.log(run.run_id, "no-pod")
    assert REFUSALS["no log"]["message"].partition("{")[0] in text
    assert logs._read(world.api, run.run_id, "no-pod") is None


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
