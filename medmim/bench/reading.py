"""How a model's answers could be read: how many were not, were cut or damaged, and what that may hide."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmim.bench.reader import reply_text
from medmim.bench.reader.extract import letters_in, refuses
from medmim.sample import Answer, Sample

REPLACED = "\ufffd"  # stands for what could not be decoded
_FEW = 3  # unread answers that are an accident


def summary(samples: Sequence[Sample], given: Sequence[Answer | None]) -> dict[str, Any]:
    """Counts over the answers of one model, without probes.

    Returns:
        `answers`; `cut` at the limit of new tokens; `replaced`, with a character that could not be decoded; `closed`,
        to questions with options; `unread` among these. Of the unread ones `unfinished`, which end within their
        thinking; `unread_cut`, others that were cut, whose answer may stand in what was not written; `finished`, the
        rest. Of these `refused`, which say that they give none; `single`, in which the letter of one option stands;
        `letter`, which stands in more than half, and `holding`, in how many: None and 0 where none does.
    """
    answers = [(sample, answer) for sample, answer in zip(samples, given, strict=True) if answer]
    unread = [answer for sample, answer in answers if sample.options and answer.status == "unparsed"]
    thought = [answer for answer in unread if not answer.text.strip() or reply_text.answers(answer.text)]
    finished = [answer.text for answer in thought if not answer.cut]
    single = [letter for text in finished if len(found := letters_in(text)) == 1 for letter in found]
    letter, holding = Counter(single).most_common(1)[0] if single else (None, 0)
    most = holding * 2 > len(finished)
    return {
        "answers": len(answers),
        "cut": sum(answer.cut for _, answer in answers),
        "replaced": sum(REPLACED in answer.text for _, answer in answers),
        "closed": sum(bool(sample.options) for sample, _ in answers),
        "unread": len(unread),
        "unread_cut": len(thought) - len(finished),
        "unfinished": len(unread) - len(thought),
        "finished": len(finished),
        "refused": sum(refuses(text) for text in finished),
        "single": len(single),
        "letter": letter if most else None,
        "holding": holding if most else 0,
    }


@dataclass(frozen=True)
class Note:
    """What a reader of the scores must know about how answers of a model were read.

    Attributes:
        model: Its name.
        text: A sentence without its end, which begins with the name.
        verdict: Of the answers that are worth a look, see `bench.items`; empty where it does not tell them apart.
    """

    model: str
    text: str
    verdict: str = ""


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """The notes for a terminal or a report. Arguments: see `notes`."""
    return [note.text + ("; bench show --wrong lists them" if note.verdict else "") for note in notes(facts)]


def notes(facts: Mapping[str, Any]) -> list[Note]:
    """What a reader of the scores must know about how the answers were read.

    Args:
        facts: The content of `scores.json`; one of an earlier version gives no note.
    """
    found = []
    for row in facts.get("reading", ()):
        model, limit = row["model"], facts["max_new_tokens"]

        def note(text: str, verdict: str = "", model: str = model) -> None:
            found.append(Note(model, f"{model}: {text}", verdict))

        if row["cut"]:
            note(
                f"{row['cut']:,} of {row['answers']:,} answers were cut at {limit} new tokens; "
                "allow more with bench.max_new_tokens or --max-new-tokens"
            )
        if row["unfinished"]:
            note(f"{row['unfinished']:,} answers end within the model's thinking; allow more new tokens")
        cut = row.get("unread_cut")
        if cut:
            note(
                f"{cut:,} of its {row['unread']:,} unread answers were cut before they named an option; they "
                "count as wrong"
            )
        # an earlier version did not set cut answers apart
        finished = row["unread"] - row["unfinished"] if cut is None else row["finished"]
        if finished > _FEW and row["single"] * 2 > finished:
            same = f", {row['holding']:,} of them the letter {row['letter']}" if row["letter"] else ""
            note(
                f"{row['single']:,} of its {finished:,} unread answers hold one option's letter{same}: it may "
                "be a wording that is not read, and the score too low",
                "unread",
            )
        if row["replaced"]:
            note(f"{row['replaced']:,} answers hold characters that could not be decoded")
    return found
