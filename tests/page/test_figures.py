"""Figures show what their rows say, where it belongs, the same bytes each time, in colours that the page has."""

import datetime
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from medmim.page import figures
from medmim.page.figures import Point
from tests.support.page import Page

SERIES = ("tuned", "base", "champion")
POINTS = [
    Point("tuned", "held-in", 0.8, 0.75, 0.85, 1375, 188),
    Point("tuned", "reasoning", 0.5, None, None, 40, 12),
    Point("base", "held-in", 0.4, 0.35, 0.45, 1375, 188),
    Point("base", "reasoning", 0.25, None, None, 40, 12),
]
LEVELS = [Point("tuned, images removed", "held-in", 0.42), Point("chance", "held-in", 0.39)]
DATES = [(datetime.date(2026, 6, 1) + datetime.timedelta(days=day)).isoformat() for day in range(30)]
ROLES = ("champion", "base", "other")


def intervals() -> str:
    return figures.intervals(POINTS, LEVELS, SERIES, "accuracy")


def trend(*roles: str) -> str:
    points = [Point(role, date, 0.7, 0.6, 0.8, 200, 60) for date in DATES for role in roles]
    return figures.trend(points, DATES, ROLES, {DATES[3]: "champion: accuracy fell; so did <F1>"}, "accuracy")


GAINS = [
    Point("held-in", "a", 0.1, 0.05, 0.15, 1375, 188),
    Point("held-in", "b", -0.2, -0.3, -0.1, 1375, 188),
    Point("held-out", "a", 0.0, None, None, 40, 12),
]


def differences() -> str:
    return figures.differences(GAINS, ("held-in", "held-out"), "points")


def dots() -> str:
    return figures.dots(POINTS[:3], SERIES, "accuracy", {"held-in": "-40.0"})


DRAWN = {
    "differences": differences,
    "dots": dots,
    "intervals": intervals,
    "curve": lambda: figures.curve([(step, 2 / (step + 1)) for step in range(50)]),
    "trend": lambda: trend("champion", "base"),
}


@pytest.fixture(params=DRAWN)
def svg(request: pytest.FixtureRequest) -> str:
    return DRAWN[request.param]()


def local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def titled(svg: str) -> dict[str, ET.Element]:
    """The marks by what shows where the mouse rests on them; of two with one text the later."""
    return {str(child.text): mark for mark in ET.fromstring(svg).iter() for child in mark if local(child) == "title"}


def place(mark: ET.Element) -> tuple[float, float]:
    found = re.fullmatch(r"translate\((.+),(.+)\)", mark.attrib["transform"])
    assert found is not None
    return float(found[1]), float(found[2])


def label(svg: str, text: str) -> ET.Element:
    return next(element for element in ET.fromstring(svg).iter() if local(element) == "text" and element.text == text)


def test_a_figure_loads_nothing_and_fits_any_page(svg: str) -> None:
    page = Page(svg)
    assert page.figures == 1 and not page.images
    root = ET.fromstring(svg)
    assert root.get("role") == "img" and root.get("aria-label")
    assert "width" not in root.attrib and root.attrib["viewBox"].startswith(f"0 0 {figures.WIDTH} ")
    assert not [element for element in root.iter() if "id" in element.attrib], "ids of two figures would collide"


def test_a_figure_has_the_same_bytes_in_another_process() -> None:
    code = "from tests.page import test_figures as own; print(*(draw() for draw in own.DRAWN.values()))"
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert drawn.stdout.rstrip("\n") == " ".join(draw() for draw in DRAWN.values())


def test_every_colour_is_one_of_the_pages_by_day_and_by_night() -> None:
    css = (Path(figures.__file__).parent / "templates" / "page.css").read_text()
    day, night = (set(re.findall(r"(--[a-z-]+):", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S))
    assert day == night
    drawn = "".join(draw() for draw in DRAWN.values()) + " ".join(figures._COLOURS)
    assert set(re.findall(r"var\((--[a-z-]+)\)", drawn)) <= day
    painted = set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawn))
    assert not {colour for colour in painted if not colour.startswith("var(")} - {"none", "transparent"}


def test_every_value_is_shown_at_its_place_with_its_interval() -> None:
    svg = intervals()
    marks, hundred = titled(svg), place(label(svg, "100%"))[0]
    for point in POINTS + LEVELS:
        note = figures._note(point)
        assert place(marks[note])[0] == pytest.approx(point.value * hundred, abs=0.1), note
    assert "held-in, tuned: 80.0% (75.0% to 85.0%), 1,375 questions, 188 patients" in marks
    assert "reasoning, base: 25.0%, 40 questions, 12 patients" in marks
    whiskers = [element for element in ET.fromstring(svg).iter() if element.get("aria-roledescription") == "rule mark"]
    ends = sorted((place(line)[0], place(line)[0] + float(line.attrib["x2"])) for line in whiskers)
    assert ends == [
        (pytest.approx(low * hundred, abs=0.1), pytest.approx(high * hundred, abs=0.1))
        for low, high in ((0.35, 0.45), (0.75, 0.85))
    ]
    for text in (
        "80.0%",
        "40.0%",
        "held-in",
        "1,375 questions, 188 patients",
        "40 questions, 12 patients",
        *SERIES[:2],
    ):
        assert label(svg, text) is not None


