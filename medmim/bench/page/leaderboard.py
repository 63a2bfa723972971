"""The page of a benchmark: all its models beside each other, as one file that needs nothing else.

It shows what `scores.json`, `predictions.jsonl` and the records of the answers hold, and no time of its own, so that
one benchmark has one page: it is made once, and found in the store from then on.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim import __version__, store
from medmim.bench import compare as comparing
from medmim.bench import failures, reading, tasks
from medmim.bench import run as bench
from medmim.bench.likelihood import LIKELIHOOD
from medmim.bench.page import cost, examples, hardest, siblings, tables
from medmim.errors import UserError, wrap_os_errors
from medmim.lvlm.zoo import stored
from medmim.page import figures
from medmim.page.page import FILE, label, templates
from medmim.run.cache import cached_step
from medmim.run.provenance import provenance_of, terms_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.store.folder import write_atomically
from medmim.terms import reasons

REVISION = 1
_OF_OPEN = "token_f1"  # leads where no question is closed
_HARDEST, _DIVIDING = 12, 6  # questions that are shown
_NAME = 23  # characters of a model's name that fit beside a figure
_WORDS = 2000  # characters of an answer that are shown
_PROBES = {"value": "with images", "blind": "without images", "grey": "grey images", "swap": "right both ways"}

Row = Mapping[str, Any]


def path(ws: Workspace, run: str) -> Path:
    """Where the page of a run is."""
    return ws.home / "reports" / f"{run}.html"


def write(ws: Workspace, uri: str, target: Path) -> Artifact:
    """Write the page of a benchmark to a path, atomically; it is also in the store.

    Args:
        ws: The workspace.
        uri: Of the bench artifact.
        target: The page's path.

    Returns:
        The artifact that holds the page.

    Raises:
        UserError: The benchmark is gone, or the disk is full.
    """
    scored = store.get(uri)
    parents = {"bench": scored.digest, "data": bench.scores(ws, uri)["data"]}

    def make(folder: Path) -> Mapping[str, Any]:
        (folder / FILE).write_text(render(ws, uri), encoding="utf-8")
        return {}

    section = {"medmim": __version__}
    made, _ = cached_step(ws, "leaderboard", REVISION, section, parents, make, kind="report", terms=terms_of(scored))
    html = store.read_file(made, FILE)
    with wrap_os_errors(f"writing {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, [html])
    return made


def beside(ws: Workspace, uri: str, report: Path) -> dict[str, dict[str, str]]:
    """Write the page of a benchmark beside that of its run or night: `RUN-models.html`.

    Returns:
        For the facts of the stage: `models`, with `path` and `uri`; empty where the benchmark is gone.

    Raises:
        UserError: As `write`, but for a benchmark that is gone.
    """
    if store.find(uri) is None:  # erased, or collected as garbage: the page of the run says what it can
        return {}
    target = report.with_name(f"{report.stem}-models.html")
    return {"models": {"path": str(target), "uri": write(ws, uri, target).uri}}


def render(ws: Workspace, uri: str) -> str:
    """The page as HTML."""
    scored, scores, rows = store.get(uri), bench.scores(ws, uri), bench.predictions(ws, uri)
    board = scores["leaderboard"]
    given = {row["metric"] for row in board}
    main = next((metric for metric in ("accuracy", LIKELIHOOD) if metric in given), _OF_OPEN)
    by = {(row["model"], row["group"]): row for row in board if row["metric"] == main}
    groups = list(dict.fromkeys(row["group"] for row in board if row["metric"] == main))
    domains = [group for group in tasks.DOMAINS if group in groups]
    roles = sorted(scores["models"], key=lambda role: _place(by, role, domains))
    names = _names(roles)
    drawn, by_name = list(names.values()), {(names[role], group): row for (role, group), row in by.items()}
    refs = provenance_of(scored).get("refs") or {}
    known = siblings.entries({role: refs.get(role, "") for role in scores["models"]})
    pairs = siblings.pairs({role: known[role] for role in roles if role in known})
    beside = [_beside(rows, one, other, main, domains, names) for one, other in pairs]
    hard = hardest.hardest(rows, _HARDEST) if len(roles) > 1 else []
    split = hardest.dividing(rows, _DIVIDING, hard)
    cards = _cards(ws, scores, refs, [*hard, *split], roles)
    environment = templates("medmim.bench.page")
    environment.filters |= {"count": "{:,}".format, "tint": _tint}
    return environment.get_template("leaderboard.html.j2").render(
        version=__version__,
        digest=scored.digest,
        scores=scores,
        main=main,
        of_open=main == _OF_OPEN,
        roles=roles,
        first=next(iter(scores["models"])),
        kinds={role: "medical" if one.medical else "general" for role, one in known.items()},
        domains=domains,
        lead=_lead(by, roles, domains),
        by=by,
        figure=_leaderboard(by_name, drawn, domains, main, _below(known, pairs, names)),
        against=_against(scores["differences"], main, domains, names),
        beside=beside,
        siblings=figures.differences([point for own, _ in beside for point in own], _labels(domains), "points"),
        transfer=_transfer(by_name, drawn, domains, main),
        probes=[(group, _probes(by_name, drawn, group, main)) for group in domains],
        groups=[group for group in groups if group not in domains],
        best={group: max(by[role, group]["value"] for role in roles if (role, group) in by) for group in groups},
        reading={row["model"]: row for row in scores.get("reading", ())},
        cost=cost.of(ws, scores),
        hard=cards[: len(hard)],
        split=cards[len(hard) :],
        rest=board,
        leaks=_leaks(scores["text_only"]),
        noise=stored.noise(terms_of(scored)),
        warnings=[*failures.warnings(scores), *reading.warnings(scores)],
        forbidden=reasons(terms_of(scored), ["redistribute_data"]),
        files={
            "leaderboard.csv": _data_uri(tables.leaderboard(scores)),
            **({"differences.csv": _data_uri(tables.differences(scores))} if scores["differences"] else {}),
        },
        words=_WORDS,
    )


def _place(by: Mapping[tuple[str, str], Row], role: str, domains: Sequence[str]) -> tuple[float, str]:
    """Best first, by the first domain that it has a score in; equal ones by name."""
    values = [by[role, group]["value"] for group in domains if (role, group) in by]
    return (-values[0] if values else 1.0), role


def _names(roles: Sequence[str]) -> dict[str, str]:
    """Role -> its name in a figure, where a long one has its middle left out."""
    found: dict[str, str] = {}
    for role in roles:
        short = role if len(role) <= _NAME else f"{role[: _NAME // 2]}…{role[-_NAME // 2 + 1 :]}"
        taken = sum(other.startswith(short) for other in found.values())
        found[role] = f"{short} ({taken + 1})" if taken and short in found.values() else short
    return found


def _labels(domains: Sequence[str]) -> list[str]:
    return [label(group) for group in domains]


def _lead(by: Mapping[tuple[str, str], Row], roles: Sequence[str], domains: Sequence[str]) -> list[dict[str, Any]]:
    """Of each domain the best model, and how many others' intervals reach into its own; None without intervals."""
    found = []
    for group in domains:
        own = sorted((by[role, group] for role in roles if (role, group) in by), key=lambda row: -row["value"])
        best, *others = own
        known = best["low"] is not None and all(row["high"] is not None for row in others)
        near = sum(row["high"] >= best["low"] for row in others) if known else None
        found.append({"group": group, "row": best, "others": len(others), "near": near})
    return found


