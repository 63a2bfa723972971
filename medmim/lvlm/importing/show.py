"""What bases there are and what they are: of one in a store, its manifest, config and the headers of its weights."""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import adapters, checkpoint, llava, weights
from medmim.run.workspace import Workspace


def bases(ws: Workspace) -> list[dict[str, Any]]:
    """The shipped bases and the imported ones of the store: the facts of `describe` for which no weights are read."""
    keys = ("ref", "family", "parameters", "tokens_per_image", "vision_tower", "source", "terms")
    found = [{key: describe(name, ws)[key] for key in keys} for name in checkpoint.shipped()]
    for artifact in imported(ws):
        of_manifest = {key: artifact.counts[key] for key in keys if key in artifact.counts}
        allowed = checkpoint.terms_of(artifact.uri).as_dict()
        source = _made_from(artifact).get("source", "")
        found.append({"ref": artifact.uri, **of_manifest, "source": source, "terms": allowed})
    return found


def imported(ws: Workspace) -> Iterator[store.Artifact]:
    """The bases that were imported into the store."""
    return (one for one in models(ws) if "layout" in one.counts)


def models(ws: Workspace) -> Iterator[store.Artifact]:
    """The models in the store."""
    where = store.open_store(ws.store)
    for key in where.list("model/"):
        if key.endswith(f"/{store.MANIFEST}"):
            artifact = store.find(f"{where.uri}/{key.removesuffix(f'/{store.MANIFEST}')}")
            if artifact is not None:
                yield artifact


def describe(ref: str, ws: Workspace) -> dict[str, Any]:
    """What a base is.

    Args:
        ref: As for `checkpoint.resolve`.
        ws: The workspace.

    Returns:
        ref, family, parameters, tokens_per_image, vision_tower, artifact_digest (that of its URI; empty for a folder),
        digest (of the weights and all that decides an answer), dtype, source (where it was imported from), base (of
        adapters, which count as one model with it) and terms; plain JSON.

    Raises:
        UserError: It is no model, one of another family, or damaged.
    """
    from medmim.lvlm.encode import tokens_per_image  # with numpy, which `--help` does not wait for

    found = checkpoint.locate(ref)
    family = checkpoint.family_of(found)
    text = (found / "config.json").read_bytes() if isinstance(found, Path) else store.read_file(found, "config.json")
    config = llava.quiet_transformers().LlavaConfig.from_dict(json.loads(text))
    base, whole = checkpoint.base_of(found) if adapters.are_in(found) else ("", found)
    stored = _stored(whole)
    artifact = None if ref in checkpoint.shipped() else store.find(ref.removeprefix("file://"))
    made_from = _made_from(artifact) if artifact else {}
    return {
        "ref": ref,
        "family": family.name,
        "parameters": _count(stored),
        "tokens_per_image": tokens_per_image(config),
        "vision_tower": made_from.get("vision_tower", "checkpoint"),
        "artifact_digest": artifact.digest if artifact else "",
        "digest": checkpoint.digest(found),
        "dtype": ", ".join(sorted({dtype for dtype, _ in stored})),
        "source": made_from.get("source", ""),
        "base": base,
        "terms": checkpoint.terms_of(ref).as_dict(),
    }


def _made_from(artifact: store.Artifact) -> dict[str, Any]:
    """Its provenance; empty where that is missing or damaged."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(store.open_store(artifact.uri).read_unchanged(store.PROVENANCE))
        return found if isinstance(found, dict) else {}
    return {}


def parameters(folder: Path) -> int:
    """The number of parameters of a checkpoint; the headers of its weights are read."""
    return _count(_stored(folder))


def _count(stored: Sequence[tuple[str, Sequence[int]]]) -> int:
    return sum(math.prod(shape) for _, shape in stored)


def _stored(where: Path | store.Artifact) -> list[tuple[str, Sequence[int]]]:
    """(dtype, shape) of each tensor of a model; of an artifact, only the headers of its files are read."""
    if isinstance(where, Path):
        files = sorted(where.glob("*.safetensors"))
        return [(one.dtype, one.shape) for file in files for one in weights.tensors(file).values()]
    found = []
    for name in sorted(name for name in where.files if "/" not in name and name.endswith(".safetensors")):
        try:
            (length,) = struct.unpack("<Q", store.read_range(where, name, 0, 8))
            if length > where.files[name]["bytes"]:
                raise ValueError("its header is longer than the file")
            header = json.loads(store.read_range(where, name, 8, length))
            found += [(one["dtype"], one["shape"]) for key, one in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, struct.error):
            raise UserError(
                f"{where.uri}/{name} is damaged",
                reason="it does not begin with the header of a safetensors file",
                fix="delete this artifact and import the base again",
            ) from None
    return found
