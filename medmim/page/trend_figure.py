"""Where the marks of the trend's figures stand, in SVG user units; the template draws them."""

from collections.abc import Sequence
from typing import Any

from medmim.nightly.records import Night

WIDTH, _HEIGHT = 1000, 240
_LEFT, _RIGHT, _TOP = 52, WIDTH - 12, 14
_TICKS = 4
_LABELS = 8  # dates below the figure, at most
_COLOURS = 6  # of the style sheet
_BESIDE = 5  # between two models in one night, so that intervals do not hide each other


def lines(nights: Sequence[Night], group: str, metric: str) -> dict[str, Any] | None:
    """Every model's score in a group, night by night, with its interval and the alarms.

    Args:
        nights: In order.
        group: `held_in` or `held_out`.
        metric: `accuracy` or `token_f1`.

    Returns:
        None where nothing was scored; else sizes, `x_ticks`, `y_ticks`, `alarms` and `models`.
    """
    rows = [(at, row) for at, night in enumerate(nights) for row in night.scores]
    own = [(at, row) for at, row in rows if (row["group"], row["metric"]) == (group, metric)]
    if not own:
        return None
    ends = [end for _, row in own for end in (row["low"], row["high"], row["value"]) if end is not None]
    low, high = max(0.0, min(ends) - 0.02), min(1.0, max(ends) + 0.02)

    def x(at: int) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (at + 0.5) / len(nights), 1)

    def y(value: float) -> float:
        return float(round(_HEIGHT - (_HEIGHT - _TOP) * (value - low) / (high - low), 1))

    models, known = [], names(nights)
    for number, name in enumerate(known):
        aside = _BESIDE * (number - (len(known) - 1) / 2)
        marks = [
            {
                "x": round(x(at) + aside, 1),
                "y": y(row["value"]),
                "low": None if row["low"] is None else y(row["low"]),
                "high": None if row["high"] is None else y(row["high"]),
                "date": nights[at].date,
                "row": row,
            }
            for at, row in own
            if row["model"] == name
        ]
        if marks:
            points = " ".join(f"{mark['x']},{mark['y']}" for mark in marks)
            models.append({"name": name, "colour": f"c{number % _COLOURS}", "points": points, "marks": marks})
    step = max(1, -(-len(nights) // _LABELS))
    return {
        "width": WIDTH,
        "height": _HEIGHT + 28,
        "top": _TOP,
        "bottom": _HEIGHT,
        "left": _LEFT,
        "right": _RIGHT,
        "models": models,
        "alarms": [{"x": x(at), "texts": night.alarms} for at, night in enumerate(nights) if night.alarms],
        "x_ticks": [{"x": x(at), "text": nights[at].date[5:]} for at in range(len(nights) - 1, -1, -step)],
        "y_ticks": [
            {"y": y(value), "text": f"{100 * value:.0f}%"}
            for value in (low + (high - low) * i / _TICKS for i in range(_TICKS + 1))
        ],
    }


def names(nights: Sequence[Night]) -> list[str]:
    """Roles, the champion first and the base second; each keeps its colour in all figures."""
    roles = dict.fromkeys(role for night in nights for role in night.models)
    return sorted(roles, key=lambda role: (role != "champion", role != "base"))
