"""Collects a model's answers to a benchmark: appended as they arrive, resumed after kill -9, then published and cached.

The cache key is what decides the answers (weights, chat format, data, questions, probe, protocol, longest answer, kind
of device, dtype), so a base is never asked twice. Order of asking, store and time are not in the artifact; the batch
size is in the key where it decides a few answers, or the last digits: everywhere but for text in fp32. There, a batch
that a kill cut is asked again as it was.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import shards, store
from medmim.bench import likelihood, metrics, probes, reading, tasks
from medmim.bench.engines import Engine
from medmim.bench.likelihood import GENERATE
from medmim.bench.tasks import Items
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.progress import bar
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import cached_step, finished, step_key
from medmim.run.provenance import provenance_of, terms_of
from medmim.run.workspace import Workspace
from medmim.sample import Answer, Sample, from_json, to_json
from medmim.store import Artifact
from medmim.terms import UNKNOWN, Terms, combine

if TYPE_CHECKING:
    from PIL.Image import Image

    from medmim.lvlm.ask import Question, Reply

REVISION = 1
FILE, READER = "answers.jsonl", "reader"
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
        by_id = {sample.id: sample for sample in selected}
        known = {name: metrics.reread(by_id[name], answer) for name, answer in known.items()}  # another version's
        with file.open("a", encoding="utf-8") as out, bar(label, len(selected), "questions") as progress:
            progress.add(len(known))
            mean = probes.mean_image(items.samples, images) if probe == "grey" and len(known) < len(selected) else None
            planned = batches(items.samples, probe, protocol, settings)
            for answer in ask(engine, planned, dict(known), images, probe, protocol, settings, mean):
                out.write(_line(answer))
                out.flush()  # to the kernel, where it survives a kill of this process
                progress.add(answer.sample not in known)
                known[answer.sample] = answer
        return _finish(file, [known[sample.id] for sample in selected], role, settings.max_bad_fraction)

    return _published(ws, engine, data, probe, settings, recipe, of_data, protocol, make)


def publish(
    ws: Workspace,
    role: str,
    engine: Engine,
    given: Sequence[Answer],
    data: str,
    probe: str,
    settings: Bench,
    recipe: Recipe | None = None,
    of_data: Terms = UNKNOWN,
    protocol: str = GENERATE,
) -> Artifact:
    """Publish the answers to all questions of a probe, in the order of `questions_of`, as `collect` does."""

    def make(folder: Path) -> Mapping[str, Any]:
        return _finish(folder / FILE, given, role, settings.max_bad_fraction)

    return _published(ws, engine, data, probe, settings, recipe, of_data, protocol, make)


def _published(
    ws: Workspace,
    engine: Engine,
    data: str,
    probe: str,
    settings: Bench,
    recipe: Recipe | None,
    of_data: Terms,
    protocol: str,
    make: Callable[[Path], Mapping[str, Any]],
) -> Artifact:
    section, parents = _key_parts(engine, data, probe, protocol, settings)
    allowed = combine([of_data, engine.terms])
    more = {"inference": dict(engine.inference()), READER: metrics.reader(), "asked": section}
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
    return finished(ws, "answers", key(engine, data, probe, settings, protocol))


def key(engine: Engine, data: str, probe: str, settings: Bench, protocol: str = GENERATE) -> str:
    """The key of a model's answers to a probe in the cache."""
    return step_key("answers", REVISION, *_key_parts(engine, data, probe, protocol, settings))


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
    return step_key("answers", REVISION, {**section, **_in_batches(probe, settings)}, parents)


def _asked_for(
    engine: Engine, data: str, probe: str, protocol: str, settings: Bench
) -> tuple[dict[str, Any], dict[str, str]]:
    section = {
        "tasks": sorted(tasks.identities(settings.tasks)),
        "split": settings.split,
        "limit": settings.limit,
        "max_bad_fraction": settings.max_bad_fraction,
        "probe": probe,
        **({"max_new_tokens": settings.max_new_tokens} if protocol == GENERATE else {"protocol": protocol}),
        **({"template": engine.template} if engine.template else {}),  # a server's answers keep their key
        **({"engine": engine.by} if engine.by else {}),
    }
    return section, {"model": engine.digest, "data": data}


def _key_parts(
    engine: Engine, data: str, probe: str, protocol: str, settings: Bench
) -> tuple[dict[str, Any], dict[str, str]]:
    section, parents = _asked_for(engine, data, probe, protocol, settings)
    inference = engine.inference()
    if inference:
        section["inference"] = dict(inference)
    if not is_exact(inference, protocol):
        section |= _in_batches(probe, settings)
    return section, parents


def _in_batches(probe: str, settings: Bench) -> dict[str, Any]:
    """What stands in a key for the batches: their size, and of `blind` a mark that they are not those of 0.1.0."""
    return {"batch_size": settings.batch_size, **({"batches": "of different questions"} if probe == "blind" else {})}


def is_exact(inference: Mapping[str, str], protocol: str) -> bool:
    """Whether the batch decides nothing: of a server it is not known, since only requests are sent together."""
    return not inference or "engine" in inference or (protocol == GENERATE and inference["dtype"] == checkpoint.FP32)


