"""Benchmarks, and one of them: its models beside each other."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from medmim.bench import run as bench
from medmim.bench import tables
from medmim_console import catalog
from medmim_console.site import Digest, Number, ThisSite, draw

router = APIRouter()


@router.get("/leaderboard")
def benchmarks(request: Request, this: ThisSite, number: Number = 1) -> Response:
    """The benchmarks, the newest first."""
    return draw(request, "benchmarks.html.j2", listing=catalog.artifacts(this.ws, "bench", number))


@router.get("/leaderboard/{digest}")
def leaderboard(request: Request, this: ThisSite, digest: Digest) -> Response:
    """The models of a benchmark beside each other."""
    scores = bench.scores(this.ws, f"{this.ws.store}/bench/{digest}")
    return draw(request, "leaderboard.html.j2", digest=digest, scores=scores)


@router.get("/leaderboard/{digest}/leaderboard.csv")
def as_csv(this: ThisSite, digest: Digest) -> Response:
    """All of its rows."""
    text = tables.leaderboard(bench.scores(this.ws, f"{this.ws.store}/bench/{digest}"))
    name = f"leaderboard-{digest[:12]}.csv"
    return Response(text, media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}"'})
