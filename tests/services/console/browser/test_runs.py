"""Runs and nights in a browser: a run that goes on is followed without a touch, figures come by themselves, axe."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from medmim import store
from medmim.nightly import records
from medmim.page.page import publish
from medmim.run import kfp_local
from medmim.run.stage import STAGES, stage
from medmim.run.step_lock import step_lock
from medmim.run.workspace import Workspace, workspace
from tests.nightly.test_records import night
from tests.services.console.browser.conftest import Reader
from tests.support.console import TOKEN, serving

pytestmark = pytest.mark.browser
DONE, GOING, BROKEN = (f"demo-20260601-0{hour}0000-ab12" for hour in (1, 2, 3))
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three runs: one is done, one goes on, one has failed; and two nights with hostile words."""
    made = workspace(tmp_path_factory.mktemp("runs"))
    for name in STAGES[:-1]:
        with stage(replace(made, run=DONE), name):
            pass
    with stage(replace(made, run=DONE), "report") as outcome:
        publish(made, f"<h1>a report</h1>{HOSTILE}", made.home / "r.html", {}, outcome)
    with stage(replace(made, run=GOING), "data"):
        pass
    for name, status in (("data", "done"), ("audit", "failed"), ("report", "done")):
        with stage(replace(made, run=BROKEN), name) as outcome:
            outcome.status, outcome.message = status, HOSTILE  # type: ignore[assignment]
    row = {"model": "base", "group": "held_in", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    canary = {"base": {"asked": 12, "changed": 3, "p": 0.001, "drifted": True, "items": [], "answers": "a" * 64}}
    for date, alarms in (("2026-06-01", ()), ("2026-06-02", (f"base drifted {HOSTILE}",))):
        one = replace(night(date), scores=[{**row, "n": 90, "patients": 30}], canary=canary, alarms=alarms)
        records.record(made, "demo", one)
    return made


@pytest.fixture(scope="module")
def url(ws: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"ann {TOKEN}\n", encoding="utf-8")
    with serving(ws, tokens) as address:
        yield address


def test_a_run_that_goes_on_is_followed_to_its_end(reader: Callable[..., Reader], ws: Workspace) -> None:
    events = kfp_local.events_file(ws.home, GOING)
    events.parent.mkdir(parents=True)
    bar = {"kind": "bar", "time": 0, "stage": "audit", "label": "pairs", "unit": "pairs", "rate": 1.0, "eta": 9.0}
    events.write_text(json.dumps({**bar, "done": 1, "total": 10}) + "\n")
    page = reader().open(f"/runs/{GOING}")
    with step_lock(store.open_store(ws.store), "audit-0123456789abcdef", GOING):
        expect(page.get_by_text("pairs: 1/10 pairs")).to_be_visible()
        with events.open("a") as more:
            more.write(json.dumps({**bar, "done": 7, "total": 10}) + "\n")
        expect(page.get_by_text("pairs: 7/10 pairs")).to_be_visible(timeout=15_000)
    for name in ("audit", "report"):
        with stage(replace(ws, run=GOING), name):
            pass
    expect(page.get_by_role("status")).to_have_text("done", timeout=15_000)
    assert page.locator("[hx-trigger]").count() == 0, "nothing more is asked for"


def test_figures_of_nights_come_by_themselves_and_by_a_link_without_scripts(reader: Callable[..., Reader]) -> None:
    page = reader().open("/nights/demo")
    expect(page.locator("#trend svg").first).to_be_visible(timeout=60_000)
    plain = reader(java_script_enabled=False).open("/nights/demo")
    plain.get_by_role("link", name="scores as figures").click()
    expect(plain.locator("#trend svg").first).to_be_visible()


def test_a_report_runs_nothing(reader: Callable[..., Reader]) -> None:
    one = reader()
    page = one.open(f"/runs/{DONE}")
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_role("link", name="report").click()
    expect(page.get_by_role("heading", name="a report")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert not asked
    assert page.evaluate("self.origin") == "null", "it is of another site, and knows nothing of the session"
    assert one.complaints, "its script and its image are refused"
    one.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(reader: Callable[..., Reader], scheme: str) -> None:
    one = reader(viewport={"width": 820, "height": 1180}, color_scheme=scheme)
    paths = ["/runs", *(f"/runs/{name}" for name in (DONE, GOING, BROKEN))]
    paths += ["/nights", "/nights/demo", "/nights/demo/trend", "/nights/demo/2026-06-02"]
    found = []
    for path in paths:
        page = one.open(path)
        if path.startswith("/nights/demo") and "2026" not in path:
            expect(page.locator("#trend svg").first).to_be_visible(timeout=60_000)
        for rule in Axe().run(page).response["violations"]:
            found.append(f"{path}: {rule['id']}: {rule['nodes'][0]['html'][:200]}")
        if page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") > 0:
            found.append(f"{path} is wider than the screen")
    assert not found
