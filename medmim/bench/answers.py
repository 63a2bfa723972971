"""Collects a model's answers to a benchmark: appended as they arrive, resumed after kill -9, then published and cached.

The cache key is what decides the answers (weights, chat format, data, questions, probe, protocol, longest answer, kind
of device, dtype), so a base is never asked twice. Order of asking, store and time are not in the artifact; the batch
size is in the key where it decides a few answers, or the last digits: everywhere but for text in fp32. There, a batch
that a kill cut is asked again as it was.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import shards, store
from medmim.bench import likelihood, metrics, probes, reading, tasks
from medmim.bench.engines import Engine
from medmim.bench.likelihood import GENERATE
from medmim.bench.tasks import Items
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.progress import Bar, bar
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import cached_step, finished, step_key
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.sample import Answer, Sample, from_json, to_json
from medmim.store import Artifact
from medmim.terms import UNKNOWN, Terms, combine

if TYPE_CHECKING:
    from PIL.Image import Image

    from medmim.lvlm.ask import Question, Reply

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
    protocol: str = GENERATE,
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
        protocol: `generate`, or `likelihood`, which asks closed questions only.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions.
    """

    def make(folder: Path) -> Mapping[str, Any]:
        file = folder / FILE
        known = _resume(file)
        selected = questions_of(items.samples, probe, protocol)
        label = f"{role} {'answers' if protocol == GENERATE else protocol}" + ("" if probe == "none" else f" {probe}")
        with file.open("a", encoding="utf-8") as out, bar(label, len(selected), "questions") as progress:
            progress.add(len(known))
            mean = probes.mean_image(items.samples, images) if probe == "grey" and len(known) < len(selected) else None
            for answer in _ask(engine, selected, dict(known), images, probe, protocol, settings, progress, mean):
                out.write(_line(answer))
                out.flush()  # to the kernel, where it survives a kill of this process
                known[answer.sample] = answer
        return _finish(file, [known[sample.id] for sample in selected], role, settings.max_bad_fraction)

    section, parents = _key_parts(engine, data, probe, protocol, settings)
    allowed = combine([of_data, engine.terms])
    more = {"inference": dict(engine.inference())}
    return cached_step(ws, "answers", REVISION, section, parents, make, recipe=recipe, terms=allowed, more=more)[0]


def questions_of(samples: Sequence[Sample], probe: str, protocol: str) -> list[Sample]:
    """The questions that a probe asks; only options have likelihoods."""
    return [sample for sample in probes.select(samples, probe) if protocol == GENERATE or sample.options]


def probes_of(settings: Bench) -> tuple[str, ...]:
    """The probes of a benchmark, led by `none`: the questions as they are."""
    return ("none", *settings.probes)


def find(
    ws: Workspace, engine: Engine, data: str, probe: str, settings: Bench, protocol: str = GENERATE
) -> Artifact | None:
    """The answers of a model to a probe, where the cache has them; the arguments are those of `collect`."""
    return finished(ws, "answers", step_key("answers", REVISION, *_key_parts(engine, data, probe, protocol, settings)))


def find_or_ask(
    ws: Workspace,
    role: str,
    engine: Engine,
    data: Artifact,
    probe: str,
    settings: Bench,
    recipe: Recipe | None,
    protocol: str,
) -> Artifact:
    """The answers of a model to a published data set; it is downloaded where something has to be asked."""
    if known := find(ws, engine, data.digest, probe, settings, protocol):
        return known
    folder = store.fetch(data, ws.cache)
    items = tasks.select(folder, settings.tasks, settings.limit, settings.split)
    images, of_data = shards.Images(folder), terms_of(data)
    return collect(ws, role, engine, items, images, data.digest, probe, settings, recipe, of_data, protocol)


def on_any_machine(engine: Engine, data: str, probe: str, settings: Bench, protocol: str) -> str:
    """A key of these answers without what the answering machine decides; see `fanout`."""
    section, parents = _asked_for(engine, data, probe, protocol, settings)
    return step_key("answers", REVISION, {**section, "batch_size": settings.batch_size}, parents)


def _asked_for(
    engine: Engine, data: str, probe: str, protocol: str, settings: Bench
) -> tuple[dict[str, Any], dict[str, str]]:
    section = {
        "tasks": sorted(settings.tasks),
        "split": settings.split,
        "limit": settings.limit,
        "max_bad_fraction": settings.max_bad_fraction,
        "probe": probe,
        **({"max_new_tokens": settings.max_new_tokens} if protocol == GENERATE else {"protocol": protocol}),
        **({"template": engine.template} if engine.template else {}),  # a server's answers keep their key
    }
    return section, {"model": engine.digest, "data": data}


