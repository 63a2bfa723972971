from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from medmim_console import app
from medmim_console.identity import COOKIE, Access
from medmim_console.site import Site

from medmim import store
from medmim.run.workspace import Workspace, workspace
from tests.support.console import TOKEN, browser, log_in


@pytest.fixture
def own(tmp_path: Path) -> Workspace:
    """An empty home of one test."""
    return workspace(tmp_path / "home")


def test_a_page_that_does_not_exist_says_so(ws: Workspace) -> None:
    answer = browser(ws).get("/nope")
    assert answer.status_code == 404
    assert "there is no page /nope" in answer.text
    assert "Traceback" not in answer.text


def test_an_address_that_cannot_be_read_is_refused_with_its_key(ws: Workspace) -> None:
    answer = browser(ws).get("/leaderboard?page=x")
    assert answer.status_code == 400
    assert "page is no number" in answer.text
    for path, told in (
        ("/items?verdict=perhaps", "verdict is none of &#39;right&#39;, &#39;wrong&#39;"),
        ("/leaderboard?page=0", "page begins at 1"),
        ("/leaderboard?page=9999999", "page ends at 1,000,000"),
        ("/models?name=" + "x" * 300, "name has 200 characters at most"),
    ):
        answer = browser(ws).get(path)
        assert answer.status_code == 400 and told in answer.text, answer.text


def test_every_answer_forbids_foreign_and_inline_code(ws: Workspace) -> None:
    client = browser(ws)
    for path in ("/leaderboard", "/nope", "/static/console.css", "/login", "/health"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy, path


def test_a_site_that_has_its_name_point_here_is_refused(ws: Workspace) -> None:
    client = browser(ws)
    guarded = TestClient(client.app, base_url="http://evil.test")
    assert guarded.get("/leaderboard").status_code == 200  # any name where none is given
    made = app.make(Site(ws, Access()), ("localhost",))
    assert TestClient(made, base_url="http://localhost").get("/leaderboard").status_code == 200
    for name in ("evil.test", "localhost.evil.test", "[", ""):
        answer = TestClient(made, base_url="http://localhost").get("/leaderboard", headers={"Host": name})
        assert answer.status_code == 400 and "does not go by the name" in answer.text and "--name" in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"] and "/models" not in answer.text
    by_number = app.make(Site(ws, Access()), ("[::1]",))
    assert TestClient(by_number, base_url="http://[::1]:8765").get("/leaderboard").status_code == 200


def test_a_login_leads_to_a_page_of_this_site_only(ws: Workspace) -> None:
    for to in ("https://evil.test/x", "//evil.test/x", "/\\evil.test/x", "\\\\evil.test"):
        answer = browser(ws).post("/login", data={"token": TOKEN, "to": to}, follow_redirects=False)
        place = answer.headers["location"]
        assert place.startswith("/"), place
        assert not place.startswith(("//", "/\\")), place


def test_the_eleventh_login_of_a_minute_is_one_too_many(ws: Workspace) -> None:
    client = browser(ws)
    codes = [client.post("/login", data={"token": "x" * 20}).status_code for _ in range(11)]
    assert codes == [401] * 10 + [429]


def test_a_fault_is_a_page_that_names_its_log(ws: Workspace) -> None:
    client = browser(ws)

    @client.app.get("/broken")  # type: ignore[attr-defined]
    def broken() -> None:
        raise ZeroDivisionError("a secret of the code")

    answer = client.get("/broken")
    assert answer.status_code == 500
    assert str(ws.home / "errors") in answer.text
    assert "Traceback" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_person_who_logs_out_is_a_reader_again(ws: Workspace) -> None:
    client = log_in(browser(ws))
    assert "log out" in client.get("/leaderboard").text
    kept = client.cookies[COOKIE]
    client.post("/logout")
    assert "log out" not in client.get("/leaderboard").text
    client.cookies.set(COOKIE, kept)
    assert "log out" not in client.get("/leaderboard").text, "a cookie that somebody has kept"
    refused = client.post("/models/a/1/promote", data={"why": "x"})
    assert refused.status_code == 401 and refused.text.count("the session has ended") == 1, "said once"


def test_pages_may_be_asked_for_without_their_content(ws: Workspace) -> None:
    client = browser(ws)
    assert client.head("/leaderboard").status_code == 200
    other = client.put("/leaderboard")
    assert other.headers["allow"] == "GET" and "this page is not there for PUT" in other.text


def test_a_large_form_is_cut_off(ws: Workspace) -> None:
    client = browser(ws)
    assert client.post("/login", data={"token": "x" * 200_000}).status_code == 413
    endless = client.post(
        "/login",
        content=(b"token=" + b"x" * 9000 for _ in range(100)),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert endless.status_code == 413
    files = client.post("/login", files={"token": ("a", b"x" * 200_000)})
    assert files.status_code == 413


def test_the_address_with_a_token_is_for_whom_it_was_printed_alone(ws: Workspace, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"bob {TOKEN}-of-bob\n", encoding="utf-8")
    client = browser(ws, Access(tokens))
    assert "log out" not in client.get("/login", params={"token": f"{TOKEN}-of-bob"}).text
    own = browser(ws)
    assert "log out" in own.get("/login", params={"token": TOKEN}).text


def test_no_other_site_logs_anybody_in_or_out(ws: Workspace) -> None:
    client = log_in(browser(ws))
    for path in ("/login", "/logout"):
        answer = client.post(path, data={"token": TOKEN}, headers={"Origin": "https://evil.test"})
        assert answer.status_code == 403
    assert "log out" in client.get("/leaderboard").text


def test_what_never_changes_in_a_version_is_asked_for_again_by_its_etag(ws: Workspace) -> None:
    client = browser(ws)
    first = client.get("/static/htmx.min.js")
    again = client.get("/static/htmx.min.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, first.headers["cache-control"]) == (304, "no-cache")


def test_the_store_is_damaged_and_the_address_is_wrong_are_two_statuses(own: Workspace, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("of an answer")
    made = store.publish(tmp_path, own.store, "answers", {}, {})
    client = browser(own)
    assert client.get(f"/artifacts/answers/{made.digest}").status_code == 200
    wrong = client.get(f"/artifacts/answers/{'0' * 64}")
    assert wrong.status_code == 404 and "404: Not Found" in wrong.text
    (Path(made.uri) / store.MANIFEST).write_text("{")
    damaged = client.get(f"/artifacts/answers/{made.digest}")
    assert damaged.status_code == 500 and "500: Cannot be read" in damaged.text
    for told in ("is not a manifest", "it is cut off or was edited by hand", "What to do:"):
        assert told in damaged.text


def test_a_list_says_where_it_ends(own: Workspace) -> None:
    client = browser(own)
    for path in ("/leaderboard", "/data", "/runs", "/nights", "/models"):
        answer = client.get(f"{path}?page=2")
        assert answer.status_code == 404 and "this list has no page 2" in answer.text, path
        assert f'href="{path}">Its first page' in answer.text, path
