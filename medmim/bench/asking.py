"""Puts the questions of a benchmark to a model: which, in what order and batches, and the answers as they come.

A batch decides a few answers, or the last digits, everywhere but for text in fp32. So the batches are a function of the
questions alone, and one that holds some known answers is asked again as it was.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medmim.bench import likelihood, probes
from medmim.bench.engines import Engine
from medmim.bench.likelihood import GENERATE
from medmim.bench.pixels import Grey, Pixels, Shown
from medmim.bench.reader.reply import read
from medmim.lvlm import llava
from medmim.recipe.schema import Bench
from medmim.sample import Answer, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

    from medmim.lvlm.ask import Question, Reply

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


def questions_of(samples: Sequence[Sample], probe: str, protocol: str) -> list[Sample]:
    """The questions that a probe asks; only options have likelihoods."""
    return [sample for sample in probes.select(samples, probe) if protocol == GENERATE or sample.options]


def by_length(sample: Sample) -> Place:
    """By what questions are ordered: similar lengths in one batch need little padding."""
    return len(sample.images), len(sample.prompt), sample.prompt, sample.id


def by_images(sample: Sample) -> Place:
    """Likewise for a server, which pads nothing, and may keep what it made of the images of the last questions."""
    return sample.images, *by_length(sample)


def batches(
    samples: Sequence[Sample], probe: str, protocol: str, settings: Bench, place: Callable[[Sample], Place] = by_length
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


def unanswered(batch: Sequence[Sample], known: Mapping[str, Given], exact: bool) -> list[Sample]:
    """What is asked of a batch: where it decides an answer, all or nothing."""
    left = [sample for sample in batch if sample.id not in known]
    return left if exact or not left else list(batch)


def is_exact(inference: Mapping[str, str], protocol: str) -> bool:
    """Whether the batch decides nothing: of a server it is not known, since only requests are sent together.

    Args:
        inference: What the engine's `inference` gives.
        protocol: The protocol.
    """
    return not inference or "engine" in inference or (protocol == GENERATE and inference["dtype"] == llava.FP32)


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
        runs[-1] += unanswered(batch, known, exact)
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
        return read(sample, probe, "", "", question.error)
    if protocol == GENERATE:
        return read(sample, probe, reply.key, reply.text, reply.error, reply.cut)
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
