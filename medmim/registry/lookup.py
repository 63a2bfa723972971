"""Look up registered versions: by digest, number, `models:/NAME@ALIAS` or decision; the champion, a run's opponents."""

import difflib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

from medmim import hints, store, tracking
from medmim.errors import Missing, Unavailable, UserError
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Recipe
from medmim.redact import shown
from medmim.registry import decisions
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace
from medmim.store.paths import existing
from medmim.tracking import Registered, Version

T = TypeVar("T")

DIGEST, URI, BENCH, LOGGED = "medmim.digest", "medmim.uri", "medmim.bench", "medmim.logged_model"
IMPORTED = "imported:"
_ROLES = ("champion", "challenger", "previous-champion")
_LISTED = 20  # versions or models that an error names
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104  not listened on


def find(ws: Workspace, name: str, digest: str) -> Version | None:
    """The version of the model with this digest; the first, should there be several, but for copies (`is_copy`)."""
    return min(tracking.tagged(ws, name, DIGEST, digest), key=is_copy, default=None)


def is_copy(version: Version) -> bool:
    """Whether a version's files are those of a candidate, which a step can replace: earlier versions promoted so."""
    return re.match(rf"models:/[^/]+{CANDIDATE}/", version.source) is not None


def refuse_another(uri: str, digest: str, title: str) -> None:
    """Refuse the address of a model that is not the one with this digest; what lies there is checked when it is read.

    Raises:
        UserError: They differ.
    """
    if uri.rstrip("/").rpartition("/")[2] != digest:
        raise UserError(
            f"{title} names two models",
            reason=f"its digest is {digest}, and its address {uri}",
            fix="find out who wrote that, then register the model again with its recipe",
        )


def champion(ws: Workspace, name: str) -> Decision | None:
    """The entry of the decision log that made the champion: its `version`, `uri` and `digest`.

    Raises:
        UserError: Its `uri` is not that of its `digest`.
    """
    holder = decisions.roles(decisions.read(ws, name)).champion
    if holder is not None:
        refuse_another(holder.uri, holder.digest, f"decision {holder.n} of {name}")
    return holder


def opponents(recipe: Recipe, ws: Workspace, model: str = "") -> dict[str, str]:
    """The models that the tuned one is benched against: `base`, `champion` where there is one, those of `bench.models`.

    A model that already is the champion keeps the opponent that it was promoted against, so that a second run of its
    recipe finds its scores in the cache.

    Args:
        recipe: Names the base, the registered model and the further ones.
        ws: The workspace.
        model: Store URI of the tuned model; empty in a run that trains none, where only the further ones are asked.

    Raises:
        UserError: As `resolve` and `further`.
    """
    others = further(recipe.bench.models, ws)
    if not model:
        return others
    found = {"base": resolve(recipe.finetune.base, ws)}
    holder = champion(ws, recipe.register_.model)
    if holder is None:
        return found | others
    uri = holder.against if store.get(model).digest == holder.digest else holder.uri
    return found | ({"champion": uri} if uri else {}) | others


def further(models: Mapping[str, str], ws: Workspace) -> dict[str, str]:
    """The references of `bench.models`, resolved.

    Raises:
        UserError: As `resolve`; every one that cannot be found, or whose address is none, is named.
        Unavailable: The store or MLflow does not answer.
    """
    from medmim.bench.engines import OPENAI, engine
    from medmim.lvlm.zoo import lookup

    def reached(ref: str) -> str:
        found = resolve(ref, ws)
        if ref.startswith(OPENAI):
            engine(ref, ws)
        else:
            lookup.locate(found)
        return found

    return each(models, reached, "bench.models")


def each(models: Mapping[str, str], find: Callable[[str], T], where: str) -> dict[str, T]:
    """What is found of each of several models.

    Args:
        models: Name -> reference.
        find: Finds one.
        where: The key or the option that names them.

    Raises:
        UserError: That of `find` for the only model; of several, every one that cannot be found is named.
        Unavailable: As `find`.
    """
    found, missing = dict[str, T](), []
    for name, ref in models.items():
        try:
            found[name] = find(ref)
        except Unavailable:
            raise
        except UserError as error:
            if len(models) == 1:
                raise
            missing.append(f"{name}: {error.fact}" + (f"; {error.fix}" if error.fix else ""))
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(models)} models of {where} cannot be found",
            fix="bring in what is named, or leave it out",
            problems=missing,
        )
    return found


def is_local(ref: str) -> bool:
    """Whether a reference is to a folder or a server of this machine, which pods do not reach."""
    from medmim.bench.engines import OPENAI
    from medmim.lvlm import checkpoint
    from medmim.lvlm.zoo import entry, stored

    if ref.startswith(OPENAI):
        with suppress(ValueError):  # what is no address is told where it is asked
            return urlsplit(ref.removeprefix(OPENAI)).hostname in LOCAL_HOSTS
        return False
    elsewhere = ref.startswith(("s3://", "models:/", IMPORTED, stored.PREFIX))
    return not elsewhere and ref not in checkpoint.shipped() and entry.named(ref) is None


def resolve(ref: str, ws: Workspace) -> str:
    """The store URI behind a name: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `imported:FAMILY`, `zoo:NAME`.

    `champion`, `challenger` and `previous-champion` come from the decision log, other aliases from MLflow.
    `imported:mantis` is the one base of this family that was imported into the store, `zoo:NAME` the one checkpoint
    that was imported under this name; a model of the zoo needs no `zoo:` where no folder has its name. Anything else
    is returned unchanged.

    Raises:
        UserError: No such model, alias or version, or one that medmim did not register; nothing imported, or several.
    """
    from medmim.lvlm.zoo import entry as zoo  # a third of what `--help` would wait for
    from medmim.lvlm.zoo import stored

    if ref.startswith(IMPORTED):
        return _imported(ref.removeprefix(IMPORTED), ws)
    name = ref.removeprefix(stored.PREFIX)
    entry = zoo.named(name)
    if name != ref or (entry is not None and existing(ref) is None):
        return _imported(entry.format, ws) if entry is not None and entry.format else stored.find(name, ws)
    if not ref.startswith("models:/"):
        return ref
    return registered(ref, ws).tags[URI]


