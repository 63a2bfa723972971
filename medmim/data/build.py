"""The stage `data`: source -> checked images -> questions -> shards; bad rows are quarantined with their reason."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from medmim import hints, shards
from medmim.data import erased, fanout, kept_pixels, people, quotas, reading, split
from medmim.data.abilities import FAMILIES, ask_all
from medmim.data.abilities import balanced as balanced_in
from medmim.data.abilities.ask import FIXED_OPTIONS, Ask, balance
from medmim.data.gather import MISSING, Decode, Gathered, gather, stored
from medmim.data.kept_pixels import KeptPixels
from medmim.data.seeds import stream
from medmim.data.sources.source import Source
from medmim.data.wordings import words
from medmim.data.words import book as books
from medmim.data.words import reword
from medmim.data.words.book import Book
from medmim.errors import UserError
from medmim.progress import say
from medmim.recipe.schema import Data, Recipe
from medmim.run.cache import cached_step, finished, step_key
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import SPLITS, BadRow, Sample, Study, escaped, is_writable

REVISION = 11
FLAGGED = "flagged.jsonl"  # images whose file says who a person is; only where there are some

_REASONS = 30  # more are not told apart by the values in them
_VALUES = re.compile(r"'[^']*'|\d[\d,.]*")
_OPEN = {"train": 0.3, "dev": 0.1, "test": 0.1}  # share of questions without options
# Not in the cache key as they are: the content of the inputs is, as a parent of the step, and the sources' own options.
_PATHS = ("root", "annotations", "link_roots", "source", "sources", "patients")
_NO_UTF8 = "holds half a surrogate pair, which is no character"


def run(recipe: Recipe, ws: Workspace) -> Outcome:
    """Build the data set of a recipe, or find it built.

    `Outcome.facts` holds the counts of the manifest: see `summary`.

    Raises:
        UserError: The source cannot be read, too many rows are bad, or nothing is left to ask.
    """
    with stage(ws, "data") as outcome:
        read = reading.of(recipe.data)
        erased_patients = erased.load(ws.store)
        section, parents = _made_from(recipe.data, read, erased_patients)
        address = recipe.platform.node_of
        shared = f"{ws.store}/{kept_pixels.UNFINISHED}{step_key('data', REVISION, section, parents)[:16]}"
        decode = fanout.on_nodes(address, shared, read.root_of) if address else None

        def build(folder: Path) -> dict[str, Any]:
            approved = books.of_store(ws, recipe.data.words.approved) if recipe.data.words else None
            sources = [erased.leave_out(source, erased_patients) for source in read.load()]
            earlier = kept_pixels.of(ws.home, erased_patients.parents.get("erased", ""))
            return make(sources, recipe.data, folder, earlier, decode, approved)

        clear = None if decode is None else partial(fanout.clear, shared)
        artifact, cached = cached_step(
            ws, "data", REVISION, section, parents, build, recipe=recipe, terms=read.terms, clear=clear
        )
        outcome.of(artifact, cached)
        outcome.facts = dict(artifact.counts)
        return outcome


def find(recipe: Recipe, ws: Workspace) -> Outcome | None:
    """The data set of a recipe where it is built, as `run`; None where it is not.

    None, too, where a root is no folder of this machine, so that nothing is known here of what it holds.

    Raises:
        UserError: The sources cannot be read.
    """
    roots = (getattr(own, "root", None) for own in recipe.data.read_from)
    if not all(root is None or root.startswith("s3://") or hints.expanded(root).is_dir() for root in roots):
        return None
    section, parents = _made_from(recipe.data, reading.of(recipe.data), erased.load(ws.store))
    artifact = finished(ws, "data", step_key("data", REVISION, section, parents))
    if artifact is None:
        return None
    with stage(ws, "data") as outcome:
        outcome.of(artifact, cached=True)
        outcome.facts = dict(artifact.counts)
    return outcome


def _made_from(data: Data, read: reading.Reading, without: erased.Erased) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that decide the content, and the digests of what goes in."""
    section = data.model_dump(mode="json", exclude={*_PATHS, "words"}) | {"sources": read.options}
    section |= reword.section(data)
    approved = {"words": data.words.approved} if data.words else {}
    return section, {**read.inputs(), **without.parents, **approved}


