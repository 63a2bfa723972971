"""Runs of medmim on a KFP server: listed, found, and read with their steps.

KFP 2.17 ends a cancelled run as FAILED; only its history says that it was CANCELING.
"""

import difflib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from medmim import hints
from medmim.cluster.kfp import compiled, pods, steps
from medmim.cluster.kfp.client import Api, filtered, where
from medmim.cluster.kfp.errors import Refusal
from medmim.cluster.kfp.steps import Step
from medmim.cluster.kfp.submit import ACTIVE, PENDING, Submitted
from medmim.errors import REFUSED, TRY_AGAIN, UserError
from medmim.run import run_name
from medmim.run.stage import RECIPE, Outcome, parse_record
from medmim.store import open_store

_PREFIX = "medmim "  # begins the description of each run that `medmim submit` started
_DESCRIPTION = re.compile(_PREFIX + r"\S+, recipe (\S+) ")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LARGEST_PAGE = 200  # KFP's limit


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        name: Its name.
        run_id: KFP's id.
        state: KFP's, but `CANCELED` where it was cancelled, and `PENDING` before Argo has taken it up.
        created: When it was submitted.
        finished: When it ended.
        recipe: Name of its recipe; empty where medmim did not submit it.
        link: Its page; empty where only KFP's API is known.
        uri: Where its recipe lies.
        steps: In the order of the graph; empty in lists.
        records: URI of its stages' records, once they were looked for.
        notes: What could not be read.
        retried: When KFP, asked by a person or by `retry`, last went on with it after it had failed.
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
    records: str = ""
    retried: datetime | None = None

    @property
    def folder(self) -> str:
        """URI of its stages' records; empty where medmim did not submit it."""
        if self.records:
            return self.records
        return self.uri.removesuffix(f"/{RECIPE}") if self.uri.endswith(f"/{RECIPE}") else ""

    @property
    def where(self) -> str:
        """Its page, or its id where no page is known."""
        return self.link or f"{self.run_id} in KFP"

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state not in ACTIVE

    @property
    def result(self) -> str:
        """Its state, but `refused` where a gate or an audit said no, which KFP calls failed."""
        return "refused" if self.ended and self.steps and self.exit_code == REFUSED else self.state.lower()

    @property
    def exit_code(self) -> int:
        """What the laptop's run would have ended with: that of the first stage that failed or refused."""
        codes = [step.record.exit_code for step in self.steps if step.record and step.record.exit_code]
        if codes and self.state != "CANCELED":
            return codes[0]
        if self.state != "SUCCEEDED":
            return TRY_AGAIN
        return REFUSED if any(step.record and step.record.status == "refused" for step in self.steps) else 0


class Deleted(UserError):
    """A run was deleted in KFP, or its Workflow in Kubernetes."""


def page(api: Api, size: int = 20, token: str = "") -> tuple[list[Run], str]:
    """The newest runs of medmim, and the token of the next page; empty on the last.

    Raises:
        UserError: The token is not one of this list.
    """
    page_token: dict[str, Any] = {"page_token": token} if token else {}
    try:
        listed = api.call(
            "listing runs",
            api.client.runs.run_service_list_runs,
            namespace=api.namespace or None,
            page_size=size,
            sort_by="created_at desc",
            filter=filtered({"operation": "IS_SUBSTRING", "key": "description", "string_value": _PREFIX}),
            **page_token,
        )
    except Refusal as error:
        if not token or error.status in (401, 403):
            raise
        raise UserError(
            f"no page '{token}' in the list of runs", reason=error.reason, fix="start again without --page"
        ) from None
    return [_run(api, one) for one in listed.runs or []], listed.next_page_token or ""


def find(api: Api, named: str) -> Run:
    """A run by id or name, with its steps.

    Raises:
        UserError: There is none (the reason names the nearest), or there are several (the problems have their ids).
    """
    if _ID.fullmatch(named.lower()):
        run = _get(api, named.lower())
        if run is None:
            raise _unknown(api, named)
        return run
    listed = api.call(
        "listing runs",
        api.client.runs.run_service_list_runs,
        namespace=api.namespace or None,
        filter=where(display_name=named),
        sort_by="created_at desc",
    )
    found = listed.runs or []
    if len(found) > 1:
        raise UserError(
            f"{len(found)} runs are called {named}",
            problems=[f"{one.run_id}, {one.created_at:%Y-%m-%d %H:%M}, {one.state or PENDING}" for one in found],
            fix="give the id",
        )
    given, digits = run_name.split(named)
    if not found and given:
        found = _of_records(api, named, digits)
    if not found:
        raise _unknown(api, named)
    run = refresh(api, _run(api, found[0]))
    return replace(run, notes=(*run.notes, str(stuck(run)))) if is_stuck(api, run) else run


def _unknown(api: Api, named: str) -> UserError:
    """The error for a run that does not exist, with those that may have been meant."""
    listed = page(api, _LARGEST_PAGE)[0]
    names = [one.name for one in listed]
    near = [one.name for one in listed if named in one.name or one.run_id.startswith(named.lower())]
    near = near or difflib.get_close_matches(named, names, 3, cutoff=0.5)
    if near:
        reason = f"the nearest names are {', '.join(near[:3])}"
    elif names:
        reason = f"no name is like it; the newest are {', '.join(names[:3])}"
    else:
        reason = "medmim has submitted none there"
    space = f", namespace {api.namespace}" if api.namespace else ""
    return UserError(
        f"KFP at {api.access.host}{space} has no run '{named}'",
        reason=reason,
        fix=f"`{hints.command('runs', 'list')}` shows names and ids; --host names another KFP",
    )


