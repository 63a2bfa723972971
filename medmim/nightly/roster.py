"""Which models a night benches: the champion, the challengers, the base and the references that the recipe names."""

import re
from collections.abc import Mapping

from medmim import hints, store
from medmim.bench.engines import OPENAI
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.progress import say
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Recipe
from medmim.registry import approval, decisions, lookup
from medmim.run.workspace import Workspace

CHAMPION, CHALLENGER, BASE = "champion", "challenger", "base"


def models(recipe: Recipe, ws: Workspace) -> dict[str, str]:
    """Role -> reference of every model to bench.

    `champion` and `challenger` come from the decision log; `candidate-N` is version N of NAME-candidate, which awaits
    approval; `base` is the recipe's; the role of a reference is its own name.

    Args:
        recipe: Names the registered model, the base and the references.
        ws: The workspace.

    Raises:
        UserError: The champion's model is gone, or a reference does not exist.
    """
    name = recipe.register_.model
    now = decisions.roles(decisions.read(ws, name))
    found: dict[str, str] = {}
    if now.champion is not None:
        lookup.refuse_another(now.champion.uri, now.champion.digest, f"decision {now.champion.n} of {name}")
        if store.find(now.champion.uri) is None:
            command = hints.command("registry", "rollback", name, "--why", "...")
            rollback = f"or `{command}`, " if now.previous else ""
            raise UserError(
                f"the champion of {name} was deleted: version {now.champion.version}, {now.champion.uri}",
                reason=f"decision {now.champion.n} made it champion, and the store no longer has the model",
                fix=f"restore it from a backup; {rollback}or run a recipe again",
            )
        found[CHAMPION] = now.champion.uri
    else:
        say(f"{name} has no champion yet: nothing has been promoted")
    if now.challenger is not None and now.challenger.digest != (now.champion.digest if now.champion else ""):
        found[CHALLENGER] = now.challenger.uri
    for version in approval.awaiting(ws, name + CANDIDATE):
        found[f"candidate-{version.number}"] = version.tags[lookup.URI]
    for role in [role for role in found if role != CHAMPION]:
        if store.find(found[role]) is None:
            say(f"{role} is not benched: there is no model at {found.pop(role)}")
    found[BASE] = lookup.resolve(recipe.finetune.base, ws)
    for ref in recipe.nightly.references:
        found[_role(ref, found)] = lookup.resolve(ref, ws)
    return found


def upload_local(models: Mapping[str, str], ws: Workspace) -> dict[str, str]:
    """Role -> reference that every machine with this store resolves; models in local folders are uploaded."""
    return {
        role: ref if ref.startswith(OPENAI) else checkpoint.upload_if_local(ref, ws) for role, ref in models.items()
    }


def check_reachable(recipe: Recipe) -> None:
    """Refuse references that pods cannot reach.

    Raises:
        UserError: A folder or a server of this machine; every one is named.
    """
    local = [f"nightly.references: {ref}" for ref in recipe.nightly.references if lookup.is_local(ref)]
    if local:
        raise UserError(
            f"{len(local)} of the references of recipe {recipe.name} are on this machine, and pods cannot reach it",
            problems=local,
            fix="name shipped bases, s3://..., models:/NAME@ALIAS, imported:FAMILY, zoo:NAME, or a server by its "
            "address in the cluster",
        )


def _role(ref: str, others: Mapping[str, str]) -> str:
    """The role of a reference, as metrics and pages can show it: the last part of its name, numbered where taken."""
    last = ref.rpartition("#")[2] if ref.startswith(OPENAI) else ref.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.-]+", "-", last)[:32].strip("-") or "reference"
    numbered = (name if n == 1 else f"{name}-{n}" for n in range(1, len(others) + 2))
    return next(role for role in numbered if role not in others)
