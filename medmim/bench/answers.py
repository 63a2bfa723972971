"""Collects a model's answers to a benchmark: appended as they arrive, resumed after kill -9, then published and cached.

The cache key is what decides the answers (weights, chat format, data, questions, probe, longest answer), so a base is
never asked twice. Batch size, order of asking, store and time are not in the artifact.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.bench import metrics, probes, reading
from medmim.bench.engines import Engine
from medmim.bench.tasks import Items
from medmim.errors import UserError
from medmim.progress import Bar, bar
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import cached_step, finished, step_key
from medmim.run.workspace import Workspace
from medmim.sample import Answer, Sample, from_json, to_json
from medmim.store import Artifact
from medmim.terms import UNKNOWN, Terms, combine

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
    of_data: Terms = UNKNOWN,
) -> Artifact:
    """The answers of one model to the questions of one probe, from the cache or from the model.

    Args:
        ws: The workspace.
        role: Name of the model in progress reports: `tuned`, `base`, ...
        engine: The model.
        items: The questions.
        images: Image id -> RGB image.
        data: Digest of the data set.
        probe: One of `probes.PROBES`.
        settings: The recipe's bench section.
        recipe: For the provenance.
        of_data: Terms of the data set.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions.
    """

    def make(folder: Path) -> Mapping[str, Any]:
        file = folder / FILE
        known = _resume(file)
        selected = probes.select(items.samples, probe)
        rest = [sample for sample in selected if sample.id not in known]
        # similar lengths in one batch need little padding
        rest.sort(key=lambda s: (len(s.images), len(s.prompt), s.prompt, s.id))
        label = f"{role} answers" + ("" if probe == "none" else f" {probe}")
        with file.open("a", encoding="utf-8") as out, bar(label, len(selected), "questions") as progress:
            progress.add(len(known))
            for answer in _ask(engine, rest, images, probe, settings, progress, items):
                out.write(_line(answer))
                out.flush()  # to the kernel, where it survives a kill of this process
                known[answer.sample] = answer
        return _finish(file, [known[sample.id] for sample in selected], role, settings.max_bad_fraction)

    section, parents = _key_parts(engine, data, probe, settings)
    allowed = combine([of_data, engine.terms])
    return cached_step(ws, "answers", REVISION, section, parents, make, recipe=recipe, terms=allowed)[0]


def probes_of(settings: Bench) -> tuple[str, ...]:
    """The probes of a benchmark, led by `none`: the questions as they are."""
    return ("none", *settings.probes)


def exist(ws: Workspace, engine: Engine, data: str, probe: str, settings: Bench) -> bool:
    """Whether the answers of a model to the questions of a probe are in the cache."""
    key = step_key("answers", REVISION, *_key_parts(engine, data, probe, settings))
    return finished(ws, "answers", key) is not None


def _key_parts(engine: Engine, data: str, probe: str, settings: Bench) -> tuple[dict[str, Any], dict[str, str]]:
    section = {
        "tasks": sorted(settings.tasks),
        "split": settings.split,
        "limit": settings.limit,
        "max_new_tokens": settings.max_new_tokens,
        "max_bad_fraction": settings.max_bad_fraction,
        "probe": probe,
        **({"template": engine.template} if engine.template else {}),  # a server's answers keep their key
    }
    return section, {"model": engine.digest, "data": data}


def load(folder: Path) -> list[Answer]:
    """Read published answers. Text may contain U+2028, at which `splitlines` would split."""
    return [from_json(Answer, json.loads(line)) for line in (folder / FILE).read_bytes().split(b"\n") if line]


def _ask(
    engine: Engine,
    samples: Sequence[Sample],
    images: Mapping[str, "Image"],
    probe: str,
    settings: Bench,
    progress: Bar,
    items: Items,
) -> Iterator[Answer]:
    """Ask in batches, and yield an answer for each sample; without images, equal questions are asked once."""
    from medmim.lvlm.ask import Question, Reply

    mean = probes.mean_image(items.samples, images) if probe == "grey" and samples else None
    replied: dict[str, Reply] = {}
    stride = settings.batch_size * _AHEAD
    for start in range(0, len(samples), stride):
        replied = {name: reply for name, reply in replied.items() if not reply.error}  # an error may be temporary
        asked: list[tuple[Sample, str]] = []
        questions: dict[str, Question] = {}
        for sample in samples[start : start + stride]:
            try:
                question = Question(sample.prompt, probes.images_for(sample, probe, images, mean))
            except KeyError as error:
                progress.add()
                yield metrics.read(sample, probe, "", "", f"the data set has no image {error.args[0]}")
                continue
            name = sample.id if question.images else sample.prompt
            asked.append((sample, name))
            if name not in replied:
                questions[name] = question
        replies = zip(
            questions,
            engine.ask(list(questions.values()), settings.batch_size, settings.max_new_tokens),
            strict=True,
        )
        for sample, name in asked:
            while name not in replied:  # replies arrive in the order of the questions
                replied.update([next(replies)])
            reply = replied.pop(name) if name == sample.id else replied[name]
            progress.add()
            yield metrics.read(sample, probe, reply.key, reply.text, reply.error, reply.cut)
        next(replies, None)  # strict: one reply too many is an error too


def _resume(file: Path) -> dict[str, Answer]:
    """Answers of an earlier run. A torn last line is removed, and questions with an engine error are asked again."""
    known: dict[str, Answer] = {}
    if not file.exists():
        return known
    for line in file.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is torn
        answer = from_json(Answer, json.loads(line))
        if answer.status != "error":
            known[answer.sample] = answer
    _replace(file, known.values())
    return known


def _finish(file: Path, answers: Sequence[Answer], role: str, max_bad_fraction: float) -> dict[str, Any]:
    """Write the answers in the order of the questions, so that the order of asking is not in the digest.

    Returns:
        Counts for the manifest.
    """
    failed = [answer for answer in answers if answer.status == "error"]
    if len(failed) > max_bad_fraction * len(answers):
        raise UserError(
            f"{role}: the engine failed on {len(failed)} of {len(answers)} questions",
            reason=f"bench.max_bad_fraction allows a share of {max_bad_fraction}",
            problems=[f"question {answer.sample}: {answer.error}" for answer in failed],
            fix="fix the cause and run the same command: the answers so far are kept. Where these questions cannot "
            "be asked, allow more by bench.max_bad_fraction (bench run: --max-bad-fraction), and all are asked again",
        )
    _replace(file, answers)
    return {
        "answers": len(answers),
        "unparsed": sum(answer.status == "unparsed" for answer in answers),
        "errors": len(failed),
        "cut": sum(answer.cut for answer in answers),
        "replaced": sum(reading.REPLACED in answer.text for answer in answers),
    }


def _replace(file: Path, answers: Iterable[Answer]) -> None:
    part = file.with_name(".part")
    part.write_text("".join(map(_line, answers)), encoding="utf-8")
    os.replace(part, file)


def _line(answer: Answer) -> str:
    row = to_json(answer)
    if not answer.cut:  # as earlier versions wrote it: an answer that ended by itself keeps its bytes
        del row["cut"]
    return json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n"
