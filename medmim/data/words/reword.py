"""Puts the questions of a data set into approved wordings, where `data.words` names some.

What is asked stays: images, options, gold and family; values are put in as the template had them. Nothing is sent.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medmim.data.seeds import fraction
from medmim.data.words import slots
from medmim.data.words.book import Book
from medmim.data.words.forms import Part
from medmim.recipe.schema import Data
from medmim.sample import Sample

REVISION = 2  # with another one, data sets are others


@dataclass(frozen=True)
class Worded:
    """What came of it.

    Attributes:
        samples: In their order.
        counts: `approved` (digest), `questions` (of the splits that are worded), `written`, `wordings` (distinct ones
            that were used), and `kept`: reason -> questions that keep the template's words.
    """

    samples: list[Sample]
    counts: dict[str, Any]


def section(data: Data) -> dict[str, Any]:
    """What of `data.words` decides the content of a data set; empty without it, so that its key is as it was."""
    return {"words": {**data.words.model_dump(mode="json"), "revision": REVISION}} if data.words else {}


def reword(samples: Sequence[Sample], data: Data, approved: Book) -> Worded:
    """Samples in approved wordings.

    Which one a question gets depends on its images and words and on the seed, so other questions do not change it.

    Args:
        samples: As our templates word them.
        data: The recipe's section.
        approved: Of its `words`.
    """
    assert data.words is not None
    written = list(samples)
    taken = {sample.id for sample in samples}
    kept: Counter[str] = Counter()
    used: set[tuple[str, str]] = set()
    asked = 0
    for number, sample in enumerate(samples):
        if sample.split not in data.words.splits:
            continue
        asked += 1
        wordings = approved.of(sample.family, "question")
        about = slots.values(sample)
        if not wordings or about is None:
            kept["of a kind without an approved wording" if not wordings else "not worded by our templates"] += 1
            continue
        text = wordings[_number(data, sample, "question", len(wordings))]
        new = replace(sample, question=slots.fill(text, about))
        answers = approved.of(sample.family, "answer") if slots.takes_answer(sample) else ()
        if answers:
            answer = answers[_number(data, sample, "answer", len(answers))]
            new = replace(new, answer=slots.fill(answer, {**about, "answer": sample.answer}))
        if new.id in taken and new.id != sample.id:
            kept["the same as another question"] += 1
            continue
        taken.add(new.id)
        used.add((sample.family, text))
        written[number] = new
    counts = {
        "approved": data.words.approved,
        "questions": asked,
        "written": asked - kept.total(),
        "wordings": len(used),
        "kept": dict(sorted(kept.items())),
    }
    return Worded(written, counts)


def _number(data: Data, sample: Sample, part: Part, of: int) -> int:
    return int(fraction(data.seed, "words", part, sample.family, *sample.paths, sample.question) * of)
