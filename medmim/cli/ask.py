"""medmim ask: one question on images, to any model."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from medmim.cli.options import Home, Json
from medmim.errors import UserError
from medmim.redact import escaped
from medmim.run.workspace import workspace
from medmim.store.paths import existing

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 100  # characters of a path that names nothing


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

    With --json: model, digest, images, question, answer, key (what decides the answer, as one digest), cut.
    """
    from medmim.bench.engines import engine
    from medmim.lvlm.ask import Question
    from medmim.registry import lookup

    *files, question = rest
    path = existing(question)
    if not question.strip() or (path is not None and path.is_file()):
        raise UserError("the question is missing", fix='put it last, in quotes: medmim ask MODEL IMAGE... "QUESTION"')
    images = [_open(file) for file in files]
    ws = workspace(home)
    found = engine(lookup.resolve(model, ws), ws)
    sys.stderr.write(f"model {found.digest}, home {ws.home}\n")
    (reply,) = found.ask([Question(question, images)], 1, max_new_tokens)
    if reply.error:
        raise UserError(f"{model} gave no answer", reason=reply.error)
    if reply.cut:
        sys.stderr.write(f"the answer was cut at {max_new_tokens} new tokens; --max-new-tokens allows more\n")
    if as_json:
        facts = {"model": model, "digest": found.digest, "images": files, "question": question}
        typer.echo(json.dumps({**facts, "answer": reply.text, "key": reply.key, "cut": reply.cut}))
    else:
        typer.echo(escaped(reply.text.strip()))


def _open(file: str) -> "Image":
    from medmim.data.sources.files import read_image
    from medmim.data.sources.image_file import decode
    from medmim.data.sources.source import BadImage

    path = existing(file)
    if path is None:
        shown = file if len(file) <= _SHOWN else f"{file[:_SHOWN]}..."
        raise UserError(f"there is no image {shown}", fix="give image files first, and the question last, in quotes")
    if path.is_dir():
        raise UserError(f"{file} is a folder, not an image", fix="give the files in it")
    try:
        return decode(read_image(path)).pixels.convert("RGB")
    except BadImage as error:
        raise UserError(f"{file} cannot be used: {error}") from None