def test_the_series_of_a_group_stand_one_below_the_other() -> None:
    marks = titled(intervals())
    heights = [place(marks[figures._note(point)])[1] for point in (POINTS[0], POINTS[2], POINTS[1], POINTS[3])]
    assert heights == sorted(set(heights))


def test_the_loss_curve_stays_in_its_frame() -> None:
    drawn = ET.fromstring(DRAWN["curve"]())
    lines = [mark.attrib["d"] for mark in drawn.iter() if mark.get("aria-roledescription") == "line mark"]
    assert len(lines) == 2
    for line in lines:
        places = [tuple(map(float, pair.split(","))) for pair in line[1:].split("L")]
        assert len(places) == 50
        assert all(0 <= x <= figures.WIDTH and 0 <= y <= 220 for x, y in places)


def test_the_loss_on_dev_items_is_a_line_of_its_own_in_dashes() -> None:
    points = [(step, 2 / (step + 1)) for step in range(1, 50)]
    drawn = ET.fromstring(figures.curve(points, [(0, 2.0), (20, 1.0), (49, 1.5)]))
    lines = [mark for mark in drawn.iter() if mark.get("aria-roledescription") == "line mark"]
    (dev,) = [line for line in lines if line.attrib["d"].count("L") == 2]
    assert len(lines) == 3 and len({line.get("stroke-dasharray") for line in lines}) == 2
    assert dev.get("stroke") != next(line for line in lines if line is not dev).get("stroke")
    assert "dev items" in "".join(drawn.itertext())


def test_a_running_mean_follows_its_values() -> None:
    assert figures.running_mean([2.0, 4.0, 9.0]) == [3.0, 5.0, 6.5]
    assert figures.running_mean([1.0] * 300) == [1.0] * 300
    assert figures.running_mean([]) == []


def test_an_alarm_and_the_last_night_are_named() -> None:
    svg = trend("champion", "base")
    marks = titled(svg)
    assert "2026-06-04: champion: accuracy fell; so did <F1>" in marks
    night = figures._note(Point("champion", DATES[3], 0.7, 0.6, 0.8, 200, 60))
    assert abs(place(marks["2026-06-04: champion: accuracy fell; so did <F1>"])[0] - place(marks[night])[0]) < 15
    assert label(svg, "30 Jun") is not None and len(re.findall(r">\d+ Jun<", svg)) <= 12


def test_a_series_keeps_its_colour_where_another_is_absent() -> None:
    def colour(svg: str) -> str:
        return titled(svg)[figures._note(Point("other", DATES[0], 0.7, 0.6, 0.8, 200, 60))].attrib["stroke"]

    assert colour(trend("other")) == colour(trend(*ROLES)) == figures._COLOURS[2]


def test_without_rows_there_is_no_figure() -> None:
    assert figures.intervals([], [], SERIES, "accuracy") == ""
    assert figures.trend([], DATES, ROLES, {}, "accuracy") == ""
    assert figures.curve([(0, 1.0)]) == ""


def test_a_difference_is_left_or_right_of_the_line_at_zero_with_its_interval() -> None:
    svg = differences()
    marks = titled(svg)
    won = place(marks["a, held-in: +10.0 points (+5.0 to +15.0), 1,375 questions, 188 patients"])
    lost = place(marks["b, held-in: -20.0 points (-30.0 to -10.0), 1,375 questions, 188 patients"])
    even = place(marks["a, held-out: +0.0 points, 40 questions, 12 patients"])
    assert won[0] - even[0] == pytest.approx((even[0] - lost[0]) / 2, abs=0.1) and won[0] > even[0] > lost[0]
    assert won[1] < even[1] < lost[1]  # the series of a pair, then the next pair
    assert label(svg, "+10.0") is not None and label(svg, "0") is not None
    assert figures.differences([], ("held-in",), "points") == ""


def test_the_dots_of_a_group_are_in_one_line_beside_its_text() -> None:
    svg = dots()
    marks = titled(svg)
    tuned, base = (place(next(mark for text, mark in marks.items() if text.startswith(f"held-in, {name}: ")))
                   for name in ("tuned", "base"))  # fmt: skip
    assert tuned[1] == base[1]
    alone = place(next(mark for text, mark in marks.items() if text.startswith("reasoning, tuned: ")))
    assert alone[1] > tuned[1] and base[0] < alone[0] < tuned[0]
    assert label(svg, "-40.0") is not None
    assert figures.dots([], SERIES, "accuracy") == ""


def test_a_text_of_one_s_own_may_stand_below_a_name() -> None:
    svg = figures.intervals(POINTS, (), SERIES, "accuracy", {"held-in": "medical, beside x"})
    assert label(svg, "medical, beside x") is not None and "1,375 questions, 188 patients</text>" not in svg
