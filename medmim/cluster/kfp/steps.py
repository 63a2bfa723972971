"""The steps of a run, from the tasks that KFP lists and the records in the store."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from medmim.cluster.kfp import compiled, pods
from medmim.run.stage import Outcome

_EXECUTOR = re.compile(r"executor(\(\d+\))?")  # the task of a step's pod, in KFP's own settings of Argo with its try
_EPOCH = datetime(1971, 1, 1, tzinfo=UTC)  # KFP gives an earlier time for "not yet"


@dataclass(frozen=True)
class Step:
    """A step as KFP shows it, and as its record in the store does.

    Attributes:
        name: Of the task.
        state: KFP's, but `PENDING` while its pod, or its driver's, has not started; empty while it has not begun,
            `SKIPPED` where it never will.
        seconds: That it has taken so far; None where it has not begun.
        nodes: Argo's ids of its pods, the newest first.
        record: The stage's own; None while there is none.
        waiting: Why its pod has not started, as Kubernetes says; empty where nobody can say.
    """

    name: str
    state: str = ""
    seconds: float | None = None
    nodes: tuple[str, ...] = ()
    record: Outcome | None = None
    waiting: str = ""


def read(listed: Sequence[Any], records: Mapping[str, Outcome], since: datetime | None) -> tuple[Step, ...]:
    """The steps of a run, in the order of the graph.

    Args:
        listed: KFP's tasks, in no order.
        records: Of its stages.
        since: When KFP began to retry a run that goes on; else None.
    """
    tasks = {task.display_name: task for task in sorted(listed, key=_began)}  # Argo retries graphs too: the newest
    found = (_step(name, tasks, listed, records.get(name), since) for name in compiled.step_names())
    return tuple(step for step in found if step is not None)


def _step(
    name: str, tasks: dict[str, Any], listed: Sequence[Any], record: Outcome | None, since: datetime | None
) -> Step | None:
    """A step, as far as there is a task, a driver or a record of it.

    `since` is when KFP began to retry a run that goes on: it shows what failed before then until that begins again.
    """
    task, driver = tasks.get(name), tasks.get(f"{name}-driver")
    going = driver is not None and driver.state in ("PENDING", "RUNNING")
    if going and (task is None or _began(driver) > _began(task)):
        return Step(name, "PENDING", record=record)
    if task is None:
        return Step(name, record=record) if record else None
    begin, end = time_of(task.start_time), time_of(task.end_time)
    if since and end and end <= since and task.state != "SUCCEEDED":
        known = record or task.state
        return Step(name, "PENDING" if task.state else "", record=record) if known else None
    if not task.state and end:  # Argo's `Omitted`, which KFP does not know: one before it failed
        return Step(name, "SKIPPED", record=record)
    took = ((end or datetime.now(UTC)) - begin).total_seconds() if begin else None
    known = {child.pod_name for other in listed for child in other.child_tasks or [] if child.pod_name}
    nodes = pods.nodes([child.pod_name for child in task.child_tasks or [] if child.pod_name], known)
    waits = task.state == "RUNNING" and _pod_waits(listed, _began(task))
    return Step(name, "PENDING" if waits else task.state or "", took, nodes, record)


def _pod_waits(listed: Sequence[Any], since: datetime) -> bool:
    """Whether a pod that KFP lists since a step began has not started; a pod's task names no step, and one runs."""
    return any(
        task.state == "PENDING" for task in listed if _EXECUTOR.fullmatch(task.display_name) and _began(task) >= since
    )


def _began(task: Any) -> datetime:
    return time_of(task.start_time) or _EPOCH


def time_of(moment: datetime | None) -> datetime | None:
    """A time as KFP gives it; None for one that has not come."""
    return moment if moment and moment > _EPOCH else None