def make(
    sources: Sequence[Source],
    data: Data,
    folder: Path,
    earlier: KeptPixels | None = None,
    decode: Decode | None = None,
    approved: Book | None = None,
) -> dict[str, Any]:
    """Write the data set into a folder.

    Args:
        sources: The records of each source, in whose order the samples are written.
        data: The recipe's section.
        folder: May hold what an earlier, killed run has left in `resume/`.
        earlier: The pictures that earlier builds of the home stored.
        decode: As for `gather`.
        approved: The wordings of `data.words`, which needs them.

    Returns:
        The counts of `summary`.
    """
    resume = folder / "resume"
    sources = [_writable(source) for source in sources]
    named = (
        path
        for source in sources
        for path in (
            *(study.image for study in source.studies or ()),
            *(path for sample in source.samples or () for path in sample.paths),
        )
    )
    paths = list(dict.fromkeys(named))
    held_out = {people.of(study) for source in sources for study in source.studies or () if study.held_out}
    _refuse_unknown_pools(data, sources, held_out)
    images = {}
    if not data.rows_only:
        identity = reading.identity_any(sources)
        images = gather(paths, reading.read_any(sources), resume, data.max_side, identity, earlier, decode)
    samples: list[Sample] = []
    bad: list[BadRow] = []
    asked: list[list[Sample]] = []
    balanced: Counter[str] = Counter()
    unworded: Counter[str] = Counter()
    sized_for: dict[str, int] = {}
    owners = _owners((study for source in sources for study in source.studies or ()), images)
    for source in sources:
        studies, dropped = _usable(source.studies or (), images, owners)
        made, counts = ask_and_count(studies, source.families, data, held_out, source.start)
        asked.append(made)
        balanced.update(counts["balanced"])
        unworded.update(counts["unworded"])
        sized_for |= counts["sized_for"]
        bad += map(_escaped, [*source.bad, *dropped])
    left, over = quotas.apply(asked, data)
    ours: set[str] = set()
    for source, made in zip(sources, left, strict=True):
        for own, is_made in ((made, True), (source.samples or (), False)):
            good, without_image = _with_ids(own, images)
            ours.update(row.id for row in good if is_made)
            samples += good
            bad += map(_escaped, without_image)
    missing = sorted(
        {path for source in sources for path in source.missing}
        | {path for path, item in images.items() if item.problem == MISSING}
    )
    if stops := what_stops(sources, bad, missing, bool(samples), data):
        raise stops
    worded: dict[str, Any] = {}
    if data.words is not None:
        if approved is None:
            raise ValueError("data.words needs its wordings")
        places = [number for number, sample in enumerate(samples) if sample.id in ours]
        reworded = reword.reword([samples[n] for n in places], data, approved)
        worded = reworded.counts
        for number, sample in zip(places, reworded.samples, strict=True):
            samples[number] = sample
    if count := _rows(bad):
        say(f"{count:,} of {_read(sources):,} rows are quarantined; quarantine.jsonl says why")
    used = {path for sample in samples for path in sample.paths}
    shards.write(folder, samples, stored(resume, (images[p] for p in paths if p in used)) if images else ())
    _write_lines(folder / "quarantine.jsonl", (json.dumps(asdict(row), ensure_ascii=False) for row in bad))
    _write_lines(folder / "missing_images.txt", missing)
    flagged = [_escaped(row) for source in sources for row in source.flagged if row.file in used]
    if flagged:
        _write_lines(folder / FLAGGED, (json.dumps(asdict(row), ensure_ascii=False) for row in flagged))
    headers = sum(path in used for source in sources for path in set(source.headers))
    choice: dict[str, Any] = {"balanced": dict(sorted(balanced.items())), "sized_for": sized_for}
    if headers:
        choice["headers"] = headers
    if data.quotas:
        choice["over_quota"] = dict(sorted(over.items()))
    if worded:
        choice["words"] = worded
    if unworded:
        choice["unworded"] = dict(sorted(unworded.items()))
    return {**summary(samples, bad, missing), **choice, "source": reading.facts(sources)}


