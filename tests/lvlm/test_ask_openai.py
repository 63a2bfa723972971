"""Inference on a server over real HTTP: what is sent, which failures are retried, which belong to one question."""

import base64
import io
import threading

import pytest
from PIL import Image

from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai
from medmim.lvlm.ask import Question
from tests.support.openai_server import Server


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    import tenacity

    monkeypatch.setattr(tenacity, "wait_random_exponential", lambda *_, **__: tenacity.wait_none())


def test_images_are_sent_in_order_and_without_loss(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    images = [Image.linear_gradient("L").convert("RGB"), Image.new("RGB", (3, 5), (1, 2, 3))]
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("Which?", images)], max_new_tokens=7)
    assert reply.text == "echo Which?"
    (sent,) = server.requests
    assert (sent["path"], sent["model"], sent["max_tokens"]) == ("/v1/chat/completions", "tiny", 7)
    assert sent["temperature"] == 0
    assert sent["auth"] == "Bearer secret"
    parts = sent["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    for part, image in zip(parts, images, strict=False):
        data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(data)).tobytes() == image.tobytes()


def test_replies_keep_the_order_of_the_questions(server):
    questions = [Question(f"number {i}") for i in range(40)]
    done = []
    replies = list(ask_openai.ask(server.url, "tiny", questions, batch_size=8, on_done=done.append))
    assert [reply.text for reply in replies] == [f"echo number {i}" for i in range(40)]
    assert len({reply.key for reply in replies}) == 40
    assert sum(done) == 40


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_temporary_failure_is_retried(server, status):
    (reply,) = ask_openai.ask(server.url, "tiny", [Question(f"once {status}")])
    assert reply.text == f"echo once {status}"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_question_gets_its_error_and_the_others_are_answered(server, status):
    replies = list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}"), Question("fine")]))
    assert str(status) in replies[0].error
    assert (replies[0].text, replies[1].text) == ("", "echo fine")


def test_a_reply_without_text_is_an_error_and_not_an_empty_answer(server):
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("nothing")])
    assert reply.error


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_stops_at_once(server, status):
    with pytest.raises(UserError, match="refuses the model 'tiny'") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}")]))
    assert caught.value.exit_code == 2


def test_a_server_that_stays_down_is_unavailable():
    with pytest.raises(Unavailable, match="does not answer") as caught:
        list(ask_openai.ask("http://127.0.0.1:9/v1", "tiny", [Question("hello")]))
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_answers_with_an_error_is_not_reported_as_unreachable(server, status):
    with pytest.raises(Unavailable, match=f"answers {status}, after 5 tries") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}")]))
    assert caught.value.exit_code == 75


@pytest.mark.parametrize(
    "answer", ["text/html <html>Sign in</html>", "application/json <html>", "application/json [1]", "text/plain ok"]
)
def test_a_server_of_another_kind_is_reported_as_such(server, answer):
    with pytest.raises(UserError, match="is not an OpenAI-compatible server") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question(f"raw {answer}")]))
    assert caught.value.exit_code == 2 and server.url in caught.value.fact
    assert caught.value.reason and caught.value.fix


@pytest.mark.parametrize(
    ("body", "text", "error"),
    [
        ('{"choices": [{"message": {"content": [{"type": "text", "text": "B"}]}}]}', "B", ""),
        ('{"choices": [{"text": "B", "index": 0}]}', "B", ""),
        ('{"choices": [{"message": {"content": "B \\ud83d"}}]}', "B \ufffd", ""),
        ('{"choices": [{"message": null}]}', "", "no text"),
        ('{"choices": null}', "", "no completion"),
        ('{"error": {"message": "model overloaded"}}', "", "model overloaded"),
        ('{"choices": [{"message": {"content": null, "reasoning_content": "B?"}}]}', "", "reasoning"),
    ],
)
def test_a_server_s_own_shape_ends_nothing_but_its_question(server, body, text, error):
    replies = list(ask_openai.ask(server.url, "tiny", [Question(f"raw application/json {body}"), Question("fine")]))
    assert replies[0].text == text and error in replies[0].error and bool(error) == bool(replies[0].error)
    assert replies[1].text == "echo fine"


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 1024 tokens. However, you requested 3000 tokens",
        "the request exceeds the available context size. try increasing it",
        "input is too large to process. increase the physical batch size",
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_a_question_beyond_the_server_s_context_is_its_own_error(server, status, words):
    server.error = words
    replies = list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}"), Question("fine")]))
    assert words in replies[0].error and replies[1].text == "echo fine"


def test_a_question_that_is_no_text_is_not_sent(server):
    replies = list(ask_openai.ask(server.url, "tiny", [Question("a \ud83d"), Question("fine")]))
    assert "surrogate" in replies[0].error and replies[1].text == "echo fine" and len(server.requests) == 1


def test_a_reply_that_was_cut_is_marked(server):
    server.finish = "length"
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")])
    assert reply.cut and reply.text == "echo hello"


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
    monkeypatch.setattr(ask_openai.os, "environ", {"OPENAI_API_KEY": key})
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert caught.value.exit_code == 2 and caught.value.fix and not server.requests
    assert not key.strip() or key not in str(caught.value)


def test_white_space_around_an_api_key_is_removed(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret\r\n")
    list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert server.requests[0]["auth"] == "Bearer secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:1080"),
        ("HTTP_PROXY", "foo://127.0.0.1:1"),
        ("HTTP_PROXY", "http://[::1"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
        ("OPENAI_ORG_ID", "ü"),
    ],
)
def test_an_environment_in_which_nothing_can_be_sent_is_reported_with_its_cause(server, monkeypatch, name, value):
    for proxy in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="no request can be sent to") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("hello")]))
    assert caught.value.exit_code == 2 and caught.value.reason and caught.value.fix
    assert "Connection error." not in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_without_tls_is_named_as_such_at_once(server):
    with pytest.raises(UserError, match="no request can be sent") as caught:
        list(ask_openai.ask(server.url.replace("http:", "https:"), "tiny", [Question("hello")]))
    assert "http://" in caught.value.fix and "SSL" in caught.value.reason


@pytest.mark.parametrize(
    ("url", "words"), [("http://127.0.0.1:9/v1", "refused"), ("http://no-host.invalid/v1", "known")]
)
def test_the_cause_of_a_lost_connection_is_named(url, words):
    with pytest.raises(Unavailable) as caught:
        list(ask_openai.ask(url, "tiny", [Question("hello")]))
    assert words in caught.value.reason
