"""Writes the rows of a data set as a folder that another trainer reads, with its card and its terms of use.

    README.md        the card: what is in it, how to use it, its terms
    terms.json       the terms of use of the data set
    left_out.jsonl   the rows that were not written, each with its reason
    export.json      marks the folder as an export: from which data set, with which files
    pictures/        the pictures, where the format has them as files

The folder is there whole or not at all, and holds no time and no address: equal rows give equal bytes. Training rows
are written and no others, unless other splits are named: each has files of its own.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import __version__, hints, shards, store, terms
from medmim.data.audit.questions import Words, words
from medmim.data.export import card, folder, hf_datasets, llama_factory, llava, med_mim, ms_swift, records, trl
from medmim.data.export.form import Form, Splits, rows
from medmim.errors import UserError
from medmim.run.provenance import provenance_of, shows_patients, terms_of
from medmim.run.workspace import Workspace
from medmim.sample import LETTERS, SPLITS, Sample
from medmim.terms import Terms

LEFT_OUT = "left_out.jsonl"
FORMS: Mapping[str, Form] = {
    "llava": llava.FORM,
    "ms-swift": ms_swift.FORM,
    "llama-factory": llama_factory.FORM,
    "trl": trl.FORM,
    "med-mim": med_mim.FORM,
    "datasets": hf_datasets.FORM,
}
"""Name of a format -> which rows it holds, and what writes them."""
_BENCHMARKED = ("dev", "test")


@dataclass(frozen=True)
class Choice:
    """Which rows of a data set are written.

    Attributes:
        splits: Of `SPLITS`.
        limit: Only the first rows of each split; None for all.
        max_images: No rows with more images, for a trainer that takes so many; None for any number.
    """

    splits: Sequence[str] = ("train",)
    limit: int | None = None
    max_images: int | None = None


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: Where.
        rows: Split -> number of its rows.
        left_out: Reason -> rows that were not written.
        images: Distinct ones.
        patients: How many are in it.
        data: Digest of the data set.
        terms: Of the data set.
        record: Its id in the store.
    """

    folder: Path
    rows: dict[str, int]
    left_out: dict[str, int]
    images: int
    patients: int
    data: str
    terms: Terms
    record: str


def export(
    ws: Workspace,
    uri: str,
    place: Path,
    to: str,
    choice: Choice | None = None,
    in_house: bool = False,
    named: bool = False,
    replace: bool = False,
) -> Export:
    """Write the rows of a data set for another trainer, and record that in the store.

    Args:
        ws: The workspace.
        uri: The data set.
        place: A folder that is created; an earlier export there for the same of the same data set is replaced.
        to: One of `FORMS`.
        choice: Which rows; by default those of training.
        in_house: The folder stays with those who may have the data, where its terms forbid passing it on.
        named: Names of files and folders may name patients, whatever the recipe's `platform.show_patients` says.
        replace: Any other export there is replaced, too.

    Raises:
        UserError: The terms forbid it, the format would name patients, no row can be written, the URI is of no data set
            or of one without pixels, or the folder is something else, another export, or in the store.
    """
    choice = choice or Choice()
    source = store.get(uri)
    if source.kind != "data":
        raise UserError(
            f"{uri} is not a data set",
            reason=f"it is an artifact of kind '{source.kind}'",
            fix=f"give the URI that `{hints.command('data', 'build')}` printed",
        )
    folder.refuse_place(place, ws.store)
    folder.refuse_other(place, to, source.digest, replace)
    allowed = terms_of(source)
    records.refuse_forbidden(allowed, in_house)
    form = FORMS[to]
    if form.names_patients:
        _refuse_names(to, source, named)
    data = store.fetch(source, ws.cache)
    images = None if form.without_pixels and not any(data.glob("images/*.parquet")) else shards.Images(data)
    splits, dropped = _choose(data, form, choice, images)
    if not any(splits.values()):
        raise _nothing(choice, to, dropped)
    splits = {split: found for split, found in splits.items() if found}
    reasons = dict(Counter(reason for _, reason in dropped))
    records.announce(ws.store, place)
    with folder.whole(place) as part:
        written = form.write(part, splits, images)
        (part / terms.FILE).write_text(allowed.dump(), encoding="utf-8")
        (part / "README.md").write_text(card.text(to, source.digest, splits, reasons, allowed, written), "utf-8")
        lines = [json.dumps({"id": name, "reason": reason}) + "\n" for name, reason in dropped]
        (part / LEFT_OUT).write_text("".join(lines), encoding="utf-8")
        facts = _facts(to, source.digest, choice, splits, len(dropped))
        mark = folder.write_mark(part, facts, written.sums)
        private = not allowed.redistribute_data
        record = records.write(ws.store, place, to, source.digest, rows(splits), private, mark, form.names_patients)
    return Export(
        place,
        facts["rows"],
        reasons,
        len({name for sample in rows(splits) for name in sample.images}),
        record.patients,
        source.digest,
        allowed,
        record.id,
    )