def questions(studies: Sequence[Study], families: Sequence[str], data: Data) -> list[Sample]:
    """The samples of `ask_and_count`."""
    return ask_and_count(studies, families, data)[0]


def ask_and_count(
    studies: Sequence[Study],
    families: Sequence[str],
    data: Data,
    held_out: Collection[people.Identity] = (),
    start: str = "",
) -> tuple[list[Sample], dict[str, dict[str, int]]]:
    """Make the questions of all splits from studies; `images` of the samples are the source's paths, not yet ids.

    No patient is in two splits, and single-image questions are for training only. A question that is generated twice,
    in whatever order of its options, is kept once. Neither which questions there are nor their order depends on the
    order of the studies, nor on whether there are other sources.

    Args:
        studies: Of one source.
        families: The question families that its images can answer.
        data: The recipe's section.
        held_out: Patients whom another source holds out of training.
        start: `Source.start`.

    Returns:
        The samples; and `balanced`, how many questions of each family `abilities.ask.balance` dropped, `sized_for`, for
        how many patients `split.groups` made the groups of each pool, and `unworded`, for how many questions of each
        family `data.form` has no words.
    """
    fractions = data.dev_fraction, data.test_fraction
    splits = split.by_split(reading.above(start, studies), data.seed, *fractions, held_out)
    asked = _types(families, data.form)
    groups, sized_for = split.groups(splits, data.seed, *fractions, data.sized_for)
    asks = {
        name: ask_all(own, [a for a in data.abilities if a != "single" or name == "train"], asked, data.seed)
        for name, own in groups.items()
    }
    left, dropped = balance(asks, data.seed, balanced_in(data.form))
    unworded: Counter[str] = Counter()
    found: dict[tuple[object, ...], Sample] = {}
    for name, own in left.items():
        for ask in own:
            sample = _sample(ask, name, data, start)
            if sample is None:
                unworded[ask.family] += 1
                continue
            found.setdefault((sample.paths, sample.question, frozenset(sample.options)), sample)
    # in no order of patients, so that the first of a split are a fair choice
    samples = sorted(found.values(), key=lambda sample: (SPLITS.index(sample.split), sample.id))
    return samples, {"balanced": dropped, "sized_for": sized_for, "unworded": dict(unworded)}


def _types(families: Sequence[str], form: str) -> Sequence[str]:
    """The families to ask: in the published form Med-MIM's own alone, of a source that has some."""
    published = [name for name in families if name in FAMILIES]
    return published if form == "published" and published else families


def _sample(ask: Ask, name: str, data: Data, start: str) -> Sample | None:
    """The question in words; None where the recipe's form has none for it."""
    paths = tuple(study.image for study in ask.studies)
    rng = stream(data.seed, "wording", ask.ability, ask.family, *paths, *sorted(ask.about.items()))
    worded = words.put(ask, rng, rng.random() >= _OPEN[name], data.form)
    if worded is None:
        return None
    sources = sorted({study.source for study in ask.studies})
    return Sample(
        ability=ask.ability,
        family=ask.family,
        source=sources[0] if len(sources) == 1 else split.mixed(people.population_of(sources[0])),
        split=name,
        held_out=any(study.held_out for study in ask.studies),
        patients=tuple(dict.fromkeys(study.patient for study in ask.studies)),
        images=paths,
        paths=tuple(start + path for path in paths),
        question=worded.question,
        options=worded.options,
        answer=worded.answer,
        gold=worded.gold,
        swapped=() if worded.swapped == worded.gold else worded.swapped,  # two values may have the same wording
    )


