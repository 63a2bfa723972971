"""The items of a benchmark, found by filters: an index (`run.index`) of its `predictions.jsonl`, read line by line.

What names a patient or a file is in it only where the recipe says so; of an erased patient's item, its id alone is.
"""

import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medmim import shards, store
from medmim.bench import columns
from medmim.bench.metrics import right
from medmim.bench.probes import PROBES
from medmim.bench.run import PREDICTIONS
from medmim.data import erased
from medmim.data.erased import Erased
from medmim.errors import UserError
from medmim.run import index
from medmim.run.provenance import shows_patients
from medmim.run.workspace import Workspace
from medmim.sample import LETTERS
from medmim.store import Artifact

VERDICTS = ("right", "wrong", "unread", "error", "open")
"""Of one answer: an unread one scores as wrong, an error in nothing, and an open question is right by degrees."""

_SCHEMA = """
CREATE TABLE items (n INTEGER PRIMARY KEY, id TEXT UNIQUE, ability TEXT, family TEXT, source TEXT, text TEXT);
CREATE TABLE rows (n INTEGER PRIMARY KEY, row BLOB);
CREATE TABLE groups (name TEXT, n INTEGER, PRIMARY KEY (name, n)) WITHOUT ROWID;
CREATE TABLE verdicts (probe TEXT, model TEXT, verdict TEXT, n INTEGER, PRIMARY KEY (probe, model, verdict, n))
  WITHOUT ROWID;
CREATE TABLE judged (probe TEXT, n INTEGER, good INTEGER, judged INTEGER, PRIMARY KEY (probe, n)) WITHOUT ROWID;
CREATE TABLE facets (kind TEXT, place INTEGER, value TEXT, count INTEGER, PRIMARY KEY (kind, place)) WITHOUT ROWID;
"""
_FORM = "items 3"
_JUDGED = ("right", "wrong", "unread")
_TOLD_EVERY = 100  # rows


