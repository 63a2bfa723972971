"""Benchmarks, and one of them: its models beside each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from medmim.bench import columns, failures, reading
from medmim.bench import standings as standing
from medmim.bench.page import drawn, siblings, tables
from medmim.bench.standings import KINDS, Standings
from medmim.lvlm.zoo import stored
from medmim.page.page import label
from medmim.run.provenance import provenance_of, recorded, terms_of
from medmim.store import Artifact
from medmim.terms import reasons
from medmim_console import benchmarks, catalog, drawing
from medmim_console.catalog import Listing
from medmim_console.site import Digest, Number, Refusal, Site, ThisSite, draw

router = APIRouter()
_SURE = 0.05  # p below which a difference is marked
_MEASURES = {  # what a cell shows -> its title, and the keys of value, low and high in a row of the leaderboard
    "score": ("score", ("value", "low", "high")),
    "swap": ("right both ways", ("swap", "swap_low", "swap_high")),
    "blind": ("without images", ("blind", "", "")),
    "grey": ("with grey images", ("grey", "", "")),
    "gap": ("what the images add", ("gap", "gap_low", "gap_high")),
    "unread": ("unread", ("", "", "")),
    "errors": ("errors", ("", "", "")),
}
_KINDS = {"domain": "domains", "task": "tasks", "ability": "abilities", "source": "sources"}

Metric = Annotated[str, Query(max_length=40)]
Measure = Annotated[Literal["score", "swap", "blind", "grey", "gap", "unread", "errors"], Query(alias="show")]
Kind = Annotated[Literal["", "domain", "task", "ability", "source"], Query(alias="groups")]
Group = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True)
class Cell:
    """A number of a table with its interval.

    Attributes:
        value: A share, or a difference of shares; None where it is not known.
        low: The lower end of its interval; None without.
        high: The upper end.
        tint: How far above chance, 0 to 10.
        best: Whether no model has a better one.
        note: What stands behind it, in words.
        sure: Of a difference: whether it differs from 0 after Holm's correction.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    tint: int = 0
    best: bool = False
    note: str = ""
    sure: bool = False


@router.get("/leaderboard")
def listed(request: Request, this: ThisSite, number: Number = 1) -> Response:
    """The benchmarks, the newest first."""
    found = catalog.artifacts(this.ws, "bench", number)
    rows = tuple(benchmarks.summary(this.ws, row) for row in found.rows)
    listing = Listing(rows, found.number, found.more, found.total)
    return draw(request, "benchmarks.html.j2", listing=listing)


@router.get("/leaderboard/{digest}")
def leaderboard(
    request: Request,
    this: ThisSite,
    digest: Digest,
    metric: Metric = "",
    measure: Measure = "score",
    kind: Kind = "",
    form: Group = "",
    sort: Group = "",
    number: Number = 1,
) -> Response:
    """The models of a benchmark beside each other."""
    artifact, scores = benchmarks.scores(this.ws, digest)
    metrics = standing.metrics_of(scores)
    whole = found = standing.standings(scores, _metric(scores, metric))
    forms = whole.of_kind("task")
    if form and form not in forms:
        raise Refusal(400, f"this benchmark was not asked {form}", f"it has {', '.join(forms) or 'no such groups'}")
    record, doubt = recorded(artifact)
    if form:
        rows = _of_form(this, artifact, record, form, found.metric)
        found = standing.standings({**scores, "leaderboard": rows}, found.metric)
    kinds = [one for one in KINDS if found.of_kind(one)]
    shown_kind = kind if kind in kinds else next(iter(kinds), "domain")
    groups = found.of_kind(shown_kind)
    measures = {name: title for name, (title, _) in _MEASURES.items() if _is_known(found, name)}
    ignored = [
        *(
            [f"it has no {_KINDS[kind]}: its {_KINDS.get(shown_kind, shown_kind)} are shown"]
            if kind not in ("", shown_kind)
            else []
        ),
        *([f"{_MEASURES[measure][0]} is not known of it: the score is shown"] if measure not in measures else []),
        *([f"there is no column {sort} here: the models stand by their scores"] if sort and sort not in groups else []),
    ]
    measure = measure if measure in measures else "score"
    roles = _sorted(found, measure, sort) if sort in groups else found.roles
    shown = catalog.cut(list(roles), number)
    first = next(iter(scores["models"]))
    rest = [role for role in shown.rows if role != first]
    return draw(
        request,
        "leaderboard.html.j2",
        digest=digest,
        scores=scores,
        standings=found,
        listing=shown,
        metrics=metrics,
        measures=measures,
        ignored=ignored,
        doubt=doubt,
        measure=measure,
        kinds={name: _KINDS[name] for name in kinds},
        kind=shown_kind,
        groups=groups,
        sort=sort if sort in groups else "",
        cells={role: [_cell(found, role, group, measure) for group in groups] for role in shown.rows},
        overview={role: _overview(scores, found, role) for role in shown.rows},
        medical=_kinds(scores, record),
        first=first,
        differences={} if form else _differences(scores, found.metric, rest, groups),
        figures=[] if form else _figures(scores, whole),
        leads=whole.leads(),
        forms=forms,
        form=form,
        leaks=standing.leaks(scores),
        warnings=[*failures.warnings(scores), *reading.notes(scores)],
        noise=stored.noise(terms_of(artifact)),
        forbidden=reasons(terms_of(artifact), ["redistribute_data"]),
        worded=_form(record),
        clusters=scores.get("clusters", "patient"),
    )