def _leaderboard(
    by: Mapping[tuple[str, str], Row],
    roles: Sequence[str],
    domains: Sequence[str],
    metric: str,
    below: Mapping[str, str],
) -> str:
    """Every model's score in each domain, with intervals and chance."""
    shown = [(group, role, by[role, group]) for role in roles for group in domains if (role, group) in by]
    points = [
        figures.Point(label(group), role, row["value"], row["low"], row["high"], row["n"], row["patients"])
        for group, role, row in shown
    ]
    levels = [
        figures.Point(f"chance, {label(group)}", role, row["chance"])
        for group, role, row in shown
        if row["chance"] is not None
    ]
    return figures.intervals(points, levels, _labels(domains), metric, below)


def _below(known: Mapping[str, Any], pairs: Sequence[tuple[str, str]], names: Mapping[str, str]) -> dict[str, str]:
    """Name in the figure -> what kind of model it is, and beside which it stands."""
    kinds = {names[role]: "medical" if one.medical else "general" for role, one in known.items()}
    beside = {names[one]: f"medical, beside {names[other]}" for one, other in pairs}
    return {**kinds, **beside}


def _against(differences: Sequence[Row], metric: str, domains: Sequence[str], names: Mapping[str, str]) -> str:
    """The first model minus each other."""
    points = [
        _difference(label(row["group"]), names[row["opponent"]], row)
        for row in differences
        if row["metric"] == metric and row["group"] in domains
    ]
    return figures.differences(points, _labels(domains), "points")