class _Row(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants", frozen=True)


_Choice = Annotated[int, Field(ge=0, lt=len(LETTERS))]


class Likelihood(_Row):
    """Log-likelihoods of the options, see `sample.Answer`."""

    choice: _Choice | None = None
    letters: tuple[float, ...] = ()
    texts: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()


class Given(_Row):
    """What a model gave under a probe, see `scoring.Board.predictions`."""

    text: str
    choice: _Choice | None
    status: str
    scores: dict[str, float]
    cut: bool = False
    likelihood: Likelihood | None = None

    @property
    def verdict(self) -> str:
        """One of VERDICTS."""
        if self.status in ("error", "unparsed"):
            return "error" if self.status == "error" else "unread"
        found = right(self.scores)
        return "open" if found is None else "right" if found else "wrong"

    @property
    def said(self) -> str:
        """What the model generated; where nothing was, the letter of the option that is the likeliest."""
        compared = self.likelihood
        if compared and compared.letters and compared.choice is not None and "accuracy" not in self.scores:
            return f"{LETTERS[compared.choice]} is the likeliest"
        return self.text


class Item(_Row):
    """A row of `predictions.jsonl`; `erased` where its patient is, and then it says nothing else but its id."""

    id: str
    ability: str
    family: str
    source: str
    held_out: bool
    images: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    answer: str
    gold: tuple[int, ...] = ()
    swapped: tuple[int, ...] = ()
    patients: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    answers: dict[str, dict[str, Given]]
    erased: bool = False

    def given(self) -> Iterator[tuple[str, str, Given]]:
        """(model, probe, what it gave) of each answer."""
        for model, by_probe in self.answers.items():
            for probe, given in by_probe.items():
                yield model, probe, given


@dataclass(frozen=True)
class Filter:
    """Which items; what is empty holds for all.

    Attributes:
        model: Whose answer has the verdict. [default: that of any]
        against: For `disagree`, the one model that `model` is held against. [default: all others]
        probe: Under which it was asked.
        verdict: One of VERDICTS, or `disagree`: some of the models are right and some are not.
        ability: Of the item.
        family: Of the item.
        source: Of the item.
        domain: A group of the item that is no ability and no source: `held_in`, `held_out`, `task:NAME`.
        text: In its question or an option, whatever the case.
        order: `hardest`: those first that fewest models got right. [default: as in the data set]
    """

    model: str = ""
    against: str = ""
    probe: str = "none"
    verdict: str = ""
    ability: str = ""
    family: str = ""
    source: str = ""
    domain: str = ""
    text: str = ""
    order: Literal["", "hardest"] = ""


@dataclass(frozen=True)
class Beside:
    """Where an item stands among those that a filter finds: from 1, and the ids of its neighbours.

    `place` is 0, and there are no neighbours, where the filter does not find it.
    """

    place: int
    total: int
    before: str = ""
    after: str = ""


@contextmanager
def opened(ws: Workspace, benchmark: Artifact, *records: Mapping[str, Any]) -> Iterator[sqlite3.Connection]:
    """The index of a benchmark.

    Args:
        ws: The workspace.
        benchmark: The artifact.
        records: Provenance of the benchmark and of its data set, which say whether patients may be named.

    Raises:
        index.NotReady: It is being made; ask again.
        UserError: The benchmark is damaged, or of a version that wrote other rows.
    """
    known, named = erased.load(ws.store), shows_patients(*records)
    form = index.Form(_FORM, _SCHEMA + columns.SCHEMA, partial(_fill, known, named))
    mark = f"patients {'named' if named else 'not named'} {known.parents.get('erased', '')}"
    with index.opened(ws.home, benchmark, form, mark) as connection:
        yield connection


def facets(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """`model`, `probe`, `ability`, `family`, `source`, `domain` -> value -> items that have it."""
    found: dict[str, dict[str, int]] = {}
    for kind, value, count in connection.execute("SELECT kind, value, count FROM facets ORDER BY kind, place"):
        found.setdefault(kind, {})[value] = count
    return found


def select(connection: sqlite3.Connection, wanted: Filter, begin: int, count: int) -> tuple[list[Item], int]:
    """Items that a filter finds, from the one at `begin` on, and how many it finds in all."""
    source, values = _query(wanted)
    (total,) = connection.execute(f"SELECT count(*) FROM {source}", values).fetchone()  # noqa: S608  no values in it
    chosen = f"SELECT items.n FROM {source} ORDER BY {_order(wanted)} LIMIT :count OFFSET :begin"  # noqa: S608
    numbers = connection.execute(chosen, {**values, "count": count, "begin": begin}).fetchall()
    rows = [connection.execute("SELECT row FROM rows WHERE n = ?", number).fetchone() for number in numbers]
    return [_load(row) for (row,) in rows], total


def find(connection: sqlite3.Connection, name: str) -> Item | None:
    """The item of an id."""
    row = connection.execute("SELECT row FROM rows JOIN items USING (n) WHERE id = ?", (name,)).fetchone()
    return _load(row[0]) if row else None


def beside(connection: sqlite3.Connection, wanted: Filter, name: str) -> Beside:
    """Where an item stands among those that a filter finds."""
    source, values = _query(wanted)
    row = connection.execute(
        f"SELECT place, before, after, (SELECT count(*) FROM {source}) FROM (SELECT items.id AS id, "  # noqa: S608
        f"row_number() OVER own AS place, lag(items.id) OVER own AS before, lead(items.id) OVER own AS after "
        f"FROM {source} WINDOW own AS (ORDER BY {_order(wanted)})) WHERE id = :name",
        {**values, "name": name},
    ).fetchone()
    if row:
        return Beside(row[0], row[3], row[1] or "", row[2] or "")
    (total,) = connection.execute(f"SELECT count(*) FROM {source}", values).fetchone()  # noqa: S608
    return Beside(0, total)


def _order(wanted: Filter) -> str:
    share = "1.0 * judged.good / judged.judged"
    return f"{share} IS NULL, {share}, items.n" if wanted.order else "items.n"


def _query(wanted: Filter) -> tuple[str, dict[str, object]]:
    """What stands behind FROM, and its values: the items of a filter."""
    values: dict[str, object] = {"probe": wanted.probe, "model": wanted.model, "against": wanted.against}
    terms = []
    for name in ("ability", "family", "source"):
        if value := getattr(wanted, name):
            terms.append(f"items.{name} = :{name}")
            values[name] = value
    if wanted.domain:
        terms.append("items.n IN (SELECT n FROM groups WHERE name = :domain)")
        values["domain"] = wanted.domain
    if wanted.text.strip():
        terms.append("instr(items.text, :text) > 0")
        values["text"] = wanted.text.strip().casefold()
    if wanted.verdict == "disagree":
        terms.append(_disagree(wanted))
    elif wanted.verdict or wanted.model:
        own = "probe = :probe"
        if wanted.model:
            own += " AND model = :model"
        if wanted.verdict:
            own += " AND verdict = :verdict"
            values["verdict"] = wanted.verdict
        terms.append(f"items.n IN (SELECT n FROM verdicts WHERE {own})")  # noqa: S608
    source = "items"
    if wanted.order or wanted.verdict == "disagree":
        source += " LEFT JOIN judged ON judged.n = items.n AND judged.probe = :probe"
    return f"{source} WHERE {' AND '.join(terms)}" if terms else source, values


def _disagree(wanted: Filter) -> str:
    if not wanted.model:
        return "judged.good > 0 AND judged.good < judged.judged"
    judged = "SELECT n FROM verdicts WHERE probe = :probe AND model = {} AND verdict IN ('right', 'wrong', 'unread')"
    good = "(items.n IN (SELECT n FROM verdicts WHERE probe = :probe AND model = {} AND verdict = 'right'))"
    own = f"items.n IN ({judged.format(':model')})"
    if not wanted.against:
        return f"{own} AND judged.good > 0 AND judged.good < judged.judged"
    other = f"items.n IN ({judged.format(':against')})"
    return f"{own} AND {other} AND {good.format(':model')} <> {good.format(':against')}"


def _load(row: bytes) -> Item:
    return Item.model_validate_json(zlib.decompress(row))


def _fill(
    known: Erased, named: bool, benchmark: Artifact, connection: sqlite3.Connection, tell: Callable[[float], None]
) -> None:
    counts: dict[str, Counter[str]] = {
        kind: Counter() for kind in ("model", "probe", "ability", "family", "source", "domain")
    }
    scores = columns.Gathering()
    size, done = max(1, benchmark.files.get(PREDICTIONS, {}).get("bytes", 1)), 0
    for n, line in enumerate(store.lines(benchmark, PREDICTIONS)):
        done += len(line) + 1
        if n % _TOLD_EVERY == 0:
            tell(done / size)
        if not line:
            continue
        try:
            item = Item.model_validate_json(line)
            _insert(connection, n, _shown(item, known, named), counts)
            asked = {model: own["none"] for model, own in item.answers.items() if "none" in own}
            answered = {model: (given.scores, given.status) for model, given in asked.items()}
            scores.add(item.id, item.groups, item.people, answered)
        except (ValidationError, sqlite3.IntegrityError) as error:
            raise _unreadable(benchmark, n, error) from None
    columns.write(connection, scores.scored())
    for kind, own in counts.items():
        ordered = sorted(own.items(), key=lambda pair: _place(pair[0]) if kind == "probe" else (0, pair[0]))
        ordered = list(own.items()) if kind == "model" else ordered
        rows = [(kind, place, value, count) for place, (value, count) in enumerate(ordered)]
        connection.executemany("INSERT INTO facets VALUES (?, ?, ?, ?)", rows)


def _place(probe: str) -> tuple[int, str]:
    return (PROBES.index(probe) if probe in PROBES else len(PROBES)), probe


def _insert(connection: sqlite3.Connection, n: int, item: Item, counts: Mapping[str, Counter[str]]) -> None:
    text = "\n".join([item.question, *item.options]).casefold()
    row = (n, item.id, item.ability, item.family, item.source, text)
    connection.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.execute("INSERT INTO rows VALUES (?, ?)", (n, zlib.compress(item.model_dump_json().encode(), 1)))
    own = [group for group in dict.fromkeys(item.groups) if not group.startswith(("ability:", "source:"))]
    connection.executemany("INSERT INTO groups VALUES (?, ?)", [(name, n) for name in own])
    given = [(probe, model, answer.verdict) for model, probe, answer in item.given()]
    connection.executemany("INSERT INTO verdicts VALUES (?, ?, ?, ?)", [(*one, n) for one in given])
    probes = dict.fromkeys(probe for probe, _, _ in given)
    for probe in probes:
        verdicts = [verdict for of, _, verdict in given if of == probe and verdict in _JUDGED]
        if verdicts:
            connection.execute(
                "INSERT INTO judged VALUES (?, ?, ?, ?)", (probe, n, verdicts.count("right"), len(verdicts))
            )
    counts["model"].update(list(item.answers))
    counts["probe"].update(list(probes))
    counts["ability"][item.ability] += 1
    counts["family"][item.family] += 1
    counts["source"][item.source] += 1
    counts["domain"].update(own)


def _shown(item: Item, known: Erased, named: bool) -> Item:
    """What the index keeps of an item."""
    if known.marks and any(known.holds(item.source, patient) for patient in item.patients):
        nothing: dict[str, Any] = dict.fromkeys(("images", "options", "gold", "swapped"), ())
        nothing |= dict.fromkeys(("patients", "paths", "people", "groups"), ()) | {"answers": {}}
        return item.model_copy(update={**nothing, "question": "", "answer": "", "erased": True})
    if named:
        return item
    images = tuple(name if name.startswith(shards.BY_CONTENT) else "" for name in item.images)  # else a source path
    return item.model_copy(update={"images": images, "patients": (), "paths": (), "people": ()})


def _unreadable(benchmark: Artifact, n: int, error: Exception) -> UserError:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(".: ")[:300]
    else:
        reason = "it names an item that was there before"
    return UserError(
        f"line {n + 1:,} of {benchmark.uri}/{PREDICTIONS} is no row of a benchmark as this version writes it",
        reason=reason,
        fix="bench these models again: their answers are kept, so only the scores are made anew",
    )