@router.get("/leaderboard/{digest}/figure/{name}")
def figure(
    request: Request, this: ThisSite, digest: Digest, name: Annotated[str, Path(max_length=60)], metric: Metric = ""
) -> Response:
    """One of its figures, which a page asks for once it is in view: drawing takes a while, the first time."""
    artifact, scores = benchmarks.scores(this.ws, digest)
    found = standing.standings(scores, _metric(scores, metric))
    title = {one: title for one, title, _ in _figures(scores, found)}.get(name)
    if title is None:
        raise Refusal(404, f"this benchmark has no figure {name}", "choose one on its page")
    record = provenance_of(artifact)
    svg = drawing.once(("leaderboard", digest, name, found.metric), lambda: _drawn(scores, record, found, name))
    back = f"/leaderboard/{digest}"
    return draw(request, "figure.html.j2", title=title, metric=found.metric, svg=svg, back=back)


@router.get("/leaderboard/{digest}/leaderboard.csv")
def as_csv(this: ThisSite, digest: Digest) -> Response:
    """All of its rows."""
    return _csv(tables.leaderboard(benchmarks.scores(this.ws, digest)[1]), f"leaderboard-{digest[:12]}.csv")


@router.get("/leaderboard/{digest}/differences.csv")
def differences_as_csv(this: ThisSite, digest: Digest) -> Response:
    """The first model minus each other one, in every group and metric."""
    return _csv(tables.differences(benchmarks.scores(this.ws, digest)[1]), f"differences-{digest[:12]}.csv")


