"""How many lies of a language model the check of `data.words` finds, and how many true texts it keeps.

    python benchmarks/words_check.py [--failures]

The texts are in words_cases.yaml, written by hand for each kind of question before the check was, and multiplied by a
grammar: other values, and true texts with one thing put in or exchanged that makes them false. Neither uses the word
lists of the check. Half of them, by a hash of the text as it is written there, were looked at while the check was made;
the table gives both halves. `published` are stems that Med-MIM's own language model wrote, all looked at. `late` texts
were written after the check, to slip through, and it was mended after a look at each; `unseen` ones were written after
that, and nothing was mended for them: they are in no sum.
Exit code 1 under 99% of the lies or 95% of the true texts.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from medmim.data import wording
from medmim.data.abilities.ask import FIXED_OPTIONS
from medmim.data.wordings import published, strict
from medmim.data.words import check, facts
from medmim.data.words.lie import Lie

CASES = Path(__file__).with_name("words_cases.yaml")
LATE = Path(__file__).with_name("words_cases_late.yaml")
FORM = Path(__file__).with_name("words_cases_form.yaml")
UNSEEN = Path(__file__).with_name("words_cases_unseen.yaml")
TRUE, PUBLISHED, TRUE_LATE, TRUE_FORM = "true", "true: published", "true: late", "true: another form"
PLAIN_LIE, FORM_LIE, UNSEEN_LIE, TRUE_UNSEEN = "late: plain words", "late: another form", "unseen", "true: unseen"
LOOKED_AT = (PUBLISHED, TRUE_LATE, TRUE_FORM, PLAIN_LIE, FORM_LIE)
# What models add of their own; none of it is in any question's facts.
ADDED = {
    "source": (
        "The images are from the Mayo Clinic.",
        "These images come from the MIMIC data set.",
        "The study was done in the emergency department.",
    ),
    "patient": (
        "The patient is a 63-year-old man.",
        "She has a history of smoking.",
        "The patient complains of chest pain.",
        "He was treated with antibiotics.",
    ),
    "date": (
        "The images were taken on 12 March 2019.",
        "The examination is from last Monday.",
        "The images are six weeks apart.",
    ),
    "finding": (
        "Note the enlarged heart.",
        "There is also a small fracture.",
        "The lungs are hyperinflated.",
        "A catheter is in place.",
    ),
    "negation": ("There is no pneumothorax.", "No other abnormality is seen."),
    "severity": ("The abnormality is severe.", "The disease is at an early stage.", "The change is dramatic."),
    "modality": ("The images are thoracic CT scans.", "This is an ultrasound examination."),
    "laterality": ("Only the left side is affected.", "The right lung is shown."),
}  # fmt: skip
SWAPPED = {  # kind -> words that stand for each other; a true text with one of them in the other's place is false
    "laterality": (("left eye", "right eye"),),
    "order": (("image 1", "image 2"), ("before", "after"), ("earlier", "later")),
    "patient": (
        ("same patient", "different patient"),
        ("one patient", "two patients"),
        ("same breast", "other breast"),
    ),
    "negation": (("shows", "does not show"), ("is", "is not"), ("can be seen", "cannot be seen")),
}


@dataclass(frozen=True)
class Case:
    """A text, what it is said of, and what kind of lie it is (or `TRUE`)."""

    family: str
    kind: str
    text: str
    given: facts.Facts
    answers: bool
    origin: str

    @property
    def held_out(self) -> bool:
        """Whether no rule was made after a look at what the check says of it."""
        if self.kind in (UNSEEN_LIE, TRUE_UNSEEN):
            return True
        return (
            self.kind not in LOOKED_AT and hashlib.sha256(f"{self.family} {self.origin}".encode()).digest()[0] % 2 == 1
        )

    def rejected(self) -> str:
        """Why the check rejects it; empty where it does not."""
        try:
            (check.answer if self.answers else check.question)(self.text, self.given)
        except Lie as lie:
            return str(lie)
        return ""


def filled(text: str, about: dict[str, str]) -> str:
    """A text with its values put in."""
    for name, value in about.items():
        text = text.replace("{" + name + "}", value)
    return text


def given(family: str, case: dict, about: dict[str, str], answers: bool, number: int) -> facts.Facts:
    """The facts as a build has them: taken from the template's text."""
    templates = strict.TEMPLATES.get(family) or wording.TEMPLATES[family]
    question = filled(templates[number % len(templates)], about)
    parsed = facts.parsed(family, question)
    assert parsed is not None, question
    options = tuple(case.get("options") or FIXED_OPTIONS.get(family, ()))
    options = () if answers or case.get("closed") is False else options
    return facts.Facts(family, case["images"], question, options, case["gold"], {**about, **parsed})


def cases() -> Iterator[Case]:
    """All texts."""
    for family, case in yaml.safe_load(CASES.read_text("utf-8")).items():
        for number, about in enumerate(case["facts"]):
            told = given(family, case, about, False, number)
            for text in case["true"]:
                yield Case(family, TRUE, filled(text, about), told, False, text)
                yield from added(family, text, about, told, number)
            for kind, texts in case["lies"].items():
                for text in texts:
                    yield Case(family, kind, filled(text, about), told, False, text)
            asked = given(family, case, about, True, number)
            for kind, texts in case.get("answers", {}).items():
                for text in texts:
                    yield Case(family, kind, filled(text, about), asked, True, text)


