"""The MLflow run of a training: one for each, with parameters, data sets, links; what MLflow refuses ends nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medmim import store, tracking
from medmim.errors import Unavailable
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.person import PAGES, SUBMITTED
from medmim.run.workspace import Workspace
from medmim.tracking import training_run

KEY = "a" * 16


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(training_run, "say", lines.append)
    monkeypatch.setattr(training_run, "_said", set())
    return lines


def test_a_training_is_one_run_however_often_it_is_begun(ws: Workspace, recipe: Recipe) -> None:
    first = training_run.begin(replace(ws, run="demo-1"), recipe, KEY)
    api = tracking.client(ws)
    api.set_terminated(first, "FAILED")
    more_workers = loading.load("demo", ["platform.workers=2"])
    assert training_run.begin(replace(ws, run="demo-2"), more_workers, KEY) == first
    run = api.get_run(first)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "demo-1")
    assert run.data.params["platform.workers"] == "1"  # MLflow's never change
    assert training_run.begin(ws, recipe, "b" * 16) != first and training_run.begin(ws, recipe) != first


def test_a_run_has_the_recipe_as_flat_parameters_and_no_path(ws: Workspace) -> None:
    recipe = loading.load("demo", ["finetune.lora={rank: 4}"])
    params = training_run.params(recipe)
    assert (params["finetune.lora.rank"], params["finetune.base"]) == ("4", "tiny-llava-med")
    assert "name" in params and not [key for key in params if key.startswith("nightly")]
    long = recipe.model_copy(update={"finetune": recipe.finetune.model_copy(update={"base": "/data/DOE_JANE/base"})})
    assert training_run.params(long)["finetune.base"] == "…"
    run = training_run.begin(ws, recipe)
    assert tracking.client(ws).get_run(run).data.params == params


def test_a_value_that_is_too_long_is_cut_off_and_an_odd_name_is_written_otherwise(
    ws: Workspace, recipe: Recipe
) -> None:
    bench = recipe.bench.model_copy(update={"models": {"mine é:x": "m" * 7000}})
    run = training_run.begin(ws, recipe.model_copy(update={"bench": bench}))
    (value,) = [v for k, v in tracking.client(ws).get_run(run).data.params.items() if k.startswith("bench.models.mine")]
    assert len(value) == 6000 and value.endswith("…")


def test_an_mlflow_that_takes_only_short_parameters_gets_short_ones_and_says_what_it_refuses(
    ws: Workspace, recipe: Recipe, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers before 2.8 took 250 characters; their answer is that of a validation, as here."""
    from mlflow.exceptions import MlflowException

    api, whole = tracking.client(ws), type(tracking.client(ws)).log_param

    def refuse_long(self: object, run: str, key: str, value: str) -> None:
        if len(value) > 250 or key == "refused":
            raise MlflowException.invalid_parameter_value(f"{key} is refused")
        whole(api, run, key, value)

    def refuse_all(self: object, run: str, **what: object) -> None:
        raise MlflowException.invalid_parameter_value("too long")

    run = training_run.begin(ws, recipe)
    monkeypatch.setattr(type(api), "log_param", refuse_long)
    monkeypatch.setattr(type(api), "log_batch", refuse_all)
    training_run.log_params(api, ws, run, {"short": "1", "long": "x" * 300, "refused": "2"})
    params = api.get_run(run).data.params
    assert (params["short"], len(params["long"]), params.get("refused")) == ("1", 250, None)
    (line,) = said
    assert "1 of 3 parameters (refused): refused is refused; the run goes on without that" in line


def test_a_data_set_is_the_runs_input_once_with_its_address_and_counts(
    ws: Workspace, recipe: Recipe, publish: Callable[..., store.Artifact]
) -> None:
    made = publish("data", rows__txt="r")
    data = replace(made, counts={"by_split": {"train": 70, "test": 30}, "patients": 9, "rows": 100})
    run, api = training_run.begin(ws, recipe), tracking.client(ws)
    scores = {"data": data.digest, "items": 30, "split": "test", "tasks": ["comparison"]}
    for _ in range(2):
        training_run.log_data(api, ws, run, data, recipe)
        training_run.log_benchmark(api, ws, run, scores)
    inputs = {one.dataset.name: one for one in api.get_run(run).inputs.dataset_inputs}
    assert len(api.get_run(run).inputs.dataset_inputs) == 2
    trained, asked = inputs["demo"], inputs["benchmark"]
    assert data.digest.startswith(trained.dataset.digest) and len(trained.dataset.digest) == 36
    assert json.loads(trained.dataset.source)["uri"] == data.uri == json.loads(asked.dataset.source)["uri"]
    assert json.loads(trained.dataset.profile) == {
        "num_rows": 70, "by_split": {"train": 70, "test": 30}, "patients": 9,
    }  # fmt: skip
    assert json.loads(asked.dataset.profile)["num_rows"] == 30
    assert [one.tags[0].value for one in (trained, asked)] == ["training", "eval"]


def test_an_mlflow_that_knows_no_data_sets_is_told_once_and_one_that_is_away_is_not_passed_over(
    ws: Workspace, said: list[str]
) -> None:
    from mlflow.exceptions import RestException

    for _ in range(2):
        with training_run.optional(ws, "the data sets"):
            raise RestException({"error_code": "ENDPOINT_NOT_FOUND", "message": "no such endpoint: log-inputs"})
    (line,) = said
    assert "has not got the data sets" in line and "no such endpoint" in line
    with pytest.raises(Unavailable), training_run.optional(ws, "the data sets"):
        raise RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "starting"})
    with training_run.optional(ws, "the curves", away=True):
        raise RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "starting"})
    assert len(said) == 2


def test_a_run_of_kfp_has_its_page_as_a_link(
    ws: Workspace, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ws, place = replace(ws, run="demo-1"), store.open_store(ws.store)
    place.create("runs/demo-1/kfp-run", b"0a1b")
    place.create(f"runs/demo-1/{SUBMITTED}", json.dumps({PAGES: "https://kfp.example/#/runs/details/"}).encode())
    monkeypatch.setenv("KFP_POD_NAME", "train-x7-impl-1")
    monkeypatch.setenv("MEDMIM_IMAGE", "registry/medmim@sha256:1")
    tags = tracking.client(ws).get_run(training_run.begin(ws, recipe)).data.tags
    assert (
        tags["medmim.kfp"] == "https://kfp.example/#/runs/details/0a1b"
        and tags["medmim.kfp"] in tags["mlflow.note.content"]
    )
    assert (tags["mlflow.source.type"], tags["medmim.image"]) == ("JOB", "registry/medmim@sha256:1")


def test_files_are_put_into_a_run_and_a_failed_training_is_ended(ws: Workspace, recipe: Recipe) -> None:
    run, api = training_run.begin(ws, recipe), tracking.client(ws)
    training_run.log_files(ws, run, {"report/demo-1.html": b"<p>", "decision/demo-1.json": b"{}"}, failed=True)
    assert {one.path for one in api.list_artifacts(run)} == {"report", "decision"}
    assert api.get_run(run).info.status == "FAILED"
    finished = training_run.begin(ws, recipe)
    api.set_terminated(finished)
    training_run.log_files(ws, finished, {"report/demo-2.html": b"<p>"}, failed=True)
    assert api.get_run(finished).info.status == "FINISHED"
