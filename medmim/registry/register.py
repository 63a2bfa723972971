"""register: make the tuned model an MLflow model version, with its lineage.

A version is a small pyfunc that names the model artifact by URI and digest; the weights stay where they are. The same
model under the same name is one version, however often and by however many processes it is registered.
"""

import json
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import store, tracking
from medmim.progress import say
from medmim.recipe.schema import Bench, Recipe
from medmim.registry import mlflow_run, store_id
from medmim.registry.lookup import BENCH, DIGEST, LOGGED, URI, find, is_copy
from medmim.run.provenance import code_version, public_recipe, terms_of
from medmim.run.stage import Outcome, outcomes, stage
from medmim.run.workspace import Workspace, sqlite_path
from medmim.sample import digest_of
from medmim.store import Artifact
from medmim.terms import FLAGS, reasons
from medmim.tracking import Version, training_run
from medmim.tracking.training_run import model_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

LINEAGE = (
    "medmim.data", "medmim.data_uri", "medmim.recipe", "medmim.recipe_name", "medmim.base", "medmim.base_digest",
    "medmim.code_medmim", "medmim.code_commit",
)  # fmt: skip
"""Tags of a version that say what its model was made of; a promoter takes them over as the run's word."""

_SAID = "medmim.scores"  # the scores in words, as the description has them


def run(recipe: Recipe, ws: Workspace, data: str, model: str, bench: str) -> Outcome:
    """Register the tuned model, with lineage, scores and loss curve.

    Args:
        recipe: The recipe that made it; `model_name` is the registered model.
        ws: The workspace.
        data: Store URI of the data set.
        model: Store URI of the tuned model.
        bench: Store URI of the scores.

    Returns:
        Facts: `name`, `version`, `digest`, `uri`, `lineage`, `mlflow_run` (the id of the version's run).
    """
    with stage(ws, "register") as outcome:
        name = model_name(recipe)
        tuned, scores = store.get(model), store.get(bench)
        lineage = _lineage(recipe, ws, store.get(data), tuned)
        version = find(ws, name, tuned.digest)
        outcome.cached = version is not None and version.tags.get(BENCH) == scores.digest
        if not outcome.cached:
            api = tracking.client(ws)
            with tracking.answering(ws.tracking):
                if version is None:
                    _create(api, ws, recipe, lineage, store.get(data))
                    version = deduplicate(api, ws, name, tuned.digest)
                log_scores(api, ws, name, version, tuned, scores)
        assert version is not None
        outcome.uri, outcome.digest = f"models:/{name}/{version.number}", tuned.digest
        outcome.facts = {
            "name": name,
            "version": version.number,
            "digest": tuned.digest,
            "uri": tuned.uri,
            "lineage": {key: version.tags.get(key, value) for key, value in lineage.items()},
            training_run.FACT: version.run,
        }
    return outcome


def _lineage(recipe: Recipe, ws: Workspace, data: Artifact, tuned: Artifact) -> dict[str, str]:
    """What the version was made of, as tags."""
    sections = json.loads(recipe.dump())
    for section in ("platform", "promote", "retention", "nightly"):  # where it ran and what came after: not the model
        del sections[section]
    parents: dict[str, str] = {}
    root, _, folder = tuned.uri.rpartition("/")
    with suppress(FileNotFoundError):
        parents = json.loads(store.open_store(root).read_unchanged(f"{folder}/{store.PROVENANCE}")).get("parents") or {}
    tags = {
        DIGEST: tuned.digest,
        URI: tuned.uri,
        "medmim.data": data.digest,
        "medmim.data_uri": data.uri,
        "medmim.recipe": digest_of([json.dumps(sections, sort_keys=True)]),
        "medmim.recipe_name": recipe.name,
        "medmim.base": recipe.finetune.base,
        "medmim.terms": terms_text(tuned),
    }
    if "base" in parents:
        tags["medmim.base_digest"] = parents["base"]
    return tags | {f"medmim.code_{key}": value for key, value in code_version().items()}


def terms_text(model: Artifact) -> str:
    """What the terms of a model forbid, as the tag `medmim.terms`."""
    return "; ".join(reasons(terms_of(model), FLAGS)) or "all uses are allowed"


def _create(api: "MlflowClient", ws: Workspace, recipe: Recipe, lineage: dict[str, str], data: Artifact) -> None:
    from mlflow.entities import RunTag

    name = model_name(recipe)
    say(f"registering {lineage[DIGEST][:12]} as {name}")
    create_model(api, name)
    store_id.mark(api, ws, name)
    run = _begun(ws, recipe) or training_run.begin(ws, recipe)
    api.log_batch(run, tags=[RunTag(key, value) for key, value in lineage.items()])
    training_run.log_data(api, ws, run, data, recipe)
    api.log_dict(run, public_recipe({"recipe": recipe.record()}), "recipe.json")
    add_version(api, ws, name, run, lineage, recipe.bench, training_run.params(recipe), _in_words(recipe, ws, lineage))


