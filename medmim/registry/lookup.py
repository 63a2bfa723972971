"""Who is who in the registry: the version of a digest, the champion, and what `models:/NAME@ALIAS` means."""

import difflib

from medmim import store, tracking
from medmim.errors import UserError
from medmim.recipe.schema import Recipe
from medmim.registry import decisions
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace
from medmim.tracking import Version

DIGEST, URI, BENCH, LOGGED = "medmim.digest", "medmim.uri", "medmim.bench", "medmim.logged_model"
_ROLES = ("champion", "challenger", "previous-champion")


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