def _writable(source: Source) -> Source:
    """The source without records of text that no file can hold, so that a build does not end when it writes them."""
    studies, samples = source.studies or [], source.samples or []
    bad = [BadRow(study.image, 0, study.patient, _NO_UTF8) for study in studies if not is_writable(study)]
    bad += [BadRow(" ".join(sample.paths), 0, sample.source, _NO_UTF8) for sample in samples if not is_writable(sample)]
    return replace(
        source,
        studies=None if source.studies is None else [study for study in studies if is_writable(study)],
        samples=None if source.samples is None else [sample for sample in samples if is_writable(sample)],
        bad=[*source.bad, *bad],
    )


def _escaped(row: BadRow) -> BadRow:
    return replace(row, file=escaped(row.file), key=escaped(row.key), reason=escaped(row.reason))


def _owners(studies: Iterable[Study], images: dict[str, Gathered]) -> dict[str, tuple[bool, people.Identity]]:
    """Image id -> who keeps the image where several patients or articles have it: in a benchmark, else the least name.

    The same figure stands in two articles, and a benchmark holds published figures, too: split by patient alone, a
    model would be asked about an image that it was trained on.
    """
    found: dict[str, tuple[bool, people.Identity]] = {}
    for study in studies:
        if study.image in images and images[study.image].id:
            key, owner = images[study.image].id, (not study.held_out, people.of(study))
            found[key] = min(found.get(key, owner), owner)
    return found


def _usable(
    studies: Sequence[Study], images: dict[str, Gathered], owners: dict[str, tuple[bool, people.Identity]]
) -> tuple[list[Study], list[BadRow]]:
    """Studies whose image is usable, theirs and told once, and a quarantined row for each of the others."""
    good, bad = [], []
    told: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        if study.image in images and images[study.image].id:
            told[images[study.image].id].append(study)
    for study in studies:
        item = images.get(study.image, Gathered(study.image))
        problem = item.problem
        if item.id and owners[item.id][1] != people.of(study):
            problem = "the same image is another patient's or article's, too: it is kept there alone"
        elif item.id and len(told[item.id]) > 1:
            problem = _told_again(study, [other for other in told[item.id] if people.of(other) == people.of(study)])
        if problem:
            bad.append(BadRow(study.image, 0, study.patient, problem))
        else:
            good.append(study)
    return good, bad


def _told_again(study: Study, same: Sequence[Study]) -> str:
    """Why one of several studies of one picture of a patient is left out; empty where it is the one that stays."""
    if len({replace(other, image="", caption=None, pairs=()) for other in same}) > 1:
        return "the same image is in the records of this patient again, where they say something else of it"
    first = min(other.image for other in same)
    return "" if study.image == first else "the same image is in the records of this patient under another name, too"


def _with_ids(samples: Sequence[Sample], images: dict[str, Gathered]) -> tuple[list[Sample], list[BadRow]]:
    """Replace image paths by image ids; a sample with an unusable image becomes a quarantined row."""
    good, bad = [], []
    for sample in samples:
        items = [images.get(path, Gathered(path, id=path)) for path in sample.paths]
        broken = next((item for item in items if item.problem), None)
        if broken:
            bad.append(BadRow(broken.path, 0, sample.id, broken.problem))
        else:
            good.append(replace(sample, images=tuple(item.id for item in items)))
    return good, bad


def _rows(bad: Iterable[BadRow]) -> int:
    """Number of bad rows; one with several problems counts once."""
    return len({(row.file, row.row, row.key if row.row == 0 else "") for row in bad})


def _read(sources: Sequence[Source]) -> int:
    """Number of rows that were read, but for those whose image is missing."""
    return sum(len(one.studies or ()) + len(one.samples or ()) + _rows(one.bad) for one in sources)


