"""The clean questions of a data set: those that its audit lists, which is made where it is not there yet.

There is one definition and one list, `clean.jsonl` of the audit: no patient, no bytes and no pixels of training, and no
look-alike where the recipe limits these.
"""

import json
from collections.abc import Sequence

from medmim import shards, store
from medmim.bench import tasks
from medmim.data.audit import run as audit
from medmim.errors import UserError
from medmim.progress import say
from medmim.recipe.schema import Audit
from medmim.run.workspace import Workspace
from medmim.store import Artifact


def resolved(
    ws: Workspace, data: Artifact, refs: Sequence[str], allowed: Audit | None = None, make: bool = True
) -> tuple[str, ...]:
    """The tasks without `clean`, which becomes the list of the audit.

    Args:
        ws: The workspace.
        data: The data set.
        refs: As `tasks.load` takes them.
        allowed: The recipe's section `audit`; without, that of the recipe which made the data set.
        make: Make the audit where there is none; else such tasks stay as they are.

    Raises:
        UserError: As `tasks.load`; or the data set has no training questions, so nothing tells which ones are clean.
    """
    found = [tasks.load(ref) for ref in refs]
    if not any(task.clean for _, task in found):
        return tuple(refs)
    ids = _ids(ws, data, allowed, make)
    if ids is None:
        return tuple(refs)
    listed = {"clean": False, "items": ids}
    return tuple(
        tasks.as_text(name, task.model_copy(update=listed)) if task.clean else ref
        for ref, (name, task) in zip(refs, found, strict=True)
    )


def listed_by(ws: Workspace, data: Artifact, refs: Sequence[str], allowed: Audit | None = None) -> dict[str, str]:
    """`audit`: digest of the audit whose list `resolved` takes, so that it is kept; nothing where no task asks it."""
    if not any(task.clean for _, task in map(tasks.load, refs)):
        return {}
    found = audit.made(ws, data, allowed)
    return {"audit": found.digest} if found else {}


def _ids(ws: Workspace, data: Artifact, allowed: Audit | None, make: bool) -> tuple[str, ...] | None:
    """The ids of the clean questions, sorted; None where there is no audit and none is to be made."""
    found = audit.made(ws, data, allowed)
    if found is None and not make:
        return None
    if not len(shards.Samples(store.fetch(data, ws.cache, [shards.SAMPLES]), "train")):
        if not make:
            return None
        raise UserError(
            f"{data.uri} has no training questions, so nothing tells which of its test questions are clean",
            reason="clean is what shares no patient and no image with training",
            fix="bench the data set that the model was trained on, or another task",
        )
    if found is None:
        say("auditing the data set, to know its clean questions")
        found, _ = audit.audit_artifact(ws, data.uri, allowed=allowed)
    lines = store.read_file(found, audit.CLEAN).splitlines()
    return tuple(sorted({str(json.loads(line)["id"]) for line in lines}))
