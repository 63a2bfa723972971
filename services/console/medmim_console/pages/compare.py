"""Two models beside each other: paired differences, what else differs, and the questions on which they disagree."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from medmim import store
from medmim.bench import columns, items, scoring
from medmim.bench import compare as comparing
from medmim.bench import standings as standing
from medmim.bench.columns import Scored
from medmim.bench.compare import Pair
from medmim.bench.items import Given, Item
from medmim.bench.page import drawn, tables
from medmim.errors import UserError
from medmim.run import index
from medmim.run.provenance import provenance_of
from medmim.stats import Ints
from medmim_console import benchmarks, catalog, drawing
from medmim_console.catalog import Listing
from medmim_console.site import PER_PAGE, Number, Refusal, Site, ThisSite, draw

router = APIRouter()
_CHOICE = re.compile(r"(?P<digest>[0-9a-f]{64})(:(?P<role>.*))?", re.DOTALL)

Choice = Annotated[str, Query(max_length=400, description="DIGEST:MODEL of a benchmark; DIGEST is its first model")]
Side = Literal["", "first", "second"]


@dataclass(frozen=True)
class Beside:
    """A question on which two models disagree.

    Attributes:
        item: The question.
        first: What the first model gave; None where its patient was erased.
        second: Likewise.
        right: Which of them is right: `first` or `second`.
    """

    item: Item
    first: Given | None
    second: Given | None
    right: str


@router.get("/compare")
def compare(
    request: Request,
    this: ThisSite,
    first: Choice = "",
    second: Choice = "",
    metric: Annotated[str, Query(max_length=40)] = "",
    side: Side = "",
    number: Number = 1,
) -> Response:
    """A choice of two models; the comparison, where both are chosen."""
    newest = [benchmarks.summary(this.ws, row) for row in catalog.recent(this.ws, "bench").rows]
    choices = [row for row in newest if row.models]
    known = {row.made.digest for row in choices}
    more = {digest for digest, _ in map(_chosen, (first, second)) if digest and digest not in known}
    found: dict[str, Any] = {"choices": choices, "more": _others(this, more), "first": first, "second": second}
    found["damaged"] = sum(bool(row.made.trouble) for row in newest)
    if not (first and second):
        return draw(request, "compare.html.j2", **found)
    with ExitStack() as opened:
        connections = _opened(this, opened, first, second)
        try:
            pair = _pair(this, connections, first, second)
        except UserError as error:
            if error.exit_code != 2:
                raise
            return draw(request, "compare.html.j2", 400, **found, trouble=error)
        shown = _compared(this, pair, list(connections.values()), (first, second), metric, side, number)
        return draw(request, "compare.html.j2", **found, **shown)


@router.get("/compare/figure")
def figure(
    request: Request,
    this: ThisSite,
    first: Choice,
    second: Choice,
    metric: Annotated[str, Query(max_length=40)] = "accuracy",
) -> Response:
    """The differences of one metric as a figure; see `leaderboard.figure`."""
    with ExitStack() as opened:
        pair = _pair(this, _opened(this, opened, first, second), first, second)
    title = " minus ".join(pair.roles)
    (one, _), (other, _) = _chosen(first), _chosen(second)
    key = ("compare", one, pair.roles[0], other, pair.roles[1], metric)

    def draw_pair() -> str:
        rows = comparing.differences(pair, [metric])
        return drawn.pair(rows, title) if rows else ""

    svg = drawing.once(key, draw_pair) if metric in _shared(pair) else ""
    if not svg:
        raise Refusal(404, f"these models have no metric {metric[:40]} in common", "choose another on their page")
    back = f"/compare?{urlencode({'first': first, 'second': second})}"
    return draw(request, "figure.html.j2", title=title, metric=metric, svg=svg, back=back)


@router.get("/compare/differences.csv")
def as_csv(this: ThisSite, first: Choice, second: Choice) -> Response:
    """The differences in every group and metric."""
    try:
        with ExitStack() as opened:
            pair = _pair(this, _opened(this, opened, first, second), first, second)
    except index.NotReady:
        raise Refusal(503, "this benchmark is being indexed", "open the comparison, then download it there") from None
    rows = [{**row, "opponent": pair.roles[1]} for row in comparing.differences(pair)]
    text = tables.differences({"models": [pair.roles[0]], "differences": rows})
    return Response(
        text, media_type="text/csv", headers={"Content-Disposition": 'attachment; filename="differences.csv"'}
    )


def _compared(
    this: Site,
    pair: Pair,
    connections: Sequence[Connection],
    choices: tuple[str, str],
    metric: str,
    side: Side,
    number: int,
) -> dict[str, Any]:
    shared = _shared(pair)
    if metric and metric not in shared:
        raise Refusal(400, f"these models have no metric {metric} in common", f"they have {', '.join(shared)}")
    chosen = metric or next(iter(name for name in ("accuracy", *shared) if name in shared), "")
    cells = comparing.verdicts(pair)
    rows = comparing.differences(pair, [chosen])
    return {
        "pair": pair,
        "digests": [_chosen(choice)[0] for choice in choices],
        "metrics": shared,
        "metric": chosen,
        "rows": rows,
        "kinds": {row["group"]: standing.kind_of(row["group"]) for row in rows},
        "differs": comparing.differs(this.ws, pair),
        "cells": {name: len(places) for name, places in cells.items()},
        "side": side,
        "listing": _disagreements(pair, cells, connections, side, number),
    }


def _opened(this: Site, opened: ExitStack, first: str, second: str) -> dict[str, Connection]:
    """Address of the benchmark of each choice -> its index; one where both are of the same."""
    connections: dict[str, Connection] = {}
    for uri in dict.fromkeys(_uri(this, choice) for choice in (first, second)):
        artifact = store.get(uri)
        connections[uri] = opened.enter_context(benchmarks.index_of(this.ws, artifact, provenance_of(artifact)))
    return connections


def _uri(this: Site, choice: str) -> str:
    return f"{this.ws.store}/bench/{_chosen(choice)[0]}"


def _pair(this: Site, connections: Mapping[str, Connection], first: str, second: str) -> Pair:
    """The two models.

    Raises:
        UserError: They cannot be compared: there is no such model, or they share no question.
    """

    def read(uri: str, roles: Collection[str]) -> Scored:
        return columns.read(connections[uri], roles)

    (_, ours), (_, theirs) = _chosen(first), _chosen(second)
    uris = _uri(this, first), _uri(this, second)
    return comparing.pair(this.ws, *uris, ours, theirs, read, benchmarks.read_scores)


def _shared(pair: Pair) -> list[str]:
    """The metrics that both models have."""
    return [name for name in scoring.COMPARED if all(name in values for values in pair.values)]


def _disagreements(
    pair: Pair, cells: Mapping[str, Ints], connections: Sequence[Connection], side: Side, number: int
) -> Listing[Beside]:
    right = {place: name for name in ("first", "second") if side in ("", name) for place in cells.get(name, ())}
    begin = (number - 1) * PER_PAGE
    shown = sorted(right)[begin : begin + PER_PAGE]
    rows = []
    for place in shown:
        name = pair.items[0].ids[place]
        one = items.find(connections[0], name)
        other = one if len(connections) == 1 else items.find(connections[1], name)
        if one and other:
            given, others = one.answers.get(pair.roles[0], {}), other.answers.get(pair.roles[1], {})
            rows.append(Beside(one, given.get("none"), others.get("none"), right[place]))
    return Listing(tuple(rows), number, begin + PER_PAGE < len(right), len(right))


def _chosen(choice: str) -> tuple[str, str]:
    """Digest and model of a choice; empty ones of none."""
    if not choice:
        return "", ""
    found = _CHOICE.fullmatch(choice)
    if found is None:
        raise Refusal(400, f"{choice[:100]} is no model of a benchmark", "choose two models in the lists")
    return found["digest"], found["role"] or ""


def _others(this: Site, digests: Collection[str]) -> dict[str, list[str]]:
    """Digest -> models of benchmarks that are chosen and not among the newest."""
    return {digest: list(benchmarks.scores(this.ws, digest)[1]["models"]) for digest in sorted(digests)}
