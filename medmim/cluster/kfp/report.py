"""The report of a run that was cancelled or lost, written here where its own step did not.

KFP cancels by a deadline of the whole Workflow, which ends the report's pod as well unless it has begun before Argo's
controller looks again: of seven runs that were cancelled on a real server four had a report. Nor does KFP's retry of a
run write it again: a step that it starts removes the one of the run's earlier end.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from medmim.cluster.kfp.runs import Run
from medmim.cluster.kfp.steps import Step
from medmim.errors import UserError
from medmim.recipe.parameter import from_parameter
from medmim.run.stage import NIGHTLY, Outcome
from medmim.run.workspace import workspace

_STEP = "report"


def completed(run: Run) -> Run:
    """A run that ended without its report, with the record of the one that is written now, or a note why it is not."""
    records = {step.name: step.record for step in run.steps if step.record}
    lost = run.state == "CANCELED" or (run.state == "FAILED" and bool(records))  # KFP may call a cancelled run failed
    lost = lost or (run.state == "SUCCEEDED" and run.retried is not None)  # what KFP retries are not the last steps
    nightly = {step.name for step in run.steps} & (set(NIGHTLY) - {"data"})
    done = _STEP in records and records[_STEP].status == "done"
    if not lost or done or nightly or not run.folder:
        return run
    try:
        written = _write(run)
    except UserError as error:
        return replace(run, notes=(*run.notes, f"its report could not be written: {error.fact}"))
    if written is None:
        return run
    own = replace(next((step for step in run.steps if step.name == _STEP), Step(_STEP)), record=written)
    return replace(run, steps=(*(step for step in run.steps if step.name != _STEP), own))


def _write(run: Run) -> Outcome | None:
    from medmim.bench.page import report

    recipe, name = from_parameter(run.uri), run.folder.rpartition("/")[2]
    if name.startswith(f"{recipe.name}-nightly-"):  # of a night, before it got to a step that shows that
        return None
    # no example questions: they need the data set, which may be large, and patients' images, on this machine
    recipe = recipe.model_copy(update={"report": recipe.report.model_copy(update={"examples": 0})})
    with tempfile.TemporaryDirectory(prefix="medmim-") as home:
        return report.run(recipe, workspace(Path(home), recipe, name))
