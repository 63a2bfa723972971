"""Options that several commands have in common. Where medmim works is kept, for the commands that a message names."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmim import hints

if TYPE_CHECKING:
    from medmim.cluster.kfp.client import Api


def keep(parameter: typer.CallbackParam, value: Path | str | None) -> Path | str | None:
    """Keep an option's value for the messages of this process."""
    hints.remember(f"--{parameter.name}", value)
    return value


Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, dotted; may be given again."),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Folder of everything it writes. [default: MEDMIM_HOME or .medmim]",
        callback=keep,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout; its keys are a contract.")]
RecipeRef = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a file.")]
Host = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="URL",
        help="KFP's address. [default: KFP_ENDPOINT, KF_PIPELINES_ENDPOINT]",
        callback=keep,
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Your own in KFP. [default: KFP_NAMESPACE, platform.pods.namespace]",
        callback=keep,
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or id.")]


def connect(host: str | None, namespace: str | None) -> "Api":
    """The KFP server of these options. Raises as `access.resolve` and `client.connect`."""
    from medmim.cluster.kfp import client
    from medmim.cluster.kfp.access import resolve

    return client.connect(resolve(host, namespace))