def _key_parts(
    engine: Engine, data: str, probe: str, protocol: str, settings: Bench
) -> tuple[dict[str, Any], dict[str, str]]:
    section, parents = _asked_for(engine, data, probe, protocol, settings)
    inference = engine.inference()
    if inference:
        section["inference"] = dict(inference)
    if not _is_exact(inference, protocol):
        section["batch_size"] = settings.batch_size
    return section, parents


def _is_exact(inference: Mapping[str, str], protocol: str) -> bool:
    """Whether the batch decides nothing: of a server it is not known, since only requests are sent together."""
    return not inference or (protocol == GENERATE and inference["dtype"] == checkpoint.FP32)


def load(folder: Path) -> list[Answer]:
    """Read published answers. Text may contain U+2028, at which `splitlines` would split."""
    return [from_json(Answer, json.loads(line)) for line in (folder / FILE).read_bytes().split(b"\n") if line]


def _ask(
    engine: Engine,
    samples: Sequence[Sample],
    known: Mapping[str, Answer],
    images: Mapping[str, "Image"],
    probe: str,
    protocol: str,
    settings: Bench,
    progress: Bar,
    mean: "Image | None",
) -> Iterator[Answer]:
    """Ask in batches, and yield an answer for each sample; without images, equal questions are asked once.

    The batches depend on all samples alone. Of a batch with some that are known, only the others are asked where the
    batch decides nothing.
    """
    from medmim.lvlm.ask import Reply

    exact = _is_exact(engine.inference(), protocol)
    # similar lengths in one batch need little padding
    ordered = sorted(samples, key=lambda s: (len(s.images), len(s.prompt), s.prompt, s.id))
    replied: dict[str, Reply] = {}
    hashed: dict[str, str] = {}
    stride = settings.batch_size * _AHEAD
    for start in range(0, len(ordered), stride):
        replied = {name: reply for name, reply in replied.items() if not reply.error}  # an error may be temporary
        part = ordered[start : start + stride]
        rest = [sample for sample in part if sample.id not in known]
        if exact or not rest:
            for sample in part:
                if sample.id in known and not probes.shown(sample, probe):
                    replied[sample.prompt] = _reply(known[sample.id])
            part = rest
        asked: list[tuple[Sample, str]] = []
        questions: dict[str, Question] = {}
        for sample in part:
            try:
                question = _question(sample, probe, images, mean, hashed)
            except KeyError as error:
                progress.add()
                yield metrics.read(sample, probe, "", "", f"the data set has no image {error.args[0]}")
                continue
            name = sample.id if question.images else sample.prompt
            asked.append((sample, name))
            if name not in replied:
                questions[name] = question
        replies = zip(questions, _replies(engine, protocol, list(questions.values()), settings), strict=True)
        for sample, name in asked:
            while name not in replied:  # replies arrive in the order of the questions
                replied.update([next(replies)])
            reply = replied.pop(name) if name == sample.id else replied[name]
            if sample.id not in known:
                progress.add()
            if protocol == GENERATE:
                yield metrics.read(sample, probe, reply.key, reply.text, reply.error, reply.cut)
            else:
                yield likelihood.read(sample, probe, reply)
        next(replies, None)  # strict: one reply too many is an error too


def _question(
    sample: Sample, probe: str, images: Mapping[str, "Image"], mean: "Image | None", hashed: dict[str, str]
) -> "Question":
    """The question of a sample under a probe; `hashed` keeps the digests of the images that were shown before."""
    from medmim.lvlm.ask import Question, pixel_digest

    shown = probes.images_for(sample, probe, images, mean)
    names = [str(image.size) for image in shown] if probe == "grey" else probes.shown(sample, probe)
    for name, image in zip(names, shown, strict=True):
        if name not in hashed:
            hashed[name] = pixel_digest(image)
    return Question(sample.prompt, shown, sample.options, [hashed[name] for name in names])


def _replies(engine: Engine, protocol: str, questions: "Sequence[Question]", settings: Bench) -> "Iterator[Reply]":
    if protocol == GENERATE:
        return engine.ask(questions, settings.batch_size, settings.max_new_tokens)
    return engine.compare(questions, settings.batch_size)


def _reply(answer: Answer) -> "Reply":
    """The reply that a stored answer was made of."""
    from medmim.lvlm.ask import Reply

    return Reply(answer.text, answer.key, answer.error, answer.cut, answer.letters, answer.texts, answer.tokens)


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
    for name in ("cut", "letters", "texts", "tokens"):  # as earlier versions wrote it: equal answers keep their bytes
        if not row[name]:
            del row[name]
    return json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n"
