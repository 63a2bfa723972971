"""KFP's own retry of a run that failed without a stage's failure record: a step's pod was evicted, drained or lost.

Argo starts a pod again only where the pod's object vanished. KFP's retry of a run keeps what succeeded and starts the
rest, in the same Workflow, so a step adopts the Ray job that its earlier try began. It does not write the run's report
again, since its pod has succeeded: RetryRun of backend/src/apiserver/resource/resource_manager.go, 2.17.0.
"""

from collections.abc import Callable

from medmim.cluster.kfp import pods
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.runs import Run, refresh
from medmim.errors import Unavailable, UserError


def go_on(api: Api, run: Run, say: Callable[[str], None]) -> bool:
    """Have KFP retry a run, if that may help: once, and never where a stage says why it failed.

    Args:
        api: The server.
        run: A run that has ended.
        say: Gets what was done, in one line.

    Returns:
        Whether the run goes on.
    """
    if not worth(run):
        return False
    if pods.was_terminated(api, run.run_id):
        say(f"run {run.name} was cancelled, by its Workflow: KFP does not retry it")
        return False
    lost = f"run {run.name} failed, and no stage recorded why ({_why(api, run)})"  # KFP's retry deletes the pods
    try:
        _retry(api, run)
    except UserError as error:
        why = "; ".join(part for part in (error.fact, error.reason) if part)
        say(f"{lost}; KFP does not retry it: {why}")
        return False
    say(f"{lost}; KFP retries the run, once: what is finished stays, and a Ray job goes on")
    return True


def _why(api: Api, run: Run) -> str:
    """What Kubernetes says of the pods that failed."""
    try:
        found = pods.failures(api, run.run_id)
    except UserError:
        found = {}
    return "; ".join(f"{step or 'the graph'}: {why}" for step, why in found.items()) or "a pod was evicted or lost"


def worth(run: Run) -> bool:
    """Whether a run failed for the first time, and all its records can be read and none says why."""
    failed = [
        step
        for step in run.steps
        if step.record and (step.record.status != "done" or step.record.exit_code) and not step.record.terminated
    ]
    return bool(run.state == "FAILED" and run.recipe and not (failed or run.retried or run.notes))


def _retry(api: Api, run: Run) -> None:
    try:
        retried = api.client.runs.run_service_retry_run
        api.call("retrying a run", retried, idempotent=False, run_id=run.run_id)
    except UserError:  # also a lost answer
        try:
            goes_on = not refresh(api, run).ended
        except Unavailable:
            goes_on = True  # not known: whoever follows the run will see
        if not goes_on:
            raise
