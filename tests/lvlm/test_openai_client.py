"""To which address requests are sent, with which key and settings, and how much of an answer is read."""

import gzip
import time

import pytest

from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai, openai_client
from medmim.lvlm.ask import Question

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:8000/v1", "scheme"),
        ("localhost:8000/v1", "scheme"),
        ("//host/v1", "no scheme"),
        ("htp://host/v1", "'htp'"),
        ("ftp://host/v1", "'ftp'"),
        ("http:///v1", "no host"),
        ("http://", "no host"),
        ("", "no scheme"),
        ("http://127.0.0.1:99999/v1", "65535"),
        ("http://127.0.0.1:80a/v1", "80a"),
        ("http://127.0.0.1:-1/v1", "ort"),
        ("http://127.0.0.1:0/v1", "port is 0"),
        ("http://::1:8000/v1", "ort"),
        ("http://[::1/v1", "IPv6"),
        ("http://user:secret@host/v1", "password"),
        ("http://user@host/v1", "user name"),
        ("http://user:se@cret@host/v1", "password"),
        ("http://user:se/cret@host/v1", "password"),
        ("http://user:1/cret@host/v1", "password"),
        ("http://user:se[cret@host/v1", "password"),
        ("http://host/v1?api-version=1", "query"),
        ("http://ho st/v1", "white space"),
        ("http://host/v1\u200b", "cannot be seen"),
        ("http://host/v1\n", "cannot be seen"),
        ("http://a..b/v1", "a..b"),
    ],
)
def test_an_address_to_which_nothing_can_be_sent_is_refused_before_anything_is(url, reason):
    with pytest.raises(UserError) as caught:
        list(ask_openai.ask(url, "tiny", [Question("hello")]))
    assert reason in caught.value.reason and caught.value.fix and caught.value.exit_code == 2
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("end", ["", "/", "//", "/chat/completions", "/chat/completions/", "/completions"])
def test_an_address_is_taken_with_slashes_and_endpoint(server, end):
    (reply,) = ask_openai.ask(server.url + end, "tiny", [Question("hello")])
    assert reply.text == "echo hello"
    assert server.requests[0]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize("key", ["", " ", "\n", "schlüssel", "a b", "a\nb", "\u201ckey\u201d", "a\x00b", "key\u200b"])
def test_an_api_key_that_no_header_takes_is_refused_and_not_shown(server, monkeypatch, key):
    monkeypatch.setattr(openai_client.os, "environ", {"OPENAI_API_KEY": key})
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert caught.value.exit_code == 2 and caught.value.fix and not server.requests
    assert not key.strip() or key not in str(caught.value)


def test_a_server_of_our_own_gets_no_key_of_another_one(server, monkeypatch):
    for key in ("secret", ""):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        list(ask_openai.ask(server.url, "tiny", [Question("hello")], own="digest"))
    assert {request["auth"] for request in server.requests} == {"Bearer none"}


def test_white_space_around_an_api_key_is_removed(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret\r\n")
    list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert server.requests[0]["auth"] == "Bearer secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080"),
        ("HTTP_PROXY", "foo://127.0.0.1:1"),
        ("HTTP_PROXY", "foo://me:se/secret@127.0.0.1:1"),
        ("HTTP_PROXY", "http://[::1"),
        ("HTTP_PROXY", "http://127.0.0.1:abc"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
        ("OPENAI_ORG_ID", "ü"),
        ("OPENAI_PROJECT_ID", "a\nb"),
    ],
)
def test_an_environment_in_which_nothing_can_be_sent_is_reported_with_its_cause(server, monkeypatch, name, value):
    for proxy in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="no request can be sent to") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert caught.value.exit_code == 2 and caught.value.reason and caught.value.fix
    assert name in caught.value.fix
    assert "Connection error." not in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_without_tls_is_named_as_such_at_once(server):
    with pytest.raises(UserError, match="no request can be sent") as caught:
        list(ask_openai.ask(server.url.replace("http:", "https:"), "tiny", [Question("hello")]))
    assert "http://" in caught.value.fix and "SSL" in caught.value.reason


def endless(chunk, pause=0.0):
    while True:
        yield chunk
        time.sleep(pause)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("chunk", [b" " * 65536, b'{"choices": [{"message": {"content": "' + b"B" * 65536])
def test_a_body_without_end_is_the_error_of_its_question(server, status, chunk):
    text = "number" if status == 200 else f"always {status}"
    server.stream = lambda question: endless(chunk) if question == text else None
    replies = list(ask_openai.ask(server.url, "tiny", [Question(text), Question("fine")]))
    assert "the server sent more than 4.0 MB" in replies[0].error and replies[1].text == "echo fine"
    assert server.hung_up.wait(10)


def test_a_body_that_comes_byte_by_byte_without_end_ends_too(server, monkeypatch):
    monkeypatch.setattr(ask_openai, "_TIMEOUT", 0.3)
    monkeypatch.setattr(ask_openai, "_PER_TOKEN", 0.0)
    server.stream = lambda text: endless(b" ", 0.02)
    with pytest.raises(Unavailable) as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert "no whole answer within" in caught.value.reason


def test_a_small_body_that_unpacks_to_a_large_one_is_not_read(server):
    server.stream = lambda text: [gzip.compress(b" " * 60_000_000)]
    server.encoding = "gzip"
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")])
    assert "no end of an answer" in reply.error
