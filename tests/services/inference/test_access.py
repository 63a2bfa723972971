"""Who may ask: tokens that count as long as they are in the file, an identity that only the ingress can give."""

import ipaddress
from pathlib import Path

import pytest
from medmim_inference import server
from medmim_inference.access import Access

from medmim.errors import UserError
from medmim.registry.chat import Refused

GOOD, OTHER = "a-good-token-of-32-characters-ab", "another-token-of-32-characters-a"
PROXY = (ipaddress.ip_network("10.0.0.0/8"),)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# of the ward\n{GOOD}\n\n{OTHER}\n")
    return file


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_token_counts_as_long_as_it_is_in_the_file(tokens: Path):
    access = Access(tokens)
    users = {access.user(bearer(token), "1.2.3.4") for token in (GOOD, OTHER)}
    assert len(users) == 2 and not any(GOOD in user or OTHER in user for user in users)
    tokens.write_text(OTHER)
    with pytest.raises(Refused) as caught:
        access.user(bearer(GOOD), "1.2.3.4")
    assert caught.value.status == 401


@pytest.mark.parametrize("text", [None, b"", b"\xff\xfe", b"short"])
def test_a_file_that_is_gone_or_emptied_keeps_everybody_out(tokens: Path, text: bytes | None):
    access = Access(tokens)
    tokens.unlink()
    if text is not None:
        tokens.write_bytes(text)
    with pytest.raises(Refused) as caught:
        access.user(bearer(GOOD), "1.2.3.4")
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "headers",
    [{}, bearer(""), bearer(" "), bearer(GOOD[:-1]), bearer(GOOD + "x"), bearer("# of the ward"), bearer("\udcff"),
     {"authorization": GOOD}, {"authorization": f"Basic {GOOD}"}, {"X-User": "me"}],
)  # fmt: skip
def test_nothing_else_counts(tokens: Path, headers: dict[str, str]):
    with pytest.raises(Refused) as caught:
        Access(tokens).user(headers, "10.1.2.3")
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("peer", "known"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("", False),
        ("::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
    ],
)
def test_a_header_proves_who_asks_from_the_ingress_only(peer: str, known: bool):
    access = Access(None, "X-User", PROXY)
    if known:
        assert access.user({"X-User": "me"}, peer) == "me"
        for headers in ({}, {"X-User": " "}):
            with pytest.raises(Refused):
                access.user(headers, peer)
    else:
        with pytest.raises(Refused):
            access.user({"X-User": "me"}, peer)


def test_of_two_ways_either_will_do(tokens: Path):
    access = Access(tokens, "X-User", PROXY)
    assert access.user({"X-User": "me"}, "10.0.0.1") == "me"
    assert access.user({"X-User": "me", **bearer(GOOD)}, "1.2.3.4").startswith("token ")


@pytest.mark.parametrize(
    ("host", "changes", "words"),
    [
        ("0.0.0.0", {}, "--anyone"),
        ("::", {}, "--anyone"),
        ("gpu.internal", {}, "--anyone"),
        ("127.0.0.1", {"header": "X-User"}, "belong together"),
        ("127.0.0.1", {"proxies": ["10.0.0.0/8"]}, "belong together"),
        ("127.0.0.1", {"header": "X-User", "proxies": ["10.0.0.300"]}, "--proxy"),
        ("127.0.0.1", {"tokens": Path("/nowhere")}, "cannot be read"),
    ],
)
def test_a_server_that_nobody_is_kept_from_is_not_started_unless_told(host: str, changes: dict, words: str):
    given = {"tokens": None, "header": "", "proxies": [], "anyone": False, **changes}
    with pytest.raises(UserError, match=words):
        server.access(host, **given)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_this_machine_alone_nothing_need_be_said(host: str):
    assert server.access(host, None, "", [], False).is_open
    assert server.access("0.0.0.0", None, "", [], True).is_open


@pytest.mark.parametrize("text", ["", "# none\n", "short\n", f"{GOOD}\nshort\n"])
def test_a_file_without_good_tokens_is_refused_at_the_start(tmp_path: Path, text: str):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(UserError, match="token"):
        server.access("0.0.0.0", file, "", [], False)
