"""Submits a recipe to a KFP server: checked first, the image pinned by digest, one pipeline version for one content.

The run is started with three parameters: the URI of its recipe in the store, the steps' scratch folder and its name.
Neither these nor the recipe hold a secret: pods get secrets by reference.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from medmim import __version__, hints
from medmim.cluster import dispatch
from medmim.cluster.kfp import client, compiled, get_or_create, pods, preflight, submitter
from medmim.cluster.kfp.access import Access
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.compiled import Ir
from medmim.cluster.kfp.errors import NotSent, Unanswered
from medmim.cluster.kfp.image import NotFound, pin, version_of
from medmim.cluster.pod_templates import PodTemplates
from medmim.errors import BAD_INPUT, Unavailable, UserError
from medmim.progress import say
from medmim.recipe import names
from medmim.recipe.schema import Recipe
from medmim.run.person import SUBMITTED
from medmim.run.stage import RECIPE
from medmim.sample import digest_of
from medmim.store import Store, open_store

T = TypeVar("T")

EXPERIMENT = "medmim"
PENDING = "PENDING"
# States of a run that has not ended. The last, which KFP leaves out of its JSON, is that of one whose Workflow Argo has
# not taken up yet.
ACTIVE = (PENDING, "RUNNING", "CANCELING", "PAUSED", "RUNTIME_STATE_UNSPECIFIED")
_TWICE = "two at once would do the same work twice"
_PAGE = 20  # runs of one recipe that are looked at
_HOME = f"{names.HOME}/.medmim"


@dataclass(frozen=True)
class Plan:
    """What a submission will do; nothing is done yet.

    Attributes:
        api: The server.
        namespace: Of the pods; empty where it is not known.
        ir: With the image in it.
        image: By digest.
        cuda_image: The one with torch, by digest; the same where one image does both.
        recipe: As steps will read it, with store and image.
        run: Name of the run.
        who: Who submits it.
        store: URI of the store.
        experiment: Its name.
        digest: Of the recipe as it was given; two runs of one recipe have the same.
        known: The pipeline version with this content exists already.
        notes: What could not be checked.
    """

    api: Api
    namespace: str
    ir: Ir
    image: str
    cuda_image: str
    recipe: Recipe
    run: str
    who: str
    store: str
    experiment: str
    digest: str
    known: bool
    notes: tuple[str, ...]

    @property
    def uri(self) -> str:
        """Where the recipe is written."""
        return f"{self.store}/runs/{self.run}/{RECIPE}"


@dataclass(frozen=True)
class Submitted:
    """A run that was started.

    Attributes:
        run: Its name.
        run_id: KFP's id.
        link: Its page; empty where only KFP's API is known.
        recipe: URI of its recipe.
        pipeline: Name of the pipeline.
        version: Name of the pipeline version: the digest of its content.
        new_version: It was uploaded for this run.
    """

    run: str
    run_id: str
    link: str
    recipe: str
    pipeline: str
    version: str
    new_version: bool


class _Unknown(Unavailable):
    """A run was requested, and whether it exists is not known."""


def plan(
    pipeline: str,
    recipe: Recipe,
    run: str,
    *,
    access: Callable[[], Access],
    image: str | None,
    cuda_image: str | None = None,
    experiment: str | None = None,
) -> Plan:
    """Check everything that a submission needs, and change nothing.

    What does not hang on another answer is checked all the same: without KFP, the recipe, names, store and image.

    Args:
        pipeline: Its name in `medmim/shipped/pipelines`.
        recipe: What runs.
        run: The run's name.
        access: Gives how to reach KFP, or raises why that is not known.
        image: medmim's image. [default: that of the recipe, the environment or the cluster]
        cuda_image: The one with torch. [default: `image` where it is given, else as `image`]
        experiment: KFP's. [default: medmim]

    Raises:
        UserError: All problems at once; where there is one only, it is raised as it is.
        Unavailable: A server does not answer, and nothing else is wrong.
    """
    ir, group = compiled.load(pipeline), experiment or EXPERIMENT
    errors: list[UserError] = []  # of what was asked; `problems` are of what was given
    reached = _tried(errors, access)
    api = _tried(errors, lambda: client.connect(reached)) if reached else None
    # whose token it is can be read without an address
    who = _tried(errors, lambda: submitter.who_submits(reached or Access("", token=os.environ.get("KFP_TOKEN", ""))))
    place = preflight.place(api, recipe) if api else preflight.without_kfp(recipe, reached.namespace if reached else "")
    setup, notes = place.setup, list(place.notes)
    templates = _tried(errors, lambda: setup.pods) or PodTemplates()
    (named, with_torch), store = setup.images((image, cuda_image)), setup.store.rstrip("/")
    uri = f"{store}/runs/{run}/{RECIPE}"
    space = reached.namespace if reached else ""
    problems = [*preflight.unsupported(recipe, setup), *preflight.invalid_names(run, group, space, uri)]
    if not named:
        problems.append(
            "image: not configured; --image, platform.pods.image or MEDMIM_IMAGE: registry/medmim@sha256:..."
        )
    if api and place.kube:
        problems += preflight.missing(place.kube, recipe, templates, api.access.host)
    if not any(problem.startswith("platform.store:") for problem in problems):
        _tried(errors, lambda: _refuse_store(recipe, store, run))
    notes += _tried(errors, lambda: preflight.mlflow_notes(place.kube, setup)) or []
    known = _as_named if templates.never_pulled else pin
    pinned = _tried(errors, lambda: known(named)) if named else None
    cuda = pinned if with_torch == named else _tried(errors, lambda: known(with_torch))
    for one in dict.fromkeys(filter(None, (pinned, cuda))):
        notes += _tried(errors, partial(_note_of_node if templates.never_pulled else image_notes, one)) or []
    asked = recipe.platform.pods.vllm_image
    serving = _tried(errors, lambda: known(asked)) if asked else None
    wanted = _tried(errors, lambda: compiled.with_templates(ir, templates.step)) or ir
    digest = digest_of([recipe.dump()])
    notes += (_tried(errors, lambda: _refuse_duplicate(api, digest, recipe.name)) or []) if api else []
    if problems or errors or not (api and who and pinned and cuda):
        raise _refusal(recipe.name, problems, errors)
    if client.major_minor(api.tag) != client.major_minor(ir.sdk):
        notes.append(f"KFP is {api.tag}, and the pipeline is compiled for {ir.sdk.removeprefix('kfp-')}")
    images = {"image": pinned, "cuda_image": cuda, **({"vllm_image": serving} if serving else {})}
    pods_of_image = recipe.platform.pods.model_copy(update=images)
    platform = recipe.platform.model_copy(update={"store": store, "pods": pods_of_image})
    ir = compiled.watching(wanted) if dispatch.is_remote(recipe) else wanted
    ir = compiled.pinned(ir, pinned, cuda)
    claim = setup.get("MEDMIM_CACHE_CLAIM")
    ir = compiled.with_cache(ir, claim) if claim else ir
    raw = setup.get("MEDMIM_RAW_CLAIM")
    ir = compiled.with_raw_data(ir, raw) if raw else ir
    pipeline_id = get_or_create.find_pipeline(api, ir.name)
    return Plan(
        api=api,
        namespace=place.namespace,
        ir=ir,
        image=pinned,
        cuda_image=cuda,
        recipe=recipe.model_copy(update={"platform": platform}),
        run=run,
        who=who,
        store=store,
        experiment=group,
        digest=digest,
        known=bool(pipeline_id and get_or_create.find_version(api, pipeline_id, ir.digest)),
        notes=tuple(notes),
    )


def _tried(errors: list[UserError], ask: Callable[[], T]) -> T | None:
    """What is asked for; None where an error says why not, which is kept."""
    try:
        return ask()
    except UserError as error:
        errors.append(error)
        return None


def _refuse_store(recipe: Recipe, store: str, run: str) -> None:
    next(iter(open_store(store).list(f"runs/{run}/")), None)  # raises without the bucket or the right to list it
    preflight.refuse_missing_models(recipe, store)


def _refusal(recipe: str, problems: Sequence[str], errors: Sequence[UserError]) -> UserError:
    """The one error of all that was found; 75 only where nothing but that must pass by itself."""
    if len(errors) == 1 and not problems:
        return errors[0]
    codes = {BAD_INPUT} if problems else {error.exit_code for error in errors}
    told = [
        "; ".join(filter(None, (one.fact, *one.problems, one.reason, one.fix and f"fix: {one.fix}"))) for one in errors
    ]
    return UserError(
        f"recipe {recipe} cannot run on this cluster",
        problems=[*problems, *told],
        fix=f"fix what is named; `{hints.command('doctor', '--cluster')}` checks the whole cluster",
        exit_code=codes.pop() if len(codes) == 1 else BAD_INPUT,
    )


def start(planned: Plan) -> Submitted:
    """Carry out a plan.

    Raises:
        UserError: There is a run of that name already, or KFP refuses it.
        Unavailable: KFP or the store does not answer; whether the run was started may not be known.
    """
    store, key = open_store(planned.store), f"runs/{planned.run}/{RECIPE}"
    if not store.create(key, planned.recipe.dump().encode()):
        raise UserError(
            f"there is a run {planned.run} in {planned.store} already", fix="submit again: names contain the time"
        )
    sent = False
    try:
        store.create(
            f"runs/{planned.run}/{SUBMITTED}", submitter.record(planned.who, planned.api.link("runs/details/"))
        )
        api = planned.api
        pipeline = get_or_create.pipeline(api, planned.ir.name)
        version, new = get_or_create.version(api, pipeline, planned.ir)
        body = _run_body(planned, pipeline, version)
        sent = True
        run_id = _create_run(api, body)
    except BaseException as error:
        if not sent or isinstance(error, UserError) and not isinstance(error, _Unknown):
            _remove_recipe(store, planned.run)
        elif not isinstance(error, UserError):  # an interrupt: what was sent may still start, and needs its recipe
            say(f"{planned.run} was being started and may be running: `{hints.command('runs', 'show', planned.run)}`")
        raise
    return Submitted(
        run=planned.run,
        run_id=run_id,
        link=api.link(f"runs/details/{run_id}"),
        recipe=planned.uri,
        pipeline=planned.ir.name,
        version=planned.ir.digest,
        new_version=new,
    )


def _run_body(planned: Plan, pipeline: str, version: str) -> Any:
    from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

    return V2beta1Run(
        display_name=planned.run,
        description=f"medmim {__version__}, recipe {planned.recipe.name} {planned.digest}",
        experiment_id=get_or_create.experiment(planned.api, planned.experiment),
        pipeline_version_reference=V2beta1PipelineVersionReference(pipeline_id=pipeline, pipeline_version_id=version),
        runtime_config=V2beta1RuntimeConfig(parameters={"recipe": planned.uri, "home": _HOME, "run": planned.run}),
        service_account=names.STEP_ACCOUNT,
    )


def _create_run(api: Api, body: Any) -> str:
    """Start a run; its id, also where the answer was lost on the way."""
    create = api.client.runs.run_service_create_run
    try:
        return str(api.call("starting a run", create, idempotent=False, run=body).run_id)
    except Unavailable as error:
        if isinstance(error, NotSent):
            raise
        try:
            found, known = _find_run(api, body.display_name), not isinstance(error, Unanswered)
        except UserError:
            found, known = "", False
        if found:
            return found
        if known:
            raise
        raise _Unknown(
            f"whether the run {body.display_name} was started is not known: {error.fact}",
            reason=error.reason,
            fix=f"`{hints.command('runs', 'show', body.display_name)}` in a minute, before you submit again",
        ) from None


def _remove_recipe(store: Store, run: str) -> None:
    with suppress(UserError):  # the error that is being raised is the one to show
        for name in (SUBMITTED, RECIPE):
            store.delete(f"runs/{run}/{name}")


def image_notes(pinned: str) -> list[str]:
    """What could not be checked of an image.

    Raises:
        UserError: It holds another version of medmim, or does not exist.
    """
    try:
        found = version_of(pinned)
    except NotFound:
        raise
    except UserError as error:
        return [f"the version of medmim in the image is not known: {error.fact}"]
    if found != __version__:
        raise UserError(
            f"the image {pinned} holds medmim {found}, and this is {__version__}",
            reason="the pipeline's steps call functions of exactly this version",
            fix=f"name the image of {__version__}, or submit with medmim {found}",
        )
    return []


def _as_named(image: str) -> str:
    return image


def _note_of_node(image: str) -> list[str]:
    return [f"no registry is asked for {image}: nodes must have it, and another image may get its name"]


def _refuse_duplicate(api: Api, digest: str, name: str) -> list[str]:
    """Refuse while a run of the same recipe is active; notes on those that KFP calls active and that cannot end."""
    same = client.filtered(
        {"operation": "IN", "key": "state", "string_values": {"values": ACTIVE}},
        {"operation": "IS_SUBSTRING", "key": "description", "string_value": digest},
    )
    listed = api.call(
        "listing runs",
        api.client.runs.run_service_list_runs,
        namespace=api.namespace or None,
        page_size=_PAGE,
        filter=same,
    ).runs
    notes = []
    for run in listed or []:
        state, delete = run.state or PENDING, hints.command("runs", "delete", run.display_name)
        if pods.has_no_workflow(api, run.run_id):
            notes.append(
                f"run {run.display_name} of this recipe is {state} in KFP for ever: its Workflow is gone; `{delete}`"
            )
            continue
        if state == "CANCELING":
            then = f"submit again when it has ended; if it never does, since its Workflow was deleted: `{delete}`"
        else:
            then = f"`{hints.command('runs', 'cancel', run.display_name)}` ends it"
        raise UserError(
            f"run {run.display_name} of recipe {name} is running ({state})",
            reason=": ".join(text for text in (api.link(f"runs/details/{run.run_id}"), _TWICE) if text),
            fix=f"`{hints.command('runs', 'show', run.display_name)}`; {then}",
        )
    return notes


def _find_run(api: Api, name: str) -> str:
    """The id of a run of that name; empty where there is none."""
    listed = api.call(
        "listing runs",
        api.client.runs.run_service_list_runs,
        namespace=api.namespace or None,
        filter=client.where(display_name=name),
    ).runs
    return str(listed[0].run_id) if listed else ""


def describe(planned: Plan) -> dict[str, Any]:
    """What a submission would do, as plain JSON."""
    return {
        "run": planned.run,
        "who": planned.who,
        "host": planned.api.access.host,
        "kfp": planned.api.tag,
        "namespace": planned.namespace,
        "experiment": planned.experiment,
        "pipeline": planned.ir.name,
        "version": planned.ir.digest,
        "new_version": not planned.known,
        "image": planned.image,
        "cuda_image": planned.cuda_image,
        "recipe": planned.uri,
        "notes": list(planned.notes),
    }
