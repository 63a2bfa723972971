"""Figures of plain rows as static SVG: text stays text, the colours are the page's, no script, nothing from outside.

Altair describes a figure, vl-convert renders it in this process; both are imported when a figure is drawn.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import altair as alt

WIDTH = 880  # px; a section's at a common width of the page, so that text is about as large as the page's
_GROUPS = 190  # px for the names of groups
_DATES = 12  # named below a trend, at most
_SVG = "http://www.w3.org/2000/svg"
_NUMBERS = {"d", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "viewBox"}

# CSS variables, so that a figure follows the page by day and by night; all in page.css.
_INK, _SOFT, _LINE, _CARD, _ALARM = "var(--ink)", "var(--soft)", "var(--line)", "var(--card)", "var(--bad)"
_COLOURS = ("var(--tuned)", "var(--base)", "var(--third)", "var(--blind)", "var(--fifth)", "var(--sixth)")
_SHAPES = ("circle", "circle", "diamond", "square", "triangle-up", "cross")  # no series by its colour alone
_HOLLOW = (1,)


class _Style(NamedTuple):
    stroke: str
    fill: str
    shape: str


# Upright strokes, one of them in dashes; paths in units of half a mark.
_LEVELS = (_Style("var(--blind)", "none", "M0,-1V1"), _Style(_SOFT, "none", "M0,-1V-.6M0,-.2V.2M0,.6V1"))


@dataclass(frozen=True)
class Point:
    """A value of one series.

    Attributes:
        series: Whose value.
        at: The group, or the date (YYYY-MM-DD).
        value: A share, 0 to 1.
        low: Lower end of its interval; None where it has none.
        high: Upper end.
        n: Questions behind it; None where that is not shown.
        patients: Patients behind it.
    """

    series: str
    at: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    patients: int | None = None


def intervals(
    points: Sequence[Point],
    levels: Sequence[Point],
    series: Sequence[str],
    axis: str,
    below: Mapping[str, str] | None = None,
) -> str:
    """A row for each group: the value of every series with its interval, and levels to compare with.

    Args:
        points: One for a series and a group, with `n` and `patients`; groups are drawn in the order of their first.
        levels: Of up to two further series, drawn as strokes across the group's row.
        series: Those of `points`, the main one first: a group's `n` and `patients` are its. A series has the colour
            of its place, whether or not those before it have points.
        axis: Title of the axis of values.
        below: Group -> the small text below its name. [default: its `n` and `patients`]

    Returns:
        An SVG element; empty without points.
    """
    import altair as alt

    if not points:
        return ""
    drawn = _drawn(points, series)
    names = [*drawn, *dict.fromkeys(level.series for level in levels)]
    channels = _channels(names, [*(_style(series, name) for name in drawn), *_LEVELS])
    main = {point.at: point for name in reversed(drawn) for point in points if point.series == name}
    order = list(dict.fromkeys(point.at for point in points))
    if below is None:
        below = {at: f"{main[at].n:,} questions, {main[at].patients:,} patients" for at in order}
    counts = [{"at": at, "text": below[at]} for at in order if at in below]
    y = alt.Y("at:N", title=None, scale=alt.Scale(domain=order), axis=_names(raised=8))
    beside = alt.YOffset("series:N", scale=alt.Scale(domain=drawn, paddingOuter=0.5))
    shares = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1], domain=False, ticks=False, labelFlush=False)
    x = alt.X("value:Q", title=axis, scale=alt.Scale(domain=[0, 1]), axis=shares)
    colour = alt.condition(alt.datum.series == drawn[0], alt.value(_INK), alt.value(_SOFT))
    strokes = _chart(levels).mark_point(size=900, strokeWidth=2, opacity=1)
    marks = _chart(points).mark_point(size=110, strokeWidth=2.2, opacity=1)
    values = _chart(points).mark_text(align="right", dx=62, fontSize=13)
    small = _rows(counts).mark_text(align="left", dx=-_GROUPS, dy=10)
    chart = alt.layer(
        strokes.encode(x=x, y=y, description="note:N", **channels),
        _whiskers(points, 3).encode(x="low:Q", x2="high:Q", y=y, yOffset=beside, stroke=channels["stroke"]),
        marks.encode(x=x, y=y, yOffset=beside, description="note:N", **channels),
        values.encode(x=alt.value("width"), y=y, yOffset=beside, text=alt.Text("value:Q", format=".1%"), color=colour),
        small.encode(x=alt.value(0), y=y, text="text:N"),
    )
    height = len(order) * 18 * (len(drawn) + 1)
    return _svg(chart.properties(height=height), f"{axis} by group: {', '.join(names)}", right=48)


def dots(points: Sequence[Point], series: Sequence[str], axis: str, beside: Mapping[str, str] | None = None) -> str:
    """A line for each group that joins the values of all series, without intervals.

    Args:
        points: At most one for a series and a group; groups are drawn in the order of their first.
        series: In the order of the legend; each has the colour of its place.
        axis: Title of the axis of values.
        beside: Group -> the text at its right.

    Returns:
        An SVG element; empty without points.
    """
    import altair as alt

    if not points:
        return ""
    drawn = _drawn(points, series)
    channels = _channels(drawn, [_style(series, name) for name in drawn])
    order = list(dict.fromkeys(point.at for point in points))
    own = {at: [point.value for point in points if point.at == at] for at in order}
    spans = _rows({"at": at, "low": min(values), "high": max(values)} for at, values in own.items())
    texts = _rows({"at": at, "text": beside[at]} for at in order if beside and at in beside)
    y = alt.Y("at:N", title=None, scale=alt.Scale(domain=order), axis=_names(raised=0))
    shares = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1], domain=False, ticks=False, labelFlush=False)
    x = alt.X("value:Q", title=axis, scale=alt.Scale(domain=[0, 1]), axis=shares)
    chart = alt.layer(
        spans.mark_rule(strokeWidth=2, color=_LINE).encode(x="low:Q", x2="high:Q", y=y),
        _chart(points)
        .mark_point(size=110, strokeWidth=2.2, opacity=1)
        .encode(x=x, y=y, description="note:N", **channels),
        texts.mark_text(align="right", dx=70, fontSize=13).encode(x=alt.value("width"), y=y, text="text:N"),
    )
    return _svg(chart.properties(height=30 * len(order)), f"{axis} by group: {', '.join(drawn)}", right=74)


def differences(points: Sequence[Point], series: Sequence[str], axis: str) -> str:
    """A row for each pair: its difference with its interval, beside a line at zero.

    Args:
        points: At most one for a series and a pair, `value`, `low` and `high` in -1..1; pairs are drawn in the order of
            their first.
        series: In the order of the legend; each has the colour of its place.
        axis: Title of the axis of values.

    Returns:
        An SVG element; empty without points.
    """
    import altair as alt

    if not points:
        return ""
    drawn = _drawn(points, series)
    channels = _channels(drawn, [_style(series, name) for name in drawn])
    order = list(dict.fromkeys(point.at for point in points))
    widest = max(abs(end) for point in points for end in (point.value, point.low, point.high) if end is not None)
    reach = min(1.0, max(0.05, widest * 1.1))
    y = alt.Y("at:N", title=None, scale=alt.Scale(domain=order), axis=_names(raised=0))
    beside = alt.YOffset("series:N", scale=alt.Scale(domain=drawn, paddingOuter=0.5))
    shares = alt.Axis(
        labelExpr="datum.value ? format(100 * datum.value, '+.0f') : '0'", tickCount=7, domain=False, ticks=False
    )
    x = alt.X("value:Q", title=axis, scale=alt.Scale(domain=[-reach, reach], nice=False), axis=shares)
    rows = [{**asdict(point), "note": _points_note(point), "text": f"{100 * point.value:+.1f}"} for point in points]
    known = [row for row in rows if row["low"] is not None]
    chart = alt.layer(
        _rows([{"zero": 0}]).mark_rule(color=_SOFT, strokeDash=[4, 3]).encode(x="zero:Q"),
        _rows(known)
        .mark_rule(strokeWidth=3, opacity=0.4)
        .encode(x="low:Q", x2="high:Q", y=y, yOffset=beside, stroke=channels["stroke"], description="note:N"),
        _rows(rows)
        .mark_point(size=110, strokeWidth=2.2, opacity=1)
        .encode(x=x, y=y, yOffset=beside, description="note:N", **channels),
        _rows(rows)
        .mark_text(align="right", dx=48, fontSize=13)
        .encode(x=alt.value("width"), y=y, yOffset=beside, text="text:N"),
    )
    height = len(order) * 18 * (len(drawn) + 1)
    return _svg(chart.properties(height=height), f"{axis}: {', '.join(order)}", right=52)


def curve(points: Sequence[Sequence[float]], dev: Sequence[Sequence[float]] = ()) -> str:
    """Training loss by step, each and as a running mean, and the loss on dev items.

    Args:
        points: (step, loss) in order of the steps.
        dev: Likewise, of the validations.

    Returns:
        An SVG element; empty under two steps.
    """
    import altair as alt

    if len(points) < 2:
        return ""
    names = ["each step", "running mean", *(["dev items"] if dev else [])]
    steps, losses = zip(*points, strict=True)
    rows = [
        {"series": name, "step": step, "loss": loss}
        for name, values in zip(names, (losses, running_mean(losses)), strict=False)
        for step, loss in zip(steps, values, strict=True)
    ]
    rows += [{"series": names[-1], "step": step, "loss": loss} for step, loss in dev]

    x = alt.X("step:Q", title="step", scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, tickCount=8))
    y = alt.Y("loss:Q", title="loss", axis=alt.Axis(domain=False, ticks=False, tickCount=5))
    opacity, width = alt.Scale(domain=names, range=[0.35, 1, 1]), alt.Scale(domain=names, range=[1.2, 2.4, 2.4])
    colours = alt.Scale(domain=names, range=[_COLOURS[0], _COLOURS[0], _COLOURS[1]])
    dashes = alt.Scale(domain=names, range=[[1, 0], [1, 0], [7, 4]])
    chart = _rows(rows).mark_line(strokeJoin="round")
    chart = chart.encode(
        x=x,
        y=y,
        stroke=alt.Stroke("series:N", title=None, scale=colours),
        strokeDash=alt.StrokeDash("series:N", title=None, scale=dashes),
        strokeOpacity=alt.StrokeOpacity("series:N", title=None, scale=opacity),
        strokeWidth=alt.StrokeWidth("series:N", title=None, scale=width),
    )
    return _svg(chart.properties(height=220), "Training loss by step")


def running_mean(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours: a fifteenth of all, at the ends half of that."""
    half = max(1, len(values) // 30)
    return [mean(values[max(0, at - half) : at + half + 1]) for at in range(len(values))]


def trend(
    points: Sequence[Point], dates: Sequence[str], series: Sequence[str], alarms: Mapping[str, str], axis: str
) -> str:
    """Every series by date with its intervals, and the dates with an alarm.

    Args:
        points: One for a series and a date, in order of the dates.
        dates: All of them in order, those without points included.
        series: In the order of the legend; each has the colour of its place.
        alarms: Date -> the alarm's text.
        axis: Title of the axis of values.

    Returns:
        An SVG element; empty without points.
    """
    import altair as alt

    if not points:
        return ""
    drawn = _drawn(points, series)
    channels = _channels(drawn, [_style(series, name) for name in drawn])
    raised = _rows({"at": date, "note": f"{date}: {alarms[date]}"} for date in dates if date in alarms)
    every = -(-len(dates) // _DATES)
    named = alt.Axis(
        labelAngle=0,
        labelExpr="utcFormat(toDate(datum.value), '%-d %b')",
        labelOverlap=False,
        grid=False,
        values=list(dates[::-every]),  # the last one always
    )
    # The series stand side by side, so that intervals do not hide each other, and close enough to be one night.
    band = min(0.7, 12 * len(drawn) * len(dates) / WIDTH)
    nights = alt.Scale(domain=list(dates), paddingInner=1 - band, paddingOuter=0.5)
    x = alt.X("at:O", title=None, scale=nights, axis=named)
    beside = alt.XOffset("series:N", scale=alt.Scale(domain=drawn))
    shares = alt.Axis(format="~%", tickCount=5, domain=False, ticks=False)
    y = alt.Y("value:Q", title=axis, scale=alt.Scale(zero=False, padding=8), axis=shares)
    flags = raised.mark_point(shape="triangle-down", filled=True, color=_ALARM, size=90, opacity=1)
    lines = _chart(points).mark_line(strokeWidth=2)
    marks = _chart(points).mark_point(size=42, strokeWidth=1.8, opacity=1)
    chart = alt.layer(
        raised.mark_rule(color=_ALARM, strokeWidth=1.5).encode(x=x, description="note:N"),
        flags.encode(x=x, y=alt.value(0), description="note:N"),
        _whiskers(points, 2).encode(x=x, xOffset=beside, y="low:Q", y2="high:Q", stroke=channels["stroke"]),
        lines.encode(x=x, xOffset=beside, y=y, stroke=channels["stroke"]),
        marks.encode(x=x, xOffset=beside, y=y, description="note:N", **channels),
    )
    return _svg(chart.properties(height=250), f"{axis} by night: {', '.join(drawn)}")


def _names(raised: int) -> "alt.Axis":
    """The axis of the groups' names, left of the rows; `raised` px leave room for a text below them."""
    import altair as alt

    return alt.Axis(
        domain=False,
        ticks=False,
        grid=False,
        labelAlign="left",
        labelColor=_INK,
        labelFontSize=13,
        labelLimit=_GROUPS,
        labelOffset=-raised,
        labelPadding=_GROUPS,
        maxExtent=_GROUPS,
        minExtent=_GROUPS,
    )


def _drawn(points: Iterable[Point], series: Sequence[str]) -> list[str]:
    present = {point.series for point in points}
    return [name for name in series if name in present]


def _style(series: Sequence[str], name: str) -> _Style:
    place = series.index(name) % len(_COLOURS)
    return _Style(_COLOURS[place], _CARD if place in _HOLLOW else _COLOURS[place], _SHAPES[place])


def _channels(names: Sequence[str], styles: Sequence[_Style]) -> dict[str, Any]:
    """The channels that set the series apart; of one field and one domain, so that they share a legend."""
    import altair as alt

    kinds = {"stroke": alt.Stroke, "fill": alt.Fill, "shape": alt.Shape}
    return {
        channel: kind(
            "series:N",
            title=None,
            scale=alt.Scale(domain=list(names), range=[getattr(style, channel) for style in styles[: len(names)]]),
        )
        for channel, kind in kinds.items()
    }


def _chart(points: Iterable[Point]) -> "alt.Chart":
    return _rows({**asdict(point), "note": _note(point)} for point in points)


def _rows(rows: Iterable[Mapping[str, Any]]) -> "alt.Chart":
    import altair as alt

    return alt.Chart({"values": [dict(row) for row in rows]})


def _note(point: Point) -> str:
    interval = "" if point.low is None or point.high is None else f" ({point.low:.1%} to {point.high:.1%})"
    behind = "" if point.n is None else f", {point.n:,} questions, {point.patients:,} patients"
    return f"{point.at}, {point.series}: {point.value:.1%}{interval}{behind}"


def _points_note(point: Point) -> str:
    interval = (
        "" if point.low is None or point.high is None else f" ({100 * point.low:+.1f} to {100 * point.high:+.1f})"
    )
    behind = "" if point.n is None else f", {point.n:,} questions, {point.patients:,} patients"
    return f"{point.at}, {point.series}: {100 * point.value:+.1f} points{interval}{behind}"


def _whiskers(points: Iterable[Point], width: float) -> "alt.Chart":
    import altair as alt

    rules = _chart(point for point in points if point.low is not None).mark_rule(strokeWidth=width, opacity=0.4)
    chart: alt.Chart = rules.encode(description="note:N")
    return chart


def _svg(chart: "alt.Chart | alt.LayerChart | alt.FacetChart", name: str, right: int = 12) -> str:
    """Render it to the page's width; resting the mouse on a mark shows its description."""
    chart = chart.properties(
        width=WIDTH,
        autosize={"type": "fit-x", "contains": "padding"},
        background="transparent",
        padding={"left": 2, "right": right, "top": 6, "bottom": 2},
    )
    chart = chart.configure(font="inherit").configure_view(stroke=None).configure_text(color=_SOFT, fontSize=12)
    chart = chart.configure_axis(
        domainColor=_LINE,
        gridColor=_LINE,
        labelColor=_SOFT,
        labelFontSize=12,
        labelPadding=8,
        tickColor=_LINE,
        titleColor=_SOFT,
        titleFontSize=12,
        titleFontWeight="normal",
        titlePadding=10,
    )
    chart = chart.configure_legend(
        columnPadding=20,
        direction="horizontal",
        labelColor=_INK,
        labelFontSize=13,
        labelLimit=0,
        offset=14,
        orient="top",
        symbolOpacity=1,
        symbolSize=100,
    )
    out = io.StringIO()
    chart.save(out, format="svg")
    # A width of the page's instead of its own; and digits that no screen shows are left out.
    ET.register_namespace("", _SVG)
    root = ET.fromstring(out.getvalue())  # noqa: S314  (what Vega has just written)
    for size in ("width", "height"):
        del root.attrib[size]
    root.attrib |= {"role": "img", "aria-label": name}
    for mark in root.iter():
        for key in _NUMBERS & mark.attrib.keys():
            mark.attrib[key] = re.sub(r"(\.\d\d)\d{3,}", r"\1", mark.attrib[key])
        if mark.get("role") == "graphics-symbol" and not len(mark):
            if label := mark.get("aria-label"):
                ET.SubElement(mark, f"{{{_SVG}}}title").text = label
            else:  # marks of which there are none: a picture without a name to a screen reader
                del mark.attrib["role"]
    return ET.tostring(root, encoding="unicode")
