"""One artifact: what it is, who made it, from what and by which recipe. Data and benchmarks have pages of their own."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import RedirectResponse, Response

from medmim import store
from medmim.housekeeping import erase
from medmim.run.provenance import public_recipe, recorded
from medmim_console.site import Digest, Refusal, ThisSite, draw

router = APIRouter()

_OWN = {"data": "/data/", "bench": "/leaderboard/"}  # kind -> where its page is
_FILES = 100  # that are listed


@router.get("/artifacts/{kind}/{digest}")
def artifact(
    request: Request, this: ThisSite, kind: Annotated[str, Path(pattern="^[a-z]{1,20}$")], digest: Digest
) -> Response:
    """An artifact."""
    if kind in _OWN:
        return RedirectResponse(_OWN[kind] + digest)
    found = store.find(f"{this.ws.store}/{kind}/{digest}")
    if found is None:
        fix = "it was cleared away, was never finished, or is of another store"
        raise Refusal(404, f"there is no {kind} {digest[:12]} in this store", fix)
    record, doubt = recorded(found)
    sections = {key: one for key, one in public_recipe(record).items() if key != "platform"}
    parents = record.get("parents")
    return draw(
        request,
        "artifact.html.j2",
        kind=kind,
        found=found,
        doubt=doubt,
        record={key: record[key] for key in ("step", "time", "who", "medmim") if isinstance(record.get(key), str)},
        recipe=str(sections.get("name", "")),
        text=json.dumps(sections, indent=1, ensure_ascii=False, sort_keys=True) if sections else "",
        parents={k: v for k, v in parents.items() if isinstance(v, str)} if isinstance(parents, dict) else {},
        files=sorted(found.files.items())[:_FILES],
        erased=digest in erase.marked(this.ws),
    )
