"""The MLflow run of a training: its parameters, data sets, tags and files, where MLflow's users look for them.

A training is one run, by its key, however often it is resumed and by whichever command; the step `finetune` begins it,
`register` and `report` add to it. What an MLflow does not take of it is said once, and nothing ends for that.
"""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.errors import TRY_AGAIN, UserError, within
from medmim.progress import say
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Recipe
from medmim.redact import hidden, shown
from medmim.run import run_name
from medmim.run.person import current_user, on_cluster
from medmim.run.provenance import code_version, public_recipe
from medmim.run.workspace import Workspace
from medmim.tracking.errors import answering, first_line
from medmim.tracking.mlflow_client import client, experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN, TRAINING = "medmim.run", "medmim.training"
PAGE, NOTE = "medmim.kfp", "mlflow.note.content"
_WORDS = "medmim.description"  # the description that was written last: one that differs is a person's
FACT = "mlflow_run"  # of the record of `finetune`: the run's id
CURVES = "the curves of this training as it goes on"  # what MLflow may not get
BENCHMARK = "benchmark"  # name of the data set that answers are scored on
_PATIENCE = 20.0  # s that a training waits for an MLflow that does not answer
_AT_ONCE = 100  # parameters in one call; MLflow's limit
_LONGEST, _SHORTER = 6000, 250  # characters of a parameter's value: MLflow's limit, and that of old servers
_KEY = 250  # characters of a name
_DIGEST = 36  # characters of a data set's digest; MLflow's limit
_NOT_MINE = re.compile(r"nightly|retention")  # sections that say nothing of this run
_said: set[tuple[str, str]] = set()


def model_name(recipe: Recipe) -> str:
    """Name of the registered model that a run writes its version into, and of the experiment of its MLflow run.

    `register.model` itself, or `NAME-candidate` where platform or recipe want approval: then the run needs no
    permission on the production model, which only a promoter makes. A cluster that does not say wants it.

    Raises:
        UserError: MEDMIM_APPROVAL is neither `none` nor `required`.
    """
    platform = os.environ.get("MEDMIM_APPROVAL") or ("required" if on_cluster() else "none")
    if platform not in ("none", "required"):
        raise UserError(f"MEDMIM_APPROVAL is '{platform}'", fix="set it to none or required")
    name = recipe.register_.model
    return name + CANDIDATE if "required" in (recipe.promote.approval, platform) else name


@contextmanager
def optional(ws: Workspace, what: str, away: bool = False) -> Iterator[None]:
    """Go on without something that MLflow does not take; it is said once a process, by what it is.

    Args:
        ws: The workspace.
        what: As the line names it, such as `the parameters`.
        away: Go on, too, where MLflow does not answer, or a file of it cannot be written: nothing else would do the
            same again.
    """
    try:
        with answering(ws.tracking):
            yield
    except (UserError, ImportError, OSError) as error:
        passes = isinstance(error, OSError) or (isinstance(error, UserError) and error.exit_code == TRY_AGAIN)
        if passes and not away:
            raise
        tell(ws, what, (error.reason or error.fact) if isinstance(error, UserError) else str(error))


def tell(ws: Workspace, what: str, why: str) -> None:
    """Say once a process that MLflow has not got something, and why."""
    if (ws.tracking, what) not in _said:
        _said.add((ws.tracking, what))
        reason = hidden(first_line(why), ws.tracking)
        say(f"MLflow at {shown(ws.tracking)} has not got {what}: {reason}; the run goes on without that")


def begin(ws: Workspace, recipe: Recipe, key: str = "") -> str:
    """Id of the MLflow run of a training: the one that has begun already, or a new one.

    Args:
        ws: The workspace.
        recipe: Of the run.
        key: Of the training's step, the same when it is resumed; empty: always a new run.

    Raises:
        UserError: See `answering`.
    """
    api = client(ws)
    with answering(ws.tracking):
        place = experiment(ws, model_name(recipe))
        known = _known(api, place, key) if key else None
        if known is None:
            tags = _tags(ws, recipe) | ({TRAINING: key} if key else {})
            run = str(api.create_run(place, run_name=ws.run or recipe.name, tags=tags).info.run_id)
        else:
            run = str(known.info.run_id)
            if known.info.status != "RUNNING":
                api.update_run(run, status="RUNNING")
    log_params(api, ws, run, params(recipe))
    return run


