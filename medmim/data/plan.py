"""What the data set of a recipe will hold, from its tables alone: no picture is opened.

The numbers are those of the build but for what only pixels can tell: images that cannot be decoded.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from medmim.data import build, erased, people, quotas, reading
from medmim.data.abilities import FAMILIES
from medmim.data.words import book, reword
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace
from medmim.sample import SPLITS, Sample


def of(recipe: Recipe, ws: Workspace) -> dict[str, Any]:
    """Plan the data set of a recipe.

    Returns:
        `rows`, `by_split`, `by_ability` (ability -> split -> questions), `quotas`, `total`, `form`, `terms` (of all
        sources together), and `sources`: for each `name`, `terms`, `studies`, `patients`, `images`, `missing_images`,
        `quarantined` (reason -> rows), `skipped`, and `types`. A type has `ability`, `family`, a count for each split,
        `patients`, `images`, and what was dropped: `balanced`, `over_quota` and `unworded`. `stops` is empty, or says
        why the build would make no data set. `words` are the counts of `reword.reword`, or None.

    Raises:
        UserError: A source cannot be read, `data.sized_for` names a pool that there is not, or the wordings of
            `data.words` are not in the store.
    """
    read = reading.of(recipe.data)
    erased_patients = erased.load(ws.store)
    sources = [erased.leave_out(source, erased_patients) for source in read.load(with_headers=False)]
    held_out = {people.of(study) for source in sources for study in source.studies or () if study.held_out}
    made, counts = [], []
    for source in sources:
        asked, count = build.ask_and_count(source.studies or (), source.families, recipe.data, held_out, source.start)
        made.append(asked)
        counts.append(count)
    build.refuse_unknown_pools(recipe.data.sized_for, {pool for count in counts for pool in count["sized_for"]})
    left, _ = quotas.apply(made, recipe.data)
    rows = [[*kept, *(source.samples or ())] for kept, source in zip(left, sources, strict=True)]
    planned = []
    for name, terms, source, asked, kept, count in zip(
        read.names, read.terms_of_each, sources, made, rows, counts, strict=True
    ):
        studies, samples = source.studies or (), source.samples or ()
        patients = {people.of(study) for study in studies} | {who for s in samples for who in people.of_sample(s)}
        planned.append(
            {
                "name": name,
                "terms": terms.as_dict(),
                "studies": len(studies),
                "patients": len(patients),
                "images": len({s.image for s in studies} | {path for s in samples for path in s.paths}),
                "missing_images": len(source.missing),
                "quarantined": build.reasons(source.bad),
                "skipped": dict(source.facts.get("skipped", {})),
                "types": _types(asked, kept, count),
            }
        )
    everything = [sample for own in rows for sample in own]
    abilities = {
        ability: [s for s in everything if s.ability == ability] for ability in {s.ability for s in everything}
    }
    bad, missing = [row for one in sources for row in one.bad], [path for one in sources for path in one.missing]
    stops = build.what_stops(sources, bad, missing, bool(everything), recipe.data)
    return {
        "rows": len(everything),
        "by_split": _by_split(everything),
        "by_ability": {ability: _by_split(abilities[ability]) for ability in sorted(abilities)},
        "quotas": dict(recipe.data.quotas),
        "total": recipe.data.total,
        "form": recipe.data.form,
        "terms": read.terms.as_dict(),
        "stops": [] if stops is None else [text for text in (stops.fact, stops.reason, stops.fix) if text],
        "sources": planned,
        "words": _words(recipe, ws, [sample for own in left for sample in own]),
    }


def _words(recipe: Recipe, ws: Workspace, samples: Sequence[Sample]) -> dict[str, Any] | None:
    if recipe.data.words is None:
        return None
    return reword.reword(samples, recipe.data, book.of_store(ws, recipe.data.words.approved)).counts


def _types(asked: Sequence[Sample], kept: Sequence[Sample], counts: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """The types of one source, those included of which nothing is left."""
    before = Counter((sample.ability, sample.family) for sample in asked)
    rows: dict[tuple[str, str], list[Sample]] = {key: [] for key in before}
    for sample in kept:
        rows.setdefault((sample.ability, sample.family), []).append(sample)
    known = {family for _, family in rows}
    for family in {*counts["balanced"], *counts["unworded"]} - known:
        rows[FAMILIES[family].ability if family in FAMILIES else "", family] = []
    seen: set[str] = set()
    found = []
    for (ability, family), own in sorted(rows.items()):
        dropped = {name: counts[name].get(family, 0) if family not in seen else 0 for name in ("balanced", "unworded")}
        seen.add(family)
        found.append(
            {
                "ability": ability,
                "family": family,
                **_by_split(own),
                "patients": len({who for sample in own for who in people.of_sample(sample)}),
                "images": len({path for sample in own for path in sample.paths}),
                **dropped,
                "over_quota": max(0, before[ability, family] - len(own)),
            }
        )
    return found


def _by_split(samples: Sequence[Sample]) -> dict[str, int]:
    counts = Counter(sample.split for sample in samples)
    return {name: counts[name] for name in SPLITS}
