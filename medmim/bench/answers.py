"""Collects a model's answers to a benchmark: appended as they arrive, resumed after kill -9, then published and cached.

The cache key is what decides the answers (weights, chat format, data, questions, probe, protocol, longest answer, kind
of device, dtype), so a base is never asked twice. Order of asking, store and time are not in the artifact; the batch
size is in the key where it decides a few answers, or the last digits: everywhere but for text in fp32. There, a batch
that a kill cut is asked again as it was.

Probes and protocols that show the same images are asked in turns, a batch of each: what was decoded, hashed or computed
of an image for one of them is still in memory for the others. The answers to a batch are on disk before another one is
computed.

What asking cost is beside the content: tokens in the counts of the manifest (`prompt_tokens`, `new_tokens`; 0 where a
server does not tell), seconds in `provenance.json` (`cost`), summed over all tries and machines.
"""

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.bench import likelihood, metrics, pixels, probes, reading, tasks
from medmim.bench.engines import Engine
from medmim.bench.likelihood import GENERATE
from medmim.bench.pixels import Grey, Pixels, Shown
from medmim.bench.tasks import Items
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.progress import bar
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import cached_step, finished, step_key, working
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
Set = tuple[str, str]  # protocol, probe
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Given:
    """An answer, and what it cost.

    Attributes:
        answer: The answer.
        prompt_tokens: See `ask.Reply`; 0 also where the answer to an equal question was taken.
        new_tokens: Likewise.
        seconds: From the answer before it, or the begin of asking, to this one.
    """

    answer: Answer
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0


_COST = ("prompt_tokens", "new_tokens", "seconds")


def collect(
    ws: Workspace,
    role: str,
    engine: Engine,
    items: Items,
    images: Mapping[str, "Image"],
    data: str,
    sets: Sequence[Set],
    settings: Bench,
    recipe: Recipe | None = None,
    of_data: Terms = UNKNOWN,
) -> dict[Set, Artifact]:
    """Some sets of answers of one model, from the cache or from the model.

    Args:
        ws: The workspace.
        role: Name of the model in progress reports: `tuned`, `base`, ...
        engine: The model.
        items: The questions.
        images: Image id -> RGB image.
        data: Digest of the data set.
        sets: Protocols and probes: `generate`, or `likelihood`, which asks closed questions only, of one of
            `probes.PROBES`.
        settings: The recipe's bench section.
        recipe: For the provenance.
        of_data: Terms of the data set.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions of a set.
        Unavailable: Another process is asking some of these.
    """
    found: dict[Set, Artifact] = {}
    groups: dict[str, list[Set]] = {}
    for protocol, probe in sets:
        if known := find(ws, engine, data, probe, settings, protocol):
            found[protocol, probe] = known
        else:
            groups.setdefault(probe if probe in ("blind", "grey") else "real images", []).append((protocol, probe))
    for group in groups.values():
        asked = _in_turns(ws, role, engine, items, images, data, group, settings)
        for protocol, probe in group:
            given = asked.get((protocol, probe), ())  # none where another process has just published them
            found[protocol, probe] = publish(ws, role, engine, given, data, probe, settings, recipe, of_data, protocol)
    return {one: found[one] for one in sets}


