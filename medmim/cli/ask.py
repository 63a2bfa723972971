"""medmim ask: one question on images, to any model."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medmim.cli.options import Home, Json
from medmim.errors import UserError
from medmim.run.workspace import workspace

if TYPE_CHECKING:
    from PIL.Image import Image


def ask(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Shipped base, folder, store URI, models:/NAME@ALIAS or openai:URL#NAME."),
    ],
    rest: Annotated[list[str], typer.Argument(metavar='IMAGE... "QUESTION"', help="Image files, then the question.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 64,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Ask a model a question on any number of images.

    With --json: model, digest, images, question, answer, key (what decides the answer, as one digest).
    """
    from medmim.bench.engines import engine
    from medmim.lvlm.ask import Question
    from medmim.registry import lookup

    *files, question = rest
    if not question.strip() or Path(question).is_file():
        raise UserError("the question is missing", fix='put it last, in quotes: medmim ask MODEL IMAGE... "QUESTION"')
    images = [_open(file) for file in files]
    ws = workspace(home)
    found = engine(lookup.resolve(model, ws), ws)
    sys.stderr.write(f"model {found.digest}, home {ws.home}\n")
    (reply,) = found.ask([Question(question, images)], 1, max_new_tokens)
    if reply.error:
        raise UserError(f"{model} gave no answer", reason=reply.error)
    if as_json:
        facts = {"model": model, "digest": found.digest, "images": files, "question": question}
        typer.echo(json.dumps({**facts, "answer": reply.text, "key": reply.key}))
    else:
        typer.echo(reply.text.strip())


def _open(file: str) -> "Image":
    from medmim.data.sources.image_file import decode
    from medmim.data.sources.source import BadImage

    try:
        return decode(Path(file).read_bytes()).pixels.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"there is no image {file}") from None
    except BadImage as error:
        raise UserError(f"{file} cannot be used: {error}") from None
