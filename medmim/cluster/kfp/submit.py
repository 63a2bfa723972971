"""A recipe to a KFP server: checked first, the image pinned by digest, one pipeline version for one content.

The run is started with three parameters: the URI of its recipe in the store, the steps' scratch folder and its name.
No secret is among them, nor in the recipe: pods get secrets by reference.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from medmim import __version__
from medmim.cluster.kfp import client, compiled, get_or_create, preflight
from medmim.cluster.kfp import image as images
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.compiled import Ir
from medmim.cluster.kfp.errors import Access, Unsent
from medmim.cluster.ray import pods
from medmim.errors import Unavailable, UserError
from medmim.progress import say
from medmim.recipe.schema import Recipe
from medmim.sample import digest_of
from medmim.store import Store, open_store

EXPERIMENT = "medmim"
RECIPE = "recipe.json"
GOING = ("PENDING", "RUNNING", "CANCELING", "PAUSED")
_HOME = f"{pods.HOME}/.medmim"


@dataclass(frozen=True)
class Plan:
    """What a submission will do; nothing is done yet.

    Attributes:
        api: The server that was asked.
        ir: With the image in it.
        image: By digest.
        recipe: As steps will read it: store and image are in it.
        run: Name of the run.
        store: URI of the store.
        experiment: Its name.
        digest: Of the recipe as it was given; tells whether two runs are of the same one.
        known: The pipeline version of this very content is there already.
        notes: What could not be looked at.
    """

    api: Api
    ir: Ir
    image: str
    recipe: Recipe
    run: str
    store: str
    experiment: str
    digest: str
    known: bool
    notes: tuple[str, ...]

    @property
    def uri(self) -> str:
        """Where the recipe goes."""
        return f"{self.store}/runs/{self.run}/{RECIPE}"


@dataclass(frozen=True)
class Submitted:
    """A run that was started.

    Attributes:
        run: Its name.
        run_id: KFP's id.
        link: Its page.
        recipe: URI of its recipe.
        pipeline: Name of the pipeline.
        version: Name of the pipeline version: the digest of its content.
        new_version: Nobody had uploaded it before.
    """

    run: str
    run_id: str
    link: str
    recipe: str
    pipeline: str
    version: str
    new_version: bool


def submit(
    pipeline: Literal["train", "nightly"],
    recipe: Recipe,
    run: str,
    *,
    access: Access,
    image: str | None,
    experiment: str | None = None,
) -> Submitted:
    """Check a recipe, upload its pipeline unless it is there, and start a run. Where that fails nothing stays behind.

    Args:
        pipeline: Which of the shipped graphs.
        recipe: The recipe.
        run: Name of the run; `STORE/runs/RUN` must be new.
        access: The KFP server.
        image: medmim's image; default: the recipe's, then MEDMIM_IMAGE of this environment, then of the cluster's
            settings.
        experiment: KFP's experiment.

    Raises:
        UserError: Recipe, names, cluster or server are not fit for it, all problems at once; or a run of the same
            recipe is going.
        Unavailable: KFP, the store or the registry does not answer.
    """
    planned = plan(pipeline, recipe, run, access=access, image=image, experiment=experiment)
    for note in planned.notes:
        say(note)
    return start(planned)


def plan(
    pipeline: str, recipe: Recipe, run: str, *, access: Access, image: str | None, experiment: str | None = None
) -> Plan:
    """Look at everything that a submission needs, and change nothing. Arguments and errors as `submit`."""
    ir = compiled.load(pipeline)
    kube, told, unasked = preflight.settings(access.namespace or None, recipe)
    named = image or told.image
    group = experiment or EXPERIMENT
    target = f"{told.store.rstrip('/')}/runs/{run}/{RECIPE}"
    problems = [*preflight.unfit(recipe, told), *preflight.unnamed(run, group, access.namespace, target)]
    if not named:
        problems.append("image: not set; --image, platform.pods.image or MEDMIM_IMAGE: registry/medmim@sha256:...")
    if kube is not None:
        problems += preflight.lacking(kube, recipe)
    if problems:
        raise UserError(
            f"recipe {recipe.name} cannot run on this cluster",
            problems=problems,
            fix="mend what is named; `medmim doctor --cluster` looks at all of the cluster",
        )
    next(iter(open_store(told.store).list(f"runs/{run}/")), None)  # is the bucket there, may we look?
    notes = [f"the Kubernetes cluster was not checked: {unasked}"] if unasked else []
    pinned = images.pin(named)
    notes += _image_notes(pinned)
    api = client.connect(access)
    if client.numbers(api.tag) != client.numbers(ir.sdk):
        notes.append(f"KFP is {api.tag}, and the pipeline is compiled for {ir.sdk.removeprefix('kfp-')}")
    digest = digest_of([recipe.dump()])
    _refuse_twice(api, digest, recipe.name)
    placed = recipe.platform.pods.model_copy(update={"image": pinned})
    platform = recipe.platform.model_copy(update={"store": told.store.rstrip("/"), "pods": placed})
    written = compiled.pinned(ir, pinned)
    found = get_or_create.known_pipeline(api, written.name)
    return Plan(
        api, written, pinned, recipe.model_copy(update={"platform": platform}), run, told.store.rstrip("/"), group,
        digest, bool(found and get_or_create.known_version(api, found, written.digest)), tuple(notes),
    )  # fmt: skip


def start(planned: Plan) -> Submitted:
    """Do what was planned. Errors as `submit`."""
    place, key = open_store(planned.store), f"runs/{planned.run}/{RECIPE}"
    if not place.create(key, planned.recipe.dump().encode()):
        raise UserError(
            f"there is a run {planned.run} in {planned.store} already", fix="submit again: names hold the time"
        )
    sent = False
    try:
        api = planned.api
        pipeline = get_or_create.pipeline(api, planned.ir.name)
        version, new = get_or_create.version(api, pipeline, planned.ir)
        body = _body(planned, pipeline, version)
        sent = True
        run = _send(api, body)
    except BaseException as error:
        if not sent or isinstance(error, UserError) and not isinstance(error, _Lost):
            _forget(place, key)
        elif not isinstance(error, UserError):  # an interrupt: what was sent may still come about, and needs its recipe
            say(f"{planned.run} was being started and may go on: `medmim runs show {planned.run}`")
        raise
    return Submitted(
        planned.run, run, api.link(f"runs/details/{run}"), planned.uri, planned.ir.name, planned.ir.digest, new
    )


class _Lost(Unavailable):
    """A run was asked for, and nobody can say whether it is there."""


def _body(planned: Plan, pipeline: str, version: str) -> Any:
    from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

    return V2beta1Run(
        display_name=planned.run,
        description=f"medmim {__version__}, recipe {planned.recipe.name} {planned.digest}",
        experiment_id=get_or_create.experiment(planned.api, planned.experiment),
        pipeline_version_reference=V2beta1PipelineVersionReference(pipeline_id=pipeline, pipeline_version_id=version),
        runtime_config=V2beta1RuntimeConfig(
            parameters={"recipe": planned.uri, "home": _HOME, "run": planned.run},
        ),
        service_account=preflight.STEP_ACCOUNT,
    )


def _send(api: Api, body: Any) -> str:
    """Start a run; its id, also where the answer was lost on the way."""
    try:
        return str(api.call("starting a run", api.client.runs.run_service_create_run, again=False, run=body).run_id)
    except Unavailable as error:
        if isinstance(error, Unsent):
            raise
        try:
            found = _started(api, body.display_name)
        except UserError:
            raise _Lost(
                f"whether the run {body.display_name} was started is not known: {error.fact}",
                reason=error.reason,
                fix=f"`medmim runs show {body.display_name}` once KFP answers again, before you submit again",
            ) from None
        if not found:
            raise
        return found


def _forget(place: Store, key: str) -> None:
    with suppress(UserError):  # the error on its way is the news
        place.delete(key)


def _image_notes(pinned: str) -> list[str]:
    try:
        found = images.version(pinned)
    except images.Absent:
        raise
    except UserError as error:
        return [f"which medmim is in the image is not known: {error.fact}"]
    if found != __version__:
        raise UserError(
            f"the image {pinned} holds medmim {found}, and this is {__version__}",
            reason="the pipeline's steps call functions of this very version",
            fix=f"name the image of {__version__}, or submit with medmim {found}",
        )
    return []


def _refuse_twice(api: Api, digest: str, name: str) -> None:
    same = client.filtered(
        {"operation": "IN", "key": "state", "string_values": {"values": GOING}},
        {"operation": "IS_SUBSTRING", "key": "description", "string_value": digest},
    )
    found = api.call(
        "listing runs", api.client.runs.run_service_list_runs, namespace=api.namespace or None, page_size=1,
        filter=same,
    ).runs  # fmt: skip
    if found:
        run = found[0]
        raise UserError(
            f"run {run.display_name} of recipe {name} is going ({run.state})",
            reason=f"{api.link(f'runs/details/{run.run_id}')}: two at once would do the same work twice",
            fix=f"`medmim runs show {run.display_name}`; "
            + (
                "submit again when it has ended"
                if run.state == "CANCELING"
                else f"`medmim runs cancel {run.display_name}` ends it"
            ),
        )


def _started(api: Api, run: str) -> str:
    """The id of a run of that name; empty where there is none."""
    found = api.call(
        "listing runs", api.client.runs.run_service_list_runs, namespace=api.namespace or None,
        filter=client.where(display_name=run),
    ).runs  # fmt: skip
    return str(found[0].run_id) if found else ""


def describe(planned: Plan) -> dict[str, Any]:
    """What a submission would do, as plain JSON."""
    return {
        "run": planned.run,
        "host": planned.api.access.host,
        "kfp": planned.api.tag,
        "namespace": planned.api.namespace,
        "experiment": planned.experiment,
        "pipeline": planned.ir.name,
        "version": planned.ir.digest,
        "new_version": not planned.known,
        "image": planned.image,
        "recipe": planned.uri,
        "notes": list(planned.notes),
    }
