"""A pipeline that people start in KFP's web pages: uploaded, and no run of it started."""

import os
from typing import Any

from medmim.cluster.kfp import client, compiled, get_or_create
from medmim.cluster.kfp.access import Access
from medmim.cluster.kfp.image import pin
from medmim.cluster.kfp.submit import image_notes
from medmim.errors import UserError


def upload(pipeline: str, access: Access, image: str | None = None) -> dict[str, Any]:
    """Upload a shipped pipeline; the same content is the same version.

    Args:
        pipeline: Its name in `medmim/shipped/pipelines`.
        access: How to reach KFP.
        image: medmim's image. [default: MEDMIM_IMAGE]

    Returns:
        `pipeline`, `version`, `new_version` (whether it was uploaded now), `image` (by digest), `link`, `notes`.

    Raises:
        UserError: No image, or one of another version of medmim; KFP refuses it.
        Unavailable: KFP or the registry does not answer.
    """
    ir = compiled.load(pipeline)
    named = image or os.environ.get("MEDMIM_IMAGE")
    if not named:
        raise UserError("no image for the pipeline", fix="give --image registry/medmim@sha256:..., or set MEDMIM_IMAGE")
    pinned = pin(named)
    notes = image_notes(pinned)
    api = client.connect(access)
    ir = compiled.pinned(ir, pinned, pinned)  # no step of it has a use for torch
    made = get_or_create.pipeline(api, ir.name)
    version, new = get_or_create.version(api, made, ir)
    return {
        "pipeline": ir.name,
        "version": ir.digest,
        "new_version": new,
        "image": pinned,
        "link": api.link(f"pipelines/details/{made}/version/{version}"),
        "notes": notes,
    }
