"""register: the tuned model becomes an MLflow model version with its lineage; and who is who in the registry.

A version is a small pyfunc that names the model artifact by address and digest; the weights stay where they are.
The same model under the same name is one version, whoever registers it and however often.
"""

import difflib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import __version__, store, tracking
from medmim.errors import UserError
from medmim.progress import say
from medmim.recipe import Recipe
from medmim.recipe_registry import CANDIDATE
from medmim.registry import decisions, measures
from medmim.registry.decisions import Decision
from medmim.sample import digest_of
from medmim.steps import Outcome, Workspace, stage
from medmim.store import Artifact
from medmim.tracking import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST, URI, BENCH, LOGGED = "medmim.digest", "medmim.uri", "medmim.bench", "medmim.logged_model"
_ROLES = ("champion", "challenger", "previous-champion")


def run(recipe: Recipe, ws: Workspace, data: str, model: str, bench: str) -> Outcome:
    """Register the tuned model, with lineage, scores and loss curve.

    Args:
        recipe: The recipe that made it; `home_of` is the name.
        ws: The workspace.
        data: Store URI of the data set.
        model: Store URI of the tuned model.
        bench: Store URI of the scores.

    Returns:
        Facts: `name`, `version`, `digest`, `uri`, `lineage`.
    """
    with stage(ws, "register") as outcome:
        name = home_of(recipe)
        tuned, scores = store.get(model), store.get(bench)
        lineage = _lineage(recipe, ws, store.get(data), tuned)
        version = find(ws, name, tuned.digest)
        outcome.cached = version is not None and version.tags.get(BENCH) == scores.digest
        if not outcome.cached:
            api = tracking.client(ws)
            with tracking.answering(ws.tracking):
                if version is None:
                    _create(api, ws, recipe, lineage)
                    version = settle(api, ws, name, tuned.digest)
                _measure(api, ws, name, version, tuned, scores)
        assert version is not None
        outcome.uri, outcome.digest = f"models:/{name}/{version.number}", tuned.digest
        outcome.facts = {
            "name": name,
            "version": version.number,
            "digest": tuned.digest,
            "uri": tuned.uri,
            "lineage": {key: version.tags.get(key, value) for key, value in lineage.items()},
        }
    return outcome


def home_of(recipe: Recipe) -> str:
    """The registered model that a run writes its version into.

    `register.model` itself, or `NAME-candidate` where promotion needs approval: then the run needs no right on the
    production model, and a promoter copies the version there.

    Raises:
        UserError: MEDMIM_APPROVAL is neither `none` nor `required`.
    """
    platform = os.environ.get("MEDMIM_APPROVAL") or "none"
    if platform not in ("none", "required"):
        raise UserError(f"MEDMIM_APPROVAL is '{platform}'", fix="set it to none or required")
    name = recipe.register_.model
    return name + CANDIDATE if (recipe.promote.approval or platform) == "required" else name


def find(ws: Workspace, name: str, digest: str) -> Version | None:
    """The version that holds the model of this digest; the first, should there be several."""
    listed = tracking.registered(ws, name).get(name, tracking.Registered()).versions
    return next((v for v in listed if v.tags.get(DIGEST) == digest), None)


def champion(ws: Workspace, name: str) -> Decision | None:
    """The entry of the decision log that made the champion: its `version`, `uri` and `digest`."""
    return decisions.standing(decisions.read(ws, name)).champion


def opponents(recipe: Recipe, ws: Workspace, model: str = "") -> dict[str, str]:
    """Whom the tuned model is benched against: `base`, and `champion` where there is one.

    A model that already is the champion meets whom it met when it was promoted, so that a second run of its recipe
    finds its scores instead of asking anew.

    Args:
        recipe: Names the base and the registered model.
        ws: The workspace.
        model: Store URI of the tuned model.
    """
    found = {"base": resolve(recipe.finetune.base, ws)}
    holder = champion(ws, recipe.register_.model)
    if holder is None:
        return found
    own = bool(model) and store.get(model).digest == holder.digest
    uri = holder.against if own else holder.uri
    return found | ({"champion": uri} if uri else {})


def resolve(ref: str, ws: Workspace) -> str:
    """The store URI behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`; anything else unchanged.

    `champion`, `challenger` and `previous-champion` come from the decision log, other aliases from MLflow.

    Raises:
        UserError: No such model, alias or version, or one that medmim did not register.
    """
    if not ref.startswith("models:/"):
        return ref
    name, number = locate(ref, ws)
    version = lookup(ws, name, number)
    if URI not in version.tags:
        raise UserError(
            f"{ref} was not registered by medmim",
            reason=f"version {number} has no tag {URI}",
            fix="give a store URI, a folder or a shipped base",
        )
    return version.tags[URI]


def locate(ref: str, ws: Workspace) -> tuple[str, str]:
    """Name and version number of `NAME@ALIAS` or `NAME/VERSION`, with or without `models:/`.

    Raises:
        UserError: Not of that form, or no such model or alias.
    """
    path = ref.removeprefix("models:/")
    name, at, alias = path.partition("@")
    if not at:
        name, slash, number = path.rpartition("/")
        if not slash or not number:
            raise UserError(f"'{ref}' names no model version", fix="write NAME@champion or NAME/3")
        return name, number
    aliases = {k: v for k, v in _known(ws, name).aliases.items() if k not in _ROLES}
    roles = decisions.standing(decisions.read(ws, name)).roles()
    for role, entry in roles.items():
        version = held(ws, name, entry)
        aliases[role] = version.number if version else entry.version
    if alias not in aliases:
        none = "no model has been promoted yet" if alias in _ROLES else ""
        raise UserError(
            f"{name} has no alias '{alias}'",
            reason=none,
            fix=f"known: {', '.join(sorted(aliases))}" if aliases else "run a recipe, or `medmim registry promote`",
        )
    return name, aliases[alias]


