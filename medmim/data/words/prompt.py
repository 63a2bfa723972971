"""What a language model is asked for, and how its reply is read."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medmim.data.words.facts import Facts, is_quotation
from medmim.recipe.words import VARIANTS

REVISION = 2  # of prompt and check: with another one, texts are asked for anew and data sets are others
_WAYS = (
    "Ask it as a plain question.",
    "Write it as an instruction.",
    "Begin with the images.",
    "Write one short sentence.",
    "Write two sentences: what is given, then the question.",
    "Begin with what is looked for.",
    "Ask politely.",
    "Begin with 'Looking at'.",
    "Begin with 'Considering'.",
    "Begin with 'Which' or 'What'.",
    "Begin with 'Based on'.",
    "Write it as a colleague would say it.",
)
assert len(_WAYS) == VARIANTS
_FENCE = re.compile(r"^\s*```(?:json)?\s*|\s*```\s*$")
_SAID = 300  # characters of a rejected reply that are shown to its writer


class Wording(BaseModel):
    """A reply: the question, and for an open one the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    question: str
    answer: str = ""


def of(facts: Facts, way: int) -> str:
    """The request for a wording.

    The answer of a closed question is not in it, nor are its options: what a model is not told it cannot give away. Nor
    is anything of a patient but what the question says.

    Args:
        facts: Of the question.
        way: Which of the ways to say it, from 0.
    """
    quoted = [value for value in facts.about.values() if is_quotation(value)]
    keep = [value for name, value in facts.about.items() if name in ("value", "finding", "ages") or value in quoted]
    images = "one image, image 1" if facts.images == 1 else f"{facts.images} images, image 1 to image {facts.images}"
    lines = [
        "Reword a question about medical images. Ask exactly the same, in other words.",
        "- Add nothing: no anatomy, disease, number, date, side, severity, kind of image or patient that is not below.",
        "- Leave nothing out: name the same images (as 'image 1', 'image 2'), in the same order.",
        "- Give no hint of the answer, deny nothing, and write no list of options.",
        "- One line of plain English. " + _WAYS[way],
        f"There are {images}. {facts.kind.context}".rstrip(),
        *(f"Keep to the letter: {value}" for value in keep),
        f"Question: {facts.question}",
    ]
    if facts.writes_answer:
        lines += [
            f"Answer: {facts.answer}",
            "Write the answer, too, as one short sentence that says this and nothing else; the question must not hint "
            "at it.",
        ]
    example = {"question": "...", **({"answer": "..."} if facts.writes_answer else {})}
    return "\n".join([*lines, f"Reply with JSON only: {json.dumps(example)}"])


def again(first: str, reply: str, reason: str, number: int) -> str:
    """The request after a reply that was rejected, the try of this number: an equal one would get an equal reply."""
    said = " ".join(reply.split())[:_SAID]
    before = f"{first}\nYour earlier reply was: {said}"
    return f"{before}\nIt was rejected, since it {reason}. Write another one (try {number})."


def response_format(writes_answer: bool) -> Mapping[str, Any]:
    """What a server that can is told of the form of a reply."""
    names = ["question", "answer"] if writes_answer else ["question"]
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "wording", "strict": True, "schema": schema}}


def read(text: str, writes_answer: bool) -> Wording:
    """The reply, from JSON, or from JSON with words around it.

    Raises:
        ValueError: It is not what was asked for; the message says what is wrong with it.
    """
    plain = _FENCE.sub("", text)
    start, end = plain.find("{"), plain.rfind("}")
    if start < 0 or end < start:
        raise ValueError("it is no JSON object")
    try:
        found = Wording.model_validate_json(plain[start : end + 1])
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None
    if writes_answer and not found.answer.strip():
        raise ValueError("answer: it is missing")
    return found
