"""How many false wordings of a language model are rejected, and how many true ones kept.

    python benchmarks/words_check.py [--failures]            the table
    python benchmarks/words_check.py --draw FAMILY [-n 50]   texts that the forms of a kind of question allow

Wordings by hand are in words_cases.yaml; Med-MIM's own stems and our templates are true ones beside them. More false
ones are made of the true ones: by a sentence before or after them, a word put in, exchanged or said twice, a slot
filled in, and as wordings of another kind of question. Exit code 1 under 99% of the false or 95% of the true ones.
Those of another writer, words_unseen.yaml, have lines of their own, and their true ones count in no other.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import yaml
from rich.console import Console
from rich.table import Table

from medmim.data.wordings import published
from medmim.data.words import check, forms, slots
from medmim.data.words.forms import Part
from medmim.data.words.lie import Lie

CASES = Path(__file__).with_name("words_cases.yaml")
UNSEEN = Path(__file__).with_name("words_unseen.yaml")
TRUE = "true"
# What models add of their own; none of it holds for every question of a kind.
ADDED = {
    "source": ("The images are from the Mayo Clinic.", "The study was done in the emergency department."),
    "patient": ("The patient is a 63-year-old man.", "She has a history of smoking.", "He was treated."),
    "date": ("The images were taken in March.", "The images are six weeks apart."),
    "finding": ("Note the enlarged heart.", "There is also a small fracture.", "A catheter is in place."),
    "negation": ("There is no pneumothorax.", "No other abnormality is seen.", "It is not seen."),
    "severity": ("The abnormality is severe.", "The change is dramatic."),
    "modality": ("The images are CT scans.", "This is an ultrasound examination."),
    "laterality": ("Only the left side is affected.", "The right lung is shown."),
    "count": ("There are three images.", "Both images show it."),
    "answer": ("It is image 2.", "The answer is image 1.", "It improved.", "They are the same."),
}  # fmt: skip
INSERTED = (
    "not", "no", "never", "without", "hardly", "possibly", "probably", "only", "also", "still", "again", "severe",
    "slightly", "large", "small", "left", "right", "other", "another", "two", "three", "first", "last", "before",
    "after", "why", "when", "where", "because", "unless", "if", "suspected", "malignant", "benign", "increased",
    "absent", "gone", "except", "instead", "similar",
)  # fmt: skip
EXCHANGED = {
    "order": (("image 1", "image 2"), ("before", "after"), ("earlier", "later"), ("first", "second")),
    "laterality": (("left", "right"),),
    "who": (("same", "different"), ("one", "another"), ("a", "every")),
    "question": (
        ("which", "why"), ("what", "when"), ("how", "where"), ("how", "whether"), ("what", "who"), ("which", "whose"),
    ),
    "negation": (
        ("is", "is not"), ("was", "was not"), ("shows", "does not show"), ("shows", "lacks"), ("can", "cannot"),
    ),
    "comparison": (("larger", "smaller"), ("bigger", "smallest"), ("same", "similar")),
}  # fmt: skip
# Kinds of which one asks what another does, where it can be said in the same words.
ALIKE = (
    {"change", "progression"}, {"which_finding", "which_figure", "which_eye"}, {"which_caption", "match_figure"},
    {"what_caption", "match_caption"}, {"joined", "joined_figures"}, {"resection", "extent_of_resection"},
    {"what_finding", "eye_diagnosis"}, {"which_size", "which_side"},
)  # fmt: skip


MADE = ("a word put in", "a word twice", "a slot filled in", "asks another kind")
SHARE = 16  # one in so many of the words that can be put in is: 186,000 at all places, of which none was kept
OF_TWO = ("order", "same_patient")  # where two images, or two others, is what there are


@dataclass(frozen=True)
class Case:
    """A text, what it would be a wording of, and what kind of lie it is (or `TRUE`)."""

    family: str
    part: Part
    kind: str
    text: str

    def rejected(self) -> str:
        """Why it is rejected; empty where it is kept."""
        return _rejected(self.text, self.family, self.part)


@cache
def _rejected(text: str, family: str, part: Part) -> str:
    try:
        check.wording(text, family, part)
    except Lie as lie:
        return str(lie)
    return ""


def by_hand(cases: Path = CASES) -> Iterator[Case]:
    """True and false texts of a file."""
    for family, case in yaml.safe_load(cases.read_text("utf-8")).items():
        for part, true, false in (("question", "true", "lies"), ("answer", "true answers", "false answers")):
            yield from (Case(family, part, TRUE, text) for text in case.get(true, ()))
            for kind, texts in case.get(false, {}).items():
                yield from (Case(family, part, kind, text) for text in texts)


def unseen() -> Iterator[Case]:
    """True and false texts of another writer, and true ones of the same who knew the words that may be used."""
    for case in by_hand(UNSEEN):
        yield replace(case, kind=f"another writer: {'true' if case.kind == TRUE else 'lies'}")
    for family, case in yaml.safe_load(UNSEEN.read_text("utf-8")).items():
        yield from (Case(family, "question", "another writer: true, told the words", text) for text in case["told"])


def stems() -> Iterator[Case]:
    """True texts that nobody wrote for the check: our templates, and stems of Med-MIM that ask what ours do."""
    for family in forms.families():
        for text in slots.templates(family):
            yield Case(family, "question", f"{TRUE}: templates", text)
    for family in ("which_sequence", "which_craniocaudal", "extent_of_resection"):
        for text in published.POOLS[family].stems:
            yield Case(family, "question", f"{TRUE}: Med-MIM", text.replace("{finding}", "enhancing tumor"))


def made(true: list[Case]) -> Iterator[Case]:
    """False texts made of true ones."""
    for case in true:
        family, part, text = case.family, case.part, case.text
        for kind, sentences in ADDED.items():
            for sentence in sentences:
                yield Case(family, part, f"adds: {kind}", f"{sentence} {text}")
                yield Case(family, part, f"adds: {kind}", f"{text} {sentence}")
        words = text.split()
        for at in range(len(words)):
            for word in INSERTED:
                if digest(text, at, word) % SHARE or (word == "two" and family in OF_TWO):
                    continue
                yield Case(family, part, "a word put in", " ".join([*words[:at], word, *words[at:]]))
            yield Case(family, part, "a word twice", " ".join([*words[: at + 1], *words[at:]]))
        for kind, pairs in EXCHANGED.items():
            for one, other in pairs:
                for a, b in ((one, other), (other, one)):
                    changed = re.sub(rf"\b{a}\b", b, text, count=1, flags=re.IGNORECASE)
                    if changed != text:
                        yield Case(family, part, f"exchanges: {kind}", changed)
        for slot in re.findall(r"\{\w+\}", text):
            for value in ("pneumonia", "image 1", "{other}", "one"):
                yield Case(family, part, "a slot filled in", text.replace(slot, value))
        if part == "question":
            for other in forms.families():
                if other != family and not any({family, other} <= alike for alike in ALIKE):
                    yield Case(other, part, "asks another kind", text)


def digest(*parts: object) -> int:
    """A number for what parts name, the same everywhere."""
    return hashlib.sha256(repr(parts).encode()).digest()[0]


def drawn(family: str, number: int) -> Iterator[str]:
    """Texts that the forms allow, to be read by whoever changes them."""
    rng = Random(0)  # noqa: S311  for reproducibility
    for part in ("question", "answer"):
        if forms.has(family, part):
            yield from (forms.written(forms.draw(forms.of(family, part), rng)) for _ in range(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", action="store_true", help="list what is rejected and true, or kept and false")
    parser.add_argument("--draw", metavar="FAMILY", help="show texts that the forms of a kind of question allow")
    parser.add_argument("-n", type=int, default=50, help="how many")
    options = parser.parse_args()
    if options.draw:
        print("\n".join(drawn(options.draw, options.n)))
        return
    written = [*by_hand(), *stems()]
    true = [case for case in written if case.kind.startswith(TRUE)]
    rows: dict[str, list[int]] = {}
    for case in dict.fromkeys([*written, *unseen(), *made(true)]):
        why, is_true = case.rejected(), TRUE in case.kind
        right = bool(why) != is_true
        apart = "" if ":" in case.kind or case.kind in MADE else "by hand: "
        total = ("true texts" if case.kind.startswith(TRUE) else "") if is_true else "lies"
        for key in filter(None, (f"{apart}{case.part}s: {case.kind}", total)):
            counts = rows.setdefault(key, [0, 0])
            counts[0] += right
            counts[1] += 1
        if options.failures and not right:
            print(f"{case.family} {case.part} [{case.kind}] {case.text!r} {why}")
    table = Table("kind", "right", box=None)
    for key in sorted(rows, key=lambda key: (key in ("lies", "true texts"), key)):
        right, total = rows[key]
        table.add_row(
            key, f"{right:,} of {total:,} ({right / total:.1%})", style="bold" * (key in ("lies", "true texts"))
        )
    Console(width=120).print(table)
    (found, lies), (kept, truths) = rows["lies"], rows["true texts"]
    sys.exit(0 if found >= 0.99 * lies and kept >= 0.95 * truths else 1)


if __name__ == "__main__":
    main()