def _in_turns(
    ws: Workspace,
    role: str,
    engine: Engine,
    items: Items,
    images: Mapping[str, "Image"],
    data: str,
    sets: Sequence[Set],
    settings: Bench,
) -> dict[Set, list[Given]]:
    """Sets of answers in the order of the questions; what an earlier try left in the work folders is kept.

    Without those that another process published before this one had their locks.
    """
    shown = images if isinstance(images, Pixels) else Pixels(images)
    label = ", ".join(
        ("answers" if protocol == GENERATE else protocol) + ("" if probe == "none" else f" {probe}")
        for protocol, probe in sets
    )
    given: dict[Set, dict[str, Given]] = {}
    wanted = {one: questions_of(items.samples, one[1], one[0]) for one in sets}
    with ExitStack() as stack:
        turns = []
        for one in sets:
            protocol, probe = one
            folder = stack.enter_context(working(ws, "answers", key(engine, data, probe, settings, protocol)))
            if find(ws, engine, data, probe, settings, protocol):
                continue
            folder.mkdir(exist_ok=True)
            by_id = {sample.id: sample for sample in wanted[one]}
            known = given[one] = {
                name: replace(own, answer=metrics.reread(by_id[name], own.answer))  # another version's
                for name, own in _resume(folder / FILE).items()
            }
            out = stack.enter_context((folder / FILE).open("ab"))
            exact = is_exact(engine.inference(), protocol)
            place = _by_images if engine.is_server else _place
            planned = [
                (batch, asked)
                for batch in batches(items.samples, probe, protocol, settings, place)
                if (asked := _unanswered(batch, known, exact))
            ]
            grey = shown.grey(items.samples) if probe == "grey" and planned else None
            answers = ask(engine, [batch for batch, _ in planned], dict(known), shown, probe, protocol, settings, grey)
            stack.enter_context(closing(answers))
            turns += [(place(batch[0]), len(asked), known, out, answers) for batch, asked in planned]
        progress = stack.enter_context(bar(f"{role} {label}", sum(len(wanted[one]) for one in given), "questions"))
        progress.add(sum(map(len, given.values())))
        for _, count, known, out, answers in sorted(turns, key=itemgetter(0)):
            for one_more in islice(answers, count):
                out.write(dump([one_more]))
                out.flush()  # to the kernel, where it survives a kill of this process
                progress.add(one_more.answer.sample not in known)
                known[one_more.answer.sample] = one_more
        for *_, answers in turns:
            next(answers, None)  # an engine with more replies than questions is found out
    return {one: [known[sample.id] for sample in wanted[one]] for one, known in given.items()}


def publish(
    ws: Workspace,
    role: str,
    engine: Engine,
    given: Sequence[Given],
    data: str,
    probe: str,
    settings: Bench,
    recipe: Recipe | None = None,
    of_data: Terms = UNKNOWN,
    protocol: str = GENERATE,
) -> Artifact:
    """Publish a set of answers, under the key by which `find` finds it.

    Args:
        ws: The workspace.
        role: Name of the model in an error.
        engine: The model.
        given: The answers, in the order of `questions_of`.
        data: Digest of the data set.
        probe: The probe.
        settings: The recipe's bench section.
        recipe: For the provenance.
        of_data: Terms of the data set.
        protocol: The protocol.

    Raises:
        UserError: The engine failed on more than `max_bad_fraction` of the questions.
    """
    section, parents = _key_parts(engine, data, probe, protocol, settings)
    seconds = round(sum(one.seconds for one in given), 3)
    more = {
        "inference": dict(engine.inference()),
        READER: metrics.reader(),
        "asked": section,
        "cost": {"seconds": seconds},
        **engine.learned(),
    }

    def make(folder: Path) -> Mapping[str, Any]:
        return _finish(folder / FILE, given, role, settings.max_bad_fraction)

    allowed = combine([of_data, engine.terms])
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
    """The key of a set of answers; the arguments are those of `collect`."""
    return step_key("answers", REVISION, *_key_parts(engine, data, probe, protocol, settings))


def find_or_ask(
    ws: Workspace,
    role: str,
    engine: Engine,
    data: Artifact,
    sets: Sequence[Set],
    settings: Bench,
    recipe: Recipe | None,
) -> dict[Set, Artifact]:
    """Sets of answers of a model to a published data set, which is downloaded where something has to be asked."""
    known = {(how, probe): find(ws, engine, data.digest, probe, settings, how) for how, probe in sets}
    found = {one: artifact for one, artifact in known.items() if artifact is not None}
    if len(found) == len(known):
        return found
    folder = store.fetch(data, ws.cache)
    items = tasks.select(folder, settings.tasks, settings.limit, settings.split)
    return collect(ws, role, engine, items, pixels.of(folder), data.digest, sets, settings, recipe, terms_of(data))


def on_any_machine(engine: Engine, data: str, probe: str, settings: Bench, protocol: str) -> str:
    """A key of these answers without what the answering machine decides; see `fanout`."""
    section, parents = _asked_for(engine, data, probe, protocol, settings)
    return step_key("answers", REVISION, {**section, **_in_batches(engine, probe, settings)}, parents)


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
        section |= _in_batches(engine, probe, settings)
    return section, parents


def _in_batches(engine: Engine, probe: str, settings: Bench) -> dict[str, Any]:
    """What stands in a key for the batches: their size, and of `blind` a mark that they are not those of 0.1.0."""
    different = {"batches": "of different questions"} if probe == "blind" else {}
    return {"batch_size": settings.batch_size, **different, **({"how": engine.how} if engine.how else {})}


