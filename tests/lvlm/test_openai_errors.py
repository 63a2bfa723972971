"""A server that fails, over real HTTP: what is tried again, what belongs to one question, what ends the command."""

import email.utils
import json
import threading
import time
from types import SimpleNamespace

import pytest

from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai
from medmim.lvlm.ask import Question
from tests.support.openai_server import Server

TEMPORARY = [408, 409, 425, 429, 500, 502, 503, 504, 529]

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def slept(monkeypatch):
    """The seconds of each wait, without waiting."""
    waits = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.mark.parametrize("status", TEMPORARY)
def test_a_temporary_failure_is_retried(server, status):
    (reply,) = ask_openai.ask(server.url, "tiny", [Question(f"once {status}")])
    assert reply.text == f"echo once {status}"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 405, 413, 415, 422, 501, 505])
def test_a_refused_question_gets_its_error_and_the_others_are_answered(server, status):
    replies = list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}"), Question("fine")]))
    assert replies[0].error == f"HTTP {status}: no, thanks" and len(server.requests) == 2
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


@pytest.mark.parametrize("status", TEMPORARY)
def test_a_server_that_answers_with_an_error_is_not_reported_as_unreachable(server, status):
    with pytest.raises(Unavailable, match=f"answers {status}, after 4 tries") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}")]))
    assert caught.value.exit_code == 75 and caught.value.reason == "no, thanks" and len(server.requests) == 4
    assert "MEDMIM_PATIENCE" in caught.value.fix


def test_a_server_is_retried_for_as_long_as_medmim_is_patient(server, monkeypatch):
    monkeypatch.setenv("MEDMIM_PATIENCE", "1")
    begin = time.monotonic()
    with pytest.raises(Unavailable):
        list(ask_openai.ask(server.url, "tiny", [Question("always 503")]))
    assert len(server.requests) > 8 and time.monotonic() - begin >= 1


@pytest.mark.parametrize(("given", "wait"), [("20", 20), ("0.5", 0.5), ("60", 60), ("-3", 0), ("soon", 0), ("nan", 0)])
def test_a_server_gets_the_time_that_it_asks_for(server, slept, given, wait):
    server.headers["Retry-After"] = given
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("once 429")])
    assert reply.text == "echo once 429" and slept == [wait]


def test_a_server_may_ask_by_a_date(server, slept):
    server.headers["Retry-After"] = email.utils.formatdate(time.time() + 30, usegmt=True)
    list(ask_openai.ask(server.url, "tiny", [Question("once 503")]))
    assert len(slept) == 1 and 25 < slept[0] <= 30


@pytest.mark.parametrize("given", ["3600", "inf", "1e400", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_server_that_asks_for_too_long_is_not_waited_for(server, slept, given):
    server.headers["Retry-After"] = given
    with pytest.raises(Unavailable, match="answers 429, after one try; it asks to wait") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("always 429")]))
    assert not slept and len(server.requests) == 1 and caught.value.reason == "no, thanks"


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (402, {}),
        (429, {"type": "insufficient_quota", "code": "insufficient_quota"}),
        (429, {"code": "insufficient_quota"}),
        (429, {"type": "insufficient_quota"}),
        (429, {"code": "billing_not_active"}),
        (403, {"code": "billing_hard_limit_reached"}),
    ],
)
def test_a_server_that_wants_to_be_paid_ends_it_at_once(server, status, fields):
    server.error_fields = fields
    with pytest.raises(UserError, match="before it is paid") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}")]))
    assert caught.value.exit_code == 2 and caught.value.reason == "no, thanks" and len(server.requests) == 1
    assert "pay there, or give another key as OPENAI_API_KEY" in caught.value.fix


@pytest.mark.parametrize("code", [408, 409, 425, 429, 500, 502, 503, "503", "429"])
@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"message": "later", "code": CODE}}',
        '{"choices": [{"error": {"message": "later", "code": CODE}, "message": {"content": ""}}]}',
    ],
)
def test_a_status_within_an_answer_of_status_200_counts_as_one(server, body, code):
    bad, good = body.replace("CODE", json.dumps(code)), '{"choices": [{"message": {"content": "B"}}]}'
    bodies = iter([bad, bad, good])
    server.raw = lambda text: next(bodies)
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("which?")])
    assert reply.text == "B" and len(server.requests) == 3
    server.raw = lambda text: bad
    with pytest.raises(Unavailable, match=f"answers {code}, after 4 tries") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("which?")]))
    assert caught.value.reason == "later"