def begin_if_there(ws: Workspace, recipe: Recipe, key: str) -> str:
    """As `begin`; empty where MLflow refuses, or does not answer soon."""
    run = ""
    with within(_PATIENCE), optional(ws, CURVES, away=True):
        run = begin(ws, recipe, key)
    return run


def of(ws: Workspace, recipe: Recipe, run: str) -> str:
    """The id itself where there is such a run in the recipe's experiment, else an empty text."""
    from mlflow.exceptions import MlflowException

    if not run:
        return ""
    api = client(ws)
    with answering(ws.tracking):
        try:
            info = api.get_run(run).info
        except MlflowException as error:
            if error.get_http_status_code() not in (400, 403, 404):
                raise
            return ""
        mine = info.lifecycle_stage == "active" and info.experiment_id == experiment(ws, model_name(recipe))
    return run if mine else ""


def _known(api: "MlflowClient", place: str, key: str) -> "Run | None":
    found = api.search_runs([place], f"tags.`{TRAINING}` = '{key}'", max_results=1, order_by=["attributes.start_time"])
    return found[0] if found else None


def _tags(ws: Workspace, recipe: Recipe) -> dict[str, str]:
    """What MLflow's pages show of a run's source, and where the run is found elsewhere."""
    tags = {
        RUN: ws.run,
        "medmim.recipe_name": recipe.name,
        "mlflow.user": current_user(),
        "mlflow.source.name": f"recipe {recipe.name}",  # MLflow's pages cut it off before the last slash
        "mlflow.source.type": "JOB" if on_cluster() else "LOCAL",
        "mlflow.source.git.commit": code_version().get("commit", "").partition("+")[0],
        "medmim.image": (recipe.platform.pods.image or os.environ.get("MEDMIM_IMAGE", "")) if on_cluster() else "",
    }
    page = run_name.page(ws.store, ws.run)
    tags |= {PAGE: page, NOTE: _link(page)}
    return {key: value for key, value in tags.items() if value}


def _link(page: str) -> str:
    return f"[The run in Kubeflow Pipelines]({page})" if page else ""


def describe(api: "MlflowClient", ws: Workspace, run: str, words: str) -> None:
    """Say of a run what it came to, before its link to KFP; a description that a person wrote stays.

    Args:
        api: The client.
        ws: The workspace.
        run: Id of the MLflow run.
        words: The scores in words, in place of those of an earlier bench.
    """
    with optional(ws, "the description"):
        tags = api.get_run(run).data.tags
        link, present = _link(tags.get(PAGE, "")), tags.get(NOTE, "")
        if words and present in ("", link, tags.get(_WORDS)):
            text = "\n\n".join(part for part in (words, link) if part)
            api.set_tag(run, _WORDS, text)
            api.set_tag(run, NOTE, text)


def params(recipe: Recipe) -> dict[str, str]:
    """The recipe as flat parameters, such as `finetune.lora.rank`; paths, which can be named after patients, as `…`.

    A setting without a value is none; a list is JSON.
    """
    public = public_recipe({"recipe": recipe.record()})
    found: dict[str, str] = {}
    for section, value in public.items():
        if not _NOT_MINE.fullmatch(section):
            found |= _flat(section, value)
    return {metric_key(key)[:_KEY]: _cut(value, _LONGEST) for key, value in sorted(found.items())}