def late() -> Iterator[Case]:
    """Texts that were written after the check."""
    first = yaml.safe_load(CASES.read_text("utf-8"))
    for path, true, lie in (
        (LATE, TRUE_LATE, PLAIN_LIE),
        (FORM, TRUE_FORM, FORM_LIE),
        (UNSEEN, TRUE_UNSEEN, UNSEEN_LIE),
    ):
        yield from _of(path, true, lie, first)


def _of(path: Path, true: str, lie: str, first: dict) -> Iterator[Case]:
    for family, case in yaml.safe_load(path.read_text("utf-8")).items():
        for number, about in enumerate(first[family]["facts"]):
            told, asked = (given(family, first[family], about, answers, number) for answers in (False, True))
            for text in case["true"]:
                yield Case(family, true, filled(text, about), told, False, text)
            for text in case["lies"]:
                yield Case(family, lie, filled(text, about), told, False, text)
            for text in case.get("answers", ()):
                yield Case(family, lie, filled(text, about), asked, True, text)


def stems() -> Iterator[Case]:
    """Stems of Med-MIM that ask what ours do."""
    for family in ("which_sequence", "which_craniocaudal", "extent_of_resection"):
        about = {"value": "T2-weighted"} if family == "which_sequence" else {}
        case = {"images": 2, "gold": "", "options": ["a", "b"]}
        told = given(family, case, about, False, 0)
        for text in published.POOLS[family].stems:
            yield Case(
                family, PUBLISHED, text.format(value="T2-weighted", finding="enhancing tumor"), told, False, text
            )


def added(family: str, text: str, about: dict[str, str], told: facts.Facts, number: int) -> Iterator[Case]:
    """False texts made of a true one."""
    for kind, sentences in ADDED.items():
        chosen = sentences[int(hashlib.sha256((family + text + kind).encode()).hexdigest(), 16) % len(sentences)]
        first = hashlib.sha256((text + kind).encode()).digest()[0] % 2
        value = filled(text, about)
        yield Case(family, f"adds: {kind}", f"{chosen} {value}" if first else f"{value} {chosen}", told, False, text)
    for kind, pairs in SWAPPED.items():
        for one, other in pairs:
            if (
                kind == "order"
                and told.kind.images != "ordered"
                and (one != "image 1" or told.kind.images != "as_first")
            ):
                continue  # elsewhere the images are alike to the question
            if kind == "laterality" and "image 1" not in text:
                continue
            if kind == "patient" and family.startswith("joined"):
                continue
            changed = exchanged(text, one, other, both=kind in ("laterality", "order"))
            if changed not in (text, exchanged_list(text)):
                yield Case(family, f"swaps: {kind}", filled(changed, about), told, False, text)


def exchanged_list(text: str) -> str:
    """The text with both images exchanged where they only stand in a row, which changes nothing."""
    for between in (" or ", " and ", " and in ", " or in "):
        if f"image 1{between}image 2" in text:
            return text.replace("image 1", "@").replace("image 2", "image 1").replace("@", "image 2")
    return text


def exchanged(text: str, one: str, other: str, both: bool) -> str:
    """The text with one word in the other's place, everywhere, or the first one only."""
    if both:
        pattern = re.compile(rf"\b(?:{one}|{other})\b")
        return pattern.sub(lambda match: other if match[0] == one else one, text)
    return re.sub(rf"\b{one}\b", other, text, count=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", action="store_true", help="list those of the half that may be looked at")
    options = parser.parse_args()
    found = [*cases(), *late(), *stems()]
    rows: dict[str, list[list[int]]] = {}
    for case in found:
        why = case.rejected()
        true = case.kind.startswith(TRUE)
        right = bool(why) != true
        unseen = case.kind in (UNSEEN_LIE, TRUE_UNSEEN)  # apart: lies made for the check, which others are not
        for key in ("answers: " * case.answers + case.kind, *(() if unseen else ("true texts" if true else "lies",))):
            counts = rows.setdefault(key, [[0, 0], [0, 0]])[case.held_out]
            counts[0] += right
            counts[1] += 1
        if options.failures and not right and not case.held_out:
            print(f"{case.family} [{case.kind}] {case.text!r} {why}")
    table = Table("kind", "looked at", "held out", "all", box=None)
    for key in sorted(rows, key=lambda key: (key in ("lies", "true texts"), key)):
        seen, held = rows[key]
        total = [seen[0] + held[0], seen[1] + held[1]]
        cells = (f"{right:,} of {all_:,} ({right / all_:.1%})" if all_ else "-" for right, all_ in (seen, held, total))
        table.add_row(key, *cells, style="bold" if key in ("lies", "true texts") else "")
    Console(width=120).print(table)
    lies, true = ([sum(part) for part in zip(*rows[key], strict=True)] for key in ("lies", "true texts"))
    sys.exit(0 if lies[0] >= 0.99 * lies[1] and true[0] >= 0.95 * true[1] else 1)


if __name__ == "__main__":
    main()
