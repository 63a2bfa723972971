"""Asking a benchmark's questions: answers are appended as they come, survive kill -9, and are sealed as an artifact.

They are kept by what decides them (weights, data, questions, probe, longest answer), so a base is never asked twice;
batch size, order of asking, store and time leave no trace in them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.bench import metrics, probes
from medmim.bench.engines import Engine
from medmim.bench.tasks import Items
from medmim.errors import UserError
from medmim.progress import Bar, bar
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import cached_step, finished, step_key
from medmim.run.workspace import Workspace
from medmim.sample import Answer, Sample, from_json, to_json
from medmim.store import Artifact

if TYPE_CHECKING:
    from PIL.Image import Image

REVISION = 1
FILE = "answers.jsonl"
_AHEAD = 4  # batches whose images are decoded at once


def collect(
    ws: Workspace,
    role: str,
    engine: Engine,
    items: Items,
    images: Mapping[str, "Image"],
    data: str,
    probe: str,
    settings: Bench,
    recipe: Recipe | None = None,
) -> Artifact:
    """The answers of one model to the questions of one probe, asked now or found.

    Args:
        ws: The workspace.
        role: What to call the model on the screen.
        engine: Whom to ask.
        items: The questions.
        images: Image id -> RGB image.
        data: Digest of the data set.
        probe: One of `probes.PROBES`.
        settings: The recipe's bench section.
        recipe: For the provenance.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions.
    """

    def make(folder: Path) -> Mapping[str, Any]:
        file = folder / FILE
        known = _resume(file)
        wanted = probes.select(items.samples, probe)
        rest = [sample for sample in wanted if sample.id not in known]
        # equal lengths side by side need little padding
        rest.sort(key=lambda s: (len(s.images), len(s.prompt), s.prompt, s.id))
        label = f"{role} answers" + ("" if probe == "none" else f" {probe}")
        with file.open("a") as out, bar(label, len(wanted), "questions") as progress:
            progress.add(len(known))
            for answer in _asked(engine, rest, images, probe, settings, progress, items):
                out.write(_line(answer))
                out.flush()  # the kernel has it now: killing this process loses nothing
                known[answer.sample] = answer
        return _seal(file, [known[sample.id] for sample in wanted], role, settings.max_bad_fraction)

    section, parents = _decided_by(engine.digest, data, probe, settings)
    return cached_step(ws, "answers", REVISION, section, parents, make, recipe=recipe)[0]


def probes_of(settings: Bench) -> tuple[str, ...]:
    """How the questions are asked: as they are, and by each probe."""
    return ("none", *settings.probes)


def there(ws: Workspace, model: str, data: str, probe: str, settings: Bench) -> bool:
    """Whether the model of that digest has answered the questions of a probe."""
    return (
        finished(ws, "answers", step_key("answers", REVISION, *_decided_by(model, data, probe, settings))) is not None
    )


def _decided_by(model: str, data: str, probe: str, settings: Bench) -> tuple[dict[str, Any], dict[str, str]]:
    section = {
        "tasks": sorted(settings.tasks),
        "split": settings.split,
        "limit": settings.limit,
        "max_new_tokens": settings.max_new_tokens,
        "max_bad_fraction": settings.max_bad_fraction,
        "probe": probe,
    }
    return section, {"model": model, "data": data}


def load(folder: Path) -> list[Answer]:
    """Read sealed answers. A model may well say U+2028, at which `splitlines` would cut."""
    return [from_json(Answer, json.loads(line)) for line in (folder / FILE).read_bytes().split(b"\n") if line]


def _asked(
    engine: Engine,
    samples: Sequence[Sample],
    images: Mapping[str, "Image"],
    probe: str,
    settings: Bench,
    progress: Bar,
    items: Items,
) -> Iterator[Answer]:
    from medmim.lvlm.ask import Question, Reply

    mean = probes.mean_image(items.samples, images) if probe == "grey" and samples else None
    told: dict[str, Reply] = {}
    stride = settings.batch_size * _AHEAD
    for start in range(0, len(samples), stride):
        told = {name: reply for name, reply in told.items() if not reply.error}  # what failed may pass by itself
        asked: list[tuple[Sample, str]] = []
        questions: dict[str, Question] = {}
        for sample in samples[start : start + stride]:
            try:
                question = Question(sample.prompt, probes.images_for(sample, probe, images, mean))
            except KeyError as error:
                progress.add()
                yield metrics.read(sample, probe, "", "", f"the data set has no image {error.args[0]}")
                continue
            name = sample.id if question.images else sample.prompt  # without images, equal questions are put once
            asked.append((sample, name))
            if name not in told:
                questions[name] = question
        replies = zip(
            questions,
            engine.ask(list(questions.values()), settings.batch_size, settings.max_new_tokens),
            strict=True,
        )
        for sample, name in asked:
            while name not in told:  # replies come in the order of the questions
                told.update([next(replies)])
            reply = told.pop(name) if name == sample.id else told[name]
            progress.add()
            yield metrics.read(sample, probe, reply.key, reply.text, reply.error)
        next(replies, None)  # strict: a reply too many is an error too


def _resume(file: Path) -> dict[str, Answer]:
    """Answers that an earlier try left. A torn last line is dropped, and engine errors are asked again."""
    known: dict[str, Answer] = {}
    if not file.exists():
        return known
    for line in file.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is torn
        answer = from_json(Answer, json.loads(line))
        if answer.status != "error":
            known[answer.sample] = answer
    _replace(file, known.values())
    return known


def _seal(file: Path, answers: Sequence[Answer], role: str, max_bad_fraction: float) -> dict[str, Any]:
    """Put the answers into the order of the questions: the order of asking is no content."""
    failed = [answer for answer in answers if answer.status == "error"]
    if len(failed) > max_bad_fraction * len(answers):
        raise UserError(
            f"{role}: the engine failed on {len(failed)} of {len(answers)} questions",
            reason=f"bench.max_bad_fraction allows a share of {max_bad_fraction}",
            problems=[f"question {answer.sample}: {answer.error}" for answer in failed],
            fix="mend the cause and run the same command: the answers given so far are kept",
        )
    _replace(file, answers)
    unparsed = sum(answer.status == "unparsed" for answer in answers)
    return {"answers": len(answers), "unparsed": unparsed, "errors": len(failed)}


def _replace(file: Path, answers: "Iterator[Answer] | Sequence[Answer] | Any") -> None:
    part = file.with_name(".part")
    part.write_text("".join(map(_line, answers)))
    os.replace(part, file)


def _line(answer: Answer) -> str:
    return json.dumps(to_json(answer), sort_keys=True, ensure_ascii=False) + "\n"
