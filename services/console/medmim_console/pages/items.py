"""The items of a benchmark, by filters, and one of them: its images, its question and every model's words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from medmim import terms
from medmim.bench import items
from medmim.bench.items import Filter
from medmim.data import pictures
from medmim.errors import Unavailable, UserError
from medmim.run import index
from medmim.run.provenance import recorded, shows_patients, terms_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim_console import catalog
from medmim_console.benchmarks import data_of, read_scores, there
from medmim_console.catalog import Listing, Made
from medmim_console.site import PER_PAGE, Digest, Number, Refusal, Site, ThisSite, draw

router = APIRouter()
Short = Annotated[str, Query(max_length=200)]
ItemId = Annotated[str, Path(pattern="^[0-9a-f]{20}$")]
VERDICTS = {
    "right": "right",
    "wrong": "wrong",
    "unread": "could not be read",
    "error": "failed",
    "open": "open question",
    "disagree": "models disagree",
}
PROBES = {
    "none": "as asked",
    "blind": "without images",
    "grey": "mean images",
    "swap": "images moved on",
}


@dataclass(frozen=True)
class Subject:
    """A benchmark, and the data set that it asks about.

    Attributes:
        artifact: The benchmark.
        record: Its provenance.
        digest: Of the data set.
        data: The data set; None where it is not in the store any more.
        data_record: Its provenance.
        doubt: What of these two records is damaged; empty where nothing is.
    """

    artifact: Artifact
    record: Mapping[str, Any]
    digest: str
    data: Artifact | None
    data_record: Mapping[str, Any] = field(default_factory=dict)
    doubt: str = ""

    @property
    def shows_patients(self) -> bool:
        """Whether patients and files may be named."""
        return shows_patients(self.record, self.data_record)

    @property
    def terms(self) -> list[str]:
        """Why what it shows may not be passed on; empty where it may."""
        return terms.reasons(terms_of(self.data or self.artifact), ["redistribute_data"])


@dataclass(frozen=True)
class Seen:
    """Which images of an item can be shown.

    Attributes:
        names: Image ids that the data set holds.
        why: Why it holds none; empty where it does.
        waits: Whether they can be shown soon.
    """

    names: frozenset[str] = frozenset()
    why: str = ""
    waits: bool = False


def wanted(
    model: Short = "",
    against: Short = "",
    probe: Short = "none",
    verdict: Literal["", "right", "wrong", "unread", "error", "open", "disagree"] = "",
    ability: Short = "",
    family: Short = "",
    source: Short = "",
    domain: Short = "",
    q: Short = "",
    order: Literal["", "hardest"] = "",
) -> Filter:
    """The filter in an address."""
    return Filter(model, against, probe or "none", verdict, ability, family, source, domain, q, order)


Wanted = Annotated[Filter, Depends(wanted)]


@router.get("/items")
def listed(
    request: Request,
    this: ThisSite,
    chosen: Wanted,
    digest: Annotated[str, Query(alias="bench", pattern="^([0-9a-f]{64})?$")] = "",
    number: Number = 1,
) -> Response:
    """The items of a benchmark that a filter finds."""
    benchmarks = catalog.recent(this.ws, "bench")
    digest = digest or _newest(this, benchmarks)
    if not digest:
        return draw(request, "items.html.j2", digest="", benchmarks=benchmarks, chosen=chosen, kept={})
    subject = _subject(this, digest)
    with items.opened(this.ws, subject.artifact, subject.record, subject.data_record) as connection:
        rows, total = items.select(connection, chosen, (number - 1) * PER_PAGE, PER_PAGE)
        facets = items.facets(connection)
    begin = (number - 1) * PER_PAGE
    return draw(
        request, "items.html.j2", digest=digest, benchmarks=benchmarks, chosen=chosen, facets=facets,
        listing=Listing(tuple(rows), number, begin + PER_PAGE < total, total),
        seen=_seen(this, subject, [name for row in rows for name in row.images]),
        data=subject.digest, verdicts=VERDICTS, probes=PROBES, terms=subject.terms, doubt=subject.doubt,
        kept=_kept({**request.query_params, "bench": digest}), strangers=_strangers(chosen, facets),
    )  # fmt: skip


@router.get("/items/{digest}/{name}")
def item(request: Request, this: ThisSite, digest: Digest, name: ItemId, chosen: Wanted) -> Response:
    """An item, and its neighbours among those that the filter finds."""
    subject = _subject(this, digest)
    with items.opened(this.ws, subject.artifact, subject.record, subject.data_record) as connection:
        row = items.find(connection, name)
        place = items.beside(connection, chosen, name)
        facets = items.facets(connection)
    if row is None:
        raise Refusal(404, f"benchmark {digest[:12]} has no item {name}", "choose one in the list of its items")
    return draw(
        request, "item.html.j2", digest=digest, item=row, place=place, facets=facets, chosen=chosen,
        seen=_seen(this, subject, row.images), data=subject.digest, verdicts=VERDICTS, probes=PROBES,
        terms=subject.terms, named=subject.shows_patients, kept=_kept(request.query_params), doubt=subject.doubt,
    )  # fmt: skip


def _subject(this: Site, digest: str) -> Subject:
    artifact = there(this.ws, digest)
    record, doubt = recorded(artifact)
    data, found = data_of(this.ws, artifact, record)
    other, more = recorded(found) if found else ({}, "")
    return Subject(artifact, record, data, found, other, doubt or (f"of its data set, {more}" if more else ""))


def _newest(this: Site, benchmarks: Listing[Made]) -> str:
    """The newest benchmark that asks all questions of its tasks; where there is none, the newest that can be read."""
    readable = [row for row in benchmarks.rows if not row.trouble]
    for row in readable:
        try:
            if _is_whole(this.ws, row.uri):
                return row.digest
        except UserError as error:
            if isinstance(error, Unavailable):
                raise
    return readable[0].digest if readable else ""


@lru_cache(maxsize=4096)
def _is_whole(ws: Workspace, uri: str) -> bool:
    return bool(read_scores(ws, uri)["comparable"])


def _seen(this: Site, subject: Subject, names: Iterable[str]) -> Seen:
    if subject.data is None:
        gone = f"the data set {subject.digest[:12]} is not in this store any more"
        return Seen(why=f"{gone}: it was cleared away, or one of its patients was erased")
    try:
        return Seen(frozenset(pictures.stored(this.ws, subject.data, filter(None, names))))
    except index.NotReady:
        return Seen(why="the images are being indexed, which takes some seconds", waits=True)
    except Unavailable:
        raise
    except UserError as error:
        return Seen(why=f"{error.fact}{': ' if error.reason else ''}{error.reason}")


def _strangers(chosen: Filter, facets: Mapping[str, Mapping[str, int]]) -> dict[str, tuple[str, str]]:
    """What a filter asks for and this benchmark has not: key of the address -> what it is, and its value."""
    asked = {
        "model": ("model", "model", chosen.model),
        "against": ("model", "model", chosen.against),
        "probe": ("probe", "way of asking", "" if chosen.probe == "none" else chosen.probe),
        "ability": ("ability", "ability", chosen.ability),
        "family": ("family", "family", chosen.family),
        "source": ("source", "source", chosen.source),
        "domain": ("domain", "domain or task", chosen.domain),
    }
    return {
        key: (what, value) for key, (kind, what, value) in asked.items() if value and value not in facets.get(kind, {})
    }


def _kept(query: Mapping[str, str]) -> dict[str, str]:
    """What of an address is handed on to the next."""
    known = ("bench", "model", "against", "probe", "verdict", "ability", "family", "source", "domain", "q", "order")
    return {key: query[key] for key in known if query.get(key)}
