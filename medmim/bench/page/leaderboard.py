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
from medmim.bench import failures, reading, standings
from medmim.bench import run as bench
from medmim.bench.page import cost, drawn, examples, hardest, siblings, tables
from medmim.bench.standings import Standings
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
_HARDEST, _DIVIDING = 12, 6  # questions that are shown
_WORDS = 2000  # characters of an answer that are shown

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
    found = standings.standings(scores)
    roles, domains = found.roles, found.of_kind("domain")
    refs = provenance_of(scored).get("refs") or {}
    known = siblings.entries({role: refs.get(role, "") for role in scores["models"]})
    pairs = siblings.pairs({role: known[role] for role in roles if role in known})
    names = drawn.names(roles)
    beside = [_beside(rows, one, other, found, names) for one, other in pairs]
    hard = hardest.hardest(rows, _HARDEST) if len(roles) > 1 else []
    split = hardest.dividing(rows, _DIVIDING, hard)
    cards = _cards(ws, scores, refs, [*hard, *split], roles)
    environment = templates("medmim.bench.page")
    environment.filters |= {"count": "{:,}".format, "tint": _tint}
    return environment.get_template("leaderboard.html.j2").render(
        version=__version__,
        digest=scored.digest,
        scores=scores,
        main=found.metric,
        of_open=found.is_of_open,
        roles=roles,
        first=next(iter(scores["models"])),
        kinds={role: "medical" if one.medical else "general" for role, one in known.items()},
        domains=domains,
        lead=found.leads(),
        by=found.by,
        figure=drawn.leaderboard(found, known, pairs),
        against=drawn.against(scores["differences"], found),
        beside=beside,
        siblings=figures.differences([point for own, _ in beside for point in own], drawn.labels(domains), "points"),
        transfer=drawn.transfer(found),
        probes=[(group, drawn.probes(found, group)) for group in domains],
        groups=[group for group in found.groups if group not in domains],
        best={group: found.best(group) for group in found.groups},
        reading={row["model"]: row for row in scores.get("reading", ())},
        cost=cost.of(ws, scores),
        hard=cards[: len(hard)],
        split=cards[len(hard) :],
        rest=scores["leaderboard"],
        leaks=standings.leaks(scores),
        noise=stored.noise(terms_of(scored)),
        warnings=[*failures.warnings(scores), *reading.warnings(scores)],
        forbidden=reasons(terms_of(scored), ["redistribute_data"]),
        files={
            "leaderboard.csv": _data_uri(tables.leaderboard(scores)),
            **({"differences.csv": _data_uri(tables.differences(scores))} if scores["differences"] else {}),
        },
        words=_WORDS,
    )


def _beside(
    rows: Sequence[Row], one: str, other: str, found: Standings, names: Mapping[str, str]
) -> tuple[list[figures.Point], list[dict[str, Any]]]:
    """A medical model minus its general sibling: what the figure and the table show."""
    own = [row for row in comparing.paired((rows, one), (rows, other)) if row["metric"] == found.metric]
    domains = found.of_kind("domain")
    points = [drawn.difference(label(row["group"]), names[one], row) for row in own if row["group"] in domains]
    listed = [{**row, "model": one, "opponent": other} for row in own if not row["group"].startswith("source:")]
    return points, listed


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


def _tint(row: Row) -> int:
    """How strongly a cell is coloured, in percent: what is not above chance is not."""
    chance, value = float(row["chance"] or 0), float(row["value"])
    return round(55 * max(0.0, value - chance) / max(1e-9, 1 - chance))


def _data_uri(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
