"""The last screen of a run: its leaderboard fits a plain terminal and says what was asked both ways."""

import io

from rich.console import Console

from medmim.run import screen
from medmim.sample import Score, to_json


def shown(rows: list[dict]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(screen.leaderboard(rows))
    return out.getvalue().splitlines()


def row(**fields: object) -> dict:
    score = Score("ability:coreference", "accuracy", 1.0, 0.985, 1.0, 1.0, 0.407, 12345, 12345)
    return {"model": "champion", **to_json(score), "swap": 1.0, **fields}


def test_the_widest_row_is_whole_on_80_columns() -> None:
    head, line = shown([row()])
    assert head.split("  ")[0] == "model" and "…" not in head + line
    assert " ".join(line.split()) == "champion coreference 100.0 98.5 to 100.0 100.0 100.0 40.7 12,345 12,345"
    assert head.index("both ways") + len("both ways") == line.index("100.0", line.index("to 100.0") + 8) + 5


def test_what_was_not_asked_both_ways_is_a_dash_in_older_scores_too() -> None:
    older = {key: value for key, value in row(low=None).items() if not key.startswith("swap")}
    for case in (older, row(swap=None, low=None)):
        assert shown([case])[1].split()[3:6] == ["too", "few", "-"]


def gained(**fields: float | None) -> str:
    known = {"group": "ability:temporal", "metric": "accuracy", "opponent": "base", "value": 0.1}
    out = io.StringIO()
    Console(file=out, width=80).print(screen.gains([{**known, **fields}]))
    return " ".join(out.getvalue().splitlines()[1].split())


def test_a_gain_is_won_only_when_its_whole_interval_lies_above_zero() -> None:
    assert gained(low=0.001, high=0.2) == "base temporal +10.0 +0.1 to +20.0 won"
    assert gained(low=-0.001, high=0.2).endswith("not beyond doubt")
    assert gained(low=-0.2, high=-0.1).endswith("lost")
    assert gained(low=None, high=None) == "base temporal +10.0 too few patients"


def test_unread_answers_and_the_gain_if_read_stand_beside_a_gain_on_80_columns() -> None:
    known = {"group": "ability:coreference", "opponent": "champion", "low": -0.101, "high": 0.999, "value": -0.5}
    rows = [
        {**known, "metric": "accuracy", "unread": 0.004, "opponent_unread": 0.25},
        {**known, "metric": "accuracy_if_read", "value": 0.031},
        {**known, "metric": "likelihood", "value": 0.25},
    ]
    out = io.StringIO()
    board = [row(), row(metric="likelihood", value=0.5)]
    for table in screen.tables({"leaderboard": board, "differences": rows}):
        Console(file=out, width=80).print(table)
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "…" not in out.getvalue()
    assert lines[0].startswith("model accuracy of") and lines[2].startswith("model likelihood score")
    assert lines[3].startswith("champion coreference 50.0")
    assert lines[4] == "against accuracy of points 95% unread if read"
    assert lines[5] == "champion coreference -50.0 -10.1 to +99.9 not beyond doubt 0/25% +3.1"
    assert lines[7].startswith("champion coreference +25.0 -10.1 to +99.9") and len(lines) == 8


def test_only_what_was_measured_is_shown() -> None:
    (board,) = screen.tables({"leaderboard": [row(metric="likelihood")], "differences": []})
    assert board.columns[1].header == "likelihood"
    assert len(screen.tables({})) == 1


def test_where_no_closed_question_was_asked_open_ones_are_shown() -> None:
    (board,) = screen.tables({"leaderboard": [row(metric="token_f1", chance=None)], "differences": []})
    assert board.columns[1].header == "token F1 of" and board.row_count == 1
    (board,) = screen.tables({"leaderboard": [row(metric="token_f1"), row(metric="accuracy")], "differences": []})
    assert board.columns[1].header == "accuracy of" and board.row_count == 1


def test_many_models_are_shown_by_domain_alone_on_80_columns() -> None:
    names = ["med-mantis", "llava-onevision-7b", "c", "d"]
    board = [row(model=name, group=group) for name in names for group in ("held_out", "ability:temporal")]
    gain = {"metric": "accuracy", "low": -0.101, "high": 0.999, "value": -0.5, "unread": 0.1, "opponent_unread": 0.2}
    rows = [{**gain, "opponent": line["model"], "group": line["group"]} for line in board[2:]]
    for found, count in (({"leaderboard": board, "differences": rows}, 4), ({"leaderboard": board[:6]}, 6)):
        out = io.StringIO()
        first, *others = screen.tables(found)
        for table in (first, *others):
            Console(file=out, width=80).print(table)
        assert first.row_count == count and all(table.row_count == len(names) - 1 for table in others)
        assert len(others) == ("differences" in found) and (count == 6 or "…" not in out.getvalue())
