"""Runs of medmim on a KFP server: which there are, how they stand, what they said; and ending one.

KFP 2.17 calls a cancelled run FAILED in the end; that it was CANCELING stands in its history only.
"""

import difflib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from medmim.cluster.kfp import compiled
from medmim.cluster.kfp.client import Api, filtered, where
from medmim.cluster.kfp.errors import Refusal
from medmim.cluster.kfp.submit import GOING, RECIPE, Submitted
from medmim.errors import REFUSED, TRY_AGAIN, Unavailable, UserError
from medmim.run.stage import Outcome, parse_record
from medmim.store import open_store

MARK = "medmim "  # begins the description of each run that `medmim submit` started
_MADE = re.compile(MARK + r"\S+, recipe (\S+) ")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
EVERY = 5.0  # s between two looks at a run
_OUTAGE = 600.0  # s that KFP may be away while somebody waits
_MANY = 200  # KFP's largest page
_EPOCH = datetime(1971, 1, 1, tzinfo=UTC)  # earlier times are KFP's "not yet"


@dataclass(frozen=True)
class Step:
    """A step as KFP shows it, and as its record in the store does.

    Attributes:
        name: Of the task.
        state: KFP's word; empty while it has not begun.
        seconds: That it has taken so far; None while it has not begun.
        nodes: Argo's ids of its pods.
        record: What the stage left; None while there is nothing.
    """

    name: str
    state: str = ""
    seconds: float | None = None
    nodes: tuple[str, ...] = ()
    record: Outcome | None = None


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: Its name.
        run_id: KFP's id.
        state: KFP's word, but `CANCELED` where somebody ended it.
        created: When it was submitted.
        finished: When it ended.
        recipe: Name of its recipe; empty where medmim did not submit it.
        link: Its page.
        uri: Where its recipe lies.
        steps: In the order of the graph; empty in lists.
        notes: What could not be looked at.
    """

    name: str
    run_id: str
    state: str
    created: datetime
    finished: datetime | None
    recipe: str
    link: str
    uri: str
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where its stages leave their records; empty where medmim did not submit it."""
        return self.uri.removesuffix(f"/{RECIPE}") if self.uri.endswith(f"/{RECIPE}") else ""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in GOING

    @property
    def result(self) -> str:
        """Its state in a word of ours: KFP calls it failed when a gate or an audit says no."""
        return "refused" if self.over and self.steps and self.exit_code == REFUSED else self.state.lower()

    @property
    def exit_code(self) -> int:
        """What the laptop's run would have ended with: the first stage that did not end well decides."""
        codes = [step.record.exit_code for step in self.steps if step.record and step.record.exit_code]
        if codes and self.state != "CANCELED":
            return codes[0]
        if self.state != "SUCCEEDED":
            return TRY_AGAIN
        return REFUSED if any(step.record and step.record.status == "refused" for step in self.steps) else 0


class Gone(UserError):
    """A run that was there is there no more."""


def page(api: Api, size: int = 20, token: str = "") -> tuple[list[Run], str]:
    """The newest runs, and the token of the next page; empty on the last.

    Raises:
        UserError: The token is none of this list's.
    """
    asked: dict[str, Any] = {"page_token": token} if token else {}
    mine = filtered({"operation": "IS_SUBSTRING", "key": "description", "string_value": MARK})
    try:
        found = api.call(
            "listing runs", api.client.runs.run_service_list_runs, namespace=api.namespace or None, page_size=size,
            sort_by="created_at desc", filter=mine, **asked,
        )  # fmt: skip
    except Refusal as error:
        if not token or error.status in (401, 403):
            raise
        raise UserError(
            f"no page '{token}' in the list of runs", reason=error.reason, fix="start again without --page"
        ) from None
    return [_run(api, one) for one in found.runs or []], found.next_page_token or ""


def find(api: Api, named: str) -> Run:
    """A run by id or name, with its steps.

    Raises:
        UserError: There is none, with names that are near; or several, with their ids.
    """
    if _ID.fullmatch(named.lower()):
        run = _get(api, named.lower())
        if run is None:
            raise UserError(f"no run {named}", fix="`medmim runs list` shows names and ids")
        return run
    found = api.call(
        "listing runs", api.client.runs.run_service_list_runs, namespace=api.namespace or None,
        filter=where(display_name=named), sort_by="created_at desc",
    ).runs or []  # fmt: skip
    if len(found) > 1:
        raise UserError(
            f"{len(found)} runs are called {named}",
            problems=[f"{one.run_id}, {one.created_at:%Y-%m-%d %H:%M}, {one.state}" for one in found],
            fix="give the id",
        )
    if not found:
        names = [one.name for one in page(api, _MANY)[0]]
        near = [one for one in names if named in one] or difflib.get_close_matches(named, names, 3, cutoff=0.5)
        said = f"did you mean {' or '.join(near[:3])}? " if near else ""
        raise UserError(f"no run '{named}'", fix=f"{said}`medmim runs list` shows names and ids")
    return again(api, _run(api, found[0]))