def what_stops(
    sources: Sequence[Source], bad: Sequence[BadRow], missing: Sequence[str], any_left: bool, data: Data
) -> UserError | None:
    """Why there will be no data set: too many rows are bad, or nothing is left to ask; None where there will be one.

    Args:
        sources: As they were read.
        bad: All quarantined rows, those of `sources` included.
        missing: All images that are missing.
        any_left: Whether there are questions.
        data: The recipe's section.
    """
    total, count = _read(sources), _rows(bad)
    lacking = [*(row.file for row in bad if not row.row), *missing]
    fix = "; ".join(filter(None, (source.fix_for(lacking) for source in sources)))
    if count and not count <= data.max_bad_fraction * total:
        return UserError(
            f"{count:,} of {total:,} rows are bad, more than max_bad_fraction = {data.max_bad_fraction:g} allows",
            reason="; ".join(f"{n:,} x {reason}" for reason, n in list(reasons(bad).items())[:5]),
            fix=f"{fix or 'fix the rows'}, or raise data.max_bad_fraction to go on without them",
            problems=[f"{row.file}{f' row {row.row}' if row.row else ''} ({row.key}): {row.reason}" for row in bad],
        )
    if any_left:
        return None
    read = total + sum(len(source.missing) for source in sources if source.studies is not None)
    elsewhere = f"give the folder that holds {missing[0]} as data.root" if missing else ""
    return UserError(
        "there is nothing to ask",
        reason=f"{read:,} rows were read, {count:,} of them bad, {len(missing):,} images are missing",
        fix=fix or elsewhere or "check data.root and data.abilities in the recipe",
    )


def reasons(bad: Iterable[BadRow]) -> dict[str, int]:
    """Reason -> number of quarantined rows, the most first. Of very many, those that differ in a value only are one."""
    counts = Counter(row.reason for row in bad)
    if len(counts) > _REASONS:
        alike: dict[str, list[str]] = defaultdict(list)
        for reason in counts:
            alike[_VALUES.sub("", reason)].append(reason)
        counts = Counter(
            {
                f"{same[0]}, or the like" if len(same) > 1 else same[0]: sum(counts[reason] for reason in same)
                for same in alike.values()
            }
        )
    return dict(counts.most_common())


def _refuse_unknown_pools(data: Data, sources: Sequence[Source], held_out: Collection[people.Identity]) -> None:
    """Before any picture is read, which may take hours."""
    if not data.sized_for:
        return
    known: set[str] = set()
    fractions = data.dev_fraction, data.test_fraction
    for source in sources:
        studies = reading.above(source.start, source.studies or ())
        splits = split.by_split(studies, data.seed, *fractions, held_out)
        known.update(split.groups(splits, data.seed, *fractions, {})[1])
    refuse_unknown_pools(data.sized_for, known)


def refuse_unknown_pools(given: Mapping[str, int], known: Collection[str]) -> None:
    """Refuse `data.sized_for` of pools that a data set does not have.

    Raises:
        UserError: It names such pools.
    """
    if unknown := sorted(given.keys() - set(known)):
        raise UserError(
            f"data.sized_for names pools that this data set does not have: {', '.join(unknown)}",
            reason=f"there are {', '.join(sorted(known)) or 'none'}",
            fix="copy sized_for from the counts of a data set that was built from these sources",
        )


def summary(samples: Sequence[Sample], bad: Sequence[BadRow], missing: Sequence[str]) -> dict[str, Any]:
    """The counts that terminal, manifest and report show."""
    patients = {name: {who for s in samples if s.split == name for who in people.of_sample(s)} for name in SPLITS}
    return {
        "rows": len(samples),
        "by_ability": dict(sorted(Counter(s.ability for s in samples).items())),
        "by_split": {name: n for name in SPLITS if (n := sum(s.split == name for s in samples))},
        "held_out": sum(s.held_out for s in samples),
        "images": len({image for s in samples for image in s.images}),
        "patients": len(set().union(*patients.values())),
        "patients_by_split": {name: len(patients[name]) for name in SPLITS},
        "majority": _majority(samples),
        "quarantined": reasons(bad),
        "missing_images": len(missing),
    }


def _majority(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Split -> family -> the score of always giving the most frequent right answer, where the options are fixed."""
    fixed = {name for name, family in FAMILIES.items() if family.options}
    golds: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for sample in samples:
        if sample.options and (sample.family in FIXED_OPTIONS or sample.family in fixed):
            golds[sample.split][sample.family][sample.answer] += 1
    return {
        name: {family: round(max(n.values()) / n.total(), 3) for family, n in sorted(golds[name].items())}
        for name in SPLITS
        if name in golds
    }


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
