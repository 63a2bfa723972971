"""Where the marks of the report's two figures stand, in SVG user units; the template draws them."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 760
_LEFT, _RIGHT = 190, 700  # of the plot
_ROW = 46
_TOP = 8
_SHIFT = {"tuned": -7, "base": 7}  # px from the row's middle, so that intervals do not hide each other


def dots(leaderboard: Sequence[Mapping[str, Any]], metric: str = "accuracy") -> dict[str, Any] | None:
    """Base and tuned score of every group with their intervals, blind score and chance.

    Args:
        leaderboard: Rows of `scores.json`.
        metric: Which metric to draw.

    Returns:
        None where nothing was scored; else `width`, `height`, `ticks` and `rows`.
    """
    by_group: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in leaderboard:
        if row["metric"] == metric and not row["group"].startswith("source:"):
            by_group.setdefault(row["group"], {})[str(row["model"])] = row
    rows = []
    for i, (group, models) in enumerate(by_group.items()):
        middle = _TOP + _ROW * i + _ROW / 2
        main = models.get("tuned") or next(iter(models.values()))
        marks = [
            {
                "model": name,
                "x": _x(row["value"]),
                "y": middle + (_SHIFT.get(name, 0) if len(models) > 1 else 0),
                "low": None if row["low"] is None else _x(row["low"]),
                "high": None if row["high"] is None else _x(row["high"]),
                "row": row,
            }
            for name, row in models.items()
        ]
        rows.append(
            {
                "label": label(group),
                "n": main["n"],
                "patients": main["patients"],
                "y": middle,
                "marks": sorted(marks, key=lambda m: m["model"] == "tuned"),  # drawn last, on top
                "blind": None if main["blind"] is None else _x(main["blind"]),
                "chance": None if main["chance"] is None else _x(main["chance"]),
                "main": main,
            }
        )
    if not rows:
        return None
    ticks = [{"x": _x(p / 100), "text": f"{p}%"} for p in range(0, 101, 25)]
    bottom = _TOP + _ROW * len(rows)
    return {"width": WIDTH, "height": bottom + 30, "bottom": bottom, "ticks": ticks, "rows": rows}


def curve(points: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Training loss by step, each and as a running mean.

    Args:
        points: (step, loss) in order of the steps.

    Returns:
        None under two steps; else `width`, `height`, `raw` and `smooth` (points of polylines), `x_ticks`, `y_ticks`.
    """
    if len(points) < 2:
        return None
    numbers = [int(step) for step, _ in points]
    losses = [loss for _, loss in points]
    smooth: list[float] = []
    keep = min(0.97, 1 - 8 / (len(losses) + 8))
    for value in losses:
        smooth.append(value if not smooth else keep * smooth[-1] + (1 - keep) * value)
    top = max(losses) * 1.05 or 1.0
    left, right, height = 52, WIDTH - 16, 210
    first, last = numbers[0], numbers[-1]

    def at(step: float, loss: float) -> str:
        x = left + (right - left) * (step - first) / max(1, last - first)
        return f"{x:.1f},{_y(loss, top, height):.1f}"

    return {
        "width": WIDTH,
        "height": height + 28,
        "bottom": height,
        "left": left,
        "right": right,
        "raw": " ".join(map(at, numbers, losses)),
        "smooth": " ".join(map(at, numbers, smooth)),
        "x_ticks": [
            {"x": left + (right - left) * i / 4, "text": f"{round(first + (last - first) * i / 4):,}"} for i in range(5)
        ],
        "y_ticks": [{"y": _y(top * i / 4, top, height), "text": f"{top * i / 4:.2g}"} for i in range(5)],
        "begin": losses[0],
        "end": smooth[-1],
    }


def label(group: str) -> str:
    """A group's name as people read it."""
    kind, _, name = group.rpartition(":")
    return {"coreference": "co-reference"}.get(name, name).replace("_", "-") if kind else group.replace("_", "-")


def _x(share: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * share, 1)


def _y(loss: float, top: float, height: float) -> float:
    return height - (height - 14) * loss / top
