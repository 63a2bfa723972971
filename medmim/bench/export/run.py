"""Writes the questions of tasks as a folder that another harness reads: `lmms-eval`, `vlmevalkit`.

    README.md      what it is, how to run it, its terms of use, where scores may differ
    terms.json     the terms of use of the data set
    export.json    marks the folder as an export: from which data set and tasks, with which files

The folder is there whole or not at all, and holds no time and no address: equal questions give equal bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim import __version__, shards, store, terms
from medmim.bench import clean, tasks
from medmim.bench.export import lmms_eval, parts, vlmevalkit
from medmim.data.export import records
from medmim.data.export.card import terms_section
from medmim.data.export.folder import refuse_other, refuse_place, whole, write_mark
from medmim.errors import UserError
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.terms import Terms

FORMATS: Mapping[str, Callable[..., str]] = {
    "lmms-eval": lmms_eval.write,
    "vlmevalkit": vlmevalkit.write,
}
"""Name of a harness -> what writes the questions for it, and returns how to run it."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: Where.
        questions: Task -> number of its questions.
        data: Digest of the data set.
        terms: Of the data set.
    """

    folder: Path
    questions: dict[str, int]
    data: str
    terms: Terms


def export(
    ws: Workspace,
    uri: str,
    refs: Sequence[str],
    folder: Path,
    form: str = "lmms-eval",
    limit: int | None = None,
    max_new_tokens: int = 32,
    in_house: bool = False,
    replace: bool = False,
) -> Export:
    """Write the questions of tasks for another harness.

    Args:
        ws: The workspace.
        uri: The data set.
        refs: Tasks, as `tasks.load` takes them.
        folder: Is created; an earlier export there for the same of the same data set is replaced.
        form: One of `FORMATS`.
        limit: Only the first `limit` questions of each task.
        max_new_tokens: Longest answer.
        in_house: The folder stays with those who may have the data, where its terms forbid passing it on.
        replace: Any other export there is replaced, too.

    Raises:
        UserError: The terms forbid it, nothing to ask, a data set without pixels, tasks whose files would have one
            name, or a folder that is something else.
    """
    _refuse_equal(sorted({tasks.load(ref)[0] for ref in refs}))
    source = store.get(uri)
    refuse_place(folder, ws.store)
    refuse_other(folder, form, source.digest, replace)
    allowed = terms_of(source)
    records.refuse_forbidden(allowed, in_house)
    data = store.fetch(source, ws.cache)
    refs = clean.resolved(ws, source, tasks.resolved(refs))
    if tuple(refs) == tasks.DOMAINS:  # as `bench run`: a file of questions may have one of them alone
        refs = [name for name, many in tasks.count(data, refs).items() if many] or refs
    items = {tasks.load(ref)[0]: tasks.select(data, [ref], limit) for ref in dict.fromkeys(refs)}
    images = shards.Images(data)
    made = Export(folder, {name: len(one.samples) for name, one in items.items()}, source.digest, allowed)
    records.announce(ws.store, folder)
    with whole(folder) as part:
        usage = FORMATS[form](part, items, images, max_new_tokens)
        (part / terms.FILE).write_text(allowed.dump(), encoding="utf-8")
        (part / "README.md").write_text(_readme(made, usage), encoding="utf-8")
        facts = {
            "medmim": __version__,
            "for": form,
            "data": source.digest,
            "tasks": {tasks.load(ref)[0]: tasks.load(ref)[1].digest for ref in refs},
            "limit": limit,
            "questions": made.questions,
            "max_new_tokens": max_new_tokens,
        }
        mark = write_mark(part, facts)
        asked = {sample.id: sample for one in items.values() for sample in one.samples}
        private = not allowed.redistribute_data
        records.write(ws.store, folder, form, source.digest, asked.values(), private, mark)
    return made


def _refuse_equal(names: Sequence[str]) -> None:
    """Refuse tasks whose files would have one name: one of them would be lost."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(parts.stem(name).casefold(), name)) != name:
            raise UserError(
                f"the files of the tasks {other} and {name} would have one name",
                reason="in those, whatever is no letter and no digit is `_`",
                fix="rename one of them, or export them into a folder each",
            )


def _readme(made: Export, usage: str) -> str:
    counts = "\n".join(f"| {name} | {count:,} |" for name, count in made.questions.items())
    return f"""# Questions for another harness, written by medmim

From the data set `{made.data}`.

| task | questions |
|---|---|
{counts}

{usage}
{terms_section(made.terms)}"""
