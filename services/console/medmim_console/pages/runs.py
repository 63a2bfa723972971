"""The runs of a store, one of them, and the page that it has written."""

import re
from typing import Annotated
from urllib.parse import quote

import yaml
from fastapi import APIRouter, Path, Request
from fastapi.responses import HTMLResponse, Response

from medmim import store
from medmim.page.page import FILE, worded
from medmim.run import overview, run_name
from medmim.run.overview import Run, Stage
from medmim_console import catalog
from medmim_console.site import Digest, Number, Refusal, Site, ThisSite, draw

router = APIRouter()
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][^/\\\x00-\x1f]{0,199}$")]
_PAGES = {"data": "data", "bench": "leaderboard", "report": "reports"}  # kind of an artifact -> where its own page is
_KIND, _DIGEST = re.compile("[a-z]{1,20}"), re.compile("[0-9a-f]{64}")
# A page that a run has written is a whole document of its own, with its styles and images in it. It is shown as one of
# another site: it can run nothing, ask for nothing, and knows nothing of this one's session.
_ALONE = "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


@router.get("/runs")
def listed(request: Request, this: ThisSite, number: Number = 1) -> Response:
    """The runs, the newest first."""
    listing = catalog.cut(overview.names(this.ws), number)
    return draw(request, "runs.html.j2", listing=listing, rows=overview.runs(this.ws, listing.rows))


@router.get("/runs/{name}")
def one(request: Request, this: ThisSite, name: Name) -> Response:
    """A run: its stages, what is being done now, its recipe, and where more is known."""
    run = overview.run(this.ws, name)
    written = overview.recipe(this.ws, run)
    return draw(
        request, "run.html.j2", run=run, rows=[(stage, _links(run, stage), _told(stage)) for stage in run.stages],
        recipe=yaml.safe_dump(written, sort_keys=False, allow_unicode=True) if written else "",
        submitter=overview.submitter(this.ws, name), elsewhere=_elsewhere(this, run),
    )  # fmt: skip


@router.get("/reports/{digest}")
def report(this: ThisSite, digest: Digest) -> Response:
    """A page that a run or a night has written, as it is in the store."""
    artifact = store.find(f"{this.ws.store}/report/{digest}")
    if artifact is None:
        raise Refusal(404, f"there is no report {digest[:12]} in this store", "it was removed, or is of another store")
    html = store.read_file(artifact, FILE)
    return HTMLResponse(html, headers={"Content-Security-Policy": _ALONE})


def _links(run: Run, stage: Stage) -> list[tuple[str, str]]:
    """Title and address of what a stage has made, where this console shows it."""
    outcome = stage.outcome
    if outcome is None:
        return []
    facts, found = outcome.facts, []
    kind = outcome.uri.rpartition("/")[0].rpartition("/")[2]
    if _KIND.fullmatch(kind) and _DIGEST.fullmatch(outcome.digest):
        page = _PAGES.get(kind, f"artifacts/{kind}")
        found.append((f"{kind} {outcome.digest[:12]}", f"/{page}/{outcome.digest}"))
    match stage.name, facts:
        case "register", {"name": str(name), "version": str(version)}:
            found.append((f"{name} version {version}", f"/models/{quote(name, safe='')}/{quote(version, safe='')}"))
        case "report" | "trend", {"models": {"uri": str(uri)}}:
            found.append(("all models", f"/reports/{uri.rpartition('/')[2]}"))
        case "watch", {"date": str(date)}:
            found.append((f"night {date}", f"/nights/{run.recipe}/{date}"))
    return found


def _told(stage: Stage) -> list[str]:
    """What a stage says of itself, in a few words; of another version, what is understood of it."""
    facts = stage.outcome.facts if stage.outcome else {}
    found = []
    match stage.name, facts:
        case "data", {"rows": int(rows), "images": int(images), "patients": int(patients)}:
            found.append(f"{rows:,} questions, {images:,} images, {patients:,} patients")
        case "finetune", {"loss": float(loss), **rest}:
            accuracy = rest.get("dev_accuracy")
            found.append(f"loss {loss:.3f}" + (f", dev {accuracy:.1%}" if isinstance(accuracy, float) else ""))
        case "bench", {"models": dict(models), "items": int(items)}:
            found.append(f"{items:,} questions, {len(models)} models")
        case "gate", {"reasons": list(reasons)}:
            found += [worded(str(text)) for text in reasons]
        case "promote", {"decision": str(decision), **rest}:
            found.append(decision)
            match rest:
                case {"champion": {"name": str(name), "version": str(version)}}:
                    found.append(f"champion: {name} version {version}")
            if isinstance(rest.get("command"), str):
                found.append(rest["command"])
    return found


def _elsewhere(this: Site, run: Run) -> list[tuple[str, str]]:
    """Title and address of the pages of other programs about this run, as far as they are known."""
    found = []
    run_id = run_name.holder(this.ws.store, run.name) if "kfp" in this.links else ""
    if run_id:
        found.append(("This run in Kubeflow", f"{this.links['kfp']}/#/runs/details/{quote(run_id)}"))
    facts = next((one.outcome.facts for one in run.stages if one.name == "register" and one.outcome), {})
    match facts:
        case {"name": str(name), "version": str(version)} if "mlflow" in this.links:
            page = f"{this.links['mlflow']}/#/models/{quote(name)}/versions/{quote(version)}"
            found.append(("Its model in MLflow", page))
    if "ray" in this.links and not run.ended:
        found.append(("Ray's dashboard", this.links["ray"]))
    return found
