"""medmim ask: one question on images, to any model."""

import glob
import json
import os
import re
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from medmim import hints, sniff
from medmim.cli.options import Home, Json
from medmim.errors import UserError
from medmim.redact import escaped
from medmim.run.workspace import workspace
from medmim.store.paths import existing

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 100  # characters of a path that names nothing
_PATTERN = re.compile(r"(?=.*[*?\[])(\S*[*/]\S*|.+\.[a-z\[{]\S{0,6})", re.IGNORECASE)  # of a shell; `Which?` is none


def ask(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Shipped base, folder, store URI, models:/NAME@ALIAS, zoo:NAME or openai:URL#NAME."
        ),
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
    elif not reply.text.strip():
        sys.stderr.write("the answer is empty: weights may be untrained or damaged, or a chat template wrong\n")
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
        raise _absent(file)
    if path.is_dir():
        raise UserError(f"{file} is a folder, not an image", fix="give the files in it")
    data = b""
    try:
        data = read_image(path)
        return decode(data).pixels.convert("RGB")
    except BadImage as error:
        other = sniff.not_an_image(path, data[: sniff.HEAD]) if data else None
        raise other or UserError(f"{file} cannot be used: {error}", fix=sniff.IMAGES) from None


def _absent(file: str) -> UserError:
    """The error for an image that is not there: what its name is, and what to give in its place."""
    from medmim.data.sources.files import wrong_name

    shown = file if len(file) <= _SHOWN else f"{file[:_SHOWN]}..."
    path = hints.expanded(file)
    fix = "give image files first, and the question last, in quotes"
    if file.startswith("data:"):
        return UserError(f"{shown} is a data URL, not a file", fix="write the image to a file, and give that")
    if url := re.match(r"(?P<scheme>[a-z][a-z0-9+.-]+)://", file, re.IGNORECASE):
        return UserError(f"{shown} is a URL, not a file", fix=_local(file, url["scheme"].lower()))
    if os.path.islink(path):
        if os.path.islink(os.path.realpath(path)):
            return UserError(f"{shown} is a link that leads back to itself", fix="give the image file itself")
        return UserError(f"{shown} is a link to {os.path.realpath(path)}, which is missing", fix=fix)
    if _PATTERN.fullmatch(file):
        if glob.glob(str(path)):
            return UserError(
                f"{shown} is a pattern, not a file",
                fix="give it without quotation marks: the shell puts the files there",
            )
        return UserError(f"no file matches {shown}", fix="correct the pattern, or give the files themselves")
    full = f" ({path})" if str(path) != file and len(file) <= _SHOWN else ""
    return UserError(f"there is no image {shown}{full}", reason=wrong_name(path.parent, path.name), fix=fix)


def _local(url: str, scheme: str) -> str:
    """What to do about a URL that is given for an image."""
    from urllib.parse import unquote, urlsplit

    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        path = ""
    if scheme == "file" and path:
        return f"give its path: {shlex.quote(path)}"
    name = shlex.quote(path.rsplit("/", 1)[-1] or "image.png")
    if scheme in ("http", "https"):
        return f"download it first: `curl -fL -o {name} {shlex.quote(url)}`, then give {name}"
    return f"copy it to this machine, then give {name}"
