import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from medmim_console import server
from medmim_console.identity import COOKIE, Access, is_of_session, read_tokens
from starlette.datastructures import Headers

from medmim.errors import UserError

TOKEN = "a-token-of-a-promoter"
INGRESS = Access(
    header="X-Forwarded-User", proxies=(ipaddress.ip_network("10.0.0.0/8"),), promoters=frozenset({"ann@example.org"})
)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# people\n\nann {TOKEN}\nBob van Dam  {TOKEN}-of-bob\n", encoding="utf-8")
    return path


def session(access: Access, headers: dict[str, str] | None = None, cookie: str = "", peer: str = "192.0.2.1") -> Any:
    return access.session(Headers(headers or {}), {COOKIE: cookie} if cookie else {}, peer)


def test_a_token_tells_whose_it_is(tokens: Path) -> None:
    access = Access(tokens)
    assert session(access, cookie=access.log_in(TOKEN)).person == "ann"
    assert session(access, cookie=access.log_in(f" {TOKEN}-of-bob\n")).person == "Bob van Dam"


def test_a_token_that_is_taken_out_ends_its_session(tokens: Path) -> None:
    access = Access(tokens)
    cookie = access.log_in(TOKEN)
    tokens.write_text(f"bob {TOKEN}-of-bob\n", encoding="utf-8")
    found = session(access, cookie=cookie)
    assert found.person == ""
    assert "nobody's any more" in found.why


@pytest.mark.parametrize("content", ["", "# nobody\n", None])
def test_a_file_that_is_emptied_or_gone_keeps_everybody_out(tokens: Path, content: str | None) -> None:
    access = Access(tokens)
    cookie = access.log_in(TOKEN)
    if content is None:
        tokens.unlink()
    else:
        tokens.write_text(content, encoding="utf-8")
    assert session(access, cookie=cookie).person == ""


@given(st.text(max_size=200))
def test_no_made_up_cookie_is_a_session(cookie: str) -> None:
    assert session(Access(own=("ann", TOKEN)), cookie=cookie).person == ""


def test_a_cookie_of_another_process_is_none() -> None:
    cookie = Access(own=("ann", TOKEN)).log_in(TOKEN)
    assert session(Access(own=("ann", TOKEN)), cookie=cookie).person == ""


@given(st.text(max_size=60))
def test_what_is_no_token_logs_nobody_in(text: str) -> None:
    if text.strip() != TOKEN:
        with pytest.raises(UserError, match="nobody's"):
            Access(own=("ann", TOKEN)).log_in(text)


def test_the_ingress_names_who_asks_and_nobody_else_does() -> None:
    headers = {"X-Forwarded-User": "ann@example.org"}
    assert session(INGRESS, headers, peer="10.1.2.3").person == "ann@example.org"
    forged = session(INGRESS, headers, peer="192.0.2.1")
    assert forged.person == ""
    assert "believed from the ingress alone" in forged.why


@pytest.mark.parametrize("name", ["eve@example.org", "ann@example.org.evil", "system:serviceaccount:x:y", "$(USER)"])
def test_whom_nobody_named_a_promoter_may_read_only(name: str) -> None:
    assert session(INGRESS, {"X-Forwarded-User": name}, peer="10.1.2.3").person == ""


def test_a_form_belongs_to_one_session_of_one_person() -> None:
    access = Access(own=("ann", TOKEN))
    first, second = (session(access, cookie=access.log_in(TOKEN)) for _ in range(2))
    assert is_of_session(first, first.csrf, {})
    assert not is_of_session(first, second.csrf, {})
    assert not is_of_session(first, "", {})
    assert not is_of_session(session(access), "", {})


@pytest.mark.parametrize(
    ("origin", "host", "is_ours"),
    [
        ("https://console.example.org", "console.example.org", True),
        ("http://127.0.0.1:8765", "127.0.0.1:8765", True),
        ("https://evil.example.org", "console.example.org", False),
        ("null", "console.example.org", False),
    ],
)
def test_a_form_from_another_origin_is_foreign(origin: str, host: str, is_ours: bool) -> None:
    access = Access(own=("ann", TOKEN))
    one = session(access, cookie=access.log_in(TOKEN))
    assert is_of_session(one, one.csrf, {"origin": origin, "host": host}) is is_ours


def test_a_file_of_tokens_tells_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"ann\nbob short\nmedmim {TOKEN}\ncarl {TOKEN}\ndora {TOKEN}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_tokens(path)
    assert [problem.partition(":")[0].split(" is")[0] for problem in caught.value.problems] == [
        "line 1",
        "line 2",
        "line 3",
        "line 5",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("127.0.0.1", None, "X-User", (), ()), "needs --proxy"),
        (("127.0.0.1", None, "X-User", ("ten",), ()), "--proxy"),
        (("127.0.0.1", None, "", (), ("ann",)), "--promoter"),
    ],
)
def test_options_that_prove_nothing_are_refused(arguments: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        server.access(*arguments)


def test_only_on_this_machine_a_token_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_USER", "ann")
    assert server.access("127.0.0.1", None, "", (), ()).own
    assert server.access("0.0.0.0", None, "", (), ()).own is None


def test_a_token_is_worth_more_than_what_the_ingress_says(tokens: Path) -> None:
    access = Access(tokens, header=INGRESS.header, proxies=INGRESS.proxies, promoters=INGRESS.promoters)
    found = session(access, {"X-Forwarded-User": "eve@example.org"}, access.log_in(TOKEN), "10.1.2.3")
    assert found.person == "ann"


def test_two_names_from_the_ingress_are_none() -> None:
    raw = [(b"x-forwarded-user", b"ann@example.org"), (b"x-forwarded-user", b"eve@example.org")]
    found = INGRESS.session(Headers(raw=raw), {}, "10.1.2.3")
    assert found.person == ""
    assert "twice" in found.why


def test_a_name_from_the_ingress_may_have_any_letters() -> None:
    access = Access(header="X-User", proxies=INGRESS.proxies, promoters=frozenset({"Jürgen Ångström"}))
    found = access.session(Headers(raw=[(b"x-user", "Jürgen Ångström".encode())]), {}, "10.1.2.3")
    assert found.person == "Jürgen Ångström"


def test_the_first_page_of_a_person_whom_the_ingress_names_has_forms_that_can_be_sent() -> None:
    headers = {"X-Forwarded-User": "ann@example.org"}
    one = session(INGRESS, headers, peer="10.1.2.3")
    assert is_of_session(session(INGRESS, headers, peer="10.1.2.3"), one.csrf, {})
    assert one.csrf != session(Access(header=INGRESS.header, proxies=INGRESS.proxies, promoters=INGRESS.promoters),
                               headers, peer="10.1.2.3").csrf, "another process has another key"  # fmt: skip
