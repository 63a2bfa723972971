# ruff: noqa: F811
"""Models: real MLflow, real store; what readers see of versions, their lineage, gate and decisions."""

import re
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from medmim import tracking
from medmim.recipe.schema import Recipe
from medmim.registry import gate, promote
from medmim.run.workspace import Workspace
from medmim.store import open_store
from tests.support.console import MODEL, add_version, browser, log_in
from tests.support.registry import bench, digest_of, model, publish, recipe, ws  # noqa: F401

UNICODE = "Lunge-Größe 肺 'é'"


def test_the_list_shows_champion_what_awaits_approval_and_aliases_that_differ(ws: Workspace) -> None:
    first, second = add_version(ws, "a"), add_version(ws, "b")
    promote.promote(ws, MODEL, first, "the first", "ann")
    add_version(ws, "c", UNICODE)
    add_version(ws, "d", f"{MODEL}-candidate", gate="promoted")
    tracking.client(ws).set_registered_model_alias(MODEL, "champion", second)
    page = browser(ws).get("/models").text
    rows = {row.split("</a>")[0].rpartition(">")[2]: row for row in page.split("<tr>")[2:]}
    assert "version 1" in rows[MODEL] and "by ann" in rows[MODEL] and "differ from the log" in rows[MODEL]
    assert '<span class="tag warn">1</span>' in rows[f"{MODEL}-candidate"]
    assert "differ" not in rows["Lunge-Größe 肺 &#39;é&#39;"]
    for search, listed in (("größe", True), ("GRößE", True), ("GRÖSSE", False)):  # SQLite folds ASCII letters alone
        found = browser(ws).get("/models", params={"name": search}).text
        assert ('href="/models/Lunge-Gr' in found) is listed and ("No registered model" in found) is not listed, search
    assert MODEL not in browser(ws).get("/models", params={"name": "LUNGE"}).text
    address = re.search(r'href="(/models/Lunge[^"]*)"', page)
    assert address and "Lunge-Größe 肺" in browser(ws).get(address[1]).text


def test_a_damaged_decision_log_is_the_trouble_of_its_own_model(ws: Workspace) -> None:
    for name, letter in ((MODEL, "a"), ("other", "b"), ("third", "c")):
        promote.promote(ws, name, add_version(ws, letter, name), "the first", "ann")
    place = open_store(ws.store)
    place.write("decisions/other/1.json", b'{"n": 1')
    place.write("decisions/third/1.json", place.read("decisions/third/1.json").replace(b'"ann"', b"7"))
    answer = browser(ws).get("/models")
    rows = {row.split("</a>")[0].rpartition(">")[2]: row for row in answer.text.split("<tr>")[2:]}
    assert answer.status_code == 200 and "version 1" in rows[MODEL] and "cannot be read" not in rows[MODEL]
    for name in ("other", "third"):
        assert "cannot be read" in rows[name] and f"decisions/{name}/1.json is not a decision" in rows[name]


def test_of_ten_thousand_versions_a_page_reads_its_own(ws: Workspace) -> None:
    add_version(ws, "a", base="tiny")
    path = ws.tracking.removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        columns = [row[1] for row in database.execute("pragma table_info(model_versions)")]
        (known,) = database.execute("select * from model_versions").fetchall()
        at = columns.index("version")
        rows = [(*known[:at], n, *known[at + 1 :]) for n in range(2, 10_001)]
        database.executemany(f"insert into model_versions values ({','.join('?' * len(known))})", rows)  # noqa: S608
        tags = [row[1] for row in database.execute("pragma table_info(model_version_tags)")]
        listed = database.execute("select * from model_version_tags").fetchall()
        at = tags.index("version")
        many = [(*tag[:at], n, *tag[at + 1 :]) for tag in listed for n in range(2, 10_001)]
        database.executemany(f"insert into model_version_tags values ({','.join('?' * len(tags))})", many)  # noqa: S608
    client = browser(ws)
    client.get("/models")
    begun = time.perf_counter()
    pages = [client.get(f"/models/{MODEL}?page={page}").text for page in (1, 200, 400, 401)]
    seconds = time.perf_counter() - begun
    links = [[int(n) for n in re.findall(rf'href="/models/{MODEL}/(\d+)"', page)] for page in pages]
    assert [len(one) for one in links] == [25, 25, 25, 0]
    assert (links[0][0], links[1][0], links[2][-1]) == (10_000, 5_025, 1)
    begun = time.perf_counter()
    tracking.registered(ws, MODEL)  # what reads them all
    assert seconds < time.perf_counter() - begun
    assert client.get(f"/models/{MODEL}/10000").status_code == 200


