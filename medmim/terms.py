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
        text: Where that is written, and what else it asks for; one line a source or base, which begins with its name
            and a colon.
        refused_by: Of a combination, which source or base refuses what: (flag, its name).
    """

    redistribute_data: bool = False
    release_weights: bool = False
    commercial_use: bool = False
    outside_api: bool = False
    serve: bool = False
    text: tuple[str, ...] = ()
    refused_by: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON; without `refused_by` where nothing is combined."""
        plain = {**asdict(self), "text": list(self.text)}
        del plain["refused_by"]
        return plain | ({"refused_by": [list(pair) for pair in self.refused_by]} if self.refused_by else {})

    def dump(self) -> str:
        """The content of `terms.json`."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    @property
    def refused(self) -> tuple[str, ...]:
        """Names of the flags that are false."""
        return tuple(name for name in FLAGS if not getattr(self, name))

    @property
    def refusals(self) -> tuple[tuple[str, str], ...]:
        """(flag, the name of a source or base that refuses it), in the order of the flags."""
        named = dict.fromkeys(line.split(":")[0] for line in self.text) or {"unknown": None}
        found = self.refused_by or tuple((flag, name) for flag in self.refused for name in named)
        return tuple(sorted(found, key=lambda pair: FLAGS.index(pair[0])))


FLAGS = tuple(field.name for field in fields(Terms) if field.type is bool)

UNKNOWN = Terms(text=("unknown: nothing is allowed until somebody has read the terms",))


def unrestricted(text: str) -> Terms:
    """Terms that allow all uses; `text` says what else they ask for."""
    flags: dict[str, Any] = dict.fromkeys(FLAGS, True)
    return Terms(**flags, text=(text,))


APACHE = unrestricted("Apache-2.0, made by medmim from drawn images and generated text: no person's data")

# Read from the publishers' own files; a base that is given by its hub name, or with --terms, has these.
PUBLISHED: Mapping[str, Terms] = {
    "apache-2.0": unrestricted("Apache-2.0"),
    "llama3": unrestricted(
        "Meta Llama 3 Community License: pass on a copy of it, show 'Built with Meta Llama 3', let names of derived "
        "models begin with 'Llama 3', keep the acceptable use policy, ask Meta above 700 million monthly users"
    ),
    "llava-med": Terms(
        text=(
            "LLaVA-Med, Microsoft Research License Terms: research only, non-commercial; models may be used, not "
            "distributed and not hosted for others; no clinical care or decision, any deployment is out of scope",
        )
    ),
    "gemma": unrestricted(
        "Gemma Terms of Use (ai.google.dev/gemma/terms): pass them on with the model, with what is made from it and "
        "with a service that answers with it; keep the prohibited use policy"
    ),
    "medgemma": unrestricted(
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
    given = list(dict.fromkeys(terms))
    if not given:
        return UNKNOWN
    if len(given) == 1:
        return given[0]
    flags = {name: all(getattr(one, name) for one in given) for name in FLAGS}
    text = tuple(dict.fromkeys(line for one in given for line in one.text))
    refused_by = tuple(sorted({pair for one in given for pair in one.refusals}))
    return Terms(**flags, text=text, refused_by=refused_by)


def reasons(given: Terms, uses: Iterable[str]) -> list[str]:
    """Why terms do not allow some uses, a sentence each: `serve: not allowed by EMBED`; empty where they allow all."""
    wanted = list(uses)
    by_flag: dict[str, list[str]] = {}
    for flag, name in given.refusals:
        if flag in wanted:
            by_flag.setdefault(flag, []).append(name)
    return [f"{flag}: not allowed by {', '.join(names)}" for flag, names in by_flag.items()]


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
        refused_by = tuple((str(flag), str(name)) for flag, name in values.get("refused_by", ()) if flag in FLAGS)
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
    return Terms(**flags, text=lines, refused_by=refused_by)