def begun(made: Submitted) -> Run:
    """A run that was just started, before anybody looked at it."""
    return Run(made.run, made.run_id, "PENDING", datetime.now(UTC), None, "", made.link, made.recipe)


def again(api: Api, run: Run) -> Run:
    """The same run as it stands now.

    Raises:
        Gone: Somebody deleted it.
    """
    now = _get(api, run.run_id)
    if now is None:
        fix = "submit the recipe again: finished steps are kept"
        raise Gone(f"run {run.name} was deleted in KFP", fix=fix, exit_code=TRY_AGAIN)
    return now


def follow(api: Api, run: Run, told: Callable[[Step], None], looked: Callable[[Run], None]) -> Run:
    """Wait until a run is over; `kfp.Client` would wait for a cancelled one for ever.

    Args:
        api: The server; while it is away for less than ten minutes the waiting goes on.
        run: A run with its steps.
        told: Hears of each step whose state has changed.
        looked: Hears of each look.

    Raises:
        Unavailable: The server is away for good.
        Gone: Somebody deleted the run.
        UserError: The server does not tell any more; a login that ran out, say.
    """
    known: dict[str, str] = {}
    ending = False
    seen = time.monotonic()
    while True:
        for step in run.steps:
            if known.get(step.name) != step.state:
                known[step.name] = step.state
                told(step)
        ending = ending or run.state == "CANCELING"
        if run.over:
            return replace(run, state="CANCELED") if ending and run.state == "FAILED" else run
        looked(run)
        time.sleep(EVERY)
        try:
            run, seen = again(api, run), time.monotonic()
        except Unavailable:
            if time.monotonic() - seen > _OUTAGE:
                raise


def cancel(api: Api, run: Run) -> bool:
    """End a run; False where it is over or ending already.

    Raises:
        UserError: It is none of medmim's.
    """
    if not run.recipe:
        raise UserError(f"run {run.name} was not submitted by medmim", fix=f"end it on its own page: {run.link}")
    if run.over or run.state == "CANCELING":
        return False
    try:
        api.call("cancelling a run", api.client.runs.run_service_terminate_run, run_id=run.run_id)
    except Refusal:  # it ended, or was ended, meanwhile; or our first try's answer was lost
        now = again(api, run)
        if not now.over and now.state != "CANCELING":
            raise
    return True


def _get(api: Api, run_id: str) -> Run | None:
    try:
        return _whole(api, api.call("getting a run", api.client.runs.run_service_get_run, run_id=run_id))
    except Refusal as error:
        if error.status != 404:
            raise
        return None


def _run(api: Api, one: Any) -> Run:
    states = [status.state for status in one.state_history or []]
    ended = "CANCELED" if one.state == "FAILED" and "CANCELING" in states else one.state
    parameters = (one.runtime_config and one.runtime_config.parameters) or {}
    made = _MADE.match(one.description or "")
    return Run(
        name=one.display_name, run_id=one.run_id, state=ended or "RUNTIME_STATE_UNSPECIFIED", created=one.created_at,
        finished=_time(one.finished_at), recipe=made[1] if made else "",
        link=api.link(f"runs/details/{one.run_id}"), uri=str(parameters.get("recipe", "")),
    )  # fmt: skip


def _whole(api: Api, one: Any) -> Run:
    run = _run(api, one)
    tasks = {task.display_name: task for task in (one.run_details and one.run_details.task_details) or []}
    left, notes = _records(run)
    steps = tuple(
        _step(name, tasks.get(name), left.get(name)) for name in compiled.step_names() if name in tasks or name in left
    )
    return replace(run, steps=steps, notes=notes)


def _step(name: str, task: Any, record: Outcome | None) -> Step:
    if task is None:
        return Step(name, record=record)
    begin, end = _time(task.start_time), _time(task.end_time)
    took = ((end or datetime.now(UTC)) - begin).total_seconds() if begin else None
    nodes = tuple(child.pod_name for child in task.child_tasks or [] if child.pod_name)
    return Step(name, task.state or "", took, nodes, record)


def _records(run: Run) -> tuple[dict[str, Outcome], tuple[str, ...]]:
    """What each stage left in the store; and what of it cannot be read, and why."""
    try:
        if not run.place:
            raise UserError("it was not started by `medmim submit`")
        store = open_store(run.place)
        there = set(store.list())
        texts = {name: store.read(f"{name}.json") for name in compiled.step_names() if f"{name}.json" in there}
    except (UserError, FileNotFoundError) as error:
        return {}, (f"the stages' records cannot be read: {getattr(error, 'fact', error)}",)
    left: dict[str, Outcome] = {}
    notes: list[str] = []
    for name, text in texts.items():
        try:
            left[name] = parse_record(text, name, run.name)
        except UserError as error:
            notes.append(error.fact)
    return left, tuple(notes)


def _time(moment: datetime | None) -> datetime | None:
    return moment if moment and moment > _EPOCH else None