def registered(ref: str, ws: Workspace) -> Version:
    """The version that medmim registered behind `NAME@ALIAS` or `NAME/VERSION`, with or without `models:/`.

    Its tags `URI` and `DIGEST` are there, and name one model.

    Raises:
        UserError: As `locate`; there is no such version, or medmim did not register it.
    """
    name, number = locate(ref, ws)
    version = get_version(ws, name, number)
    if URI not in version.tags:
        raise UserError(
            f"{ref} was not registered by medmim",
            reason=f"version {number} has no tag {URI}",
            fix="give a store URI, a folder or a shipped base",
        )
    refuse_another(version.tags[URI], version.tags.get(DIGEST, ""), ref)
    return version


def _imported(family: str, ws: Workspace) -> str:
    from medmim.lvlm import checkpoint
    from medmim.lvlm.importing.show import imported

    known = [known.name for known in checkpoint.FAMILIES]
    found = [base.uri for base in imported(ws) if base.counts["family"] == family]
    if len(found) == 1:
        return found[0]
    if family not in known:
        raise UserError(f"{IMPORTED}{family} names no family", fix=f"write {' or '.join(IMPORTED + k for k in known)}")
    if found:
        raise UserError(
            f"{IMPORTED}{family}: {len(found)} bases of this family were imported into {ws.store}",
            fix="name one of them by its URI as finetune.base",
            problems=found,
        )
    raise UserError(
        f"{IMPORTED}{family}: no base of this family was imported into {ws.store}",
        reason="the published weights are not shipped",
        fix=f"{_download(family, ws)} (docs/bases.md), or name another base as finetune.base",
    )


def _download(family: str, ws: Workspace) -> str:
    from medmim.lvlm.zoo import stored
    from medmim.lvlm.zoo.entry import entries

    return stored.bring_in(next(entry for entry in entries() if entry.format == family), ws)


def locate(ref: str, ws: Workspace) -> tuple[str, str]:
    """Resolve `NAME@ALIAS` or `NAME/VERSION`, with or without `models:/`, to a name and a version number.

    Raises:
        UserError: Not of that form, no such model or alias, or the model that the decision log names is in no version.
    """
    path = ref.removeprefix("models:/")
    name, at, alias = path.partition("@")
    if not at:
        name, slash, number = path.rpartition("/")
        if not slash or not number:
            raise UserError(f"'{ref}' names no model version", fix="write NAME@champion or NAME/3")
        return name, number
    named = {k: v for k, v in aliases(ws, name).items() if k not in _ROLES}
    for role, entry in decisions.roles(decisions.read(ws, name)).by_alias().items():
        version = version_of(ws, name, entry)
        if version is None and role == alias:
            raise UserError(
                f"{name}@{alias} is not what the decision log says",
                reason=f"decision {entry.n} is about the model {entry.digest[:12]}, which is in no version of {name}",
                fix="register it again with its recipe, or promote another version: "
                + hints.command("registry", "promote", name, "VERSION", "--why", "..."),
            )
        named[role] = version.number if version else entry.version
    if alias not in named:
        promoting = hints.command("registry", "promote", name, "VERSION", "--why", "...")
        raise UserError(
            f"{name} has no alias '{alias}'",
            reason="no model has been promoted yet" if alias in _ROLES else "",
            fix=f"known: {', '.join(sorted(named))}" if named else f"run a recipe, or `{promoting}`",
        )
    return name, named[alias]


def get_version(ws: Workspace, name: str, number: str) -> Version:
    """The version of that number.

    Raises:
        Missing: No such model or version.
    """
    version = tracking.get(ws, name, number)
    if version is None:
        aliases(ws, name)  # raises where there is no such model
        newest, more = tracking.page_of_versions(ws, name, 1, _LISTED)
        listed = ", ".join(["..."] * more + [version.number for _, version in reversed(newest)]) or "none"
        raise Missing(f"{name} has no version {number}", fix=f"versions there are: {listed}")
    return version


def version_of(ws: Workspace, name: str, entry: Decision, model: Registered | None = None) -> Version | None:
    """The version that a decision is about: by its number, or by its digest in an MLflow that was rebuilt.

    Args:
        ws: The workspace.
        name: The registered model.
        entry: The decision.
        model: All of its versions, where they are known: MLflow is not asked then.
    """
    version = tracking.get(ws, name, entry.version) if model is None else model.version(entry.version)
    if version is not None and version.tags.get(DIGEST) == entry.digest and not is_copy(version):
        return version
    if model is None:
        return find(ws, name, entry.digest)
    return min((one for one in model.versions if one.tags.get(DIGEST) == entry.digest), key=is_copy, default=None)


def aliases(ws: Workspace, name: str) -> dict[str, str]:
    """Alias -> version number of a registered model, as MLflow has them.

    Raises:
        Missing: No such model.
    """
    found = tracking.aliases(ws, name)
    if found is None:
        names = list(tracking.page_of_models(ws, "", 1, 1000)[0])
        near = difflib.get_close_matches(name, names, 1)
        listed = ", ".join(names[:_LISTED] + ["..."] * (len(names) > _LISTED)) or "none yet"
        raise Missing(
            f"no registered model '{name}' at {shown(ws.tracking)}",
            fix=(f"did you mean '{near[0]}'? " if near else "") + f"there are: {listed}",
        )
    return found
