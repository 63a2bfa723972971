"""The runs of a store, as their records tell them: which there are, how far each came, what is being worked on now.

Nothing but the store is asked, and this home, where a run of this machine reports its progress. So what a pod waits for
is not known here: KFP knows.
"""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from medmim import progress, store
from medmim.errors import Missing, UserError
from medmim.redact import shown
from medmim.run import kfp_local, run_name, step_lock
from medmim.run.person import SUBMITTED
from medmim.run.provenance import is_recipe, provenance_of, public_recipe
from medmim.run.stage import BENCHING, NIGHTLY, RECIPE, STAGES, Outcome, parse_record
from medmim.run.workspace import Workspace

FOLDER = "runs"
QUIET = 120.0  # s without a sign of life after which a run that has not ended is not called running
_LAST = (STAGES[-1], NIGHTLY[-1])
_CLOCKS = 300.0  # s by which the clocks of a store and of this machine may differ
_AT_ONCE = 8  # requests to the store
_MADE_BY_IT = ("report", "trend", "gate", "rebench")  # stages whose artifact is of this run alone

State = Literal["done", "refused", "failed", "running", "quiet", "unreadable"]


@dataclass(frozen=True)
class Work:
    """A step that somebody works on now.

    Attributes:
        step: Name of its lock.
        holder: Run and process.
        seen: Its last sign of life, by the store's clock.
        left: What it has left in the store to resume from: `step-00000100`, or how many parts; empty without.
    """

    step: str
    holder: str
    seen: datetime
    left: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        name: Its name.
        outcome: Its record; None where it has none, or one that cannot be read.
        time: When the record was written, by the store's clock.
        trouble: Why the record cannot be read.
        work: What is being done for it now.
        said: What it reports on this machine: bar, metrics, line.
    """

    name: str
    outcome: Outcome | None = None
    time: datetime | None = None
    trouble: str = ""
    work: tuple[Work, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: Its name.
        recipe: The recipe's name, by the run's.
        begun: When, by its name: UTC, of a night the day alone; None where the name does not say.
        seen: Its last sign of life, by the store's clock or this machine's.
        state: `quiet`: it has not ended, and there was no sign of life for a while: it waits, or it was killed.
            `unreadable`: it has ended, and how is not known, since a record of it cannot be read.
        stages: In their order.
    """

    name: str
    recipe: str
    begun: datetime | None
    seen: datetime | None
    state: State
    stages: tuple[Stage, ...]

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.state not in ("running", "quiet")

    @property
    def seconds(self) -> float:
        """What its stages took together, as far as they have ended."""
        return sum(one.outcome.seconds for one in self.stages if one.outcome)


def names(ws: Workspace) -> list[str]:
    """The names of all runs, the newest first, as the names say; those that do not say come last.

    Raises:
        Unavailable: The store does not answer.
    """
    found = store.open_store(ws.store).folders(f"{FOLDER}/")
    return sorted(sorted(found), key=run_name.time_of, reverse=True)


def runs(ws: Workspace, wanted: Sequence[str]) -> list[Run]:
    """These runs, with the facts of no stage.

    Raises:
        Unavailable: The store does not answer.
    """
    place = store.open_store(ws.store)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        ages = list(pool.map(lambda name: place.ages(f"{FOLDER}/{name}/"), wanted))
        working = (
            _working(place) if any(not _has_last(name, own) for name, own in zip(wanted, ages, strict=True)) else {}
        )
        return list(pool.map(lambda name, own: _run(ws, name, own, working.get(name, ())), wanted, ages))


def run(ws: Workspace, name: str) -> Run:
    """One run, with what is being worked on.

    Raises:
        Missing: There is none.
        Unavailable: The store does not answer.
    """
    place = store.open_store(ws.store)
    ages = place.ages(f"{FOLDER}/{name}/")
    if not ages:
        raise Missing(f"there is no run {name} in {shown(ws.store)}", fix="choose one of the list")
    working = () if _has_last(name, ages) else _working(place).get(name, ())
    found = _run(ws, name, ages, [_with_rest(place, work) for work in working])
    return replace(found, stages=tuple(_with_facts(place, name, one) for one in found.stages))


def recipe(ws: Workspace, found: Run) -> dict[str, Any]:
    """The recipe of a run as a page may show it; empty where nothing recorded it.

    It lies beside the records; of a run of an earlier medmim on a laptop, in the provenance of what it made.
    """
    place = store.open_store(ws.store)
    try:
        written = json.loads(place.read(f"{FOLDER}/{found.name}/{RECIPE}"))
    except (FileNotFoundError, ValueError, RecursionError):
        written = None
    if not is_recipe(written):
        made = [one.outcome.uri for one in found.stages if one.name in _MADE_BY_IT and one.outcome and one.outcome.uri]
        kept = [artifact for artifact in map(store.find, made) if artifact is not None]
        written = next((own for own in (provenance_of(one).get("recipe") for one in kept) if own), {})
    return public_recipe({"recipe": written})


