"""Figures are drawn once; a slow one holds up no page, and no other figure."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from medmim_console import drawing
from medmim_console.site import Refusal

from tests.support.waiting import until


def test_a_slow_figure_is_drawn_once_while_others_are_drawn_and_kept_ones_are_shown() -> None:
    begun, go, times = Event(), Event(), []

    def slow() -> str:
        times.append(1)
        begun.set()
        assert go.wait(30)
        return "slow"

    drawing.once(("kept",), lambda: "kept")
    with ThreadPoolExecutor(2) as pool:
        try:
            asked = [pool.submit(drawing.once, ("slow",), slow) for _ in range(2)]
            assert begun.wait(30)
            with ThreadPoolExecutor(1) as another:
                assert another.submit(drawing.once, ("kept",), lambda: "again").result(10) == "kept"
                assert another.submit(drawing.once, ("other",), lambda: "other").result(10) == "other"
        finally:
            go.set()
        assert [one.result(10) for one in asked] == ["slow", "slow"]
    assert len(times) == 1


def test_more_requests_than_may_wait_are_refused_at_once_and_a_figure_that_fails_is_tried_again() -> None:
    begun, go = Event(), Event()

    def broken() -> str:
        begun.set()
        assert go.wait(30)
        raise ValueError("broken")

    with ThreadPoolExecutor(40) as pool:
        try:
            asked = [pool.submit(drawing.once, ("broken",), broken) for _ in range(40)]
            refused = until(lambda: found if len(found := [one for one in asked if one.done()]) == 28 else None)
            assert {one.exception().status for one in refused if isinstance(one.exception(), Refusal)} == {503}
        finally:
            go.set()
        assert sum(isinstance(one.exception(10), ValueError) for one in asked) == 12
    assert drawing.once(("broken",), lambda: "whole") == "whole"


def test_a_figure_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = Event(), Event()
    monkeypatch.setattr(drawing, "_PATIENCE", 0.1)

    def slow() -> str:
        begun.set()
        assert go.wait(30)
        return "late"

    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(drawing.once, ("late",), slow)
            assert begun.wait(30)
            with pytest.raises(Refusal, match="too many figures"):
                drawing.once(("late",), lambda: "twice")
        finally:
            go.set()
        assert first.result(10) == "late"
