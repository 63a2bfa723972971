"""Data sets: what is asked, what their audit found, what they may be used for, and what was made of them."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from medmim import shards, store, tracking
from medmim.data.audit import run as audit
from medmim.data.audit.check import figure, judged, tells
from medmim.errors import Unavailable, UserError
from medmim.housekeeping import erase
from medmim.run.provenance import provenance_of, public_recipe, recorded, shows_patients, terms_of
from medmim.run.workspace import Workspace
from medmim.sample import ABILITIES, SPLITS
from medmim.store import Artifact
from medmim.terms import FLAGS, reasons
from medmim.tracking import Version
from medmim_console import catalog, starting
from medmim_console.catalog import Listing, Made
from medmim_console.site import PER_PAGE, Digest, Number, Refusal, Site, ThisSite, draw

router = APIRouter()

_QUARANTINE = "quarantine.jsonl"
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S*\d\S*")  # what could name a patient or a file
_LOOKED_AT = 4  # pages of benchmarks
_MODELS = 25  # that were made of a data set


@router.get("/data")
def data_sets(request: Request, this: ThisSite, number: Number = 1) -> Response:
    """The data sets, the newest first."""
    listing = catalog.artifacts(this.ws, "data", number)
    rows = [(made, _verdict(this.ws, made)) for made in listing.rows]
    return draw(request, "data_sets.html.j2", listing=listing, rows=rows)


@router.get("/data/{digest}")
def data_set(request: Request, this: ThisSite, digest: Digest) -> Response:
    """A data set."""
    found = _find(this, digest)
    record, doubt = recorded(found)
    folder = store.fetch(found, this.ws.cache, [shards.SAMPLES])
    named = shows_patients(record)
    allowed = terms_of(found)
    versions, more, away = _models(this, digest)
    checked = audit.find(this.ws, digest)
    report = audit.read(checked) if checked else None
    return draw(
        request,
        "data_set.html.j2",
        digest=digest,
        found=found,
        record=record,
        doubt=doubt,
        settings=_settings(record),
        tables=_tables(str(folder)),
        abilities=ABILITIES,
        splits=SPLITS,
        quarantined=_reasons(found.counts.get("quarantined"), named),
        audit=checked,
        read_as=figure,
        report=report,
        leaks=audit.leaks(report) if report else [],
        checks=judged(report["checks"], audit.limits_of(found)) if report else [],
        limits=audit.whose_limits(found),
        terms=[(flag, getattr(allowed, flag), reasons(allowed, [flag])) for flag in FLAGS],
        words=allowed.text,
        versions=versions,
        more=more,
        away=away,
        benchmarks=_benchmarks(this.ws, digest),
        erased=digest in erase.marked(this.ws),
    )


@router.get("/data/{digest}/leaks")
def leaks(request: Request, this: ThisSite, digest: Digest, number: Number = 1) -> Response:
    """The benchmark rows that are not clean: that share something with the training rows (docs/data.md)."""
    found = _find(this, digest)
    checked = audit.find(this.ws, digest)
    if checked is None:
        raise Refusal(404, f"the data set {digest[:12]} has not been audited", "a run audits the data that it builds")
    counted = audit.read(checked)["benchmark"]
    total = counted["rows"] - counted["clean_rows"]
    begin = (number - 1) * PER_PAGE
    folder = store.fetch(found, this.ws.cache, [shards.SAMPLES])
    rows = audit.leaking(checked, folder, begin, PER_PAGE) if begin < total else []
    return draw(
        request,
        "leaks.html.j2",
        digest=digest,
        audit=checked,
        listing=Listing(tuple(rows), number, begin + PER_PAGE < total, total),
        named=shows_patients(provenance_of(found)),
        benchmarks=_benchmarks(this.ws, digest),
    )


@router.get("/data/{digest}/quarantine")
def quarantine(request: Request, this: ThisSite, digest: Digest, number: Number = 1) -> Response:
    """The rows that were left out, and why; files and values only where the recipe says that pages may name them."""
    found = _find(this, digest)
    named = shows_patients(provenance_of(found))
    begin = (number - 1) * PER_PAGE
    there = _QUARANTINE in found.files  # of a build that left nothing out, perhaps not
    lines = _lines(store.fetch(found, this.ws.cache, [_QUARANTINE]) / _QUARANTINE) if there else iter(())
    rows = list(islice(lines, begin, begin + PER_PAGE + 1))
    shown = tuple(rows[:PER_PAGE] if named else map(_nameless, rows[:PER_PAGE]))
    listing = Listing(shown, number, len(rows) > PER_PAGE)
    return draw(request, "quarantine.html.j2", digest=digest, listing=listing, named=named)


def _find(this: Site, digest: str) -> Artifact:
    found = store.find(f"{this.ws.store}/data/{digest}")
    if found is None:
        raise Refusal(
            404,
            f"there is no data set {digest[:12]} in this store",
            "it was cleared away, a patient of it was erased, or it is of another store: choose one in the list",
        )
    return found


@dataclass(frozen=True)
class Verdict:
    """What the audit of a data set says, for a list.

    Attributes:
        words: What is shared, in a few words; empty where there is no audit.
        crossed: Checks that cross a limit, each with its figure.
        found: Those that have found something and have no limit.
        unmeasured: Those that could not be made.
    """

    words: str = ""
    crossed: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()


def _verdict(ws: Workspace, made: Made) -> Verdict:
    try:
        checked = audit.find(ws, made.digest)
        if checked is None:
            return Verdict()
        checks = judged(_checks(checked.uri), audit.section_of(made.provenance.get("recipe") or {}))
    except UserError as error:
        if isinstance(error, Unavailable):
            raise
        return Verdict(error.fact)
    named = {
        told: tuple(f"{one['name']} {figure(one['value'], one['share'])}" for one in checks if tells(one) == told)
        for told in ("crossed", "found")
    }
    unmeasured = tuple(one["name"] for one in checks if tells(one) == "unmeasured")
    return Verdict(_shared(checked), named["crossed"], named["found"], unmeasured)


@lru_cache(maxsize=512)
def _checks(uri: str) -> tuple[Mapping[str, Any], ...]:
    """The checks of an audit, whose address has its digest."""
    return tuple(audit.read(store.get(uri))["checks"])


def _shared(checked: Artifact) -> str:
    """What an audit says is shared, in a few words."""
    shared = checked.counts.get("shared")
    counted = [checked.counts.get(name, 0) for name in ("rows", "clean_rows")]
    if not isinstance(shared, Mapping) or not all(isinstance(n, int) for n in (*shared.values(), *counted)):
        return "its audit does not say what is shared"
    unclean = counted[0] - counted[1]
    if not any(shared.values()):
        return f"has {unclean:,} questions that are not clean" if unclean else "clean"
    return f"shares {shared.get('patients', 0):,} patients and {shared.get('images', 0):,} images"


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """How it was built, but for paths."""
    section = public_recipe(record).get("data")
    if not isinstance(section, dict):
        return {}
    wanted = ("source", "form", "seed", "dev_fraction", "test_fraction", "total", "max_side", "rows_only")
    return {
        key: str(section[key]) for key in wanted if section.get(key) not in (None, "") and section[key] is not False
    }


@lru_cache(maxsize=64)
def _tables(folder: str) -> Mapping[str, Any]:
    """Counts of questions: by ability and split, by source and split, by ability and form."""
    counted = shards.tally(Path(folder))
    tables: dict[str, dict[str, Counter[str]]] = {"ability": {}, "source": {}, "form": {}}
    held_out: Counter[str] = Counter()
    for (split, ability, source, away, form), n in sorted(counted.items()):
        tables["ability"].setdefault(ability, Counter())[split] += n
        tables["source"].setdefault(source, Counter())[split] += n
        tables["form"].setdefault(form, Counter())[split] += n
        if away:
            held_out[source] += n
    return {**tables, "held_out": held_out}


def _reasons(counted: object, named: bool) -> list[tuple[str, int]]:
    if not isinstance(counted, Mapping) or not all(isinstance(n, int) for n in counted.values()):
        return []
    if named:
        return [(str(reason), int(n)) for reason, n in counted.items()]
    alike: Counter[str] = Counter()
    for reason, n in counted.items():
        alike[_blank(str(reason))] += int(n)
    return alike.most_common()


def _blank(reason: str) -> str:
    return _VALUES.sub("…", reason)


def _nameless(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that was left out, without what could name a patient.

    The key is a column where the row is one of a table; where it has no number, it is a patient or a question.
    """
    key = _blank(str(row["key"])) if row["row"] else ""
    return {**row, "file": "", "key": key, "reason": _blank(str(row["reason"]))}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:  # read as text, a line that is not UTF-8 would end it before its number is known
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"line {number:,} of {_QUARANTINE} of this data set is no row that was left out",
                    reason="it is cut off, or was written by something else",
                    fix="restore the file from a backup of the store, or build the data again",
                )
            yield {key: row.get(key, "") for key in ("file", "row", "key", "reason")}


def _models(this: Site, digest: str) -> tuple[list[tuple[str, Version]], bool, str]:
    """Versions that were made of a data set, whether there are more, and why none is known."""
    if not starting.is_up(this.ws, this.patience):
        return [], False, "MLflow is being started, which takes some seconds; load the page again"
    try:
        return *tracking.page_of_versions(this.ws, "", 1, _MODELS, {"medmim.data": digest}), ""
    except UserError as error:
        return [], False, error.fact


def _benchmarks(ws: Workspace, digest: str) -> list[Made]:
    """Those that ask it, of the newest."""
    found: list[Made] = []
    for number in range(1, _LOOKED_AT + 1):
        listing = catalog.recent(ws, "bench", number)
        found += [made for made in listing.rows if (made.provenance.get("parents") or {}).get("data") == digest]
        if not listing.more:
            break
    return found
