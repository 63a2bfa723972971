"""A Job that a person starts from a terminal: followed to its end, which the end of the terminal is not."""

import time
from collections.abc import Callable, Sequence

from medmim.cluster.kube import Kube, Object
from medmim.cluster.ray.log import Log
from medmim.errors import TRY_AGAIN, UserError
from medmim.progress import say

_NO_POD = 15.0  # s without a pod until it is said where the reason stands


def follow(cluster: Kube, name: str, on_line: Callable[[str], None], poll: float = 1.0) -> int:
    """Wait for the end of a Job and hand on the lines of its log.

    Args:
        cluster: With the Job's namespace.
        name: The Job's.
        on_line: Called with each line, without its time.
        poll: Seconds between two looks.

    Returns:
        The exit code of its container; 75 where it ended without one, at its deadline or with its node.

    Raises:
        UserError: The Job was deleted.
        Unavailable: The API server does not answer; the Job goes on.
    """
    log, begin, told = Log(cluster, lambda: _pods(cluster, name)), time.monotonic(), ""
    while True:
        found = cluster.get("jobs", name)  # before its log: then no line of an ended one is missing
        if found is None:
            raise UserError(f"the Job {name} was deleted", fix="run the same command again")
        for line in log.new_lines():
            on_line(line)
        if end := ended(found):
            break
        waits = _waits_for(cluster, name, time.monotonic() - begin)
        if waits and waits != told:
            say(f"waiting: {waits}")
        told = waits
        time.sleep(poll)
    if end == "Complete":
        return 0
    codes = [code for pod in _pods(cluster, name) for code in _exit_codes(pod)]
    return codes[-1] if codes else TRY_AGAIN


def ended(job: Object) -> str:
    """`Complete` or `Failed`; empty while the Job goes on."""
    conditions = job.get("status", {}).get("conditions", [])
    found = {one["type"] for one in conditions if one["status"] == "True"} & {"Complete", "Failed"}
    return min(found, default="")


def _pods(cluster: Kube, name: str) -> Sequence[Object]:
    pods = cluster.list("pods", f"batch.kubernetes.io/job-name={name}")
    return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def _exit_codes(pod: Object) -> list[int]:
    states = [one.get("state", {}) for one in pod.get("status", {}).get("containerStatuses", [])]
    return [int(state["terminated"]["exitCode"]) for state in states if "terminated" in state]


def _waits_for(cluster: Kube, name: str, seconds: float) -> str:
    """What the newest pod waits for; empty once it runs."""
    pods = _pods(cluster, name)
    if not pods:
        described = f"`kubectl -n {cluster.namespace} describe job {name}`"
        return f"no pod was made yet, {described} says why" if seconds > _NO_POD else ""
    status = pods[-1].get("status", {})
    waiting = [one.get("state", {}).get("waiting", {}) for one in status.get("containerStatuses", [])]
    reasons = [f"{one['reason']}: {one['message']}" for one in waiting if "message" in one]
    reasons += [
        f"no node for its pod: {one.get('message', '')}"
        for one in status.get("conditions", [])
        if one.get("reason") == "Unschedulable"
    ]
    return "; ".join(reasons)
