"""The report is written on every way out, holds everything itself, and shows what the stages said."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medmim import store
from medmim.bench import examples, report
from medmim.bench import run as bench
from medmim.errors import UserError
from medmim.page import figures
from medmim.page.page import FILE
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.stage import stage
from medmim.run.workspace import Workspace, workspace
from tests.support.bench import World, publish


class Page(HTMLParser):
    """Collects what a page refers to, and checks that every tag is closed in turn."""

    VOID = {"meta", "img", "br", "line", "circle", "polyline"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"{tag} at {self.getpos()}"

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path: Path) -> tuple[Recipe, Workspace]:
    parsed = loading.load("demo", [])
    return parsed, workspace(tmp_path, parsed, "demo-1")


def write(run: tuple[Recipe, Workspace]) -> Page:
    outcome = report.run(*run)
    text = Path(outcome.facts["path"]).read_text()
    assert (run[1].fetch(outcome.uri) / FILE).read_text() == text
    page = Page(text)
    assert page.open == []
    return page


def test_a_run_that_ended_in_data_has_a_report(run):
    parsed, ws = run
    with pytest.raises(UserError), stage(ws, "data"):
        raise UserError("12 of 100 rows are bad", fix="mend <them>")
    page = write(run)
    assert "Stopped at data" in page.text and "mend <them>" in page.text
    assert "not reached" in page.text and "Leaderboard" not in page.text


def test_a_run_without_any_record_has_a_report(run):
    assert "Undecided" in write(run).text


def test_a_whole_run_is_told_and_nothing_is_loaded_from_elsewhere(run, world: World):
    parsed, ws = run
    with stage(ws, "data") as data:
        data.of(store.get(publish(world, ws.store)), cached=False)
    settings = {"bench": parsed.bench.model_copy(update={"max_new_tokens": 2, "resamples": 100})}
    scored = bench.run(
        parsed.model_copy(update=settings), ws, data.uri, str(world.models[0]), {"base": str(world.models[1])}
    )
    with stage(ws, "gate") as gate:
        gate.facts = {"decision": "refused", "rules": [{"passed": False, "text": "held_in: <b>too few</b>"}]}
    with pytest.raises(UserError), stage(ws, "promote") as promote:
        promote.facts = {"decision": "refused"}
        raise UserError("the gate refused", exit_code=1)
    page = write(run)
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)
    assert "held_in: <b>too few</b>" in page.text  # escaped, so it is text and no tag
    assert "Refused" in page.text and "Stopped" not in page.text
    held_in = next(r for r in scored.facts["leaderboard"] if (r["model"], r["group"]) == ("tuned", "held_in"))
    assert f"{100 * held_in['value']:.1f}" in page.text
    assert held_in["swap_n"] and f"{100 * held_in['swap']:.1f}" in page.text and "Both ways" in page.text
    assert "images moved on: " in page.text
    assert scored.digest in page.text
    assert sum(a.startswith("data:") for a in page.addresses) >= parsed.report.examples


def test_writing_again_tells_the_same_though_an_earlier_report_failed(run):
    parsed, ws = run
    with pytest.raises(RuntimeError), stage(ws, "report"):
        raise RuntimeError("the disk was full")
    assert "the disk was full" not in write(run).text


def test_examples_come_from_every_ability_with_gains_and_misses():
    def row(i, ability, tuned, base):
        given = {role: {"none": {"scores": {"accuracy": value}}} for role, value in (("tuned", tuned), ("base", base))}
        return {"id": i, "ability": ability, "held_out": False, "answers": given}

    rows = [
        row(i, ability, float(i % 3 > 0), float(i % 2)) for i in range(60) for ability in ("temporal", "comparison")
    ]
    chosen = examples.pick(rows, 8)
    assert [r["ability"] for r in chosen].count("temporal") == 4
    assert {examples._kind(r) for r in chosen} == {"gain", "miss"}
    assert len(examples.pick(rows, 500)) == len(rows)


def test_the_loss_curve_stays_in_its_frame():
    drawn = figures.curve([(i, 2 / (i + 1)) for i in range(50)])
    points = [tuple(map(float, p.split(","))) for p in re.split(" ", drawn["raw"])]
    assert len(points) == 50
    assert all(drawn["left"] <= x <= drawn["right"] and 0 <= y <= drawn["bottom"] for x, y in points)
    assert figures.curve([(0, 1.0)]) is None
