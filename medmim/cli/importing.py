"""What `base import` and `zoo import` have in common: where a checkpoint comes from and goes to, here or in a Job."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medmim import hints
from medmim.errors import UserError

if TYPE_CHECKING:
    from medmim.run.workspace import Workspace
    from medmim.terms import Terms

SOURCE = "A folder, s3://BUCKET/PREFIX, or with --hub OWNER/NAME."
Store = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="The store. [default: MEDMIM_STORE or that of the home]")
]
Hub = Annotated[bool, typer.Option("--hub", help="Download it from the Hugging Face Hub.")]
TermsOfUse = Annotated[
    str | None,
    typer.Option(
        "--terms",
        metavar="NAME|FILE",
        help="llama3, llava-med, ..., or a terms.json. [default: that of the source, or what is known of the model]",
    ),
]
OnCluster = Annotated[bool, typer.Option("--on-cluster", help="In a Job of the cluster; --store is s3://.")]
Image = Annotated[
    str | None,
    typer.Option("--image", metavar="IMAGE", help="Of the Job. [default: MEDMIM_CUDA_IMAGE, or MEDMIM_IMAGE]"),
]
Disk = Annotated[
    str,
    typer.Option(
        "--disk", metavar="SIZE", help="Scratch disk of the Job: 4 GB and the checkpoint, twice where it is converted."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --on-cluster: print the Job, create nothing.")]


def terms_given(given: str | None) -> "Terms | None":
    """Terms by their name or from a file; None where none are given."""
    from medmim import terms

    if given is None:
        return None
    if given in terms.PUBLISHED:
        return terms.PUBLISHED[given]
    try:
        return terms.parse(hints.expanded(given).read_bytes(), given)
    except OSError:
        raise UserError(
            f"there are no terms '{given}'", fix=f"give a file, or one of: {', '.join(terms.PUBLISHED)}"
        ) from None


def words(hub: bool, **given: str | None) -> list[str]:
    """The options of the command in a Job; those without a value are left out."""
    named = (part for name, value in given.items() if value for part in (f"--{name.replace('_', '-')}", value))
    return [*(["--hub"] if hub else []), *named]


def submit(job: Mapping[str, Any], dry_run: bool, namespace: str | None) -> None:
    """Run a Job and print what it says last, or print the Job alone."""
    from medmim.cluster import base_import

    if dry_run:
        import yaml

        typer.echo(yaml.safe_dump(job, sort_keys=False), nl=False)
    else:
        typer.echo(base_import.run(dict(job), namespace))


def refuse_options_of_the_job(dry_run: bool, image: str | None) -> None:
    """Raise a UserError for what is of no use without --on-cluster."""
    if dry_run or image:
        raise UserError("--dry-run and --image are for --on-cluster", fix="add --on-cluster, or leave them out")


def to_store(home: Path | None, store: str | None) -> "Workspace":
    """The workspace, with the store that is given."""
    from medmim import store as stores
    from medmim.run.workspace import workspace

    ws = workspace(home)
    return replace(ws, store=stores.open_store(store).uri) if store else ws
