"""Options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, dotted; may be given again."),
]
Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Folder of everything it writes. [default: MEDMIM_HOME or .medmim]"),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout; its keys are a contract.")]
RecipeRef = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a file.")]
Host = Annotated[
    str | None,
    typer.Option("--host", metavar="URL", help="KFP's address. [default: KFP_ENDPOINT, KF_PIPELINES_ENDPOINT]"),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Your own in KFP. [default: KFP_NAMESPACE, platform.pods.namespace]"),
]
