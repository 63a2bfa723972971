"""What bases there are and what they are, from their files and manifests alone: no weights are read."""

import json
import math
from contextlib import suppress
from typing import Any

from medmim import store
from medmim.lvlm import checkpoint, weights
from medmim.lvlm.encode import tokens_per_image
from medmim.run.workspace import Workspace


def bases(ws: Workspace) -> list[dict[str, Any]]:
    """The shipped bases and the imported ones of the store: `ref` and the facts of `describe` that a manifest has."""
    keys = ("ref", "family", "parameters", "tokens_per_image", "vision_tower")
    found = [{key: describe(name, ws)[key] for key in keys} for name in checkpoint.shipped()]
    where = store.open_store(ws.store)
    for key in where.list("model/"):
        if not key.endswith(f"/{store.MANIFEST}"):
            continue
        artifact = store.find(f"{where.uri}/{key.removesuffix(f'/{store.MANIFEST}')}")
        if artifact is not None and "layout" in artifact.counts:
            found.append({"ref": artifact.uri, **{key: artifact.counts[key] for key in keys[1:]}})
    return found


def describe(ref: str, ws: Workspace) -> dict[str, Any]:
    """What a base is.

    Args:
        ref: As for `checkpoint.resolve`.
        ws: The workspace.

    Returns:
        ref, family, parameters, tokens_per_image, vision_tower, digest (of the weights and all that decides an answer),
        dtype, source (where it was imported from) and terms; plain JSON.

    Raises:
        UserError: It is no model, or one of another family.
    """
    folder = checkpoint.resolve(ref, ws)
    family = checkpoint.family_of(folder)
    stored = [one for file in sorted(folder.glob("*.safetensors")) for one in weights.tensors(file).values()]
    config = checkpoint.quiet_transformers().LlavaConfig.from_pretrained(folder)
    made_from: dict[str, Any] = {}
    if ref not in checkpoint.shipped() and (artifact := store.find(ref.removeprefix("file://"))) is not None:
        root, _, name = artifact.uri.rpartition("/")
        with suppress(FileNotFoundError, ValueError):
            made_from = json.loads(store.open_store(root).read(f"{name}/{store.PROVENANCE}"))
    return {
        "ref": ref,
        "family": family.name,
        "parameters": sum(math.prod(one.shape) for one in stored),
        "tokens_per_image": tokens_per_image(config),
        "vision_tower": made_from.get("vision_tower", "checkpoint"),
        "digest": checkpoint.digest(folder),
        "dtype": ", ".join(sorted({one.dtype for one in stored})),
        "source": made_from.get("source", ""),
        "terms": checkpoint.terms_of(ref).as_dict(),
    }
