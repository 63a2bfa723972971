"""`medmim console`."""

from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home


def console(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens", metavar="FILE", help="Who may promote: a line `NAME TOKEN` each; read at each request."
        ),
    ] = None,
    identity_header: Annotated[
        str, typer.Option("--identity-header", help="In which the ingress says who asks, such as X-Forwarded-User.")
    ] = "",
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", help="Network of an ingress, whose word on who asks is taken: 10.0.0.0/8. Repeatable."),
    ] = None,
    promoter: Annotated[
        list[str] | None,
        typer.Option("--promoter", help="With --identity-header: who may promote. Repeatable. [default: nobody]"),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Host name by which it is reached; others are refused. Repeatable."),
    ] = None,
    home: Home = None,
) -> None:
    """Show leaderboards, items, data sets, models, nights and runs as web pages, and promote in them.

    Whoever reaches the address reads. On this machine alone (127.0.0.1) the address that is printed lets you promote;
    elsewhere, --tokens or --identity-header say who may.
    """
    from medmim_console import server

    access = server.access(host, tokens, identity_header, proxy or (), promoter or ())
    server.run(home, host, port, access, name or ())
