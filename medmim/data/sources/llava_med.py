"""Figures of PMC articles with captions and conversations, as LLaVA-Med chose them from PMC-15M.

    ROOT/llava_med_instruct_fig_captions.json      pair_id, fig_caption
    ROOT/llava_med_instruct_60k.json               id, image, domain, conversations (in some files `conversatons`)
    ROOT/images/28104940_F2.jpg                    whatever its suffix says, a figure may be PNG or GIF

Both tables may be a list in JSON or JSON Lines. A figure is read if there is a conversation on it. Its article takes
the place of the patient. Many figures are missing, since articles vanish from PMC: they are counted, and nothing stops.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from medmim.data.sources import json_records, roots
from medmim.data.sources.files import escapes
from medmim.data.sources.names import nfc
from medmim.data.sources.roots import Root
from medmim.data.sources.source import Entry, Source
from medmim.data.sources.table import MAX_CELL
from medmim.errors import UserError
from medmim.recipe.sources import LlavaMed
from medmim.sample import IMAGE, BadRow, Pair, Study
from medmim.terms import Terms

TERMS = Terms(
    # Models trained on it were published, for research alone; of the figures each article keeps its own licence.
    release_weights=True,
    text=(
        "PMC figures of LLaVA-Med: CC BY-NC 4.0, for research alone; the terms of GPT-4 and LLaMA hold for the "
        "conversations; each article keeps its own licence",
    ),
)

SOURCE = "pmc"
MODALITIES = {  # key of `domain` -> Study.modality
    "chest_xray": "X-ray", "mri": "MRI", "histology": "histology", "gross": "gross pathology", "ct_scan": "CT",
}  # fmt: skip
# The others would take what a caption leaves open for what the figure does not show.
FAMILIES = ("which_figure", "match_figure", "match_caption", "same_modality", "joined_figures")
_TURNS = ("conversations", "conversatons")
_ID = re.compile(r"(?P<article>[A-Za-z0-9.-]{1,40})_F(?P<figure>[\w.-]{1,40})", re.ASCII)
_TAG = re.compile(
    r"</?(?:italic|bold|sup|sub|i|b|u|em|strong|xref|ext-link|sc|p|title|br)(?:\s[^<>=]{1,60}=[^<>]{0,200})?\s?/?>",
    re.IGNORECASE,
)
_WANTED = "a list of conversations in JSON"
_CAPTIONS = "a list of captions in JSON"


@dataclass
class _Figure:
    path: str
    article: str
    modality: str
    pairs: dict[Pair, None] = field(default_factory=dict)
    caption: str | None = None


def inputs(entry: Entry[LlavaMed]) -> dict[str, str]:
    """The digests of both tables, and one over sizes and times of change of the figures."""
    root, own = roots.opened(entry), entry.own
    figures, _, _ = _figures(root, own)
    return roots.digest(root, (own.captions, own.instructions), (figure.path for figure in figures.values()))


def load(entry: Entry[LlavaMed]) -> Source:
    """Read conversations and captions; figures that are missing are counted, records that cannot be used quarantined.

    Raises:
        UserError: No folder, or a table that is missing, something else (a Git LFS pointer), broken or empty.
    """
    root, own = roots.opened(entry), entry.own
    figures, bad, counts = _figures(root, own)
    if not counts["rows"]:
        raise UserError(f"{own.instructions} has no records", fix=f"copy it again to {root}")
    bad += _add_captions(root, own, figures, counts)
    missing = [figure.path for figure in figures.values() if not root.has(figure.path)]
    absent = set(missing)
    studies = [
        Study(
            source=SOURCE,
            patient=figure.article,
            image=figure.path,
            modality=figure.modality,
            caption=figure.caption,
            pairs=tuple(figure.pairs),
        )
        for figure in figures.values()
        if figure.path not in absent
    ]
    modalities = Counter(study.modality or "not known" for study in studies)
    return Source(
        root.read,
        studies=studies,
        families=FAMILIES,
        bad=bad,
        missing=missing,
        facts={
            "rows": counts.pop("rows"),
            "images": len(studies),
            "articles": len({study.patient for study in studies}),
            "missing_images": len(missing),
            "by_modality": dict(sorted(modalities.items())),
            "without_caption": sum(study.caption is None for study in studies),
            "pairs": sum(len(study.pairs) for study in studies),
            "skipped": dict(sorted(counts.items())),
        },
        identity=root.identity,
        fix_for=root.fix_for,
    )


def _figures(root: Root, own: LlavaMed) -> tuple[dict[str, _Figure], list[BadRow], Counter[str]]:
    """The figures that the conversations name, by their id, in the order of the file."""
    found: dict[str, _Figure] = {}
    bad: list[BadRow] = []
    counts = Counter({"rows": 0})
    for number, row in enumerate(json_records.records(root.table(own.instructions), _WANTED), 1):
        counts["rows"] += 1
        figure, problems = _figure(row, own.images)
        bad += [BadRow(own.instructions, number, key, reason) for key, reason in problems]
        if figure is None:
            continue
        first = found.setdefault(str(row["id"]), figure)
        if (first.path, first.modality) != (figure.path, figure.modality):
            reason = "another record of this id names another image or domain"
            bad.append(BadRow(own.instructions, number, "id", reason))
        elif first is not figure:
            counts["another conversation on a figure" if figure.pairs.keys() - first.pairs else "a record again"] += 1
            first.pairs |= figure.pairs
    return found, bad, counts


def _figure(row: Any, folder: str) -> tuple[_Figure | None, list[tuple[str, str]]]:
    if not isinstance(row, dict):
        return None, [("", f"the record is a {type(row).__name__}, not an object")]
    name = row.get("id")
    known = _ID.fullmatch(name) if isinstance(name, str) else None
    if known is None:
        return None, [("id", "is no text such as 28104940_F2")]
    image = row.get("image", f"{name}.jpg")
    if not isinstance(image, str) or not image.strip() or escapes(image) or len(image) > MAX_CELL or "\0" in image:
        return None, [("image", "is no name of a file")]
    turns = next((row[key] for key in _TURNS if key in row), None)
    pairs, reason = _pairs(turns)
    if reason:
        return None, [(_TURNS[0], reason)]
    path = f"{folder.rstrip('/')}/{nfc(image.strip())}"
    return _Figure(path, known["article"], _modality(row.get("domain")), dict.fromkeys(pairs)), []


def _modality(domain: Any) -> str:
    """Of the only domain that is true; empty where there is none, or a figure has panels of several."""
    if not isinstance(domain, dict):
        return ""
    true = [MODALITIES[key] for key in MODALITIES if domain.get(key) is True]
    return true[0] if len(true) == 1 else ""


def _pairs(turns: Any) -> tuple[list[Pair], str]:
    """Question and answer, in turn, or why they are not."""
    if not isinstance(turns, list):
        return [], "missing or no list"
    texts = []
    for number, turn in enumerate(turns):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
            return [], f"turn {number + 1} is none of '{speaker}' with a text"
        text = " ".join(turn["value"].replace(IMAGE, " ").split())
        if not text:
            return [], f"turn {number + 1} is empty"
        if len(text) > MAX_CELL:
            return [], f"turn {number + 1} has more than {MAX_CELL:,} characters"
        texts.append(text)
    if len(texts) % 2:
        return [], "the last question has no answer"
    return [Pair(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True)], ""


def _add_captions(root: Root, own: LlavaMed, figures: dict[str, _Figure], counts: Counter[str]) -> list[BadRow]:
    """Give each figure its caption; a second one that differs makes its record bad."""
    bad: list[BadRow] = []
    for number, row in enumerate(json_records.records(root.table(own.captions), _CAPTIONS), 1):
        for key, reason in _add_caption(row, figures, counts):
            bad.append(BadRow(own.captions, number, key, reason))
    return bad


def _add_caption(row: Any, figures: dict[str, _Figure], counts: Counter[str]) -> Iterator[tuple[str, str]]:
    if not isinstance(row, dict):
        yield "", f"the record is a {type(row).__name__}, not an object"
        return
    name, caption, label = row.get("pair_id"), row.get("fig_caption"), row.get("fig_label")
    if not isinstance(name, str) or not isinstance(caption, str | None):
        yield "pair_id", "pair_id or fig_caption is no text"
        return
    figure = figures.get(name)
    if figure is None:
        counts["a caption without a conversation"] += 1
        return
    text = clean(caption or "", label if isinstance(label, str) else "")
    if len(text) > MAX_CELL:
        counts[f"a caption of more than {MAX_CELL:,} characters"] += 1
    elif text and figure.caption not in (None, text):
        yield "fig_caption", "another record gives this figure another caption"
    elif text:
        figure.caption = text


def clean(caption: str, label: str = "") -> str:
    """A caption on one line, without markup, and without the figure's label in front of it."""
    text = " ".join(html.unescape(_TAG.sub("", caption)).split())
    plain = " ".join(label.split())
    rest = text[len(plain) :]
    if plain and text.startswith(plain) and not rest[:1].isalnum():
        text = rest.lstrip(" .:-\u2013\u2014")
    return text
