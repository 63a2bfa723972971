"""The nodes of a run's Argo Workflow, as KFP 2.17 lists them in `run_details.task_details`.

KFP's stock Argo configuration has templateDefaults.retryStrategy, so that each step is Retry > DAG > Retry > Pod:
`data` > `data(0)` > `executor` > `executor(0)`. KFP shows of a node its display name, its times, its state and its
children's ids, but neither its own id nor its pod's name; the list is in the order of the ids, which are hashes. What
comes after a step in the graph is a child of its pod.

Ids and pods are named as in Argo 4.0 (NodeID and GeneratePodName in workflow/util); KFP's names of templates are in
backend/src/v2/compiler/argocompiler/container.go.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid5

IMPL = "metadata-2-3-system-container-impl"  # the template of pods with two annotations and three labels
UNSPECIFIED = "RUNTIME_STATE_UNSPECIFIED"  # the zero of its enumeration, which the server leaves out of its JSON
NOT_YET = "0001-01-01T00:00:00Z"  # Go's zero time
GOING = ("PENDING", "RUNNING")
Object = dict[str, Any]


def fnv1a(text: str) -> int:
    """FNV-1a of 32 bits."""
    found = 0x811C9DC5
    for byte in text.encode():
        found = (found ^ byte) * 0x01000193 % 2**32
    return found


def node_id(run: Object, node: str) -> str:
    return f"{run['_workflow']}-{fnv1a(node)}"


def pod_name(run: Object, node: str) -> str:
    return f"{run['_workflow']}-{IMPL}-{fnv1a(node)}"


def chain(run: Object, step: str, stock: bool, again: int) -> list[tuple[str, str]]:
    """(node name, display name) of a step's nodes, from its task to its pod."""
    if not stock:
        top = f"{run['_workflow']}.root.exit-handler-1.{step}"
        return [(top, step), (f"{top}.executor", "executor")]
    top = f"{run['_workflow']}({again}).root(0).exit-handler-1(0).{step}"
    executor = f"{top}(0).executor"
    return [(top, step), (f"{top}(0)", f"{step}(0)"), (executor, "executor"), (f"{executor}(0)", "executor(0)")]


def drivers(run: Object, step: str, stock: bool, again: int) -> list[tuple[str, str]]:
    """The same of a step's driver, whose pod has other names and none of medmim's labels."""
    top = chain(run, step, stock, again)[0][0] + "-driver"
    return [(top, f"{step}-driver"), *([(f"{top}(0)", f"{step}-driver(0)")] if stock else [])]


def begin(run: Object, step: str, state: str, stock: bool, again: int) -> str:
    """Put a step's nodes into the run, in the state of its pod; the name of the pod's node."""
    nodes = run.setdefault("_nodes", {})
    driver, task = drivers(run, step, stock, again), chain(run, step, stock, again)
    for before in run.get("_leaves", ()):
        if before in nodes and before != task[-1][0]:
            nodes[before]["_children"].setdefault(driver[0][0])
    _put(run, driver, "SUCCEEDED", after=task[0][0])
    _put(run, task, state)
    run["_leaves"] = [task[-1][0]]
    _list(run)
    return task[-1][0]


def omit(run: Object, steps: tuple[str, ...], stock: bool) -> None:
    """Steps that will never begin, since one before them failed: each began and ended when that was known."""
    for step, following in zip(steps, [*steps[1:], ""], strict=True):
        tops = [drivers(run, step, stock, 0)[0], chain(run, step, stock, 0)[0]]
        after = drivers(run, following, stock, 0)[0][0] if following else ""
        _put(run, tops[:1], UNSPECIFIED, after=tops[1][0])
        _put(run, tops[1:], UNSPECIFIED, after=after)
    _list(run)


def named(run: Object, node: str) -> Iterator[str]:
    """The names by which KFP's archive finds the log of a pod: its own, and the ids of up to three nodes above it."""
    yield pod_name(run, node)
    nodes, current = run["_nodes"], node
    for _ in range(4):
        yield node_id(run, current)
        above = [name for name, one in nodes.items() if current in one["_children"]]
        if not above:
            return
        current = above[0]


def _put(run: Object, names: list[tuple[str, str]], state: str, after: str = "") -> None:
    nodes, at = run.setdefault("_nodes", {}), datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    for number, (node, display) in enumerate(names):
        last = number == len(names) - 1
        shown = state if last or state not in GOING else "RUNNING"
        one = nodes.setdefault(node, {"display_name": display, "start_time": at, "_children": {}})
        if one.get("state") != shown:
            one |= {"state": shown, "end_time": NOT_YET if state in GOING else at}
        if not last or after:
            one["_children"].setdefault(after if last else names[number + 1][0])


def _list(run: Object) -> None:
    """All nodes as KFP shows them."""
    run["run_details"] = {"task_details": []}
    for node, one in sorted(run["_nodes"].items(), key=lambda item: node_id(run, item[0])):
        children = [{"pod_name": node_id(run, child)} for child in one["_children"]]
        ids = {"run_id": run["run_id"], "task_id": str(uuid5(NAMESPACE_OID, node)), "execution_id": "0"}
        shown = {key: value for key, value in one.items() if key != "_children"}
        task = {**ids, **shown, "create_time": run["created_at"], "child_tasks": children}
        run["run_details"]["task_details"].append(task)
