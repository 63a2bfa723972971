"""The two ways to end a run: cancelling it, and deleting one in KFP that cannot end."""

import re

from medmim import hints
from medmim.cluster.kfp import runs
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.errors import Refusal
from medmim.cluster.kfp.runs import Run
from medmim.errors import Unavailable, UserError

_FAILED = 500  # of HTTP
_GONE = re.compile(r'workflows\.argoproj\.io "[^"]*" not found')


def cancel(api: Api, run: Run) -> bool:
    """Cancel a run; False where it has ended or is being cancelled already.

    Raises:
        Deleted: Its Workflow is gone, so that KFP cannot end it.
        Unavailable: KFP did not reach its Workflow.
        UserError: It was not submitted by medmim.
    """
    _refuse_foreign(run)
    if run.ended:
        return False
    if run.state == "CANCELING":
        if runs.is_stuck(api, run):
            raise runs.stuck(run)
        return False
    try:
        api.call("cancelling a run", api.client.runs.run_service_terminate_run, run_id=run.run_id)
    except Refusal as error:  # it ended or was cancelled meanwhile, or the answer to our first try was lost
        now = runs.refresh(api, run)
        if now.ended:
            return True
        if now.state != "CANCELING":
            raise
        if error.status == _FAILED and _GONE.search(error.reason):
            raise runs.stuck(run, error.reason) from None
        if error.status == _FAILED:
            again = hints.command("runs", "cancel", run.name)
            raise Unavailable(
                f"KFP did not reach the Workflow of run {run.name}, which goes on",
                reason=error.reason,
                fix=f"`{again}` in a minute: until Argo reports of it again, KFP says that it is being cancelled",
            ) from None
    return True


def delete(api: Api, run: Run) -> None:
    """Delete a run in KFP, and its Workflow with its pods if it still has one. What it left in the store stays.

    Raises:
        UserError: It was not submitted by medmim.
    """
    _refuse_foreign(run)
    try:
        api.call("deleting a run", api.client.runs.run_service_delete_run, run_id=run.run_id)
    except Refusal as error:  # the answer to our first try was lost
        if error.status != 404:
            raise


def _refuse_foreign(run: Run) -> None:
    if not run.recipe:
        raise UserError(f"run {run.name} was not submitted by medmim", fix=f"end it where it was started: {run.where}")
