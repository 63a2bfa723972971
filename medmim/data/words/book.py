"""A book: wordings that a language model proposed, in a file that a person reads, and then approves.

An approved book is an artifact, STORE/words/DIGEST, which a recipe names by its digest (`data.words.approved`).
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from medmim import hints, sniff, store
from medmim.data.words import check, forms, slots
from medmim.data.words.forms import Part
from medmim.data.words.lie import Lie
from medmim.errors import UserError
from medmim.recipe.keys import Section, checked
from medmim.recipe.yaml_text import parse_yaml
from medmim.run.provenance import provenance
from medmim.run.workspace import Workspace
from medmim.store import Artifact

KIND = "words"
FILE = "words.yaml"
REVISION = 1
_HEAD = """\
# Wordings of questions and answers{of}. Each stands for thousands of rows, so read each, and delete what you would not
# say so. A line of `questions` or `answers` must be of a known form; one of your own, or a rejected one that you find
# right, stands in `questions_by_hand` or `answers_by_hand`, where nothing but its slots is checked.
# next: {command}
"""
_EXAMPLES = {
    "finding": "pleural effusion", "value": "pleural effusion", "image": "image 2", "ages": "51.2 and 52.3",
    "questions": "Image 1: Is there a fracture? Image 2: Is the heart enlarged?", "answer": "image 2",
}  # fmt: skip
_OF_FAMILY: Mapping[str, Mapping[str, str]] = {
    "order": {"value": "first"}, "which_size": {"value": "large"}, "which_modality": {"value": "MRI"},
    "which_view": {"value": "PA"}, "which_side": {"value": "left"}, "which_margin": {"value": "smooth"},
    "which_sequence": {"value": "T2-weighted"}, "which_caption": {"value": "CT axial view: large mass."},
    "match_figure": {"value": "Axial CT with a 3 cm cyst."}, "which_eye": {"value": "drusen"},
    "describe": {"image": "image 1"}, "change": {"answer": "worse"}, "progression": {"answer": "it improved"},
    "assessment": {"answer": "benign"}, "birads": {"answer": "suspicious"}, "diagnosis": {"answer": "mass"},
    "resection": {"answer": "partial"}, "extent_of_resection": {"answer": "complete resection"},
    "tumor_course": {"answer": "stable disease"}, "same_finding": {"answer": "different"},
    "same_diagnosis": {"answer": "same"}, "same_modality": {"answer": "same"}, "what_finding": {"answer": "mass"},
    "what_size": {"answer": "large"}, "what_modality": {"answer": "MRI"}, "what_view": {"answer": "lateral"},
    "what_side": {"answer": "left"}, "what_margin": {"answer": "smooth"}, "eye_diagnosis": {"answer": "drusen"},
    "shared_diagnosis": {"answer": "drusen"}, "forecast": {"answer": "no cancer is found"},
}  # fmt: skip


class Wordings(Section):
    """Those of a family."""

    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    questions_by_hand: tuple[str, ...] = ()
    answers_by_hand: tuple[str, ...] = ()

    def all(self, part: Part) -> tuple[str, ...]:
        """The wordings of questions, or of answers."""
        own = (self.questions, self.questions_by_hand) if part == "question" else (self.answers, self.answers_by_hand)
        return own[0] + own[1]


class Book(Section):
    """Wordings by family."""

    families: dict[str, Wordings]

    def of(self, family: str, part: Part) -> tuple[str, ...]:
        """The wordings of a family; none where it has none."""
        own = self.families.get(family)
        return own.all(part) if own else ()


def read(path: Path) -> Book:
    """A book, each line of it checked.

    Raises:
        UserError: It is no book, or with every line that is no wording.
    """
    if not path.exists():
        raise UserError(
            f"there is no file {path}",
            fix=f"have one written: `{hints.command('data', 'words', 'propose', str(path))}`",
        )
    return _checked(sniff.read_text(path, "wordings in YAML"), str(path))


def of_store(ws: Workspace, digest: str) -> Book:
    """An approved book.

    Raises:
        UserError: The store has none of this digest.
    """
    found = store.find(f"{ws.store}/{KIND}/{digest}")
    if found is None:
        raise UserError(
            f"there are no approved wordings {digest[:12]} in {ws.store}",
            reason="data.words.approved names wordings by their digest, and they lie in the store of the data set",
            fix=f"approve the file in this store: {ws.command('data', 'words', 'approve', 'FILE')}",
        )
    return _checked(store.read_file(found, FILE).decode("utf-8"), f"{found.uri}/{FILE}", again=True)


def approve(ws: Workspace, book: Book, shown: bool) -> Artifact:
    """Put a book into the store; the same wordings have the same digest in every store.

    Args:
        ws: The workspace.
        book: That somebody has read.
        shown: Whether this person was shown each wording and said so, not `--yes`.
    """
    lines = {name: len(own.all("question")) + len(own.all("answer")) for name, own in book.families.items()}
    made_from = {**provenance(KIND, REVISION, {}, None), "shown": shown}
    with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
        (Path(folder) / FILE).write_text(dump(book), encoding="utf-8")
        return store.publish(Path(folder), ws.store, KIND, {"wordings": lines}, made_from)


def examples(book: Book) -> Iterator[tuple[str, Part, str, str]]:
    """(family, part, wording, what it reads like) of each."""
    for family in book.families:
        about = {**_EXAMPLES, **_OF_FAMILY.get(family, {})}
        for part in get_args(Part):
            for text in book.of(family, part):
                yield family, part, text, slots.fill(text, about)


def dump(book: Book, rejected: Mapping[str, list[str]] | None = None, of: str = "", command: str = "") -> str:
    """The text of a book, or of a proposal of one.

    Args:
        book: The wordings.
        rejected: Of a proposal: family -> what was rejected and why.
        of: Of a proposal: by whom.
        command: Of a proposal: what approves it.
    """
    lines = [_HEAD.format(of=of, command=command)] if command else []
    lines.append("families:\n")
    for family in sorted(book.families):
        lines.append(f"  {family}:\n")
        lists = book.families[family].model_dump(exclude_defaults=True)
        for name, texts in lists.items():
            lines += [f"    {name}:\n", *(f"      - {json.dumps(text, ensure_ascii=False)}\n" for text in texts)]
        if not lists:
            lines.append("    {}\n")
        lines += [f"    # rejected: {json.dumps(text)}\n" for text in (rejected or {}).get(family, ())]
    return "".join(lines)


def _checked(text: str, where: str, again: bool = False) -> Book:
    """A book of a text; where it was approved before, its slots alone are checked: forms may have changed since."""
    parsed = checked(
        Book,
        parse_yaml(text, where),
        where,
        f"see docs/words.md; {hints.command('data', 'words', 'propose')} writes one",
    )
    problems: list[str] = []
    families = {}
    for family, own in parsed.families.items():
        if family not in forms.families():
            problems.append(f"{family}: there is no such kind of question; they are {', '.join(forms.families())}")
            continue
        lists = {
            name: tuple(dict.fromkeys(_texts(family, name, texts, again, problems)))
            for name, texts in own.model_dump().items()
        }
        families[family] = Wordings(**lists)
    if not problems and not any(own.all("question") or own.all("answer") for own in families.values()):
        problems.append("it has no wording")
    if problems:
        raise UserError(
            f"{where} has {len(problems)} problem{'s' * (len(problems) != 1)}",
            problems=problems,
            fix="mend or delete these lines; what you stand for yourself goes into questions_by_hand, answers_by_hand",
        )
    return Book(families=families)


def _texts(family: str, name: str, texts: tuple[str, ...], again: bool, problems: list[str]) -> Iterator[str]:
    part: Part = "question" if name.startswith("questions") else "answer"
    for text in texts:
        try:
            if again or name.endswith("_by_hand"):
                check.placed(text, family, part)
                yield " ".join(text.split())
            else:
                yield check.wording(text, family, part)
        except Lie as lie:
            problems.append(f"{family}: {name}: {text!r} {lie}")