def submitter(ws: Workspace, name: str) -> str:
    """Who submitted a run to a cluster; empty where nobody did."""
    try:
        written = json.loads(store.open_store(ws.store).read(f"{FOLDER}/{name}/{SUBMITTED}"))
        return str(written["who"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _run(ws: Workspace, name: str, ages: Mapping[str, tuple[float, int]], working: Sequence[Work]) -> Run:
    prefix = f"{FOLDER}/{name}/"
    written = {key.removeprefix(prefix): when for key, (when, _) in ages.items()}
    order = _order(ws, name, written)
    stages = [_stage(ws, name, one, written.get(f"{one}.json")) for one in order]
    local = kfp_local.events_file(ws.home, name)
    signs = [when for key, when in written.items() if not key.startswith("jobs/")]
    signs += [work.seen.timestamp() for work in working]
    if local.is_file():
        signs.append(local.stat().st_mtime)
    seen = max(signs, default=None)
    state = _state(stages, order, bool(working) or (seen is not None and time.time() - seen < QUIET))
    if state == "running":
        stages = _with_work(stages, working, lambda stage: tuple(progress.last(local, stage)))
    begun = run_name.time_of(name)
    form = "%Y%m%d-%H%M%S" if "-" in begun else "%Y%m%d"
    return Run(
        name,
        run_name.recipe_of(name).removesuffix("-nightly"),
        _time(begun, form),
        None if seen is None else datetime.fromtimestamp(seen, UTC),
        state,
        tuple(stages),
    )


def _order(ws: Workspace, name: str, written: Mapping[str, float]) -> tuple[str, ...]:
    """The stages of a run, by what it has written."""
    have = {key.removesuffix(".json") for key in written}
    if have.intersection(NIGHTLY[1:]) or run_name.recipe_of(name).endswith("-nightly"):
        return NIGHTLY
    if have.intersection(set(STAGES) - set(BENCHING)):
        return STAGES
    if RECIPE in written:
        return BENCHING if _pipeline(ws.store, name, written[RECIPE]) == "bench" else STAGES
    return BENCHING if "bench" in have else STAGES


@lru_cache(maxsize=1024)
def _pipeline(uri: str, name: str, when: float) -> str:
    try:
        return str(json.loads(store.open_store(uri).read(f"{FOLDER}/{name}/{RECIPE}")).get("pipeline", ""))
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return ""


def _stage(ws: Workspace, run: str, name: str, when: float | None) -> Stage:
    if when is None:
        return Stage(name)
    try:
        outcome = _outcome(ws.store, run, name, when)
    except FileNotFoundError:  # a new try has just removed it
        return Stage(name)
    except UserError as error:
        if error.exit_code != 2:
            raise
        return Stage(name, time=datetime.fromtimestamp(when, UTC), trouble=error.fact)
    return Stage(name, outcome, datetime.fromtimestamp(when, UTC))


@lru_cache(maxsize=4096)
def _outcome(uri: str, run: str, name: str, when: float) -> Outcome:
    """A stage's record without its facts, read once for each time that it was written."""
    return replace(parse_record(store.open_store(uri).read(f"{FOLDER}/{run}/{name}.json"), name, run), facts={})


def _with_facts(place: store.Store, run: str, stage: Stage) -> Stage:
    if stage.outcome is None:
        return stage
    try:
        return replace(stage, outcome=parse_record(place.read(f"{FOLDER}/{run}/{stage.name}.json"), stage.name, run))
    except FileNotFoundError:
        return stage


def _state(stages: Sequence[Stage], order: Sequence[str], lives: bool) -> State:
    found = {one.name: one.outcome for one in stages if one.outcome}
    states = {outcome.status for outcome in found.values()}
    if found.keys() & set(_LAST) or (stages[-1].trouble and order[-1] in _LAST):
        if "failed" not in states and any(one.trouble for one in stages):
            return "unreadable"
        return "failed" if "failed" in states else "refused" if "refused" in states else "done"
    if lives:
        return "running"
    return "failed" if "failed" in states else "quiet"


def _with_work(stages: Sequence[Stage], working: Sequence[Work], said: Any) -> list[Stage]:
    """The stages with the work that is done for each; a step whose stage is not known belongs to the next one."""
    following = next((one.name for one in stages if one.outcome is None), "")
    of: dict[str, list[Work]] = {}
    for work in working:
        begins = [one.name for one in stages if work.step.startswith(f"{one.name}-") and one.outcome is None]
        of.setdefault(begins[0] if begins else following, []).append(work)
    return [
        replace(one, work=tuple(of.get(one.name, ())), said=said(one.name))
        if one.name == following or one.name in of
        else one
        for one in stages
    ]


def _working(place: store.Store) -> dict[str, list[Work]]:
    """Run -> what is being worked on for it."""
    found: dict[str, list[Work]] = {}
    for name, turn, renewed in step_lock.held(place, time.time() - step_lock.STALE - _CLOCKS):
        if turn.run:
            found.setdefault(turn.run, []).append(Work(name, str(turn), datetime.fromtimestamp(renewed, UTC)))
    return found


def _with_rest(place: store.Store, work: Work) -> Work:
    ages = place.ages(f"resume/{work.step}/")
    steps = [part for key in ages for part in key.split("/") if part.startswith("step-")]
    size = sum(size for _, size in ages.values())
    left = max(steps) if steps else f"{len(ages):,} parts" if ages else ""
    return replace(work, left=f"{left}, {progress.size(size)}" if left else "")


def _has_last(name: str, ages: Mapping[str, tuple[float, int]]) -> bool:
    return any(f"{FOLDER}/{name}/{last}.json" in ages for last in _LAST)


def _time(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