def is_exact(inference: Mapping[str, str], protocol: str) -> bool:
    """Whether the batch decides nothing: of a server it is not known, since only requests are sent together.

    Args:
        inference: What the engine's `inference` gives.
        protocol: The protocol.
    """
    return not inference or "engine" in inference or (protocol == GENERATE and inference["dtype"] == checkpoint.FP32)


def load(folder: Path) -> list[Answer]:
    """Read published answers."""
    return [one.answer for one in parse((folder / FILE).read_bytes())]


def parse(lines: bytes) -> list[Given]:
    """Read stored answers; published ones have no cost. Text may contain U+2028, at which `splitlines` would split."""
    found = []
    for line in lines.split(b"\n"):
        if line:
            row = json.loads(line)
            cost = {name: row.pop(name) for name in _COST if name in row}
            found.append(Given(from_json(Answer, row), **cost))
    return found


def dump(given: Iterable[Given]) -> bytes:
    """What `parse` reads."""
    rows = ({**_row(one.answer), **{name: getattr(one, name) for name in _COST}} for one in given)
    return "".join(map(_json, rows)).encode()


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


def _place(sample: Sample) -> Place:
    """By what questions are ordered: similar lengths in one batch need little padding."""
    return len(sample.images), len(sample.prompt), sample.prompt, sample.id


def _by_images(sample: Sample) -> Place:
    """Likewise for a server, which pads nothing, and may keep what it made of the images of the last questions."""
    return sample.images, *_place(sample)