def _beside(
    rows: Sequence[Row], one: str, other: str, metric: str, domains: Sequence[str], names: Mapping[str, str]
) -> tuple[list[figures.Point], list[dict[str, Any]]]:
    """A medical model minus its general sibling: what the figure and the table show."""
    found = [row for row in comparing.paired((rows, one), (rows, other)) if row["metric"] == metric]
    points = [_difference(label(row["group"]), names[one], row) for row in found if row["group"] in domains]
    listed = [{**row, "model": one, "opponent": other} for row in found if not row["group"].startswith("source:")]
    return points, listed


def _difference(series: str, at: str, row: Row) -> figures.Point:
    return figures.Point(series, at, row["value"], row["low"], row["high"], row["n"], row["patients"])


def _transfer(by: Mapping[tuple[str, str], Row], roles: Sequence[str], domains: Sequence[str], metric: str) -> str:
    """Held-in beside held-out of every model, the best of held-out first; empty unless both were asked."""
    if len(domains) < len(tasks.DOMAINS):
        return ""
    held_in, held_out = domains
    both = [role for role in roles if (role, held_in) in by and (role, held_out) in by]
    both.sort(key=lambda role: (-by[role, held_out]["value"], role))
    points = [
        figures.Point(
            label(group), role, by[role, group]["value"], n=by[role, group]["n"], patients=by[role, group]["patients"]
        )
        for role in both
        for group in domains
    ]
    gaps = {role: f"{100 * (by[role, held_out]['value'] - by[role, held_in]['value']):+.1f}" for role in both}
    return figures.dots(points, _labels(domains), metric, gaps)


def _probes(by: Mapping[tuple[str, str], Row], roles: Sequence[str], group: str, metric: str) -> str:
    """The scores of every model under the probes; empty where none was asked."""
    points = [
        figures.Point(name, role, by[role, group][key])
        for role in roles
        if (role, group) in by
        for key, name in _PROBES.items()
        if by[role, group].get(key) is not None
    ]
    if {point.series for point in points} <= {_PROBES["value"]}:
        return ""
    return figures.dots(points, tuple(_PROBES.values()), metric)


def _cards(
    ws: Workspace, scores: Mapping[str, Any], refs: Mapping[str, str], rows: Sequence[Row], roles: Sequence[str]
) -> list[dict[str, Any]]:
    """Items as the template draws them, every model's words in the order of the leaderboard."""
    try:
        folder: Path | None = ws.fetch(refs.get("data") or f"{ws.store}/data/{scores['data']}") if rows else None
    except UserError:  # gone, or erased
        folder = None
    cards = examples.cards(rows, folder)
    for card in cards:
        card["replies"].sort(key=lambda reply: roles.index(reply["model"]))
        given = [reply["right"] for reply in card["replies"] if reply["right"] is not None]
        card["right"], card["of"] = sum(given), len(given)
    return cards


def _leaks(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Group -> how many models answer it without images surely above chance, and the best of them."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["above"]:
            own = found.setdefault(row["group"], {"models": 0, "blind": 0.0, "chance": row["chance"]})
            own["models"] += 1
            own["blind"] = max(own["blind"], row["blind"])
    return found


def _tint(row: Row) -> int:
    """How strongly a cell is coloured, in percent: what is not above chance is not."""
    chance, value = float(row["chance"] or 0), float(row["value"])
    return round(55 * max(0.0, value - chance) / max(1e-9, 1 - chance))


def _data_uri(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