def _flat(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {key: text for part, own in value.items() for key, text in _flat(f"{name}.{part}", own).items()}
    if value is None or value in ([], ""):
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def metric_key(*parts: str) -> str:
    """`ROLE/GROUP/METRIC`, with `/` for every character that MLflow or its charts do not take, `:` included."""
    return re.sub(r"[^\w./ -]", "/", "/".join(parts))


def log_params(api: "MlflowClient", ws: Workspace, run: str, values: Mapping[str, str]) -> None:
    """Log the parameters that a run has not got. One that has another value keeps it: MLflow's never change.

    Where MLflow refuses them together, it gets them one by one, with shorter values where these are refused, too.
    """
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    def one_by_one(some: list[Param]) -> None:
        for param in some:
            for value in (param.value, _cut(param.value, _SHORTER)):
                try:
                    api.log_param(run, param.key, value)
                    break
                except MlflowException as error:
                    failed[param.key] = str(error)
            else:
                continue
            failed.pop(param.key, None)

    failed: dict[str, str] = {}
    with optional(ws, "the parameters"):
        known = api.get_run(run).data.params
        missing = [Param(key, value) for key, value in values.items() if key not in known]
        for at in range(0, len(missing), _AT_ONCE):
            some = missing[at : at + _AT_ONCE]
            try:
                api.log_batch(run, params=some)
            except MlflowException as error:
                if not 400 <= error.get_http_status_code() < 500:
                    raise
                one_by_one(some)
    if failed:
        tell(ws, f"{len(failed)} of {len(values)} parameters ({', '.join([*failed][:3])})", next(iter(failed.values())))


def log_data(api: "MlflowClient", ws: Workspace, run: str, data: store.Artifact, recipe: Recipe) -> None:
    """Log the data set of a training as the run's input: its address in the store, digest and counts."""
    split = data.counts.get("by_split") or {}
    counts = {key: data.counts[key] for key in ("patients", "images") if key in data.counts}
    rows = {"num_rows": split.get("train", data.counts.get("rows", 0)), "by_split": split, **counts}
    _log_input(api, ws, run, (data.uri, recipe.name, data.digest, rows), "training")


def log_benchmark(api: "MlflowClient", ws: Workspace, run: str, scores: Mapping[str, Any]) -> None:
    """Log what answers were scored on as the run's input, by `scores.json`: the data set's split, and how many items.

    Args:
        api: The client.
        ws: The workspace.
        run: Id of the MLflow run.
        scores: Of the bench.
    """
    digest = str(scores.get("data", ""))
    if digest:
        rows = {"num_rows": scores.get("items", 0), "split": scores.get("split", ""), "tasks": scores.get("tasks", [])}
        _log_input(api, ws, run, (f"{ws.store}/data/{digest}", BENCHMARK, digest, rows), "eval")


def _log_input(
    api: "MlflowClient", ws: Workspace, run: str, dataset: tuple[str, str, str, Mapping[str, Any]], context: str
) -> None:
    uri, name, digest, counts = dataset
    with optional(ws, "the data sets"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow has two classes for a folder
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import Dataset, DatasetInput, InputTag

        described = MetaDataset(resolve_dataset_source(uri), name, dataset_digest(digest)).to_dict()
        described["profile"] = json.dumps(counts)  # of which MLflow's pages show `num_rows`
        known = api.get_run(run).inputs
        if known is not None and any(
            one.dataset.name == name and one.dataset.digest == described["digest"] for one in known.dataset_inputs
        ):
            return
        api.log_inputs(run, [DatasetInput(Dataset(**described), [InputTag("mlflow.data.context", context)])])


def dataset_digest(digest: str) -> str:
    """A digest as MLflow keeps one of a data set."""
    return digest[:_DIGEST]


def log_output(api: "MlflowClient", ws: Workspace, run: str, model: str) -> None:
    """Log a logged model as the run's output."""
    with optional(ws, "the link from the run to its model"):
        from mlflow.entities import LoggedModelOutput

        known = api.get_run(run).outputs
        if known is None or model not in [one.model_id for one in known.model_outputs]:
            api.log_outputs(run, [LoggedModelOutput(model, 0)])


def log_table(api: "MlflowClient", ws: Workspace, run: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Write rows as a table that MLflow's pages draw; a table of that name is replaced, not added to."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with optional(ws, f"the table {name}"):
        api.log_dict(run, {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows]}, name)
        api.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))


def log_files(ws: Workspace, run: str, files: Mapping[str, bytes], failed: bool | None = None) -> None:
    """Write files into a run, by the path that each gets there.

    Args:
        ws: The workspace.
        run: Id of the MLflow run.
        files: Path, such as `report/RUN.html`, and content.
        failed: Ends the run: with True as failed, unless it has ended, with False as finished.
    """
    with optional(ws, f"the files {', '.join(files)}", away=True):
        api = client(ws)
        with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
            for path, content in files.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            api.log_artifacts(run, folder)
        if failed is not None and api.get_run(run).info.status == "RUNNING":
            api.set_terminated(run, "FAILED" if failed else "FINISHED")