def _of_records(api: Api, named: str, digits: str) -> list[Any]:
    """The run whose records have that name, which a clone takes from its id."""
    listed = api.call(
        "listing runs",
        api.client.runs.run_service_list_runs,
        namespace=api.namespace or None,
        filter=filtered({"operation": "IS_SUBSTRING", "key": "run_id", "string_value": digits}),
    )
    return [one for one in listed.runs or [] if _located(_run(api, one), one).folder.endswith(f"/{named}")]


def newest(api: Api, beginning: str) -> Run | None:
    """The newest of medmim's runs whose name begins so, with its steps; None where there is none."""
    ours = {"operation": "IS_SUBSTRING", "key": "description", "string_value": _PREFIX}
    listed = api.call(
        "listing runs",
        api.client.runs.run_service_list_runs,
        namespace=api.namespace or None,
        sort_by="created_at desc",
        filter=filtered(ours, {"operation": "IS_SUBSTRING", "key": "display_name", "string_value": beginning}),
    )
    found = [one for one in listed.runs or [] if one.display_name.startswith(beginning)]
    return refresh(api, _run(api, found[0])) if found else None


def pending(made: Submitted) -> Run:
    """A run that was just submitted, before its first state is known."""
    return Run(made.run, made.run_id, PENDING, datetime.now(UTC), None, "", made.link, made.recipe)


def refresh(api: Api, run: Run) -> Run:
    """The run in its present state.

    Raises:
        Deleted: It was deleted.
    """
    now = _get(api, run.run_id)
    if now is None:
        fix = "submit the recipe again: finished steps are kept"
        raise Deleted(f"run {run.name} was deleted in KFP", fix=fix, exit_code=TRY_AGAIN)
    return now


def is_stuck(api: Api, run: Run) -> bool:
    """Whether KFP will never hear of a run's end, since its Workflow is gone; False where nobody can tell."""
    return not run.ended and pods.has_no_workflow(api, run.run_id)


def stuck(run: Run, reason: str = "") -> Deleted:
    """The error for such a run."""
    return Deleted(
        f"the Workflow of run {run.name} is gone, and KFP will call it {run.state.lower()} for ever",
        reason=reason,
        fix=f"nothing of it runs any more: `{hints.command('runs', 'delete', run.name)}`, then submit the recipe "
        "again: finished steps are kept",
    )


def _get(api: Api, run_id: str) -> Run | None:
    try:
        return _with_steps(api, api.call("getting a run", api.client.runs.run_service_get_run, run_id=run_id))
    except Refusal as error:
        if error.status != 404:
            raise
        return None


def _run(api: Api, one: Any) -> Run:
    history = one.state_history or []
    retries = [number for number, (before, _) in enumerate(pairwise(history), 1) if before.state == "FAILED"]
    states = [status.state for status in history[max(retries, default=0) :]]
    state = "CANCELED" if one.state == "FAILED" and "CANCELING" in states else one.state
    parameters = (one.runtime_config and one.runtime_config.parameters) or {}
    description = _DESCRIPTION.match(one.description or "")
    return Run(
        name=one.display_name,
        run_id=one.run_id,
        state=state or PENDING,
        created=one.created_at,
        finished=steps.time_of(one.finished_at),
        recipe=description[1] if description else "",
        link=api.link(f"runs/details/{one.run_id}"),
        uri=str(parameters.get("recipe", "")),
        retried=history[retries[-1]].update_time if retries else None,
    )


def _with_steps(api: Api, one: Any) -> Run:
    run = _run(api, one)
    listed = (one.run_details and one.run_details.task_details) or []
    run = _located(run, one)
    records, notes = _records(run)
    since = None if run.ended else run.retried
    return _with_waiting(api, replace(run, steps=steps.read(listed, records, since), notes=notes))


def _with_waiting(api: Api, run: Run) -> Run:
    """The run with what its pods wait for, where it has some that have not started and the cluster can be asked."""
    if run.ended or (run.steps and not any(step.state == "PENDING" for step in run.steps)):
        return run
    try:
        found = pods.waiting(api, run.run_id)
    except UserError as error:
        asked = f"what pods wait for is not known, since the cluster cannot be asked: {error.fact}"
        return replace(run, notes=(*run.notes, asked)) if run.steps else run
    waiting = tuple(replace(step, waiting=found.get(step.name, "")) for step in run.steps)
    notes = (f"a pod has not started: {found['']}",) if "" in found else ()
    return replace(run, steps=waiting, notes=(*run.notes, *notes))


def _located(run: Run, one: Any) -> Run:
    """The run with the address of its records: a clone has the recipe, and the name, of another run."""
    top, _, first = run.folder.rpartition("/")
    named = str(((one.runtime_config and one.runtime_config.parameters) or {}).get("run") or first)
    if not top.endswith("/runs") or not named:
        return run
    try:
        return replace(run, records=f"{top}/{run_name.of(top.removesuffix('/runs'), named, run.run_id)}")
    except UserError:  # reading the records says so
        return run


def _records(run: Run) -> tuple[dict[str, Outcome], tuple[str, ...]]:
    """The record of each stage in the store, and why others cannot be read."""
    try:
        if not run.folder:
            raise UserError("it was not started by `medmim submit`")
        store = open_store(run.folder)
        keys = set(store.list())
        texts = {name: store.read(f"{name}.json") for name in compiled.step_names() if f"{name}.json" in keys}
    except (UserError, FileNotFoundError) as error:
        return {}, (f"the stages' records cannot be read: {getattr(error, 'fact', error)}",)
    records: dict[str, Outcome] = {}
    notes: list[str] = []
    for name, text in texts.items():
        try:
            records[name] = parse_record(text, name, run.name)
        except UserError as error:
            notes.append(error.fact)
    return records, tuple(notes)