def _begun(ws: Workspace, recipe: Recipe) -> str:
    """The MLflow run that the step `finetune` of this run has begun; empty where it began none, or that is gone."""
    trained = outcomes(ws, ["finetune"]).get("finetune") if ws.run else None
    return training_run.of(ws, recipe, str(trained.facts.get(training_run.FACT, ""))) if trained else ""


def _in_words(recipe: Recipe, ws: Workspace, lineage: Mapping[str, str]) -> str:
    """What a version is, for its page."""
    made = f"{recipe.finetune.base}, fine-tuned by the recipe {recipe.name}" + (
        f" in the run {ws.run}" if ws.run else ""
    )
    return f"{made}. Terms of use: {lineage['medmim.terms']}."


def create_model(api: "MlflowClient", name: str) -> bool:
    """Make a registered model if it is absent; True where this call made it."""
    from mlflow.exceptions import MlflowException

    try:
        api.create_registered_model(name)
    except MlflowException:
        api.get_registered_model(name)  # it exists already; anything else raises again
        return False
    return True


def add_version(
    api: "MlflowClient",
    ws: Workspace,
    name: str,
    run: str,
    lineage: Mapping[str, str],
    asked: Bench,
    params: Mapping[str, str],
    words: str = "",
) -> None:
    """Add a version of a logged model of its own: this installation's code, and the model's URI and digest.

    Args:
        api: The client.
        ws: The workspace.
        name: The registered model.
        run: Id of the MLflow run that it belongs to, in whose experiment the files lie.
        lineage: Tags of logged model and version; `URI` and `DIGEST` name the model.
        asked: How the model was benched, and so answers.
        params: For people.
        words: What the version is, likewise.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    experiment = api.get_run(run).info.experiment_id
    logged = api.create_logged_model(experiment, name=name, source_run_id=run, tags=dict(lineage), params=dict(params))
    with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
        path = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            model_config={
                "uri": lineage[URI],
                "digest": lineage[DIGEST],
                "batch_size": asked.batch_size,
                "max_new_tokens": asked.max_new_tokens,
            },
            pip_requirements=[],  # medmim is on no index that we own: who owns its name there would own its users
            mlflow_model=Model(model_id=logged.model_id, run_id=run),
        )
        api.log_model_artifacts(logged.model_id, str(path))
    api.finalize_logged_model(logged.model_id, "READY")
    # A SQL store resolves `models:/` sources by the process-wide tracking URI, which we do not set.
    source = logged.artifact_location if sqlite_path(ws.tracking) else f"models:/{logged.model_id}"
    tags = {**lineage, LOGGED: logged.model_id}
    training_run.log_output(api, ws, run, logged.model_id)
    api.create_model_version(
        name, source=source, run_id=run, tags=tags, description=words or None, model_id=logged.model_id
    )


def deduplicate(api: "MlflowClient", ws: Workspace, name: str, digest: str, foreign: Collection[str] = ()) -> Version:
    """Keep the first of the versions that processes made of one model at the same time; each deletes the later ones.

    Args:
        api: The client.
        ws: The workspace.
        name: The registered model.
        digest: Of the model.
        foreign: Numbers of versions that are not to be used; nor are copies of a candidate's.
    """
    from mlflow.exceptions import MlflowException

    known = tracking.tagged(ws, name, DIGEST, digest)
    listed = [v for v in known if not is_copy(v) and v.number not in foreign]
    for late in listed[1:]:
        try:
            api.delete_model_version(name, late.number)
        except MlflowException:  # the other one deleted it, or nobody here may: the first is the one that is used
            continue
    return listed[0]


def log_scores(
    api: "MlflowClient", ws: Workspace, name: str, version: Version, tuned: Artifact, scores: Artifact
) -> None:
    """Log scores and losses; the tag is set last, so that the next run repeats what a kill cut off."""
    from mlflow.exceptions import MlflowException

    said = mlflow_run.log(api, ws, version, scores, tuned)
    with training_run.optional(ws, "the scores in words"):
        _describe(api, name, version, said)
    try:
        api.set_model_version_tag(name, version.number, BENCH, scores.digest)
    except MlflowException:
        again = find(ws, name, tuned.digest)
        if again is None or again.tags.get(BENCH) != scores.digest:  # else another process set it just now
            raise


def _describe(api: "MlflowClient", name: str, version: Version, scores: str) -> None:
    """Add the scores to what a version says of itself, in place of those of an earlier bench; a person's words stay."""
    found = api.get_model_version(name, version.number)
    words, before = found.description or "", found.tags.get(_SAID, "")
    if not scores or scores == before:
        return
    if scores not in words and (not before or before in words):  # else a person took them out
        added = words.replace(before, scores) if before else f"{words}\n\n{scores}".strip()
        api.update_model_version(name, version.number, added)
    api.set_model_version_tag(name, version.number, _SAID, scores)