def batches(
    samples: Sequence[Sample], probe: str, protocol: str, settings: Bench, place: Callable[[Sample], Place] = _place
) -> list[list[Sample]]:
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
        place: By what they are ordered: a server, of which no batch decides an answer, is asked in an order of its own.
    """
    ordered = sorted(questions_of(samples, probe, protocol), key=place)
    equal: dict[str, list[Sample]] = {}
    for sample in ordered:
        equal.setdefault(_name(sample, probe), []).append(sample)
    each = list(equal.values())
    size = settings.batch_size
    return [[sample for same in each[start : start + size] for sample in same] for start in range(0, len(each), size)]


def _name(sample: Sample, probe: str) -> str:
    """What equal questions have in common: without images, their text."""
    return sample.id if probes.shown(sample, probe) else sample.prompt


def _unanswered(batch: Sequence[Sample], known: Mapping[str, Given], exact: bool) -> list[Sample]:
    """What is asked of a batch: where it decides an answer, all or nothing."""
    left = [sample for sample in batch if sample.id not in known]
    return left if exact or not left else list(batch)


def ask(
    engine: Engine,
    planned: Sequence[Sequence[Sample]],
    known: Mapping[str, Given],
    images: Mapping[str, "Image"],
    probe: str,
    protocol: str,
    settings: Bench,
    grey: Grey | None = None,
) -> Generator[Given, None, None]:
    """Ask some batches.

    Args:
        engine: The model.
        planned: Of `batches`, in any order.
        known: Sample id -> what is known. Of a batch that holds any, only the others are asked where the batch decides
            nothing, else all.
        images: Image id -> RGB image; `pixels.of` has those that were decoded before.
        probe: The probe.
        protocol: The protocol.
        settings: Size of the batches and longest answer.
        grey: What the probe `grey` shows; `Pixels.grey` makes it of all questions.

    Yields:
        An answer to each question, batch after batch. Nothing of a batch is computed before it is asked for.
    """
    exact = is_exact(engine.inference(), protocol)
    shown = images if isinstance(images, Pixels) else Pixels(images)
    replied: dict[str, Reply] = {}
    runs: list[list[Sample]] = [[]]
    for batch in planned:
        if exact:
            replied |= {s.prompt: _reply(known[s.id]) for s in batch if s.id in known and not probes.shown(s, probe)}
        runs[-1] += _unanswered(batch, known, exact)
        if not engine.is_server and len({_name(sample, probe) for sample in batch}) < settings.batch_size:
            runs.append([])  # the engine fills its batches: what follows must not get into this one
    for run in filter(None, runs):
        questions: dict[str, Question] = {}
        for sample in run:
            name = _name(sample, probe)
            if name not in replied and name not in questions:
                questions[name] = _question(sample, probe, shown, grey)
        replies = zip(questions, _replies(engine, protocol, list(questions.values()), settings), strict=True)
        begun = time.perf_counter()  # now, the model is loaded
        for sample in run:
            name, cost = _name(sample, probe), (0, 0)
            while name not in replied:  # replies arrive in the order of the questions
                replied.update([next(replies)])
                cost = replied[name].prompt_tokens, replied[name].new_tokens
            answer = _answer(sample, probe, protocol, replied[name], questions.get(name))
            yield Given(answer, *cost, time.perf_counter() - begun)
            begun = time.perf_counter()
        next(replies, None)  # strict: one reply too many is an error too


def _answer(sample: Sample, probe: str, protocol: str, reply: "Reply", question: "Question | None") -> Answer:
    if question is not None and question.error:
        return metrics.read(sample, probe, "", "", question.error)
    if protocol == GENERATE:
        return metrics.read(sample, probe, reply.key, reply.text, reply.error, reply.cut)
    return likelihood.read(sample, probe, reply)


def _question(sample: Sample, probe: str, images: Pixels, grey: Grey | None) -> "Question":
    """The question of a sample under a probe; its images are decoded when they are looked at."""
    from medmim.lvlm.ask import Question

    names = probes.shown(sample, probe)
    for name in names:
        if name not in images:
            return Question(sample.prompt, error=f"the data set has no image {name}")
    if probe != "grey":
        return Question(sample.prompt, Shown(names, images.__getitem__), sample.options, Shown(names, images.digest))
    assert grey is not None  # noqa: S101  the caller's contract
    return Question(
        sample.prompt,
        Shown(names, lambda name: grey.of_size(images.size(name))),
        sample.options,
        Shown(names, lambda name: grey.digest(images.size(name))),
    )


def _replies(engine: Engine, protocol: str, questions: "Sequence[Question]", settings: Bench) -> "Iterator[Reply]":
    if protocol == GENERATE:
        return engine.ask(questions, settings.batch_size, settings.max_new_tokens)
    return engine.compare(questions, settings.batch_size)


def _reply(known: Given) -> "Reply":
    """The reply that a stored answer was made of."""
    from medmim.lvlm.ask import Reply

    own = known.answer
    return Reply(own.text, own.key, own.error, own.cut, own.letters, own.texts, own.tokens)


def _resume(file: Path) -> dict[str, Given]:
    """Answers of an earlier run. A torn last line is removed, and questions with an engine error are asked again."""
    if not file.exists():
        return {}
    whole = file.read_bytes().rpartition(b"\n")[0]  # what follows the last newline is torn
    known = {one.answer.sample: one for one in parse(whole) if one.answer.status != "error"}
    _replace(file, dump(known.values()))
    return known


def _finish(file: Path, given: Sequence[Given], role: str, max_bad_fraction: float) -> dict[str, Any]:
    """Write the answers in the order of the questions, so that the order of asking is not in the digest.

    Returns:
        Counts for the manifest.
    """
    answers = [one.answer for one in given]
    failed = [answer for answer in answers if answer.status == "error"]
    if len(failed) > max_bad_fraction * len(answers):
        raise UserError(
            f"{role}: the engine failed on {len(failed)} of {len(answers)} questions",
            reason=f"bench.max_bad_fraction allows a share of {max_bad_fraction}",
            problems=[f"question {answer.sample}: {answer.error}" for answer in failed],
            fix="fix the cause and run the same command: the answers so far are kept. Where these questions cannot "
            "be asked, allow more by bench.max_bad_fraction (bench run: --max-bad-fraction), and all are asked again",
        )
    _replace(file, "".join(map(_line, answers)).encode())
    return {
        "answers": len(answers),
        "unparsed": sum(answer.status == "unparsed" for answer in answers),
        "errors": len(failed),
        "cut": sum(answer.cut for answer in answers),
        "replaced": sum(reading.REPLACED in answer.text for answer in answers),
        "prompt_tokens": sum(one.prompt_tokens for one in given),
        "new_tokens": sum(one.new_tokens for one in given),
    }


def _replace(file: Path, content: bytes) -> None:
    part = file.with_name(".part")
    part.write_bytes(content)
    os.replace(part, file)


def _line(answer: Answer) -> str:
    return _json(_row(answer))


def _row(answer: Answer) -> dict[str, Any]:
    row = to_json(answer)
    for name in ("cut", "letters", "texts", "tokens"):  # as earlier versions wrote it: equal answers keep their bytes
        if not row[name]:
            del row[name]
    return row


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n"
