"""medmim runs cancel | delete: the two ways to end a run."""

import json

import typer

from medmim import hints
from medmim.cli.options import Host, Json, Namespace, RunName, connect


def cancel(named: RunName, host: Host = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """Cancel a run that has not ended. With --json: run, run_id, was, cancelled."""
    from medmim.cluster.kfp import end, runs

    api = connect(host, namespace)
    run = runs.find(api, named)
    done = end.cancel(api, run)
    if as_json:
        typer.echo(json.dumps({"run": run.name, "run_id": run.run_id, "was": run.state, "cancelled": done}))
    elif not done:
        typer.echo(f"run {run.name} is {run.state.lower()} already")
    else:
        typer.echo(
            f"run {run.name} is being cancelled\nits Ray jobs end with their step; else with the next "
            f"`{hints.command('runs', 'sweep')}`, or when their Lease expires (platform.pods.lease_seconds);\n"
            "finished steps and checkpoints are kept: the same recipe resumes from them"
        )


def delete(named: RunName, host: Host = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """Delete a run in KFP, and its pods if it has any: the way out where its Workflow is gone and it cannot end.

    Its records, artifacts and checkpoints stay in the store. With --json: run, run_id, was, deleted.
    """
    from medmim.cluster.kfp import end, runs

    api = connect(host, namespace)
    run = runs.find(api, named)
    end.delete(api, run)
    if as_json:
        typer.echo(json.dumps({"run": run.name, "run_id": run.run_id, "was": run.state, "deleted": True}))
    else:
        typer.echo(f"run {run.name} was deleted in KFP; finished steps are kept: the same recipe resumes from them")