@pytest.mark.parametrize("code", [400, 404, 501, 40303, "context_length_exceeded", None, True, 5.5, [429]])
def test_another_code_within_an_answer_is_an_error_of_its_question(server, code):
    body = json.dumps({"error": {"message": "no", "code": code}})
    replies = list(ask_openai.ask(server.url, "tiny", [Question(f"raw application/json {body}"), Question("fine")]))
    assert replies[0].error == "the server sent an error: no" and replies[1].text == "echo fine"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        ("text/html <html><title>Sign in</title><body>Your name?</html>", "sent a web page: Sign in: Your name?"),
        ("application/json <html>", "a web page: without text"),
        ("application/json [1]", "[1]"),
        ("text/plain ok", "it sent 'ok'"),
        ('text/event-stream data: {"choices": []}', "a stream of events"),
        ('application/json {"choices": [{"message": {"content": "B"', '"content": "B"'),
    ],
)
def test_a_server_of_another_kind_is_reported_with_what_it_sent(server, answer, received):
    with pytest.raises(UserError, match="is not an OpenAI-compatible server") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question(f"raw {answer}")]))
    assert caught.value.exit_code == 2 and server.url in caught.value.fact
    assert received in caught.value.reason and caught.value.fix


def test_a_server_that_sends_nothing_is_reported_as_such(server):
    server.raw = lambda text: ""
    with pytest.raises(UserError, match="it sent nothing"):
        list(ask_openai.ask(server.url, "tiny", [Question("hello")]))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (422, '{"detail": [{"loc": ["body", "x"], "msg": "Field required"}]}', "HTTP 422: body.x: Field required"),
        (400, "bad", "HTTP 400: bad"),
        (413, "<html><center><h1>413 Too Large</h1></center></html>", "HTTP 413: a web page: 413 Too Large"),
        (415, "<!DOCTYPE html><head><title>No</title><style>b {}</style></head>Not &quot;this&quot;", 'No: Not "this"'),
    ],
)  # fmt: skip
def test_the_words_of_a_server_s_error_are_kept_whatever_their_shape(server, status, body, said):
    server.raw = lambda text: body
    (reply,) = ask_openai.ask(server.url, "tiny", [Question(f"always {status}")])
    assert said in reply.error and "<" not in reply.error and "style" not in reply.error


def test_a_redirect_to_a_login_is_named_with_its_target_and_not_followed(server):
    server.headers = {"Location": f"{server.url}/login?token=secret"}
    with pytest.raises(UserError, match=rf"^{server.url} redirects to {server.url}/login\?token=\*\*\*") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("always 302")]))
    assert (caught.value.exit_code, len(server.requests)) == (2, 1)


def test_a_redirect_that_keeps_the_request_is_followed(server):
    with Server() as before:
        threading.Thread(target=before.serve_forever, args=(0.01,), daemon=True).start()
        before.headers = {"Location": f"{server.url}/chat/completions"}
        server.failures["once 308"] = 1
        (reply,) = ask_openai.ask(before.url, "tiny", [Question("once 308")])
        before.shutdown()
    assert reply.text == "echo once 308" and len(before.requests) == 1


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
        "The prompt (total length 5000) is too long to fit into the model",
        "Input validation error: too many input tokens",
        "prompt too long for model",
        "Please reduce the maximum number of tokens",
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_a_question_beyond_the_server_s_context_is_its_own_error(server, status, words):
    server.error = words
    replies = list(ask_openai.ask(server.url, "tiny", [Question(f"always {status}"), Question("fine")]))
    assert words in replies[0].error and replies[1].text == "echo fine"


@pytest.mark.parametrize(
    "words", ["CUDA error: too large", "the request took too long", "index too large", "too many requests"]
)
def test_other_things_that_are_too_large_may_pass(server, words):
    server.error = words
    with pytest.raises(Unavailable, match="answers 500, after 4 tries"):
        list(ask_openai.ask(server.url, "tiny", [Question("always 500")]))


def test_a_control_character_of_a_server_reaches_nobody(server):
    server.error = "\x1b[2J\x1b]0;pwned\x07 ok"
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("always 400")])
    assert reply.error == r"HTTP 400: \x1b[2J\x1b]0;pwned\x07 ok"
    with pytest.raises(Unavailable) as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("always 500")]))
    assert "\x1b" not in str(caught.value) and r"\x1b[2J" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"), [("http://127.0.0.1:9/v1", "refused"), ("http://no-host.invalid/v1", "known")]
)
def test_the_cause_of_a_lost_connection_is_named(url, words):
    with pytest.raises(Unavailable) as caught:
        list(ask_openai.ask(url, "tiny", [Question("hello")]))
    assert words in caught.value.reason


OPTIONS = ("left", "right", "both")
ASKED = Question("which?\nA: left\nB: right\nC: both", options=OPTIONS)
