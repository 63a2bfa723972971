"""Terms of use: what a data set or a base allows, and how terms combine.

They travel with what they hold for: `terms.json` beside the weights of a model, `terms` in the provenance of any other
artifact. What descends from several sources and bases may do what all of them allow. What is unknown allows nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from medmim import sniff
from medmim.errors import UserError

FILE = "terms.json"


@dataclass(frozen=True)
class Terms:
    """What the holders of the rights allow.

    Attributes:
        redistribute_data: Pass on images, questions or answers.
        release_weights: Give the weights, or weights made from them, to others.
        commercial_use: Use for more than research.
        outside_api: Send images or texts to a server of somebody else.
        serve: Answer questions of users.
        text: Where that is written, and what else it asks for; one line a source or base.
    """

    redistribute_data: bool = False
    release_weights: bool = False
    commercial_use: bool = False
    outside_api: bool = False
    serve: bool = False
    text: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "text": list(self.text)}

    def dump(self) -> str:
        """The content of `terms.json`."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    @property
    def refused(self) -> tuple[str, ...]:
        """Names of the flags that are false."""
        return tuple(name for name in FLAGS if not getattr(self, name))


FLAGS = tuple(field.name for field in fields(Terms) if field.name != "text")

UNKNOWN = Terms(text=("unknown: nothing is allowed until somebody has read the terms",))


def _open(text: str) -> Terms:
    return Terms(**dict.fromkeys(FLAGS, True), text=(text,))


APACHE = _open("Apache-2.0, made by medmim from drawn images and generated text: no person's data")

# Read from the publishers' own files; a base that is given by its hub name, or with --terms, has these.
PUBLISHED: Mapping[str, Terms] = {
    "apache-2.0": _open("Apache-2.0"),
    "llama3": _open(
        "Meta Llama 3 Community License: pass on a copy of it, show 'Built with Meta Llama 3', let names of derived "
        "models begin with 'Llama 3', keep the acceptable use policy, ask Meta above 700 million monthly users"
    ),
    "llava-med": Terms(
        text=(
            "LLaVA-Med, Microsoft Research License Terms: research only, non-commercial; models may be used, not "
            "distributed and not hosted for others; no clinical care or decision, any deployment is out of scope",
        )
    ),
    "medgemma": _open(
        "Health AI Developer Foundations terms: pass them on with the model and to its users; no clinical use without "
        "the authorization that the law asks for; keep the prohibited use policy"
    ),
}


def name_of(given: Terms) -> str:
    """In a word: a name of `PUBLISHED`, `unknown`, or `own` for any others."""
    named = {**PUBLISHED, "unknown": UNKNOWN}
    return "apache-2.0" if given == APACHE else next((name for name, one in named.items() if one == given), "own")


def combine(terms: Iterable[Terms]) -> Terms:
    """What all of them allow; of none, nothing is known."""
    given = list(terms)
    if not given:
        return UNKNOWN
    flags = {name: all(getattr(one, name) for one in given) for name in FLAGS}
    return Terms(**flags, text=tuple(dict.fromkeys(line for one in given for line in one.text)))


def parse(text: str | bytes, where: str) -> Terms:
    """Terms from JSON; a flag that is not there is false.

    Args:
        text: As `Terms.dump` writes it. Keys that only a newer medmim knows are ignored.
        where: Names the file in the message.

    Raises:
        UserError: It is not a record of terms; the message says what bytes are that are something else.
    """
    try:
        values = json.loads(text)
        lines = tuple(values.get("text", ()))
        flags = {name: values.get(name, False) for name in FLAGS}
        if isinstance(values.get("text"), str) or not all(isinstance(v, bool) for v in flags.values()):
            raise ValueError("flags are true or false, and text is a list of lines")
        if not all(isinstance(line, str) for line in lines):
            raise ValueError("text is a list of lines")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(text, bytes):
            sniff.decoded(
                text, Path(where), "a record of terms in JSON"
            )  # raises where it is known to be something else
        raise UserError(
            f"{where} is not a record of terms",
            reason=str(error),
            fix=f"write JSON with {', '.join(FLAGS)} (true or false) and text (a list of lines)",
        ) from None
    return Terms(**flags, text=lines)
