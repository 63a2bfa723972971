"""Asks a language model for wordings, and holds each reply against the forms: the book that a person then reads."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from medmim.data.words import ask, check, forms, prompt
from medmim.data.words.ask import Replies, Said, Server
from medmim.data.words.book import Book, Wordings
from medmim.data.words.forms import Part
from medmim.data.words.lie import Lie
from medmim.errors import UserError
from medmim.progress import bar

_SHOWN = 300  # characters of a rejected reply


@dataclass(frozen=True)
class Proposal:
    """What came of it.

    Attributes:
        book: The wordings, each once.
        unanswered: Why a request had no reply; empty where all had one.
        rejected: Family -> each reply that was rejected, with the reason.
        counts: `asked` (wordings that were asked for), `wordings`, `requests`, `prompt_tokens`, `reply_tokens`, and
            `rejected`: reason -> replies, of all tries.
    """

    book: Book
    rejected: Mapping[str, list[str]]
    counts: Mapping[str, Any]
    unanswered: str = ""


@dataclass
class _Task:
    family: str
    part: Part
    first: str
    request: str
    text: str = ""


def propose(server: Server, families: Sequence[str], wordings: int, tries: int, kept: Replies) -> Proposal:
    """Ask for wordings of questions, and of the answers that are worded. Nothing of a data set is asked about or sent.

    Args:
        server: Whom to ask.
        families: Kinds of questions; all of `forms.families` by default, where it is empty.
        wordings: How many of each.
        tries: Requests for one; a rejected one is asked for again with the reason.
        kept: Replies of earlier calls; added to.

    Raises:
        UserError: As `ask.ask`, or there is no such family.
        Unavailable: Likewise; replies so far are kept.
    """
    known = forms.families()
    if unknown := [name for name in families if name not in known]:
        raise UserError(
            f"there is no kind of question '{unknown[0]}'",
            reason=f"they are {', '.join(known)}",
            fix="name one of them",
        )
    parts: tuple[Part, ...] = ("question", "answer")
    wanted = [(name, part) for name in families or known for part in parts if forms.has(name, part)]
    tasks = [
        _Task(name, part, request := prompt.of(name, part, number), request)
        for name, part in wanted
        for number in range(wordings)
    ]
    counts: Counter[str] = Counter()
    rejected: dict[str, list[str]] = defaultdict(list)
    seen: set[tuple[str, Part, str]] = set()
    open_, unanswered = tasks, ""
    for number in range(tries):
        if not open_:
            break
        with bar("words" if number == 0 else f"words, try {number + 1}", len(open_), "texts") as progress:
            replies = ask.ask(server, [task.request for task in open_], kept, progress.add)
        following = []
        for task, said in zip(open_, replies, strict=True):
            try:
                text = _taken(task, said)
                if (task.family, task.part, text) in seen:
                    raise Lie("is the same as another one", text)
            except Lie as lie:
                counts[lie.kind] += 1
                unanswered = said.error or unanswered
                if not said.text:  # a server that did not answer was tried again by itself
                    continue
                rejected[task.family].append(f"{task.part}: {_shown(said.text)} ({lie})")
                task.request = prompt.again(task.first, said.text, str(lie), number + 2)
                following.append(task)
            else:
                task.text = text
                seen.add((task.family, task.part, text))
        open_ = following
    lists = {
        name: Wordings(questions=_texts(tasks, name, "question"), answers=_texts(tasks, name, "answer"))
        for name in families or known
    }
    facts = {
        "asked": len(tasks),
        "wordings": len(seen),
        "requests": kept.asked,
        "prompt_tokens": kept.tokens[0],
        "reply_tokens": kept.tokens[1],
        "rejected": dict(sorted(counts.items())),
    }
    return Proposal(Book(families=lists), rejected, facts, unanswered)


def _taken(task: _Task, said: Said) -> str:
    """The wording in a reply.

    Raises:
        Lie: There is none.
    """
    if said.error:
        raise Lie("refused" if said.error.startswith("the model refuses") else "no reply", said.error)
    if said.cut:
        raise Lie("was cut at the token limit", "be shorter")
    try:
        text = prompt.read(said.text)
    except ValueError as error:
        raise Lie("is not the JSON that was asked for", str(error)) from None
    return check.wording(text, task.family, task.part)


def _shown(reply: str) -> str:
    """A rejected reply as a person reads it: its text, where it has one."""
    with suppress(ValueError):
        reply = prompt.read(reply)
    return " ".join(reply.split())[:_SHOWN]


def _texts(tasks: Sequence[_Task], family: str, part: Part) -> tuple[str, ...]:
    return tuple(task.text for task in tasks if task.text and (task.family, task.part) == (family, part))
