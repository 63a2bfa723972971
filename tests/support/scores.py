"""Scores as medmim.bench.run writes them, made of a few numbers."""

from typing import Any

SCORE = {"metric": "accuracy", "low": None, "high": None, "blind": None, "chance": 0.33, "unparsed": 0, "errors": 0}
SCORE |= {"swap": None, "swap_low": None, "swap_high": None, "swap_n": 0, "swap_patients": 0}


def scores(digest: str, champion: str = "", comparable: bool = True, **groups: Any) -> dict[str, Any]:
    """What medmim.bench.run writes, for one candidate."""
    groups = groups or {"held_in": (0.9, 0.4, 0.35, 0.33, 200)}
    models = {"tuned": {"digest": digest}, "base": {"digest": "base"}}
    opponents = ["base"]
    if champion:
        models["champion"] = {"digest": champion}
        opponents.append("champion")
    board, differences = [], []
    for key, (value, gain, low, blind, patients) in groups.items():
        group = key.replace("__", ":")
        few = patients < 20
        interval = (None, None) if few else (value - 0.05, value + 0.05)
        row = SCORE | {"group": group, "value": value, "n": 3 * patients, "patients": patients}
        board.append(row | {"model": "tuned", "low": interval[0], "high": interval[1], "blind": blind})
        if blind is not None:
            ends = (None, None) if few else (value - blind - 0.05, value - blind + 0.05)
            board[-1] |= {"gap": value - blind, "gap_low": ends[0], "gap_high": ends[1], "gap_patients": patients}
        board.append(row | {"model": "base", "value": value - gain})
        for opponent in opponents:
            paired = {"group": group, "metric": "accuracy", "opponent": opponent, "value": gain, "n": 3 * patients}
            ends = {"low": None, "high": None} if few else {"low": low, "high": 2 * gain - low}
            differences.append(paired | ends | {"patients": patients})
    return {"models": models, "leaderboard": board, "differences": differences, "comparable": comparable}
