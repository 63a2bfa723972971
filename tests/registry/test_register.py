"""Registering: once for each model, with lineage, scores and losses, and loadable."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medmim import store, tracking
from medmim.recipe.registry import Promote
from medmim.recipe.schema import Recipe
from medmim.registry import lookup, register
from medmim.run.workspace import Workspace
from medmim.store import Artifact

Publish = Callable[..., Artifact]


@pytest.fixture
def made(publish: Publish, bench: Publish) -> tuple[Artifact, Artifact, Artifact]:
    losses = "".join(json.dumps({"step": i + 1, "loss": 1 / (i + 1), "lr": 1e-3}) + "\n" for i in range(1200))
    validation = "".join(
        json.dumps({"step": step, "loss": 1.5, "accuracy": accuracy}) + "\n"
        for step, accuracy in ((0, None), (9, 0.75))
    )
    model = publish("model", weights__txt="w", losses__jsonl=losses, validation__jsonl=validation)
    return publish("data", rows__txt="r"), model, bench(model.digest)


def test_a_version_is_tagged_with_its_lineage(ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...]) -> None:
    data, model, scores = made
    outcome = register.run(recipe, ws, data.uri, model.uri, scores.uri)
    assert (outcome.uri, outcome.digest, outcome.cached) == ("models:/medmim-demo/1", model.digest, False)
    (version,) = tracking.registered(ws)["medmim-demo"].versions
    expected = {"digest": model.digest, "uri": model.uri, "data": data.digest, "bench": scores.digest}
    expected |= {"base": "tiny-llava-med", "base_digest": "b" * 64, "recipe_name": "demo"}
    assert expected.items() <= {k.removeprefix("medmim."): v for k, v in version.tags.items()}.items()
    run = tracking.client(ws).get_run(version.run)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["bench/held_in/accuracy"] == 0.9
    assert run.data.metrics["bench/held_in/accuracy_blind"] == 0.33
    assert len(tracking.client(ws).get_metric_history(version.run, "train/loss")) == 1200
    curves = {key: tracking.client(ws).get_metric_history(version.run, f"eval/{key}") for key in ("loss", "accuracy")}
    assert [(m.step, m.value) for m in curves["loss"]] == [(0, 1.5), (9, 1.5)]
    assert [(m.step, m.value) for m in curves["accuracy"]] == [(9, 0.75)]
    logged = tracking.client(ws).get_logged_model(version.tags[lookup.LOGGED])
    assert {m.key: m.value for m in logged.metrics}["bench/held_in/accuracy"] == 0.9
    assert logged.artifact_location.startswith(ws.home.as_uri())


def test_where_promotion_needs_approval_the_production_model_is_not_made(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod without its settings, and a recipe that would have none: who makes a model in MLflow owns it for good."""
    data, model, scores = made
    monkeypatch.setenv("KFP_POD_NAME", "train-x7-impl-1")
    monkeypatch.delenv("MEDMIM_APPROVAL", raising=False)
    lifted = recipe.model_copy(update={"promote": Promote(approval="none")})
    assert register.run(lifted, ws, data.uri, model.uri, scores.uri).uri == "models:/medmim-demo-candidate/1"
    assert list(tracking.registered(ws)) == ["medmim-demo-candidate"]


def test_the_recipe_digest_does_not_depend_on_where_it_ran(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...]
) -> None:
    data, model, scores = made
    tags = register.run(recipe, ws, data.uri, model.uri, scores.uri).facts["lineage"]
    moved = recipe.model_copy(update={"platform": recipe.platform.model_copy(update={"store": "another"})})
    assert register._lineage(moved, ws, data, model)["medmim.recipe"] == tags["medmim.recipe"]
    other = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"limit": 3})})
    assert register._lineage(other, ws, data, model)["medmim.recipe"] != tags["medmim.recipe"]


def test_the_same_model_twice_is_one_version_and_no_work(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...]
) -> None:
    data, model, scores = made
    first = register.run(recipe, ws, data.uri, model.uri, scores.uri)
    again = register.run(recipe, ws, data.uri, model.uri, scores.uri)
    assert again.facts == first.facts and again.cached and again.seconds == 0
    assert len(tracking.registered(ws)["medmim-demo"].versions) == 1


def test_a_new_bench_of_a_known_model_adds_its_scores_not_a_version(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...], bench: Publish
) -> None:
    data, model, scores = made
    register.run(recipe, ws, data.uri, model.uri, scores.uri)
    later = bench(model.digest, held_in=(0.7, 0.1, 0.05, 0.3, 99))
    outcome = register.run(recipe, ws, data.uri, model.uri, later.uri)
    assert not outcome.cached
    (version,) = tracking.registered(ws)["medmim-demo"].versions
    assert version.tags[lookup.BENCH] == later.digest
    assert tracking.client(ws).get_run(version.run).data.metrics["bench/held_in/accuracy"] == 0.7


def test_scores_that_a_kill_cut_off_are_logged_by_the_next_run(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model, scores = made
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(register, "log_scores", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        register.run(recipe, ws, data.uri, model.uri, scores.uri)
    register.run(recipe, ws, data.uri, model.uri, scores.uri)
    (version,) = tracking.registered(ws)["medmim-demo"].versions
    assert "bench/held_in/accuracy" in tracking.client(ws).get_run(version.run).data.metrics


def test_runs_that_register_at_the_same_moment_end_with_one_version(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...]
) -> None:
    uris = [artifact.uri for artifact in made]
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(register.run, recipe, ws, *uris) for _ in range(4)]
    (version,) = tracking.registered(ws)["medmim-demo"].versions
    assert {outcome.result().facts["version"] for outcome in outcomes} == {version.number}


def test_nothing_is_printed_by_libraries_and_nothing_lies_outside_the_home(
    ws: Workspace, made: tuple[Artifact, ...], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    code = (
        "import sys; from pathlib import Path; from medmim.run.workspace import workspace\n"
        "from medmim.recipe import loading; from medmim.registry import register\n"
        "register.run(loading.load('demo'), workspace(Path(sys.argv[1])), *sys.argv[2:])"
    )
    arguments = [str(ws.home), *(artifact.uri for artifact in made)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=outside, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "",
        f"starting MLflow\nregistering {made[1].digest[:12]} as medmim-demo\n",
    )
    assert list(outside.iterdir()) == []


def test_a_version_holds_no_second_copy_of_the_weights(
    ws: Workspace, recipe: Recipe, publish: Publish, bench: Publish
) -> None:
    model = publish("model", weights__txt="w" * 1_000_000)
    register.run(recipe, ws, publish("data", rows__txt="r").uri, model.uri, bench(model.digest).uri)
    assert sum(path.stat().st_size for path in (ws.home / "mlflow").rglob("*") if path.is_file()) < 50_000
    assert store.find(model.uri) is not None


def test_a_version_has_no_index_asked_for_medmim(
    ws: Workspace, recipe: Recipe, publish: Publish, bench: Publish
) -> None:
    """Whoever owns that name on a public index would run code in each environment that MLflow makes for the model."""
    model = publish("model", weights__txt="w")
    register.run(recipe, ws, publish("data", rows__txt="r").uri, model.uri, bench(model.digest).uri)
    written = [path for path in (ws.home / "mlflow").rglob("*") if path.name in ("requirements.txt", "conda.yaml")]
    assert len(written) == 2 and all("mlflow" in path.read_text() for path in written)
    assert not [path for path in written if "medmim" in path.read_text().replace("mlflow-env", "")]
