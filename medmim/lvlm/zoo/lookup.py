"""Which checkpoint is meant: a name of the zoo with its weights on the Hub, or a folder, a shipped base, a URI."""

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmim import hints, store
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.importing import source
from medmim.lvlm.zoo import entry as zoo
from medmim.lvlm.zoo import model as models
from medmim.lvlm.zoo import stored
from medmim.run.workspace import Workspace
from medmim.terms import name_of


def find(ref: str, ws: Workspace, hub: bool = False) -> tuple[Path, zoo.Entry | None]:
    """The folder of a checkpoint.

    Args:
        ref: A name of the zoo, or as for `checkpoint.resolve`.
        ws: The workspace: what is downloaded is below its home.
        hub: Whether the network may be asked for the weights of a name.

    Returns:
        The folder, and the model of the zoo where its name was given.

    Raises:
        UserError: There is no such model or checkpoint, with the closest name; a name without `hub`, or that the Hub
            does not give out; one that has to be imported first.
        Unavailable: The Hub or the store does not answer.
    """
    named = zoo.named(ref)
    if named is None:
        return checkpoint.resolve(_known(ref), ws), None
    if named.format is not None:
        raise UserError(
            f"{named.name} is asked in its own format, which its checkpoint on the Hub is converted for",
            fix=f"{source.download_lines(named.hub)}, then `{hints.command('zoo', 'check', 'URI')}` of what it prints",
        )
    if not hub and (there := stored.uris(named.name, ws)):
        return checkpoint.resolve(stored.only(named.name, there, ws), ws), named
    by_hand = stored.by_hand(named.name, named.hub, "check")
    return source.local(named.hub, ws, ws.home / "work" / f"zoo-{named.name}", hub, by_hand), named


def locate(ref: str) -> Path | store.Artifact:
    """As `checkpoint.locate`; a name of the zoo, whose weights are elsewhere, is told from one that means nothing."""
    try:
        return checkpoint.locate(ref)
    except UserError:
        named = zoo.named(ref)
        if named is None:
            if "/" not in ref and not difflib.get_close_matches(ref, checkpoint.shipped(), 1):
                zoo.refuse_similar(ref)
            raise
    by_hand = source.download_lines(named.hub) if named.format else stored.by_hand(ref, named.hub)
    raise UserError(
        f"{ref} is a model of the zoo, but not a checkpoint on this disk or in a store",
        reason="medmim ships no weights of others",
        fix=f"{by_hand}; then give its URI",
    )


def _known(ref: str) -> str:
    """A reference that can be resolved; one that looks like a name of the zoo gets the closest one."""
    try:
        checkpoint.locate(ref)
    except UserError:
        if "/" not in ref and ref not in checkpoint.shipped():
            zoo.find(ref)
        raise
    return ref


def describe(ref: str, ws: Workspace) -> dict[str, Any]:
    """How a checkpoint is asked; plain JSON. No weights are read.

    Raises:
        UserError: There is none, or it is not a model.
    """
    found = checkpoint.locate(_known(ref))
    kind = models.model_type(found)
    if not kind:
        raise models.no_model(found, ref)
    ours = checkpoint.family_of(found) if models.is_ours(found) else None
    adapter = zoo.adapter_of(kind)
    return {
        "ref": ref,
        "model_type": kind,
        "adapter": adapter.name if adapter else "none: not proven",
        "format": ours.name if ours else "",
        "siblings": [
            one.name
            for one in zoo.entries()
            if kind in one.classes and (one.format or "") == (ours.name if ours else "")
        ],
        "digest": checkpoint.digest(found),
        "template": ours.template_digest if ours else models.template_digest(found),
        "asking": {} if ours else asdict(zoo.asking_of(kind)),
        "terms": name_of(checkpoint.terms_of(ref)),
    }
