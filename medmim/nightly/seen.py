"""What a page of nights shows: the scores as figures, and the questions that are answered otherwise than before."""

from collections.abc import Mapping, Sequence
from typing import Any

from medmim.bench import answers, tasks
from medmim.data import erased
from medmim.data.erased import Erased
from medmim.errors import Unavailable, UserError
from medmim.nightly import regressions, watch
from medmim.nightly.records import Night
from medmim.page import figures
from medmim.page.page import label
from medmim.run.workspace import Workspace

DRAWN = 60  # nights of a figure
_ITEMS = 12  # of each model
_METRICS = {"accuracy": "accuracy", "token_f1": "token F1"}


def trends(nights: Sequence[Night]) -> list[tuple[str, str]]:
    """Title and SVG of each group and metric that was scored: every model, night by night, and the alarms.

    Args:
        nights: In order; `DRAWN` of them fit.
    """
    found = [
        (f"{label(group).capitalize()} {_METRICS[metric]}", _trend(nights, group, metric))
        for metric in regressions.METRICS
        for group in tasks.DOMAINS
    ]
    return [(title, figure) for title, figure in found if figure]


def changes(ws: Workspace, night: Night, before: Night | None) -> list[dict[str, Any]]:
    """The questions that are answered otherwise than the night before, or than the cache says; while they are there.

    Those about an erased patient are counted, and not shown.

    Args:
        ws: The workspace, to read the answers.
        night: The night.
        before: The night before it.

    Returns:
        For each `model` with such questions their `count` and `rows`: `id`, `question`, and the answers `before`, `now`
        and `anew`.

    Raises:
        Unavailable: The store does not answer.
    """
    shown, gone = [], erased.load(ws.store)
    for role in night.models:
        canary = night.canary.get(role)
        names = list(dict.fromkeys([*night.changed.get(role, ()), *(canary["items"] if canary else ())]))
        try:
            now = watch.answers(ws, night.date, night.bench, role).rows if names else {}
            known = before if names and before and role in before.models else None
            then = watch.answers(ws, known.date, known.bench, role).rows if known else {}
            given = answers.load(ws.fetch(f"{ws.store}/answers/{canary['answers']}")) if names and canary else []
        except UserError as error:
            if isinstance(error, Unavailable):
                raise
            continue  # garbage collection or an erasure took them
        rows = [
            {"id": name, "question": now[name]["question"], "before": _text(then, name), "now": _text(now, name)}
            | {"anew": next((one.text for one in given if one.sample == name), "–")}
            for name in [name for name in names if name in now and not _is_erased(gone, now[name])][:_ITEMS]
        ]
        if rows:
            shown.append({"model": role, "count": len(names), "rows": rows})
    return shown


def _is_erased(gone: Erased, row: Mapping[str, Any]) -> bool:
    return bool(gone.marks) and any(gone.holds(row["source"], patient) for patient in row["patients"])


def _trend(nights: Sequence[Night], group: str, metric: str) -> str:
    points = [
        figures.Point(row["model"], night.date, row["value"], row["low"], row["high"], row["n"], row["patients"])
        for night in nights
        for row in night.scores
        if (row["group"], row["metric"]) == (group, metric)
    ]
    roles = dict.fromkeys(role for night in nights for role in night.models)
    series = sorted(roles, key=lambda role: (role != "champion", role != "base"))
    alarms = {night.date: "; ".join(night.alarms) for night in nights if night.alarms}
    return figures.trend(points, [night.date for night in nights], series, alarms, _METRICS[metric])


def _text(rows: Mapping[str, Mapping[str, Any]], name: str) -> str:
    return str(rows[name]["text"]) if name in rows else "–"
