"""The figures of a benchmark: of its file, and of pages on a site."""

from collections.abc import Mapping, Sequence
from typing import Any

from medmim.bench import tasks
from medmim.bench.standings import Standings
from medmim.page import figures
from medmim.page.page import label

Row = Mapping[str, Any]
_NAME = 23  # characters of a model's name that fit beside a figure
_PROBES = {"value": "with images", "blind": "without images", "grey": "grey images", "swap": "right both ways"}


def names(roles: Sequence[str]) -> dict[str, str]:
    """Role -> its name in a figure, where a long one has its middle left out."""
    found: dict[str, str] = {}
    for role in roles:
        short = role if len(role) <= _NAME else f"{role[: _NAME // 2]}…{role[-_NAME // 2 + 1 :]}"
        taken = sum(other.startswith(short) for other in found.values())
        found[role] = f"{short} ({taken + 1})" if taken and short in found.values() else short
    return found


def leaderboard(found: Standings, known: Mapping[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """Every model's score in each domain, with intervals and chance.

    Args:
        found: The scores.
        known: From `siblings.entries`: what kind of model each is.
        pairs: From `siblings.pairs`: beside which it stands.
    """
    named, domains = names(found.roles), found.of_kind("domain")
    shown = [
        (group, named[role], found.by[role, group])
        for role in found.roles
        for group in domains
        if (role, group) in found.by
    ]
    points = [
        figures.Point(label(group), name, row["value"], row["low"], row["high"], row["n"], row["patients"])
        for group, name, row in shown
    ]
    levels = [
        figures.Point(f"chance, {label(group)}", name, row["chance"])
        for group, name, row in shown
        if row["chance"] is not None
    ]
    kinds = {named[role]: "medical" if one.medical else "general" for role, one in known.items()}
    beside = {named[one]: f"medical, beside {named[other]}" for one, other in pairs}
    return figures.intervals(points, levels, labels(domains), found.metric, {**kinds, **beside})


def against(differences: Sequence[Row], found: Standings) -> str:
    """The first model minus each other, in each domain."""
    named, domains = names(found.roles), found.of_kind("domain")
    points = [
        difference(label(row["group"]), named[row["opponent"]], row)
        for row in differences
        if row["metric"] == found.metric and row["group"] in domains
    ]
    return figures.differences(points, labels(domains), "points")


def pair(rows: Sequence[Row], title: str) -> str:
    """One model minus another in each group of some rows of one metric."""
    names = [label(row["group"]) for row in rows]  # an ability and a source may have one
    named = [row["group"] if names.count(name) > 1 else name for row, name in zip(rows, names, strict=True)]
    return figures.differences(
        [difference(title, name, row) for name, row in zip(named, rows, strict=True)], [title], "points"
    )


def transfer(found: Standings) -> str:
    """Held-in beside held-out of every model, the best of held-out first; empty unless both were asked."""
    domains = found.of_kind("domain")
    if len(domains) < len(tasks.DOMAINS):
        return ""
    named, by, (held_in, held_out) = names(found.roles), found.by, tasks.DOMAINS
    both = [role for role in found.roles if (role, held_in) in by and (role, held_out) in by]
    both.sort(key=lambda role: (-by[role, held_out]["value"], named[role]))
    points = [
        figures.Point(label(group), named[role], row["value"], n=row["n"], patients=row["patients"])
        for role in both
        for group in tasks.DOMAINS
        for row in [by[role, group]]
    ]
    gaps = {named[role]: f"{100 * (by[role, held_out]['value'] - by[role, held_in]['value']):+.1f}" for role in both}
    return figures.dots(points, labels(tasks.DOMAINS), found.metric, gaps)


def probes(found: Standings, group: str) -> str:
    """The scores of every model under the probes; empty where none was asked."""
    named = names(found.roles)
    points = [
        figures.Point(name, named[role], found.by[role, group][key])
        for role in found.roles
        if (role, group) in found.by
        for key, name in _PROBES.items()
        if found.by[role, group].get(key) is not None
    ]
    if {point.series for point in points} <= {_PROBES["value"]}:
        return ""
    return figures.dots(points, tuple(_PROBES.values()), found.metric)


def difference(series: str, at: str, row: Row) -> figures.Point:
    """A row of differences as a point."""
    return figures.Point(series, at, row["value"], row["low"], row["high"], row["n"], row["patients"])


def labels(groups: Sequence[str]) -> list[str]:
    """The names of groups as people read them."""
    return [label(group) for group in groups]
