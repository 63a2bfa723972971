"""What a run's charts show of a bench: the main numbers in groups, few enough for a page; the rest is a table."""

import json
from collections.abc import Callable
from typing import Any

from medmim import tracking
from medmim.recipe.schema import Recipe
from medmim.registry import mlflow_run, register
from medmim.run.workspace import Workspace
from medmim.store import Artifact


def row(model: str, group: str, metric: str = "accuracy", value: float = 0.5, **more: float) -> dict[str, Any]:
    return {"model": model, "group": group, "metric": metric, "value": value, **more}


def test_a_bench_of_any_size_has_few_metrics_the_telling_ones_first() -> None:
    groups = ["held_in", "held_out", *(f"source:s{n}" for n in range(60))]
    metrics = ("accuracy", "token_f1", "bleu", "rouge_l")
    rows = [row(model, group, metric) for model in ("tuned", "base") for metric in metrics for group in groups]
    rows[0] |= {"blind": 0.3, "swap": 0.4}
    gains = [row("", group, "accuracy", 0.1) | {"opponent": "base"} for group in groups]
    found = mlflow_run.headlines(rows, gains, "tuned")
    assert len(found) == 36
    assert found["bench/held_in/accuracy"] == found["bench/held_out/accuracy_base"] == 0.5
    assert (found["bench/held_in/gain_base"], found["bench/held_in/accuracy_blind"]) == (0.1, 0.3)
    assert found["bench/held_in/accuracy_swap"] == 0.4 and "bench/held_out/token_f1" in found
    assert "bench/accuracy/source.s0" in found and "bench/accuracy_base/source.s0" not in found


def test_a_bench_without_held_in_and_held_out_has_its_groups_and_one_by_likelihood_its_own_headline() -> None:
    rows = [row("tuned", group, "likelihood", 0.25) for group in ("mmlu", "task:a/b", "c")]
    found = mlflow_run.headlines(rows, [], "tuned")
    assert found == dict.fromkeys(("bench/mmlu/likelihood", "bench/task.a.b/likelihood", "bench/likelihood/c"), 0.25)
    assert mlflow_run.in_words(rows, "tuned") == "Likelihood: mmlu 25.0%, task:a/b 25.0%."
    far = [row("tuned", "held_in", "distance", 12.3456), row("base", "held_in", "distance", 0.5)]
    assert mlflow_run.in_words(far, "tuned") == "Distance: held in 12.3 (base 0.5)."
    assert mlflow_run.headlines([], [], "tuned") == {} and mlflow_run.in_words([], "tuned") == ""
    assert mlflow_run.headlines([row("tuned", "held_in") | {"value": None}], [], "tuned") == {}


def test_run_version_and_logged_model_are_what_mlflows_pages_show(
    ws: Workspace, recipe: Recipe, publish: Callable[..., Artifact], bench: Callable[..., Artifact]
) -> None:
    model, data = publish("model", weights__txt="w"), publish("data", rows__txt="r")
    facts = register.run(recipe, ws, data.uri, model.uri, bench(model.digest).uri).facts
    api = tracking.client(ws)
    run = api.get_run(facts["mlflow_run"])
    assert run.data.params["finetune.base"] == recipe.finetune.base and len(run.data.metrics) < 60
    assert {one.split("/")[0] for one in run.data.metrics} == {"bench"}
    (output,) = run.outputs.model_outputs
    logged = api.get_logged_model(output.model_id)
    assert logged.params == run.data.params and {one.key for one in logged.metrics} == run.data.metrics.keys()
    names = [one.dataset.name for one in run.inputs.dataset_inputs]
    assert recipe.name in names
    (table,) = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert table["path"] in [one.path for one in api.list_artifacts(run.info.run_id)]
    version = api.get_model_version(facts["name"], facts["version"])
    assert version.description.startswith(f"{recipe.finetune.base}, fine-tuned by the recipe demo. Terms of use: ")
    assert version.description.endswith("Accuracy: held in 90.0% (base 50.0%).")

    later = bench(model.digest, held_in=(0.7, 0.1, 0.05, 0.3, 99))
    register.run(recipe, ws, data.uri, model.uri, later.uri)
    again = api.get_model_version(facts["name"], facts["version"]).description
    assert again.count("Accuracy") == 1 and "held in 70.0%" in again
    assert api.get_run(run.info.run_id).data.tags["mlflow.note.content"] == again.partition("\n\n")[2]
    api.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    api.update_model_version(facts["name"], facts["version"], f"{again}\n\nReviewed by the board.")
    register.run(recipe, ws, data.uri, model.uri, bench(model.digest).uri)
    assert api.get_run(run.info.run_id).data.tags["mlflow.note.content"] == "mine"
    assert api.get_model_version(facts["name"], facts["version"]).description == (
        f"{version.description}\n\nReviewed by the board."
    )
    assert len(api.get_metric_history(run.info.run_id, "bench/held_in/accuracy")) == 3
