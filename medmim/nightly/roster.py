"""Who is asked in a night: the champion, the challengers, the base and the references that the recipe names."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from medmim import store
from medmim.bench.engines import OPENAI
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.progress import say
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Recipe
from medmim.registry import approval, decisions, lookup
from medmim.run.workspace import Workspace

CHAMPION, CHALLENGER, BASE = "champion", "challenger", "base"
_LOCAL = ("localhost", "127.0.0.1", "::1")


def models(recipe: Recipe, ws: Workspace) -> dict[str, str]:
    """Role -> reference of everybody to ask.

    `champion` and `challenger` are whom the decision log names; `candidate-N` is version N of NAME-candidate, which
    waits for approval; `base` is the recipe's; a reference is called by its own name.

    Args:
        recipe: Names the registered model, the base and the references.
        ws: The workspace.

    Raises:
        UserError: The champion's model is gone, or a reference names nothing.
    """
    name = recipe.register_.model
    now = decisions.standing(decisions.read(ws, name))
    found: dict[str, str] = {}
    if now.champion is not None:
        if store.find(now.champion.uri) is None:
            back = f"or `medmim registry rollback {name} --why ...`, " if now.previous else ""
            raise UserError(
                f"the champion of {name} was deleted: version {now.champion.version}, {now.champion.uri}",
                reason=f"decision {now.champion.n} made it champion, and the store no longer has the model",
                fix=f"restore it from a backup; {back}or run a recipe again",
            )
        found[CHAMPION] = now.champion.uri
    else:
        say(f"{name} has no champion yet: nothing has been promoted")
    if now.challenger is not None and now.challenger.digest != (now.champion.digest if now.champion else ""):
        found[CHALLENGER] = now.challenger.uri
    for version in approval.waiting(ws, name + CANDIDATE):
        found[f"candidate-{version.number}"] = version.tags[lookup.URI]
    for role in [role for role in found if role != CHAMPION]:
        if store.find(found[role]) is None:
            say(f"{role} is not asked: there is no model at {found.pop(role)}")
    found[BASE] = lookup.resolve(recipe.finetune.base, ws)
    for ref in recipe.nightly.references:
        found[_called(ref, found)] = lookup.resolve(ref, ws)
    return found


def shared(models: Mapping[str, str], ws: Workspace) -> dict[str, str]:
    """The same, by references that every machine with this store resolves."""
    return {role: ref if ref.startswith(OPENAI) else checkpoint.upload_if_local(ref, ws) for role, ref in models.items()}


def elsewhere(recipe: Recipe) -> None:
    """Refuse references that pods could not reach.

    Raises:
        UserError: A folder or a server of this machine; names them all.
    """
    known = checkpoint.shipped()
    wrong = [
        f"nightly.references: {ref}"
        for ref in recipe.nightly.references
        if not (ref in known or ref.startswith(("s3://", "models:/", OPENAI)))
        or (ref.startswith(OPENAI) and urlsplit(ref.removeprefix(OPENAI)).hostname in _LOCAL)
    ]
    if wrong:
        raise UserError(
            f"{len(wrong)} of the references of recipe {recipe.name} are of this machine, and pods do not see it",
            problems=wrong,
            fix="name shipped bases, s3://..., models:/NAME@ALIAS, or a server by an address of the cluster",
        )


def _called(ref: str, others: Mapping[str, str]) -> str:
    """A reference's own name, as metrics and pages can show it: the last part of it, told apart from others."""
    last = ref.rpartition("#")[2] if ref.startswith(OPENAI) else ref.rstrip("/").rpartition("/")[2]
    plain = re.sub(r"[^\w.-]+", "-", last)[:32].strip("-") or "reference"
    return next(name for n in range(1, len(others) + 2) if (name := plain if n == 1 else f"{plain}-{n}") not in others)
