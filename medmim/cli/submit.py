"""medmim submit: a recipe's whole pipeline on a cluster, by Kubeflow Pipelines."""

import json
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from medmim import hints
from medmim.cli.options import Host, Json, Namespace, RecipeRef, Sets
from medmim.cli.run import new_name
from medmim.recipe import loading


def submit(
    recipe: RecipeRef,
    sets: Sets = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run, and exit with its result.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be done.")] = False,
    host: Host = None,
    namespace: Namespace = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="medmim's image; pinned by digest. [default: platform.pods.image, MEDMIM_IMAGE]"),
    ] = None,
    cuda_image: Annotated[
        str | None,
        typer.Option(
            "--cuda-image", help="The one with torch. [default: --image, or platform.pods, MEDMIM_CUDA_IMAGE]"
        ),
    ] = None,
    experiment: Annotated[str | None, typer.Option("--experiment", help="KFP's experiment. [default: medmim]")] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe on a cluster: check recipe and cluster, upload the pipeline once, start the run.

    Exit codes with --wait are those of `medmim run`; a cancelled run ends with 75. With --json the last line is one
    object: run, run_id, link, recipe, pipeline, version, new_version; with --wait also state, steps and exit_code.
    """
    from medmim.bench import tasks
    from medmim.cluster.kfp.access import resolve
    from medmim.cluster.kfp.submit import describe, plan, start

    parsed = tasks.in_recipe(loading.load(recipe, sets or ()))
    access = partial(resolve, host, namespace or parsed.platform.pods.namespace)
    out = Console(stderr=as_json, highlight=False)
    named = {"image": image, "cuda_image": cuda_image}
    planned = plan(parsed.pipeline, parsed, new_name(parsed), access=access, experiment=experiment, **named)
    for note in planned.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    if dry_run:
        _print_plan(out, describe(planned), as_json)
        return
    made = start(planned)
    link = f"\n          {made.link}" if made.link else ""
    out.print(f"run       {made.run}{link}", markup=False, soft_wrap=True)
    version = "new" if made.new_version else "known"
    out.print(f"pipeline  {made.pipeline}, version {made.version[:12]} ({version})", markup=False, soft_wrap=True)
    images = "\n          ".join(dict.fromkeys((planned.image, planned.cuda_image)))
    out.print(f"image     {images}\nrecipe    {made.recipe}", markup=False, soft_wrap=True)
    report: dict[str, Any] = asdict(made)
    code = 0
    if wait:
        from medmim.cli.follow import follow
        from medmim.cluster.kfp import runs

        run, code = follow(planned.api, runs.pending(made))
        report |= {"state": run.state, "exit_code": code, "steps": [asdict(step) for step in run.steps]}
    else:
        out.print(f"next      {hints.command('runs', 'show', made.run)}", markup=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(report))
    raise typer.Exit(code)


def _print_plan(out: Console, planned: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(planned))
        return
    out.print("nothing was changed; this would be done:")
    for key, value in planned.items():
        if key != "notes":
            out.print(f"  {key:12}{value}", markup=False, soft_wrap=True)