def lookup(ws: Workspace, name: str, number: str) -> Version:
    """A registered version.

    Raises:
        UserError: No such model or version.
    """
    model = _known(ws, name)
    version = model.version(number)
    if version is None:
        listed = ", ".join(v.number for v in model.versions) or "none"
        raise UserError(f"{name} has no version {number}", fix=f"versions there are: {listed}")
    return version


def held(ws: Workspace, name: str, entry: Decision) -> Version | None:
    """The version that an entry of the log means: by its number, or by its digest in an MLflow that was rebuilt."""
    version = tracking.registered(ws, name).get(name, tracking.Registered()).version(entry.version)
    return version if version and version.tags.get(DIGEST) == entry.digest else find(ws, name, entry.digest)


def _known(ws: Workspace, name: str) -> tracking.Registered:
    model = tracking.registered(ws, name).get(name)
    if model is None:
        every = list(tracking.registered(ws))
        near = difflib.get_close_matches(name, every, 1)
        raise UserError(
            f"no registered model '{name}' at {ws.tracking}",
            fix=(f"did you mean '{near[0]}'? " if near else "") + f"there are: {', '.join(every) or 'none yet'}",
        )
    return model


def _lineage(recipe: Recipe, ws: Workspace, data: Artifact, tuned: Artifact) -> dict[str, str]:
    """What the version is made of, as tags."""
    made = json.loads(recipe.dump())
    for section in ("platform", "promote", "retention", "nightly"):  # where it ran and what came after: not what it is
        del made[section]
    parents: dict[str, str] = {}
    root, _, folder = tuned.uri.rpartition("/")
    with suppress(FileNotFoundError):
        parents = json.loads(store.open_store(root).read(f"{folder}/{store.PROVENANCE}")).get("parents") or {}
    tags = {
        DIGEST: tuned.digest,
        URI: tuned.uri,
        "medmim.data": data.digest,
        "medmim.data_uri": data.uri,
        "medmim.recipe": digest_of([json.dumps(made, sort_keys=True)]),
        "medmim.recipe_name": recipe.name,
        "medmim.base": recipe.finetune.base,
    }
    if "base" in parents:
        tags["medmim.base_digest"] = parents["base"]
    return tags | {f"medmim.code_{key}": value for key, value in tracking.code_version().items()}


def _create(api: "MlflowClient", ws: Workspace, recipe: Recipe, lineage: dict[str, str]) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    name = home_of(recipe)
    say(f"registering {lineage[DIGEST][:12]} as {name}")
    try:
        api.create_registered_model(name)
    except MlflowException:
        api.get_registered_model(name)  # it is there already; anything else raises again
    experiment = tracking.experiment(ws, name)
    run = api.create_run(experiment, run_name=ws.run or recipe.name, tags=lineage).info.run_id
    params = {f"finetune.{key}": str(value) for key, value in recipe.finetune.model_dump().items()}
    params |= {f"data.{key}": str(value) for key, value in recipe.data.model_dump().items() if key != "root"}
    api.log_dict(run, json.loads(recipe.dump()), "recipe.json")
    logged = api.create_logged_model(experiment, name=name, source_run_id=run, tags=lineage, params=params)
    with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
        path = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            model_config={
                "uri": lineage[URI],
                "digest": lineage[DIGEST],
                "batch_size": recipe.bench.batch_size,
                "max_new_tokens": recipe.bench.max_new_tokens,
            },
            pip_requirements=[f"medmim[bench]=={__version__}"],
            mlflow_model=Model(model_id=logged.model_id, run_id=run),
        )
        api.log_model_artifacts(logged.model_id, str(path))
    api.finalize_logged_model(logged.model_id, "READY")
    # A SQL store looks `models:/` sources up by the process-wide tracking URI, which we leave alone.
    source = logged.artifact_location if tracking.database(ws.tracking) else f"models:/{logged.model_id}"
    tags = lineage | {LOGGED: logged.model_id}
    api.create_model_version(name, source=source, run_id=run, tags=tags, model_id=logged.model_id)


def settle(api: "MlflowClient", ws: Workspace, name: str, digest: str) -> Version:
    """Of two registrars that made a version each, the first wins; every one of them deletes the later ones."""
    from mlflow.exceptions import MlflowException

    listed = [v for v in tracking.registered(ws, name)[name].versions if v.tags.get(DIGEST) == digest]
    for late in listed[1:]:
        try:
            api.delete_model_version(name, late.number)
        except MlflowException:  # the other one deleted it
            continue
    return listed[0]


def _measure(
    api: "MlflowClient", ws: Workspace, name: str, version: Version, tuned: Artifact, scores: Artifact
) -> None:
    """Log scores and losses; the tag that says so comes last, so that a kill before it is made good."""
    from mlflow.exceptions import MlflowException

    measures.log(api, version.run, version.tags.get(LOGGED), ws.fetch(scores.uri), ws.fetch(tuned.uri), scores.digest)
    try:
        api.set_model_version_tag(name, version.number, BENCH, scores.digest)
    except MlflowException:
        again = find(ws, name, tuned.digest)
        if again is None or again.tags.get(BENCH) != scores.digest:  # else another registrar set it just now
            raise
