"""medmim data words propose | approve: wordings of questions by a language model, which a person reads."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home, Json

app = typer.Typer(no_args_is_help=True, help="Other words for questions: a language model proposes, a person approves.")


@app.command()
def propose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the wordings, to be read; absent yet.")],
    endpoint: Annotated[
        str, typer.Option("--endpoint", metavar="URL", help="A server with the OpenAI API: http://127.0.0.1:8000/v1.")
    ],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The model, as the server calls it.")],
    wordings: Annotated[int, typer.Option("--wordings", min=1, help="Of each kind of question, and of answer.")] = 8,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="A kind of question; may be given again. [default: all]")
    ] = None,
    tries: Annotated[int, typer.Option("--tries", min=1, help="A rejected one is asked for again, so often.")] = 3,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest reply.")] = 200,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Requests under way.")] = 8,
    per_minute: Annotated[
        int | None, typer.Option("--per-minute", min=1, help="Most requests in a minute. [default: no limit]")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Have a language model word the kinds of questions; each reply is checked, what is rejected is told.

    Nothing of any data set is read or sent: wordings have slots, which a build fills. Replies are kept in the home, so
    that what was interrupted goes on. With --json: file, asked, wordings, requests, prompt_tokens, reply_tokens,
    rejected (reason -> replies).
    """
    from medmim import hints
    from medmim.data.words import ask, book
    from medmim.data.words import propose as proposals
    from medmim.errors import wrap_os_errors
    from medmim.lvlm import openai_client
    from medmim.run.workspace import workspace
    from medmim.store.folder import write_atomically

    ws = workspace(home)
    openai_client.check(endpoint, "http://127.0.0.1:8000/v1")
    target = hints.expanded(file).absolute()
    _refuse_present(target)
    server = ask.Server(endpoint, model, max_tokens, at_once, per_minute)
    made = proposals.propose(server, family or (), wordings, tries, ask.replies(ws.home, model))
    command = hints.command("data", "words", "approve", str(file))
    with wrap_os_errors(f"writing {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_present(target)  # again: asking may have taken hours
        write_atomically(target, [book.dump(made.book, made.rejected, f" by {model}", command).encode()])
    if as_json:
        typer.echo(json.dumps({"file": str(target), **made.counts}))
        return
    counts = made.counts
    typer.echo(
        f"{counts['wordings']:,} of {counts['asked']:,} wordings, {counts['requests']:,} requests, "
        f"{counts['prompt_tokens']:,} tokens of prompts, {counts['reply_tokens']:,} of replies"
    )
    for reason, number in counts["rejected"].items():
        typer.echo(f"{number:,} replies rejected: {reason}")
    if made.unanswered:
        sys.stderr.write(f"without a reply, as the last one: {made.unanswered}\n")
    if counts["wordings"]:
        sys.stderr.write(f"read {target}, then: {command}\n")
    else:
        sys.stderr.write(f"no wording to approve; the rejected ones are in {target}: delete it to ask again\n")


def _refuse_present(target: Path) -> None:
    from medmim.errors import UserError

    if target.exists():
        raise UserError(
            f"{target} is there already",
            reason="it may hold wordings that somebody has read",
            fix="give the name of another file, or delete it; replies are kept, nothing is asked for twice",
        )


@app.command()
def approve(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Wordings that you have read.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; it is recorded that nobody was asked.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show each wording of a file as it will read, and put them into the store once you say that all are right.

    A recipe then names them by their digest. With --json, which needs --yes: uri, digest, wordings (kind of question ->
    number).
    """
    from rich.console import Console
    from rich.markup import escape

    from medmim import hints
    from medmim.data.words import book
    from medmim.errors import UserError
    from medmim.run.workspace import workspace

    if as_json and not yes:
        raise UserError(
            "--json asks no question", reason="a person approves wordings", fix="read the file, then give --yes, too"
        )
    ws = workspace(home)
    found = book.read(hints.expanded(file).absolute())
    if not yes:
        console, before = Console(highlight=False), ""
        for family, part, text, example in book.examples(found):
            if before != family:
                console.print(f"[bold]{family}[/]")
                before = family
            console.print(f"  {part:<9}{escape(text)}\n           [dim]{escape(example)}[/]", soft_wrap=True)
        if not typer.confirm("Does each of them ask, or say, what its kind does, whatever its slots hold?"):
            sys.stderr.write("nothing was approved\n")
            raise typer.Exit(1)
    made = book.approve(ws, found, shown=not yes)
    if as_json:
        typer.echo(json.dumps({"uri": made.uri, "digest": made.digest, **made.counts}))
        return
    typer.echo(f"data:\n  words:\n    approved: {made.digest}")
    sys.stderr.write(f"approved as {made.uri}; the lines above go into a recipe\n")
