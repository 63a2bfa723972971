"""The stage `finetune`: a base and the train split -> a tuned model."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmim import progress, shards, store, terms
from medmim.errors import UserError
from medmim.finetune import validation
from medmim.lvlm import adapters, checkpoint, soundness
from medmim.recipe.schema import NOT_CONTENT, Recipe
from medmim.run.cache import cached_step, finished, step_key
from medmim.run.provenance import terms_of
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace, sqlite_path
from medmim.sample import SPLITS
from medmim.store.removal import claim
from medmim.tracking import curves, training_run

REVISION = 4
_CURVE = 200  # points of the loss curve in the record; `losses.jsonl` has every step


def run(recipe: Recipe, ws: Workspace, data: str, base: str | None = None) -> Outcome:
    """Fine-tune the recipe's base on the train split of a data set, or take the model from the cache.

    `Outcome.facts`: steps, samples, tokens, loss (mean of the last tenth), quarantined (reason -> count), workers,
    seconds, tokens_per_s, mfu, data_wait (share of the seconds that the first worker waited for its batches), and
    losses, the curve as `[step, loss]`. With dev items also validation, the curve as `[step, dev loss, dev accuracy]`
    (accuracy may be null), kept_step (the step of the model), its dev_loss and dev_accuracy, dev_items, and
    dev_quarantined (reason -> count).

    Args:
        recipe: Its sections `finetune` and `platform`.
        ws: The workspace.
        data: URI of a data set.
        base: The base where it is resolved already; else the recipe's.

    Raises:
        UserError: No such base or data set, nothing to train on, or the training diverged.
    """
    with stage(ws, "finetune") as outcome:
        ref = base or recipe.finetune.base
        artifact, section, parents, allowed = _made_from(recipe, data, ref)
        lora = recipe.finetune.lora
        needs_base = lora is not None and not lora.merge
        ran: dict[str, Any] = {}

        key = step_key("finetune", REVISION, section, parents)

        def make(work: Path) -> Mapping[str, Any]:
            # adapters are of no use without their base: one in a folder, which may be moved, is copied to the store
            kept = checkpoint.upload_if_local(ref, ws) if needs_base else ref
            with _in_mlflow(recipe, ws, key, work, outcome) as mlflow_run:
                counts, ran["ran"] = _train(recipe, ws, kept, artifact, work, mlflow_run)
            if needs_base:
                adapters.record_base(work, kept, parents["base"], ws.store)
                if kept.startswith(f"{ws.store}/"):
                    claim(store.open_store(ws.store), kept.removeprefix(f"{ws.store}/"))
            (work / terms.FILE).write_text(allowed.dump(), encoding="utf-8")
            return counts

        def clear() -> None:
            from medmim.finetune.ray import exchange

            exchange.clear(exchange.shared_folder(ws, f"finetune-{key[:16]}"))

        model, cached = cached_step(
            ws,
            "finetune",
            REVISION,
            section,
            parents,
            make,
            kind="model",
            recipe=recipe,
            terms=allowed,
            more=ran,
            clear=None if recipe.platform.ray == "local" else clear,
        )
        _report(outcome, model, cached)
        return outcome


def find(recipe: Recipe, ws: Workspace, data: str, base: str | None = None) -> Outcome | None:
    """The tuned model where it is made already, as `run`; None where it is not. Raises as `run`."""
    _, section, parents, _ = _made_from(recipe, data, base or recipe.finetune.base)
    model = finished(ws, "finetune", step_key("finetune", REVISION, section, parents), "model")
    if model is None:
        return None
    with stage(ws, "finetune") as outcome:
        _report(outcome, model, cached=True)
    return outcome


def _made_from(
    recipe: Recipe, data: str, base: str
) -> tuple[store.Artifact, dict[str, Any], dict[str, str], terms.Terms]:
    """The data set, the settings that decide the content, the digests of what goes in, and its terms."""
    found = checkpoint.locate(base)
    adapters.refuse_as_base(found)
    family = checkpoint.family_of(found)
    artifact = data_artifact(data)
    allowed = terms.combine([checkpoint.terms_of(base), terms_of(artifact)])
    section = {
        "terms": allowed.as_dict(),  # part of the model's content
        **recipe.finetune.model_dump(
            mode="json", exclude={"base", *NOT_CONTENT, *validation.excluded(recipe.finetune)}
        ),
        "template": family.template_digest,
        "max_bad_fraction": recipe.data.max_bad_fraction,
    }
    return artifact, section, {"data": artifact.digest, "base": checkpoint.digest(found)}, allowed


def _report(outcome: Outcome, model: store.Artifact, cached: bool) -> None:
    outcome.of(model, cached)
    outcome.facts |= {**model.counts, "losses": _loss_curve(store.read_file(model, "losses.jsonl"))}
    if validation.VALIDATION in model.files:
        outcome.facts["validation"] = _validation_curve(store.read_file(model, validation.VALIDATION))


def data_artifact(uri: str) -> store.Artifact:
    """The data set at a URI.

    Raises:
        UserError: There is no artifact, or it is not a data set.
    """
    artifact = store.get(uri)
    if artifact.kind != "data":
        raise UserError(
            f"{uri} is not a data set",
            reason=f"it is an artifact of kind '{artifact.kind}'",
            fix="give the URI that `medmim data build` printed",
        )
    return artifact


@contextmanager
def _in_mlflow(recipe: Recipe, ws: Workspace, key: str, folder: Path, outcome: Outcome) -> Iterator[str]:
    """Have MLflow show a run's training as it goes on; the record of the stage gets the id of its MLflow run.

    Yields:
        That id where the workers must log, on a cluster; empty where this process does, of a training that is no part
        of a run, and where MLflow does not answer: `register` logs all there is, then.
    """
    elsewhere = recipe.platform.ray != "local"
    if not ws.run or (elsewhere and sqlite_path(ws.tracking) is not None):
        yield ""
        return
    found = list[str]()
    if elsewhere:
        following: AbstractContextManager[list[str]] = nullcontext([training_run.begin_if_there(ws, recipe, key)])
    else:
        mine = curves.Followed(
            str(ws.home), ws.store, ws.tracking, str(folder), run=ws.run, recipe=recipe.dump(), key=key
        )
        following = curves.following(mine)
    try:
        with following as found:
            yield found[0] if found else ""
    finally:
        if found and found[0]:
            outcome.facts[training_run.FACT] = found[0]


def _train(
    recipe: Recipe, ws: Workspace, base: str, data: store.Artifact, folder: Path, mlflow_run: str = ""
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """Tokenize the train split, train on this machine or on a Ray cluster.

    Returns:
        The counts of the manifest, and `TrainResult.ran`.
    """
    from joblib import cpu_count

    from medmim.finetune import loader
    from medmim.finetune.examples import group
    from medmim.finetune.ray import exchange, launcher
    from medmim.finetune.worker import DEV, EXAMPLES, Job

    local = recipe.platform.ray == "local"
    shared = exchange.shared_folder(ws, folder.name)
    prepared, dev, quarantine = folder / EXAMPLES, folder / DEV, folder / "quarantine.jsonl"
    if local:
        base_here = checkpoint.resolve(base, ws)
        soundness.check_weights(base_here)  # the workers do so too, but only after all that follows
        data_here = store.fetch(data, ws.cache)
    elif not prepared.is_file():
        exchange.download_examples(folder, shared)
    if not prepared.is_file():
        _prepare(recipe, ws, base, data, prepared, dev, quarantine)
    if recipe.finetune.keep == "best" and not dev.is_file():
        raise UserError(
            "finetune.keep is best, but there are no dev items to find the best by",
            reason=f"{data.uri} has no dev split",
            fix="raise data.dev_fraction and build again, or set finetune.keep: last",
        )
    kept = _count(prepared)
    workers = recipe.platform.workers
    steps = loader.total_steps(recipe.finetune, kept)
    progress.say(f"finetune: {kept:,} samples, {steps:,} steps of {recipe.finetune.batch_size}")
    if not local:
        exchange.upload_examples(folder, shared)
    job = Job(
        base=str(base_here) if local else checkpoint.upload_if_local(base, ws),
        data=str(data_here) if local else data.uri,
        folder=str(folder) if local else shared,
        settings=recipe.finetune.model_dump_json(),
        threads=recipe.platform.threads or (max(1, cpu_count() // workers) if local else 1),
    )
    tracked = launcher.Tracked(ws.tracking, mlflow_run) if mlflow_run else None
    result = launcher.launch(job, folder, workers, ws.home, recipe.platform.ray, tracked)
    rows = [json.loads(line) for line in quarantine.read_text(encoding="utf-8").splitlines()]
    reasons = {split: Counter(group(row["reason"]) for row in rows if row["file"] == split) for split in SPLITS}
    validations = validation.read(folder / validation.VALIDATION)
    counts = {
        "steps": result.steps,
        "samples": kept,
        "tokens": result.tokens,
        "loss": result.loss,
        "quarantined": dict(reasons["train"]),
        "workers": workers,
        "seconds": round(result.seconds, 1),
        "tokens_per_s": round(result.tokens_per_s),
        "mfu": None if result.mfu is None else round(result.mfu, 3),
        "data_wait": result.data_wait,
        **validation.facts(validations, result.kept),
        "dev_quarantined": dict(reasons["dev"]),
    }
    return counts, result.ran


def _prepare(
    recipe: Recipe, ws: Workspace, base: str, data: store.Artifact, prepared: Path, of_dev: Path, quarantine: Path
) -> None:
    """Write what is trained and validated on, and the rows that cannot be.

    Nothing of it stays in memory while the workers train. Weights and images are fetched by whoever trains: on a
    cluster, not by this process.
    """
    from medmim.finetune.examples import prepare, prepare_dev

    text = checkpoint.resolve_text(base, ws)
    checkpoint.check_weights_of(base, text)
    tables = store.fetch(data, ws.cache, [shards.SAMPLES])
    settings, limit = recipe.finetune, recipe.data.max_bad_fraction
    examples, bad = prepare(text, tables, settings.max_tokens, limit, data)
    items, seed = settings.validation.items, settings.seed
    dev, bad_dev = prepare_dev(text, tables, settings.max_tokens, limit, items, seed, data)
    bad += bad_dev
    if dev is not None:
        dev.save(of_dev)
    quarantine.write_text("".join(json.dumps(asdict(row)) + "\n" for row in bad), encoding="utf-8")
    examples.save(prepared)


def _count(prepared: Path) -> int:
    from medmim.finetune.examples import Examples

    return len(Examples.load(prepared))


def _validation_curve(text: bytes) -> list[list[float | None]]:
    lines = [json.loads(line) for line in text.decode().splitlines()]
    return [[line["step"], line["loss"], line["accuracy"]] for line in lines]


def _loss_curve(text: bytes) -> list[list[float]]:
    """About `_CURVE` points of (step, loss), the last one included."""
    lines = text.decode().splitlines()
    every = -(-len(lines) // _CURVE)
    points = [json.loads(line) for line in lines]
    return [[p["step"], p["loss"]] for i, p in enumerate(points) if i % every == 0 or i + 1 == len(points)]
