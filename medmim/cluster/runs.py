"""Runs of medmim on a KFP server: which there are, how they stand, what they said; and ending one.

KFP 2.17 calls a cancelled run FAILED in the end; that it was CANCELING stands in its history only.
"""

import difflib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from medmim.cluster import ir
from medmim.cluster.kfp_api import Api, filtered, where
from medmim.cluster.kfp_errors import Refusal
from medmim.cluster.submit import GOING, RECIPE
from medmim.errors import REFUSED, TRY_AGAIN, Unavailable, UserError
from medmim.steps import Outcome
from medmim.store import open_store

MARK = "medmim "  # begins the description of each run that `medmim submit` started
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
        recipe: Name of its recipe.
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


def page(api: Api, size: int = 20, token: str = "") -> tuple[list[Run], str]:
    """The newest runs, and the token of the next page; empty on the last.

    Raises:
        UserError: The token is none of this list's.
    """
    asked: dict[str, Any] = {"page_token": token} if token else {}
    mine = filtered({"operation": "IS_SUBSTRING", "key": "description", "string_value": MARK})
    found = api.call(
        "listing runs", api.client.runs.run_service_list_runs, namespace=api.namespace or None, page_size=size,
        sort_by="created_at desc", filter=mine, **asked,
    )  # fmt: skip
    return [_run(api, one) for one in found.runs or []], found.next_page_token or ""


def find(api: Api, named: str) -> Run:
    """A run by id or name, with its steps.

    Raises:
        UserError: There is none, with names that are near; or several, with their ids.
    """
    if _ID.fullmatch(named):
        try:
            return _whole(api, api.call("getting a run", api.client.runs.run_service_get_run, run_id=named))
        except Refusal as error:
            if error.status != 404:
                raise
            raise UserError(f"no run {named}", fix="`medmim runs list` shows names and ids") from None
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
    return _whole(api, api.call("getting a run", api.client.runs.run_service_get_run, run_id=found[0].run_id))


def again(api: Api, run: Run) -> Run:
    """The same run as it stands now."""
    return _whole(api, api.call("getting a run", api.client.runs.run_service_get_run, run_id=run.run_id))


def follow(api: Api, run: Run, told: Callable[[Step], None], looked: Callable[[Run], None]) -> Run:
    """Wait until a run is over; `kfp.Client` would wait for a cancelled one for ever.

    Args:
        api: The server; while it is away for less than ten minutes the waiting goes on.
        run: A run with its steps.
        told: Hears of each step whose state has changed.
        looked: Hears of each look.

    Raises:
        Unavailable: The server is away for good.
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
    """End a run; False where it is over or ending already."""
    if run.over or run.state == "CANCELING":
        return False
    try:
        api.call("cancelling a run", api.client.runs.run_service_terminate_run, run_id=run.run_id)
    except Refusal:  # it ended, or was ended, meanwhile; or our first try's answer was lost
        now = again(api, run)
        if not now.over and now.state != "CANCELING":
            raise
    return True


def _run(api: Api, one: Any) -> Run:
    states = [status.state for status in one.state_history or []]
    ended = "CANCELED" if one.state == "FAILED" and "CANCELING" in states else one.state
    parameters = (one.runtime_config and one.runtime_config.parameters) or {}
    words = (one.description or "").split()
    return Run(
        name=one.display_name, run_id=one.run_id, state=ended or "RUNTIME_STATE_UNSPECIFIED", created=one.created_at,
        finished=_time(one.finished_at), recipe=words[3] if len(words) > 4 else "",
        link=api.link(f"runs/details/{one.run_id}"), uri=str(parameters.get("recipe", "")),
    )  # fmt: skip


def _whole(api: Api, one: Any) -> Run:
    run = _run(api, one)
    tasks = {task.display_name: task for task in (one.run_details and one.run_details.task_details) or []}
    read, note = _records(run)
    steps = tuple(_step(name, tasks.get(name), read) for name in ir.step_names() if name in tasks or read(name))
    return replace(run, steps=steps, notes=(note,) if note else ())


def _step(name: str, task: Any, read: Callable[[str], Outcome | None]) -> Step:
    if task is None:
        return Step(name, record=read(name))
    begin, end = _time(task.start_time), _time(task.end_time)
    took = ((end or datetime.now(UTC)) - begin).total_seconds() if begin else None
    nodes = tuple(child.pod_name for child in task.child_tasks or [] if child.pod_name)
    return Step(name, task.state or "", took, nodes, read(name))


def _records(run: Run) -> tuple[Callable[[str], Outcome | None], str]:
    """Reads what a stage left in the store; and why it cannot, where it cannot."""
    place = run.uri.removesuffix(f"/{RECIPE}")
    try:
        if place == run.uri:
            raise UserError("it was not started by `medmim submit`")
        store = open_store(place)
        left = {f"{name}.json" for name in ir.step_names()}.intersection(store.list())
        known = {key: json.loads(store.read(key)) for key in left}
    except (UserError, FileNotFoundError) as error:
        return lambda _: None, f"the stages' records cannot be read: {getattr(error, 'fact', error)}"

    def read(name: str) -> Outcome | None:
        return Outcome(**known[f"{name}.json"]) if f"{name}.json" in known else None

    return read, ""


def _time(moment: datetime | None) -> datetime | None:
    return moment if moment and moment > _EPOCH else None