def _csv(text: str, name: str) -> Response:
    return Response(text, media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _metric(scores: Mapping[str, Any], wanted: str) -> str:
    """The metric of an address, which a benchmark must have."""
    known = standing.metrics_of(scores)
    if wanted and wanted not in known:
        raise Refusal(400, f"this benchmark has no metric {wanted}", f"take one of these: {', '.join(known)}")
    return wanted


def _of_form(
    this: Site, artifact: Artifact, record: Mapping[str, Any], form: str, metric: str
) -> Sequence[Mapping[str, Any]]:
    """The leaderboard over the questions of one task alone."""
    with benchmarks.index_of(this.ws, artifact, record) as connection:
        models = benchmarks.scores(this.ws, artifact.digest)[1]["models"]
        return columns.board(columns.read(connection, models), form, metric)


def _figures(scores: Mapping[str, Any], found: Standings) -> list[tuple[str, str, str]]:
    """Name, title and explanation of each figure that there is."""
    domains, first = found.of_kind("domain"), next(iter(scores["models"]))
    if not domains:
        return []
    listed = [("scores", "Scores", f"In percent of {found.metric}, with 95% intervals; the strokes are chance.")]
    if any(row["metric"] == found.metric and row["group"] in domains for row in scores["differences"]):
        title = f"{first} minus each other model"
        listed.append(("against", title, f"In points, with 95% intervals; right of the line, {first} is better."))
    if len(domains) > 1:
        told = (
            "Held-in beside held-out; at the right, held-out minus held-in in points. These are different questions: "
            "compare models by the distance."
        )
        listed.append(("transfer", "Who generalises", told))
    for group in domains:
        if any(found.by[at].get("blind") is not None for at in found.by if at[1] == group):
            title = f"What the images add: {label(group)}"
            told = "With images, without, and right both with the images as they are and moved one place on."
            listed.append((f"probes-{group}", title, told))
    return listed


def _drawn(scores: Mapping[str, Any], record: Mapping[str, Any], found: Standings, name: str) -> str:
    if name == "against":
        return drawn.against(scores["differences"], found)
    if name == "transfer":
        return drawn.transfer(found)
    if name.startswith("probes-"):
        return drawn.probes(found, name.removeprefix("probes-"))
    refs = record.get("refs") or {}
    known = siblings.entries({role: refs.get(role, "") for role in scores["models"]})
    return drawn.leaderboard(found, known, siblings.pairs({role: known[role] for role in found.roles if role in known}))


def _sorted(found: Standings, measure: str, group: str) -> list[str]:
    """The models by what a column shows, the most first; those without a value last."""
    values = {role: _cell(found, role, group, measure).value for role in found.roles}
    return sorted(found.roles, key=lambda role: -2.0 if (value := values[role]) is None else value, reverse=True)


def _is_known(found: Standings, measure: str) -> bool:
    return any(_value(row, measure) is not None for row in found.by.values())


def _value(row: Mapping[str, Any], measure: str) -> float | None:
    if measure in ("unread", "errors"):
        count: int | None = row.get("unparsed" if measure == "unread" else "errors")
        return count / row["n"] if count is not None and row["n"] else None
    return row.get(_MEASURES[measure][1][0])


def _cell(found: Standings, role: str, group: str, measure: str) -> Cell:
    row = found.by.get((role, group))
    if row is None:
        return Cell(None)
    _, (_, low, high) = _MEASURES[measure]
    value = _value(row, measure)
    known = measure == "score" and value == found.best(group)
    note = f"{row['n']:,} questions, {row['patients']:,} patients"
    return Cell(value, row.get(low), row.get(high), _tint(row) if measure == "score" else 0, known, note)


def _tint(row: Mapping[str, Any]) -> int:
    """How far a score is above chance, 0 to 10."""
    chance, value = float(row.get("chance") or 0), float(row["value"])
    return round(10 * max(0.0, value - chance) / max(1e-9, 1 - chance))


def _overview(scores: Mapping[str, Any], found: Standings, role: str) -> dict[str, float | None]:
    """What stands beside the scores of a model: of its questions in the first domain, and of all its answers."""
    row = next((found.by[role, group] for group in found.of_kind("domain") if (role, group) in found.by), {})
    read: Mapping[str, Any] = next((one for one in scores.get("reading", ()) if one["model"] == role), {})
    return {
        "swap": row.get("swap"),
        "blind": row.get("blind"),
        "unread": read["unread"] / read["closed"] if read.get("closed") else None,
        "cut": read["cut"] / read["answers"] if read.get("answers") else None,
        "errors": row.get("errors"),
    }


def _kinds(scores: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    refs = record.get("refs") or {}
    known = siblings.entries({role: refs.get(role, "") for role in scores["models"]})
    return {role: "medical" if one.medical else "general" for role, one in known.items()}


def _differences(
    scores: Mapping[str, Any], metric: str, roles: Sequence[str], groups: Sequence[str]
) -> dict[str, list[Cell]]:
    """Opponent -> the first model minus it, in each group."""
    by = {(row["opponent"], row["group"]): row for row in scores["differences"] if row["metric"] == metric}
    return {
        role: [_difference(by.get((role, group))) for group in groups]
        for role in roles
        if any((role, group) in by for group in groups)
    }


def _difference(row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell(None)
    holm = row.get("p_holm")
    note = f"{row['n']:,} questions" + ("" if holm is None else f", p {holm:.4f}")
    return Cell(row["value"], row["low"], row["high"], note=note, sure=holm is not None and holm < _SURE)


def _form(record: Mapping[str, Any]) -> str:
    """How the recipe of the run has the questions of its data set worded; empty where that is not known."""
    data = (record.get("recipe") or {}).get("data") or {}
    return str(data.get("form") or "")
