"""medmim serve: a model behind the API of OpenAI, which follows the champion."""

from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home
from medmim_inference.limits import Limits
from medmim_inference.rules import Engine, Rules


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="models:/NAME@champion, which is followed; a version, a folder, a store URI, zoo:NAME.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    engine: Annotated[Engine, typer.Option(help="What runs the model.")] = Rules.by,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked together at most.")] = 32,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help="Bearer tokens that may ask, a line each; read at each request."),
    ] = None,
    identity_header: Annotated[
        str, typer.Option(metavar="NAME", help="Header in which an ingress says who asks, such as X-Forwarded-User.")
    ] = "",
    proxy: Annotated[
        list[str] | None, typer.Option("--proxy", metavar="CIDR", help="Network of that ingress. Repeatable.")
    ] = None,
    anyone: Annotated[bool, typer.Option("--anyone", help="Let whoever reaches this address ask.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks at the alias.")] = Rules.every,
    canary: Annotated[
        int, typer.Option(min=0, help="Benched questions that a new model is asked first.")
    ] = Rules.questions,
    agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them that it must answer as it was benched.")
    ] = Rules.agreement,
    max_images: Annotated[int, typer.Option(min=0, help="Images of a request.")] = Limits.images,
    max_mib: Annotated[int, typer.Option(min=1, help="MiB of a request.")] = Limits.body >> 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = Limits.pixels,
    max_pixels_in_all: Annotated[
        int, typer.Option(min=1, help="Pixels of all images of a request, held decoded: 3 bytes each.")
    ] = Limits.pixels_in_all,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = Limits.new_tokens,
    seconds: Annotated[float, typer.Option(min=1, help="From a whole request to its answer.")] = Limits.wait,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait for the model.")] = Limits.waiting,
    home: Home = None,
) -> None:
    """Answer the questions of OpenAI clients, with the model that a name of the registry means at each moment."""
    from medmim_inference import server

    access = server.access(host, tokens, identity_header, proxy or (), anyone)
    limits = Limits(
        images=max_images,
        body=max_mib << 20,
        pixels=max_pixels,
        pixels_in_all=max_pixels_in_all,
        new_tokens=max_new_tokens,
        wait=seconds,
        waiting=waiting,
    )
    rules = Rules(by=engine, every=every, questions=canary, agreement=agreement)
    server.run(model, home, host, port, access, limits, rules, batch_size)
