"""Candidates awaiting approval: how a run proposes one, and how a promoter writes it into the production model.

A run that may not promote registers into `NAME-candidate` and tags the version there with the gate's verdict. Awaiting
approval is no decision, so the decision log has no entry for it. Only promoters write the log and the production model
NAME.
"""

import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medmim import hints, tracking
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Bench
from medmim.registry import decisions, lookup, register, store_id
from medmim.registry.decisions import Decision
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.tracking import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

VERDICT, EVIDENCE = "medmim.gate", "medmim.gate_evidence"
EXPERIMENT = "medmim.experiment"
AWAITING = "awaiting approval"


def propose(ws: Workspace, name: str, version: Version, document: Mapping[str, Any], evidence: str) -> bool:
    """Tag a candidate with the gate's decision; True where a tag had to be set.

    Args:
        ws: The workspace.
        name: `NAME-candidate`.
        version: The candidate.
        document: The gate's decision.
        evidence: Its store URI; the tag that is set last.
    """
    tags = {VERDICT: document["decision"], EVIDENCE: evidence}
    missing = {key: value for key, value in tags.items() if version.tags.get(key) != value}
    if missing:
        api = tracking.client(ws)
        with tracking.answering(ws.tracking):
            for key, value in missing.items():
                api.set_model_version_tag(name, version.number, key, value)
    return bool(missing)


def awaiting(ws: Workspace, name: str) -> list[Version]:
    """Versions of `NAME-candidate` that passed the gate, on which no person has decided; none for any other name."""
    if not name.endswith(CANDIDATE):
        return []
    log = decisions.read(ws, name.removesuffix(CANDIDATE))
    return [v for v in tracking.tagged(ws, name, VERDICT, "promoted") if is_awaiting(log, v)]


def is_awaiting(log: Sequence[Decision], candidate: Version) -> bool:
    """Whether a candidate passed the gate, and no person has decided on it.

    Args:
        log: Of the production model.
        candidate: A version of `NAME-candidate`.
    """
    digest = candidate.tags.get(lookup.DIGEST, "")
    decided = any(entry.verdict == "promoted" and entry.digest == digest for entry in log)
    return candidate.tags.get(VERDICT) == "promoted" and not decided and decisions.refusal(log, digest) is None


def command(name: str, number: str) -> str:
    """What a person types to promote a candidate; on a cluster, where MEDMIM_PROMOTER_NAMESPACE is set, as a Job."""
    typed = ["registry", "promote", name, number, "--why", "..."]
    namespace = os.environ.get("MEDMIM_PROMOTER_NAMESPACE")
    return hints.command(*typed, *(["--on-cluster", "--namespace", namespace] if namespace else []))


def to_production(ws: Workspace, name: str, candidate: Version, model: Artifact, bench: Artifact | None) -> Version:
    """The model's version in the production model: made there now, or found by its digest.

    Nothing of the candidate's files is used, which its owner can replace at any time: the version has a logged model of
    its own, with this installation's code, in an experiment that the promoter made.

    Args:
        ws: The workspace.
        name: The production model; made if absent.
        candidate: The candidate, for its lineage.
        model: The model, as it was checked.
        bench: The scores, where they were checked.

    Raises:
        UserError: Model or experiment are not this user's alone, as far as MLflow tells.
    """
    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        if register.create_model(api, name):
            decisions.record_made(ws, name)
    refuse_shared(ws, name)
    with tracking.answering(ws.tracking):
        store_id.mark(api, ws, name)
    known = tracking.tagged(ws, name, lookup.DIGEST, model.digest)
    for version in known:
        if not is_foreign(ws, name, version):
            return version
    lineage = {key: value for key, value in candidate.tags.items() if key in register.LINEAGE}
    lineage |= {lookup.DIGEST: model.digest, lookup.URI: model.uri, "medmim.terms": register.terms_text(model)}
    asked = _asked(bench or model)
    with tracking.answering(ws.tracking), redirect_stderr(io.StringIO()):  # MLflow prints there
        experiment = _experiment(api, ws, name)
        tracking.refuse_shared(
            ws, "experiment", experiment, f"experiment {experiment}, in which {name} is written,", True
        )
        run = api.create_run(experiment, run_name=f"promotion of {model.digest[:12]}", tags=lineage).info.run_id
        words = f"Version {candidate.number} of {name}{CANDIDATE}, made anew for its promotion."
        register.add_version(api, ws, name, run, lineage, asked, {}, words)
        version = register.deduplicate(api, ws, name, model.digest, foreign=[version.number for version in known])
        if bench is not None:
            register.log_scores(api, ws, name, version, model, bench)
    return version


def refuse_shared(ws: Workspace, name: str) -> None:
    """Refuse a production model that others may write, before anything is decided about it.

    Raises:
        UserError: It is not this user's alone, as far as MLflow tells.
    """
    with tracking.answering(ws.tracking):
        made = decisions.was_made(ws, name)
        tracking.refuse_shared(ws, "registered_model", name, f"the registered model {name}", made)


def is_foreign(ws: Workspace, name: str, version: Version) -> bool:
    """Whether others than this user may replace a version's files, as far as MLflow tells.

    Such a version can stand in the production model: of a candidate, as earlier versions promoted it; or of a step that
    made NAME before any promoter did, with the digest of a good model and code of its own.
    """
    from mlflow.exceptions import MlflowException

    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        if lookup.is_copy(version) or not tracking.has_users(ws):
            return lookup.is_copy(version)
        logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", version.source)
        if logged is None:
            return True
        try:
            experiment = api.get_logged_model(logged[1]).experiment_id
        except MlflowException as error:  # gone, or hidden from this user
            if error.get_http_status_code() not in (403, 404):
                raise
            return True
        made = experiment == api.get_registered_model(name).tags.get(EXPERIMENT)
        return bool(tracking.why_shared(ws, "experiment", experiment, made))


def _experiment(api: "MlflowClient", ws: Workspace, name: str) -> str:
    """Id of the experiment of the production model's files, made if absent.

    Its name proves nothing, since anybody can have taken it; who may tag the production model wrote its id there.
    """
    known = api.get_registered_model(name).tags.get(EXPERIMENT)
    if known and api.get_experiment(known).lifecycle_stage == "active":
        return str(known)
    made = tracking.new_experiment(ws, f"{name}-promoted")
    api.set_registered_model_tag(name, EXPERIMENT, made)
    return made


def _asked(source: Artifact) -> Bench:
    """How the model was benched, by the recipe beside the scores or the model; the defaults where there is none."""
    recipe = provenance_of(source).get("recipe")
    try:
        return Bench.model_validate(recipe["bench"] if isinstance(recipe, dict) else {})
    except (KeyError, ValidationError):
        return Bench.model_validate({})
