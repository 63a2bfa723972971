"""What a language model is asked for, and how its reply is read. No request holds anything of a data set."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from medmim.data.words import forms, slots
from medmim.data.words.forms import Part

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
    "Begin with 'Can you'.",
    "Write it as a colleague would say it.",
)
_ANSWERS = (
    "Write one short sentence.",
    "Write the answer alone, and a full stop.",
    "Begin with 'It is'.",
    "Begin with the answer.",
    "Begin with 'The'.",
    "Name the image, where it has a slot.",
)
_FENCE = re.compile(r"^\s*```(?:json)?\s*|\s*```\s*$")
_SAID = 300  # characters of a rejected reply that are shown to its writer


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    text: str


def of(family: str, part: Part, number: int) -> str:
    """The request for a wording.

    Args:
        family: Of the question.
        part: What of it is worded.
        number: Which wording of it, from 0: equal requests would get equal replies.
    """
    needed, _ = slots.of(family, part)
    ways = _WAYS if part == "question" else _ANSWERS
    way = ways[number % len(ways)] + (f" (wording {number // len(ways) + 1})" if number >= len(ways) else "")
    words = sorted(word for word in forms.vocabulary(family, part) if word[0].isalnum())
    asks = "Reword a question about medical images" if part == "question" else "Word the answer to a question"
    return "\n".join(
        [
            f"{asks}, as a template: a program fills its slots, which stand in braces, thousands of times.",
            "- It must be true whatever the slots hold, and say exactly what the examples say, in other words.",
            f"- Use each slot once, as it is written: {', '.join(needed)}." if needed else "- It has no slots.",
            "- Add nothing: no anatomy, disease, number, date, side, severity or patient. Deny and suppose nothing.",
            f"- Use these words only: {' '.join(words)}",
            f"- One line of plain English. {way}",
            *(f"Question: {line}" for line in slots.templates(family)),
            *(["Answer: {answer}"] if part == "answer" else []),
            'Reply with JSON only: {"text": "..."}',
        ]
    )


def again(first: str, reply: str, reason: str, number: int) -> str:
    """The request after a reply that was rejected, the try of this number: an equal one would get an equal reply."""
    said = " ".join(reply.split())[:_SAID]
    before = f"{first}\nYour earlier reply was: {said}"
    return f"{before}\nIt was rejected, since it {reason}. Write another one (try {number})."


def response_format() -> Mapping[str, Any]:
    """What a server that can is told of the form of a reply."""
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "wording", "strict": True, "schema": schema}}


def read(reply: str) -> str:
    """The text of a reply, from JSON, or from JSON with words around it.

    Raises:
        ValueError: It is not what was asked for; the message says what is wrong with it.
    """
    plain = _FENCE.sub("", reply)
    start, end = plain.find("{"), plain.rfind("}")
    if start < 0 or end < start:
        raise ValueError("it is no JSON object")
    try:
        return _Reply.model_validate_json(plain[start : end + 1]).text
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None