def load(folder: Path) -> list[Answer]:
    """Read published answers."""
    return parse((folder / FILE).read_bytes())


def parse(lines: bytes) -> list[Answer]:
    """Read stored answers. Text may contain U+2028, at which `splitlines` would split."""
    return [from_json(Answer, json.loads(line)) for line in lines.split(b"\n") if line]


def dump(given: Iterable[Answer]) -> bytes:
    """What `parse` reads."""
    return "".join(map(_line, given)).encode()


def as_read(ws: Workspace, found: Artifact, samples: Mapping[str, Sample]) -> list[Answer]:
    """Published answers as this version reads them: those that another one read are read again.

    Args:
        ws: The workspace.
        found: An artifact of answers.
        samples: `Sample.id` -> question.
    """
    given = load(store.fetch(found, ws.cache))
    if provenance_of(found).get(READER) == metrics.reader():
        return given
    return [metrics.reread(samples[answer.sample], answer) for answer in given]


def batches(samples: Sequence[Sample], probe: str, protocol: str, settings: Bench) -> list[list[Sample]]:
    """The questions of a probe in the order and in the batches in which any machine asks them.

    A function of its arguments alone, neither of the model nor of what is answered already: whoever asks whole batches,
    in any order, gets the same answers also where the batch decides some. Each question that `questions_of` gives is in
    one batch. Of those without images, equal ones are put to the model once and stand together: a batch has at most
    `bench.batch_size` questions without their repeats.

    Args:
        samples: All questions of the benchmark.
        probe: The probe.
        protocol: The protocol.
        settings: Its `batch_size`.
    """
    # similar lengths in one batch need little padding
    ordered = sorted(
        questions_of(samples, probe, protocol), key=lambda s: (len(s.images), len(s.prompt), s.prompt, s.id)
    )
    equal: dict[str, list[Sample]] = {}
    for sample in ordered:
        equal.setdefault(_name(sample, probe), []).append(sample)
    each = list(equal.values())
    size = settings.batch_size
    return [[sample for same in each[start : start + size] for sample in same] for start in range(0, len(each), size)]


def _name(sample: Sample, probe: str) -> str:
    """What equal questions have in common: without images, their text."""
    return sample.id if probes.shown(sample, probe) else sample.prompt


def ask(
    engine: Engine,
    planned: Sequence[Sequence[Sample]],
    known: Mapping[str, Answer],
    images: Mapping[str, "Image"],
    probe: str,
    protocol: str,
    settings: Bench,
    mean: "Image | None" = None,
) -> Iterator[Answer]:
    """Ask the questions of some `batches`, and yield an answer for each, in order.

    Of a batch with some that are known, only the others are asked where the batch decides nothing, else all.

    Args:
        engine: The model.
        planned: The batches.
        known: Sample id -> answer.
        images: Image id -> RGB image.
        probe: The probe.
        protocol: The protocol.
        settings: The recipe's bench section.
        mean: For `grey`: see `probes.images_for`.
    """
    exact = is_exact(engine.inference(), protocol)
    hashed: dict[str, str] = {}
    open_ = [batch for batch in planned if any(sample.id not in known for sample in batch)]
    for start in range(0, len(open_), _AHEAD):
        part = [sample for batch in open_[start : start + _AHEAD] for sample in batch]
        replied: dict[str, Reply] = {}
        if exact:
            replied = {_name(one, probe): _reply(known[one.id]) for one in part if one.id in known}
            part = [sample for sample in part if sample.id not in known]
        questions: dict[str, Question] = {}
        for sample in part:
            name = _name(sample, probe)
            if name not in replied and name not in questions:
                questions[name] = _question(sample, probe, images, mean, hashed)
        replies = zip(questions, _replies(engine, protocol, list(questions.values()), settings), strict=True)
        for sample in part:
            name = _name(sample, probe)
            while name not in replied:  # replies arrive in the order of the questions
                replied.update([next(replies)])
            if name in questions and questions[name].error:
                yield metrics.read(sample, probe, "", "", questions[name].error)
            elif protocol == GENERATE:
                reply = replied[name]
                yield metrics.read(sample, probe, reply.key, reply.text, reply.error, reply.cut)
            else:
                yield likelihood.read(sample, probe, replied[name])
        next(replies, None)  # strict: one reply too many is an error too


def _question(
    sample: Sample, probe: str, images: Mapping[str, "Image"], mean: "Image | None", hashed: dict[str, str]
) -> "Question":
    """The question of a sample under a probe; `hashed` keeps the digests of the images that were shown before."""
    from medmim.lvlm.ask import Question, pixel_digest

    try:
        shown = probes.images_for(sample, probe, images, mean)
    except KeyError as error:
        return Question(sample.prompt, error=f"the data set has no image {error.args[0]}")
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
    part.write_bytes(dump(answers))
    os.replace(part, file)


def _line(answer: Answer) -> str:
    row = to_json(answer)
    for name in ("cut", "letters", "texts", "tokens"):  # as earlier versions wrote it: equal answers keep their bytes
        if not row[name]:
            del row[name]
    return json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n"