def _refuse_names(to: str, source: store.Artifact, named: bool) -> None:
    if not named and not shows_patients(provenance_of(source)):
        others = [name for name, one in FORMS.items() if not one.names_patients]
        raise UserError(
            f"the format {to} names patients",
            reason="its pictures have the paths of the source, and the recipe's platform.show_patients is not true",
            fix=f"take another: {', '.join(others)}; or say --name-patients, which is recorded",
        )


def _choose(
    data: Path, form: Form, choice: Choice, images: Collection[str] | None
) -> tuple[dict[str, list[Sample]], list[tuple[str, str]]]:
    """The rows to write by split, and (row, reason) of those that are left out."""
    clash = form.clashes() if form.clashes and images is not None else None
    measured: dict[frozenset[str], dict[Words, set[str]]] = {}
    for split in _BENCHMARKED:
        for one in shards.Samples(data, split):
            measured.setdefault(frozenset(one.images), {}).setdefault(words(one.question), set()).add(one.id)
    found: dict[str, list[Sample]] = {}
    dropped: list[tuple[str, str]] = []
    for split in (one for one in SPLITS if one in choice.splits):
        found[split] = []
        for sample in shards.Samples(data, split):
            if choice.limit is not None and len(found[split]) >= choice.limit:
                break
            name = sample.id
            reason = _benchmarked(sample, name, measured) or _problem(sample, form, choice, images)
            if not reason and clash is not None:
                reason = clash(sample)
            if reason:
                dropped.append((name, reason))
            else:
                found[split].append(sample)
    return found, dropped


def _benchmarked(sample: Sample, name: str, measured: Mapping[frozenset[str], Mapping[Words, Collection[str]]]) -> str:
    """Why a row must not be trained on; empty where it may.

    Args:
        sample: The row.
        name: Its id.
        measured: Images of a benchmark's question -> what is asked about them -> ids of the rows that do.
    """
    if sample.split != "train":
        return ""
    if sample.held_out:
        return f"the domain of {sample.source} is held out of training"
    same = measured.get(frozenset(sample.images))
    ids = same.get(words(sample.question), ()) if same else ()
    if name in ids:
        return "the same row is in the benchmark"
    return "a row of the benchmark asks the same of the same images" if ids else ""


def _problem(sample: Sample, form: Form, choice: Choice, images: Collection[str] | None) -> str:
    if choice.max_images is not None and len(sample.images) > choice.max_images:
        return _too_many(choice.max_images)
    if images is not None and any(name not in images for name in sample.images):
        return "the data set lacks one of its images"
    return _unanswered(sample) or form.problem(sample)


def _too_many(most: int) -> str:
    return f"it has more than {most} image{'' if most == 1 else 's'}"


def _unanswered(sample: Sample) -> str:
    """Why nobody could learn a closed question, whatever the format; empty where it can be."""
    options, gold = sample.options, sample.gold
    if len(options) > len(LETTERS):
        return f"it has more than {len(LETTERS)} options"
    if options and not (gold and all(0 <= at < len(options) and options[at] == sample.answer for at in gold)):
        return "its answer is none of its options, or its gold is another one"
    return ""


def _nothing(choice: Choice, to: str, dropped: Sequence[tuple[str, str]]) -> UserError:
    counted = Counter(reason for _, reason in dropped)
    if not counted:
        return UserError(
            f"the data set has no rows in {', '.join(choice.splits)}", fix=f"name another: --split {' | '.join(SPLITS)}"
        )
    own = choice.max_images is not None and set(counted) == {_too_many(choice.max_images)}
    return UserError(
        f"no row of {', '.join(choice.splits)} can be written for {to}",
        problems=[f"{count:,} rows: {reason}" for reason, count in counted.most_common()],
        fix="give a larger --max-images" if own else f"take another format: {', '.join(FORMS)}",
    )


def _facts(to: str, data: str, choice: Choice, splits: Splits, left_out: int) -> dict[str, Any]:
    return {
        "medmim": __version__,
        "for": to,
        "data": data,
        "limit": choice.limit,
        "max_images": choice.max_images,
        "rows": {split: len(found) for split, found in splits.items()},
        "left_out": left_out,
    }
