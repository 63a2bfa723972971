# ruff: noqa: F811
"""Changes of what serves, by pages: real MLflow, real store; what promoters do, and what is refused."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from medmim_console import app
from medmim_console.audit import Attempt
from medmim_console.identity import Access
from medmim_console.promotions import Promotions
from medmim_console.site import Site

from medmim import progress, store, tracking
from medmim.registry import aliases, approval, decisions, lookup, promote
from medmim.run.workspace import Workspace
from medmim.store import open_store, s3
from medmim.terms import Terms
from tests.support.console import MODEL, TOKEN, add_version, browser, csrf, log_in, wait_for_mlflow
from tests.support.lossy_proxy import Lossy, lossy
from tests.support.registry import bench, digest_of, model, publish, recipe, ws  # noqa: F401
from tests.support.waiting import until


@pytest.fixture
def lines() -> Any:
    """The audit lines."""
    found: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(record.getMessage()))

    logger, kept = logging.getLogger("medmim.console.audit"), Kept()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(kept)
    yield found
    logger.removeHandler(kept)
    logger.setLevel(before)


def send(client: TestClient, path: str, why: str = "looked at twenty answers", **fields: str) -> Any:
    """Fill the form of a page and send it; the page that answers."""
    page = client.get(path).text
    seen = re.search(r'name="seen" value="(\d+)"', page)
    given = {"csrf": csrf(page), "why": why, **({"seen": seen[1]} if seen else {}), **fields}
    return client.post(path, data=given)


def ended(client: TestClient, answer: Any) -> str:
    """The page of a change, once it has ended."""

    def over() -> str:
        page = client.get(answer.url.path).text
        return "" if "It is running" in page else page

    return str(until(over, 60))


def log_of(ws: Workspace, name: str = MODEL) -> list[str]:
    return [f"{entry.verdict} {entry.version} {entry.who}" for entry in decisions.read(ws, name)]


def test_a_promoter_promotes_and_every_step_of_it_is_told(ws: Workspace, lines: list[dict[str, Any]]) -> None:
    first, second = add_version(ws, "a"), add_version(ws, "b")
    promote.promote(ws, MODEL, first, "the first", "jane")
    client = log_in(browser(ws))
    asked = client.get(f"/models/{MODEL}/{second}/promote").text
    assert "version 1" in asked and "<b>version 2</b>" in asked
    assert log_of(ws) == ["promoted 1 jane"], "a GET changes nothing"
    answer = send(client, f"/models/{MODEL}/{second}/promote", "sees <b>masses</b> – 肺")
    page = ended(client, answer)
    assert "Version 2 of medmim-demo is champion now" in page and "sees &lt;b&gt;masses&lt;/b&gt; – 肺" in page
    assert log_of(ws) == ["promoted 1 jane", "promoted 2 ann"] and tracking.aliases(ws, MODEL)["champion"] == second  # type: ignore[index]
    assert decisions.read(ws, MODEL)[-1].why == "sees <b>masses</b> – 肺"
    begun, done = lines
    assert (begun["result"], done["result"]) == ("started", "done: decision 2, promoted")
    for line in lines:
        told = {key: line[key] for key in ("who", "what", "model", "version", "why", "address")}
        assert told == {
            "who": "ann", "what": "promote", "model": MODEL, "version": second, "why": "sees <b>masses</b> – 肺",
            "address": "testclient",
        }  # fmt: skip
        assert line["time"].startswith("20") and len(line["request"]) == 12
    history = client.get(f"/models/{MODEL}/history").text
    assert "sees &lt;b&gt;masses" in history and "jane" in history
    assert "Roll back …" in client.get(f"/models/{MODEL}").text


def test_a_rollback_asks_first_and_a_refusal_ends_awaiting_approval(ws: Workspace) -> None:
    first, second = add_version(ws, "a"), add_version(ws, "b")
    client = log_in(browser(ws))
    assert "no model has been promoted yet" in client.get(f"/models/{MODEL}").text
    for number in (first, second):
        assert "is champion now" in ended(client, send(client, f"/models/{MODEL}/{number}/promote"))
    asked = client.get(f"/models/{MODEL}/rollback").text
    assert "<b>version 1</b>" in asked
    assert "Version 1 of medmim-demo is champion now" in ended(client, send(client, f"/models/{MODEL}/rollback"))
    assert log_of(ws)[-1] == "rolled-back 1 ann"
    number = add_version(ws, "c", f"{MODEL}-candidate", gate="promoted")
    assert "awaiting approval" in client.get(f"/models/{MODEL}-candidate/{number}").text
    page = ended(client, send(client, f"/models/{MODEL}-candidate/{number}/refuse", "blurred"))
    assert "is refused" in page and approval.awaiting(ws, f"{MODEL}-candidate") == []
    page = client.get(f"/models/{MODEL}-candidate/{number}").text
    assert "Refused by ann: blurred" in page and "Refuse …" not in page
    told = ended(client, send(client, f"/models/{MODEL}-candidate/{number}/promote"))
    assert "refused by a person" in told and "--despite-gate" in told
    assert "is champion now" in ended(
        client, send(client, f"/models/{MODEL}-candidate/{number}/promote", despite_gate="yes")
    )
    assert "although ann refused it" in decisions.read(ws, MODEL)[-1].why
    holder = decisions.read(ws, MODEL)[-1].version
    assert "roll back first" in client.get(f"/models/{MODEL}/{holder}/refuse").text


def test_a_refusal_shows_which_model_it_is_about_and_what_else_is_of_it(ws: Workspace) -> None:
    first, second = add_version(ws, "a"), add_version(ws, "b")
    for number in (first, second):
        promote.promote(ws, MODEL, number, "better", "ann")
    forged = add_version(ws, "a", f"{MODEL}-candidate")
    twins = [add_version(ws, "c", f"{MODEL}-candidate") for _ in range(2)]
    client = log_in(browser(ws))
    page = client.get(f"/models/{MODEL}-candidate/{forged}/refuse").text
    assert "which was champion" in page and "<button" not in page.partition("<h1>")[2]
    assert digest_of("a") in page and f'href="/models/{MODEL}/{first}">version {first} of {MODEL}</a>' in page
    page = client.get(f"/models/{MODEL}-candidate/{twins[0]}/refuse").text
    assert digest_of("c") in page and "Refuse it</button>" in page
    assert f'href="/models/{MODEL}-candidate/{twins[1]}">version {twins[1]} of' in page
    assert f">version {twins[0]} of {MODEL}-candidate</a>" not in page and f">version {first} of" not in page
    page = client.get(f"/models/{MODEL}/{first}/refuse").text
    assert "Refuse it</button>" in page and f">version {forged} of {MODEL}-candidate</a>" in page


def test_terms_that_forbid_serving_need_their_own_word(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "weights.txt").write_text("x")
    closed = Terms(text=("EMBED: for research",)).as_dict()
    made = store.publish(tmp_path / "f", ws.store, "model", {}, {"terms": closed})
    api = tracking.client(ws)
    api.create_registered_model(MODEL)
    api.create_model_version(MODEL, source=ws.home.as_uri(), tags={lookup.DIGEST: made.digest, lookup.URI: made.uri})
    client = log_in(browser(ws))
    assert "serve: not allowed by EMBED" in client.get(f"/models/{MODEL}/1/promote").text
    assert "must not answer users" in ended(client, send(client, f"/models/{MODEL}/1/promote"))
    assert log_of(ws) == []
    assert "is champion now" in ended(client, send(client, f"/models/{MODEL}/1/promote", despite_terms="yes"))
    assert "despite the terms of use" in decisions.read(ws, MODEL)[-1].why


def test_a_reader_sees_why_there_is_no_button_and_changes_nothing(ws: Workspace, lines: list[dict[str, Any]]) -> None:
    number = add_version(ws, "a")
    client = browser(ws)
    for path in (f"/models/{MODEL}/{number}", f"/models/{MODEL}/{number}/promote", f"/models/{MODEL}/{number}/refuse"):
        page = client.get(path).text
        assert "only who has logged in as a promoter decides" in page and "<button>Make" not in page, path
        assert 'name="csrf"' not in page
    for path in (f"{number}/promote", f"{number}/refuse", "rollback"):
        answer = client.post(f"/models/{MODEL}/{path}", data={"why": "x", "seen": "0"})
        assert answer.status_code == 401 and "log in" in answer.text
    assert log_of(ws) == []
    assert [(line["what"], line["who"], line["result"][:8]) for line in lines] == [
        ("promote", "", "refused:"), ("refuse", "", "refused:"), ("rollback", "", "refused:"),
    ]  # fmt: skip


def test_a_form_of_another_session_or_site_is_refused_with_its_line(ws: Workspace, lines: list[dict[str, Any]]) -> None:
    number = add_version(ws, "a")
    path = f"/models/{MODEL}/{number}/promote"
    client, other = log_in(browser(ws)), log_in(browser(ws))
    good = csrf(client.get(path).text)
    theirs = csrf(other.get(path).text)
    for given in ("", "0" * 64, theirs, "é"):
        assert client.post(path, data={"csrf": given, "why": "x", "seen": "0"}).status_code == 403, given
    foreign = client.post(path, data={"csrf": good, "why": "x", "seen": "0"}, headers={"origin": "https://evil.test"})
    assert foreign.status_code == 403
    assert log_of(ws) == [] and len(lines) == 5
    assert all(line["who"] == "ann" and "not of your present session" in line["result"] for line in lines)


def test_a_token_that_is_taken_out_of_the_file_promotes_no_more(
    ws: Workspace,
    tmp_path: Path,
    lines: list[dict[str, Any]],
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {TOKEN}\n")
    number = add_version(ws, "a")
    client = log_in(browser(ws, Access(tokens=tokens)))
    path = f"/models/{MODEL}/{number}/promote"
    given = {"csrf": csrf(client.get(path).text), "why": "x", "seen": "0"}
    tokens.write_text("bob another-token-of-his\n")
    answer = client.post(path, data=given)
    assert answer.status_code == 401 and "nobody&#39;s any more" in answer.text
    assert log_of(ws) == [] and lines[0]["result"] == "refused: the token of this session is nobody's any more"


def test_a_forged_header_promotes_nothing(ws: Workspace, lines: list[dict[str, Any]]) -> None:
    import ipaddress

    number = add_version(ws, "a")
    known = Access(
        header="x-forwarded-user", proxies=(ipaddress.ip_network("10.0.0.0/8"),), promoters=frozenset({"ann"})
    )
    made = app.make(Site(ws, known))
    path, headers = f"/models/{MODEL}/{number}/promote", {"x-forwarded-user": "ann"}
    forged = TestClient(made, base_url="http://console.test", headers=headers, client=("192.0.2.7", 1))
    answer = forged.post(path, data={"why": "x", "seen": "0"})
    assert answer.status_code == 401 and "believed from the ingress alone" in answer.text
    assert (lines[0]["who"], lines[0]["address"]) == ("", "192.0.2.7") and log_of(ws) == []
    true = TestClient(
        made, base_url="http://console.test", headers={**headers, "x-forwarded-for": "1.2.3.4"}, client=("10.0.0.9", 1)
    )
    true.get("/models")
    assert "is champion now" in ended(true, send(true, path))
    assert lines[-1]["who"] == "ann" and lines[-1]["address"] == "1.2.3.4"


def test_of_two_people_at_once_the_second_is_told_of_the_first(ws: Workspace) -> None:
    first, second = add_version(ws, "a"), add_version(ws, "b")
    ann, jane = log_in(browser(ws)), log_in(browser(ws, Access(own=("jane", TOKEN))))
    page = jane.get(f"/models/{MODEL}/{second}/promote").text  # two consoles on one store
    assert "is champion now" in ended(ann, send(ann, f"/models/{MODEL}/{first}/promote", "the first"))
    answer = jane.post(f"/models/{MODEL}/{second}/promote", data={"csrf": csrf(page), "why": "better", "seen": "0"})
    told = ended(jane, answer)
    assert "another decision came first" in told and "by ann: the first" in told
    assert log_of(ws) == ["promoted 1 ann"]


def test_what_cannot_be_decided_is_refused_before_anything_begins(ws: Workspace, lines: list[dict[str, Any]]) -> None:
    number = add_version(ws, "a")
    client = log_in(browser(ws))
    path = f"/models/{MODEL}/{number}/promote"
    given = {"csrf": csrf(client.get(path).text), "seen": "0"}
    for wrong in ({}, {"why": " "}, {"why": "x" * 2001}, {"why": "x", "seen": "-1"}, {"why": "x", "seen": "²"}):
        answer = client.post(path, data={**given, **wrong})
        assert answer.status_code == 400, wrong
    assert all(line["result"].startswith("refused") for line in lines) and len(lines) == 5
    for address in (
        f"/models/{MODEL}/99",
        f"/models/{MODEL}/99/promote",
        f"/models/{MODEL}/99/refuse",
        "/models/none",
        "/models/none/1",
        "/promotions/x",
    ):
        assert client.get(address).status_code == 404, address
    assert client.get(f"/models/{MODEL}/x").status_code == 400
    assert "has no version 99" in ended(client, client.post(f"/models/{MODEL}/99/promote", data={**given, "why": "x"}))
    assert log_of(ws) == []


def test_a_page_that_asks_for_a_promotion_of_an_earlier_console_is_told_and_asks_no_more(ws: Workspace) -> None:
    answer = browser(ws).get("/promotions/of-an-earlier-one", headers={"hx-request": "true"})
    assert answer.status_code == 200, "htmx shows no other"
    found = answer.text[answer.text.index('<div id="promotion"') :]
    assert "This console knows no such promotion" in found and "hx-" not in found and "It is running" not in found


def test_a_change_whose_thread_cannot_start_has_its_line_and_leaves_its_model_free(
    ws: Workspace, lines: list[dict[str, Any]]
) -> None:
    number = add_version(ws, "a")
    client = log_in(browser(ws))
    start = threading.Thread.start

    def no_threads(thread: threading.Thread) -> None:
        if thread.name.startswith("promote"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_threads)
        answer = send(client, f"/models/{MODEL}/{number}/promote")
    assert answer.status_code == 503 and "could not begin it, and nothing has changed" in answer.text
    assert [line["result"] for line in lines] == ["failed: can't start new thread"]
    assert "It is running" not in client.get(f"/models/{MODEL}").text and log_of(ws) == []
    assert "is champion now" in ended(client, send(client, f"/models/{MODEL}/{number}/promote"))


def test_the_progress_of_a_change_can_be_read_while_it_goes_on(tmp_path: Path) -> None:
    more = threading.Event()

    def decide() -> decisions.Decision:
        for n in range(20):
            progress.say(f"step {n}")
        more.wait(60)
        progress.say("the last step")
        return decisions.Decision("promoted", "1", "d" * 64, "u", n=1)

    asked = Attempt("1", "ann", "here", "promote", MODEL, "1", "why")
    change = Promotions().start(asked, decide, lambda _: None, tmp_path)
    until(lambda: any("step 19" in line for line in tuple(change.lines)), 60)
    reading = iter(change.lines)
    first = next(reading)
    more.set()
    assert change.wait(60) and "step 8" in first and len(list(reading)) == 11
    assert len(change.lines) == 12 and "the last step" in change.lines[-1]


def test_the_eleventh_change_of_a_minute_is_one_too_many(ws: Workspace, lines: list[dict[str, Any]]) -> None:
    number = add_version(ws, "a")
    client = log_in(browser(ws))
    path = f"/models/{MODEL}/{number}/promote"
    token = csrf(client.get(path).text)
    codes = [client.post(path, data={"csrf": token}).status_code for _ in range(11)]
    assert codes == [400] * 10 + [429] and "too many changes" in lines[-1]["result"]


@pytest.fixture
def far(ws: Workspace, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Workspace, Lossy]]:
    """The workspace on S3, and the proxy in between."""
    with lossy(os.environ["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        s3.connect.cache_clear()
        yield replace(ws, store=f"{bucket}/store"), between


@pytest.fixture
def stuck(far: tuple[Workspace, Lossy]) -> Iterator[tuple[Workspace, str, threading.Event]]:
    """A version whose model is read to its end only once the event is set."""
    ws, between = far
    number, go_on = add_version(ws, "a"), threading.Event()

    def wait(_: str, path: str) -> bool:
        if path.partition("?")[0].endswith("weights.txt"):
            go_on.wait(60)
        return False

    between.lost = wait
    yield ws, number, go_on
    go_on.set()


def test_a_promotion_that_takes_long_is_shown_and_another_one_waits(stuck: Any, lines: list[dict[str, Any]]) -> None:
    ws, number, go_on = stuck
    other = add_version(ws, "b")
    client = log_in(browser(ws))
    answer = send(client, f"/models/{MODEL}/{number}/promote")
    assert "It is running" in answer.text and 'hx-trigger="every 2s"' in answer.text and "http-equiv" in answer.text
    assert "checking the content of the model" in answer.text
    assert "decides about it just now" in client.get(f"/models/{MODEL}").text
    busy = send(client, f"/models/{MODEL}/{other}/promote")
    assert busy.status_code == 409 and "ann decides about this model just now" in busy.text
    part = client.get(answer.url.path, headers={"hx-request": "true"}).text
    assert "<html" not in part and "It is running" in part
    assert log_of(ws) == []
    go_on.set()
    page = ended(client, answer)
    assert "is champion now" in page and "hx-trigger" not in page
    assert [line["result"].split(":")[0] for line in lines] == ["started", "refused", "done"]


def test_a_console_that_is_killed_in_the_middle_has_decided_nothing(stuck: Any, tmp_path: Path) -> None:
    import httpx

    ws, number, go_on = stuck
    (tmp_path / "tokens").write_text(f"ann {TOKEN}\n")
    command = [sys.executable, "-m", "medmim.cli.main", "console", "--home", str(ws.home), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--tokens", str(tmp_path / "tokens")],
        stderr=(tmp_path / "log").open("wb"),
        env={**os.environ, "MEDMIM_STORE": ws.store},
    )
    try:
        found = until(lambda: re.search(r"http://\S+", (tmp_path / "log").read_text()), 60)
        with httpx.Client(base_url=found[0], follow_redirects=True, timeout=60) as client:
            client.post("/login", data={"token": TOKEN})
            path = f"/models/{MODEL}/{number}/promote"
            wait_for_mlflow(found[0])
            answer = send(client, path)  # type: ignore[arg-type]
            assert "It is running" in answer.text
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert [(line["who"], line["what"], line["result"]) for line in told] == [("ann", "promote", "started")]
    assert decisions.names(ws) == [] and tracking.aliases(ws, MODEL) == {}
    go_on.set()
    assert promote.promote(ws, MODEL, number, "once more", "ann").n == 1
    assert aliases.drift(ws, MODEL) == []


def test_an_mlflow_that_is_away_is_told_and_pages_are_back_with_it(ws: Workspace, tmp_path: Path) -> None:
    number = add_version(ws, "a")
    client = log_in(browser(ws))
    path = f"/models/{MODEL}/{number}/promote"
    given = {"csrf": csrf(client.get(path).text), "why": "x", "seen": "0"}
    away = log_in(browser(replace(ws, tracking="http://127.0.0.1:9")))
    for address in ("/models", f"/models/{MODEL}", f"/models/{MODEL}/{number}", path):
        answer = away.get(address)
        assert answer.status_code == 503 and "does not answer" in answer.text and "Traceback" not in answer.text, (
            address
        )
    assert log_of(ws) == []
    assert "is champion now" in ended(client, client.post(path, data=given))


def test_a_store_that_goes_away_in_the_middle_ends_the_promotion_with_its_reason(
    stuck: Any, far: tuple[Workspace, Lossy], lines: list[dict[str, Any]]
) -> None:
    ws, number, go_on = stuck
    between = far[1]
    client = log_in(browser(ws))
    path = f"/models/{MODEL}/{number}/promote"
    answer = send(client, path)
    assert "It is running" in answer.text
    between.away.set()
    go_on.set()
    page = ended(client, answer)
    assert "is champion now" not in page and "does not answer" in page
    assert lines[-1]["result"].startswith("failed: ")
    for address in (f"/models/{MODEL}", f"/models/{MODEL}/{number}"):
        assert client.get(address).status_code == 503
    between.away.clear()
    assert log_of(ws) == [] and client.get(f"/models/{MODEL}").status_code == 200
    assert "is champion now" in ended(client, send(client, path))


def test_a_version_that_is_the_champions_model_has_nothing_to_promote(ws: Workspace) -> None:
    champion = add_version(ws, "a")
    promote.promote(ws, MODEL, champion, "the first", "ann")
    copy, candidate = add_version(ws, "a"), add_version(ws, "a", f"{MODEL}-candidate")
    client = log_in(browser(ws))
    for name, number in ((MODEL, champion), (MODEL, copy), (f"{MODEL}-candidate", candidate)):
        page = client.get(f"/models/{name}/{number}/promote").text
        assert f"Version {number} of {name} is the champion already" in page
        assert "You cannot promote it" not in page and "<textarea" not in page and "?</h1>" not in page
        assert ("it is this very model" in page) is ((name, number) != (MODEL, champion))
        refuse = client.get(f"/models/{name}/{number}/refuse").text
        assert f"Version {number} of {name} cannot be refused" in refuse and "Refuse version" not in refuse
        assert "to refuse it, roll back first" in refuse
    assert "it is the champion; to refuse it" in client.get(f"/models/{MODEL}/{champion}").text
    assert "version 1, the champion, is this very model" in client.get(f"/models/{MODEL}/{copy}").text


def test_a_version_whose_model_is_gone_says_so_on_its_page_of_promotion(ws: Workspace) -> None:
    number = add_version(ws, "a")
    open_store(ws.store).delete(f"model/{digest_of('a')}/manifest.json")
    answer = log_in(browser(ws)).get(f"/models/{MODEL}/{number}/promote")
    assert answer.status_code == 200 and "<textarea" not in answer.text
    assert f"You cannot promote it: the model of version {number} of {MODEL} does not exist" in answer.text