def test_a_version_shows_where_it_comes_from_and_what_the_gate_said_rule_by_rule(
    ws: Workspace,
    recipe: Recipe,
    bench: Callable[..., Any],
) -> None:
    scored = bench(digest_of("a"), "", held_in=(0.9, 0.4, 0.35, 0.3, 100), held_out=(0.5, -0.4, -0.5, 0.3, 100))
    number = add_version(ws, "a", recipe_name="chest", base="tiny-mantis", data="d" * 64, bench=scored.digest)
    decision = gate.run(recipe, ws, scored.uri)
    with pytest.raises(Exception, match="refused"):
        promote.run(recipe, ws, number, decision.uri)
    page = browser(ws).get(f"/models/{MODEL}/{number}").text
    assert f'href="/leaderboard/{scored.digest}"' in page
    assert (
        f'href="/artifacts/decision/{decision.digest}"' in page and f'href="/artifacts/model/{digest_of("a")}"' in page
    )
    assert "shipped with medmim" in page and "tiny-mantis" in page and "chest" in page
    assert '<span class="tag good">passed</span>' in page and '<span class="tag bad">failed</span>' in page
    assert (
        "the gate refused it: held-out: -40.0 points" in page
        and ">held-out: -40.0" in page
        and "Retired: the gate refused it" in page
    )
    assert "redistribute data: allowed" in page
    assert browser(ws).get(f"/artifacts/decision/{decision.digest}").status_code == 200


def test_a_version_that_medmim_did_not_register_says_so_and_has_no_button(ws: Workspace) -> None:
    api = tracking.client(ws)
    api.create_registered_model(MODEL)
    api.create_model_version(MODEL, source="/elsewhere", tags={"author": "<script>alert(1)</script>"})
    client = log_in(browser(ws))
    page = client.get(f"/models/{MODEL}/1").text
    assert "was not registered by medmim" in page and "Promote …" not in page
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    answer = client.get(f"/models/{MODEL}/1/promote")
    assert answer.status_code == 409 and "was not registered by medmim" in answer.text
    assert client.get(f"/models/{MODEL}").status_code == client.get("/models").status_code == 200


def test_a_decision_that_somebody_else_wrote_is_told_and_not_believed(ws: Workspace, publish: Any) -> None:
    for text in ("[]", '{"decision": 7}', '{"rules": [{"rule": 1}]}', "no json"):
        forged = publish("decision", decision__json=text)
        number = add_version(ws, "a", f"{MODEL}-candidate", gate="promoted", gate_evidence=forged.uri)
        page = browser(ws).get(f"/models/{MODEL}-candidate/{number}")
        assert page.status_code == 200 and "it is not a decision of the gate" in page.text, text
    number = add_version(
        ws, "a", f"{MODEL}-candidate", gate="promoted", gate_evidence="../../decisions/x", bench="../x"
    )
    page = browser(ws).get(f"/models/{MODEL}-candidate/{number}").text
    assert "names no decision" in page and "this is no digest" in page


def test_a_decision_that_is_restored_from_a_backup_is_shown_as_it_is_now(ws: Workspace) -> None:
    promote.promote(ws, MODEL, add_version(ws, "a"), "the wrong words", "ann")
    client = browser(ws)
    assert "the wrong words" in client.get(f"/models/{MODEL}").text
    place, key = open_store(ws.store), f"decisions/{MODEL}/1.json"
    entry = place.read(key)
    place.delete(key)
    assert "the wrong words" not in client.get(f"/models/{MODEL}").text
    place.write(key, entry.replace(b"the wrong words", b"the right words"))
    html = client.get(f"/models/{MODEL}").text
    assert "the right words" in html and "the wrong words" not in html


def test_a_damaged_record_of_a_model_is_said_in_its_lineage(ws: Workspace) -> None:
    number = add_version(ws, "a")
    open_store(ws.store).write(f"model/{digest_of('a')}/provenance.json", b'{"parents": {')
    page = browser(ws).get(f"/models/{MODEL}/{number}").text
    assert "its provenance.json is cut off or was written by something else" in page
