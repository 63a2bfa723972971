"""Writes the questions of tasks as a folder that another harness reads: `lmms-eval`, `vlmevalkit`.

    README.md      what it is, how to run it, its terms of use, where scores may differ
    terms.json     the terms of use of the data set
    export.json    marks the folder as an export: from which data set and tasks, with which files

The folder is there whole or not at all, and holds no time and no address: equal questions give equal bytes.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import __version__, shards, store, terms
from medmim.bench import tasks
from medmim.bench.export import lmms_eval, parts, vlmevalkit
from medmim.errors import UserError, wrap_os_errors
from medmim.run.lock import scratch
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.terms import Terms

MARK = "export.json"
_PART = ".medmim-export-"  # begins the name of an unfinished one
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
) -> Export:
    """Write the questions of tasks for another harness.

    Args:
        ws: The workspace.
        uri: The data set.
        refs: Tasks, as `tasks.load` takes them.
        folder: Is created; an earlier export there is replaced.
        form: One of `FORMATS`.
        limit: Only the first `limit` questions of each task.
        max_new_tokens: Longest answer.

    Raises:
        UserError: Nothing to ask, a data set without pixels, tasks whose files would have one name, or a folder that is
            something else.
    """
    _refuse_other(folder)
    _refuse_equal(sorted({tasks.load(ref)[0] for ref in refs}))
    source = store.get(uri)
    data, allowed = store.fetch(source, ws.cache), terms_of(source)
    if tuple(refs) == tasks.DOMAINS:  # as `bench run`: a file of questions may have one of them alone
        refs = [name for name, many in tasks.count(data, refs).items() if many] or refs
    items = {tasks.load(ref)[0]: tasks.select(data, [ref], limit) for ref in dict.fromkeys(refs)}
    images = shards.Images(data)
    made = Export(folder, {name: len(one.samples) for name, one in items.items()}, source.digest, allowed)
    with wrap_os_errors("writing the export"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch(folder.parent, _PART) as work:
            part = work / "export"  # not the work folder itself, which is its owner's alone
            part.mkdir()
            usage = FORMATS[form](part, items, images, max_new_tokens)
            (part / terms.FILE).write_text(allowed.dump(), encoding="utf-8")
            (part / "README.md").write_text(_readme(made, usage), encoding="utf-8")
            files = sorted(str(path.relative_to(part)) for path in part.rglob("*") if path.is_file())
            mark = {
                "medmim": __version__,
                "for": form,
                "data": source.digest,
                "tasks": {tasks.load(ref)[0]: tasks.load(ref)[1].digest for ref in refs},
                "limit": limit,
                "questions": made.questions,
                "max_new_tokens": max_new_tokens,
                "files": files,
            }
            (part / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
            _put(part, folder, work / "earlier")
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


def _refuse_other(folder: Path) -> None:
    """Refuse a folder that would be lost: whatever is no export."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder", fix="name a folder, which is created")
    if folder.is_dir() and any(folder.iterdir()):
        mark = _mark(folder / MARK)
        others = sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and str(path.relative_to(folder)) not in (*mark.get("files", ()), MARK)
            if "__pycache__" not in path.parts
        )
        if not mark or others:
            raise UserError(
                f"{folder} holds what is no export of medmim",
                reason=f"it would be lost: {', '.join(others[:5])}" if others else f"it has no {MARK}",
                fix="name a new folder",
            )


def _mark(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "for" in found and isinstance(found.get("files"), list) else {}


def _put(part: Path, folder: Path, earlier: Path) -> None:
    """Move a finished folder to its place, and what was there out of the way; no folder is replaced in one step.

    A kill between the two leaves no folder there, and the next export writes it.
    """
    if folder.exists():
        os.replace(folder, earlier)
    try:
        os.replace(part, folder)
    except OSError:
        if earlier.exists() and not folder.exists():
            os.replace(earlier, folder)
        raise


def _readme(made: Export, usage: str) -> str:
    counts = "\n".join(f"| {name} | {count:,} |" for name, count in made.questions.items())
    refusals = terms.reasons(made.terms, terms.FLAGS)
    allowed = "\n".join(f"* {line}" for line in (*made.terms.text, *refusals))
    keep = (
        "\n**Keep this folder to yourself**: nobody may pass on these images and questions.\n"
        if not made.terms.redistribute_data
        else ""
    )
    return f"""# Questions for another harness, written by medmim

From the data set `{made.data}`.

| task | questions |
|---|---|
{counts}

{usage}
## Terms of use
{keep}
`terms.json` has them for programs.

{allowed}
"""
