"""Words the questions of a data set by a language model, where `data.words` asks for it, and checks every text.

What is asked stays: images, options, gold and family. A text that is rejected is asked for again with the reason, then
the template's words stay; both are counted, and `words.jsonl` of the data set holds each rejected text with its reason.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medmim.data.seeds import fraction
from medmim.data.words import ask, check, facts, prompt
from medmim.data.words.ask import Replies, Request, Said
from medmim.data.words.facts import Facts
from medmim.data.words.lie import Lie
from medmim.errors import UserError
from medmim.progress import bar, say
from medmim.recipe.schema import Data
from medmim.recipe.words import NOT_CONTENT, Words
from medmim.sample import Sample
from medmim.terms import Terms, reasons

REJECTED = "words.jsonl"
_PER_TOKEN = 4  # characters of English, about
_REPLY = 1.3  # times as many tokens as the question and answer have, and
_FORM = 12  # those of the JSON around them


@dataclass
class _Task:
    """One text: what it is of, how it is asked for now and was first, the samples that get it, what came of it."""

    facts: Facts
    request: Request
    first: str
    samples: list[int]
    wording: prompt.Wording | None = None
    reason: str = ""
    problem: str = ""


def section(data: Data) -> dict[str, Any]:
    """What of `data.words` decides the content of a data set; empty without it, so that its key is as it was."""
    if data.words is None:
        return {}
    own = data.words.model_dump(mode="json", exclude=set(NOT_CONTENT))
    return {"words": {**own, "revision": prompt.REVISION}}


def refuse_leaving(data: Data, of_data: Terms) -> None:
    """Refuse to send texts of patients to a server of somebody else, unless terms and recipe both allow it.

    Raises:
        UserError: With what forbids it; also where the address is none.
    """
    from medmim.lvlm import openai_client

    if data.words is None:
        return
    openai_client.check(data.words.endpoint)
    host = urlsplit(data.words.endpoint).hostname or ""
    if openai_client.is_ours(host):
        return
    why = reasons(of_data, ["outside_api"])
    if not data.words.may_leave:
        why.append("the recipe does not say data.words.may_leave: true")
    if why:
        own = f"say that the server is your own: {openai_client.OWN_SERVERS}={host}"
        asks = "set data.words.may_leave: true, " * (len(why) == 1 and not data.words.may_leave)
        raise UserError(
            f"texts of the data set must not be sent to {host}",
            reason="; ".join(why),
            fix=f"{asks}give a server of your own as data.words.endpoint, or {own}",
        )


def tasks(samples: Sequence[Sample], words: Words, seed: int) -> list[_Task]:
    """The texts that are needed; samples that say the same, in the same way, share one."""
    found: dict[Request, _Task] = {}
    for number, sample in enumerate(samples):
        told = facts.of(sample) if sample.split in words.splits else None
        if told is None:
            continue
        way = int(fraction(seed, "words", sample.family, *sample.paths, sample.question) * words.variants)
        request = Request(prompt.of(told, way), told.writes_answer)
        found.setdefault(request, _Task(told, request, request.prompt, [])).samples.append(number)
    return list(found.values())


def cost(samples: Sequence[Sample], words: Words, seed: int, kept: Replies | None = None) -> dict[str, Any]:
    """What wording a data set takes, at least: some texts are asked for again.

    Returns:
        `questions` that are worded, `requests` (distinct ones), `kept` of them, and an estimate of the tokens of the
        others, four characters each: `prompt_tokens`, `reply_tokens`.
    """
    needed = tasks(samples, words, seed)
    left = [task for task in needed if kept is None or kept.find(words, task.request) is None]
    said = [len(task.facts.question) + len(task.facts.answer) * task.facts.writes_answer for task in left]
    return {
        "model": words.model,
        "endpoint": words.endpoint,
        "questions": sum(len(task.samples) for task in needed),
        "requests": len(needed),
        "kept": len(needed) - len(left),
        "prompt_tokens": sum(len(task.request.prompt) for task in left) // _PER_TOKEN,
        "reply_tokens": sum(int(_REPLY * one / _PER_TOKEN) + _FORM for one in said),
        "most_requests": len(left) * words.tries,
    }


def rewrite(
    samples: Sequence[Sample], words: Words, seed: int, kept: Replies, folder: Path
) -> tuple[list[Sample], dict[str, Any]]:
    """Samples in the words of a model, where it found right ones, in their order.

    Args:
        samples: As the templates word them.
        words: The recipe's section.
        seed: Of the recipe.
        kept: Replies of earlier builds; added to.
        folder: Gets `words.jsonl`.

    Returns:
        The samples; and `model`, `questions`, `written`, `texts` (distinct ones), `fallbacks` (reason -> questions
        that keep the template's words) and `rejected` (reason -> texts, of all tries).

    Raises:
        UserError: As `ask.ask`, or more questions fall back than the recipe allows.
        Unavailable: Likewise; replies so far are kept.
    """
    needed = tasks(samples, words, seed)
    rejected: list[Mapping[str, Any]] = []
    counts: Counter[str] = Counter()
    open_ = needed
    for number in range(words.tries):
        if not open_:
            break
        with bar("words" if number == 0 else f"words, try {number + 1}", len(open_), "texts") as progress:
            replies = ask.ask(words, [task.request for task in open_], kept, progress.add)
        following = []
        for task, said in zip(open_, replies, strict=True):
            if _take(task, said):
                continue
            counts[task.reason] += 1
            own = samples[task.samples[0]]
            rejected.append(
                {
                    "sample": own.id,
                    "family": own.family,
                    "questions": len(task.samples),
                    "try": number + 1,
                    "reason": task.reason,
                    "problem": task.problem,
                    "reply": said.text,
                }
            )
            if said.text:  # a server that did not answer was tried again by itself
                task.request = replace(
                    task.request, prompt=prompt.again(task.first, said.text, task.problem, number + 2)
                )
                following.append(task)
        open_ = following
    written, fallbacks = _put(samples, needed)
    _write(folder / REJECTED, rejected)
    asked = sum(len(task.samples) for task in needed)
    fell = sum(fallbacks.values())
    say(
        f"{asked - fell:,} of {asked:,} questions are worded by {words.model}; {fell:,} keep the template's words; "
        f"{kept.asked:,} requests, {kept.tokens[0]:,} tokens of prompts, {kept.tokens[1]:,} of replies"
    )
    if fell > words.max_fallback_fraction * asked:
        raise UserError(
            f"{fell:,} of {asked:,} questions have no wording of {words.model} that is right, more than "
            f"data.words.max_fallback_fraction = {words.max_fallback_fraction:g} allows",
            reason="; ".join(f"{count:,} x {reason}" for reason, count in fallbacks.most_common(5)),
            fix="take a better model, or raise the limit; replies are kept: what was answered is not asked again",
            problems=[f"{row['family']}: {row['problem']}: {row['reply'][:200]!r}" for row in rejected[:20]],
        )
    facts_of = {
        "model": words.model,
        "questions": asked,
        "written": asked - fell,
        "texts": len(needed),
        "fallbacks": dict(sorted(fallbacks.items())),
        "rejected": dict(sorted(counts.items())),
    }
    return written, facts_of


def _take(task: _Task, said: Said) -> bool:
    """Whether a reply is right; else why not is noted."""
    if said.error:
        task.reason = "refused" if said.error.startswith("the model refuses") else "no reply"
        task.problem = said.error
        return False
    if said.cut:
        task.reason, task.problem = "cut at the token limit", "was cut at the limit of tokens: be shorter"
        return False
    try:
        wording = prompt.read(said.text, task.facts.writes_answer)
    except ValueError as error:
        task.reason, task.problem = "no JSON of the form asked for", f"is not the JSON that was asked for: {error}"
        return False
    try:
        check.question(wording.question, task.facts)
        if task.facts.writes_answer:
            check.answer(wording.answer, task.facts)
    except Lie as lie:
        task.reason, task.problem = lie.kind, str(lie)
        return False
    task.wording = wording
    return True


def _put(samples: Sequence[Sample], needed: Sequence[_Task]) -> tuple[list[Sample], Counter[str]]:
    """The samples with their new words; one that would then be the same as another keeps its own."""
    written = list(samples)
    taken = {sample.id for sample in samples}
    fallbacks: Counter[str] = Counter()
    for task in needed:
        if task.wording is None:
            fallbacks[task.reason] += len(task.samples)
            continue
        question = " ".join(task.wording.question.split())
        for number in task.samples:
            new = replace(samples[number], question=question)
            if task.facts.writes_answer:
                new = replace(new, answer=" ".join(task.wording.answer.split()))
            if new.id in taken and new.id != samples[number].id:
                fallbacks["the same as another question"] += 1
                continue
            taken.add(new.id)
            written[number] = new
    return written, fallbacks


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
