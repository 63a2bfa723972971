"""Inference on a server over real HTTP: what is sent, which failures are retried, which belong to one question."""

import base64
import email.utils
import gzip
import io
import json
import math
import threading
import time

import pytest
from PIL import Image

from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai, openai_client
from medmim.lvlm.ask import Question, Reply
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

    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda *_, **__: tenacity.wait_none())


@pytest.fixture
def slept(monkeypatch):
    """The seconds of each wait, without waiting."""
    waits = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


def test_images_are_sent_in_order_and_without_loss(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    images = [Image.linear_gradient("L").convert("RGB"), Image.new("RGB", (3, 5), (1, 2, 3))]
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("Which?", images)], max_new_tokens=7)
    assert reply.text == "echo Which?"
    *_, sent = server.requests
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


TEMPORARY = [408, 409, 425, 429, 500, 502, 503, 504, 529]


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


@pytest.mark.parametrize(
    ("url", "words"), [("http://127.0.0.1:9/v1", "refused"), ("http://no-host.invalid/v1", "known")]
)
def test_the_cause_of_a_lost_connection_is_named(url, words):
    with pytest.raises(Unavailable) as caught:
        list(ask_openai.ask(url, "tiny", [Question("hello")]))
    assert words in caught.value.reason


OPTIONS = ("left", "right", "both")
ASKED = Question("which?\nA: left\nB: right\nC: both", options=OPTIONS)


def told(*likeliest: tuple[str, float], before: str = "") -> str:
    """A completion with log-probabilities, as vLLM and OpenAI write it."""

    def token(text: str, top: list[dict]) -> dict:
        return {"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": top}

    top = [{"token": text, "logprob": value, "bytes": None} for text, value in likeliest]
    content = [token(before, [{"token": before, "logprob": -0.1}])] * bool(before) + [token(likeliest[0][0], top)]
    message = {"role": "assistant", "content": "".join(one["token"] for one in content)}
    return json.dumps({"choices": [{"index": 0, "message": message, "logprobs": {"content": content}}]})


def compared(server: Server, body: str, asked: Question = ASKED) -> Reply:
    server.raw = lambda text: body
    (reply,) = ask_openai.compare(server.url, "tiny", [asked])
    return reply


def test_letters_are_compared_by_the_likeliest_first_tokens(server):
    reply = compared(server, told(("B", -0.5), ("A", -1.5), ("The", -2.0), ("C", -3.0)))
    assert reply.letters == pytest.approx((-1.5, -0.5, -3.0)) and not reply.texts and not reply.error
    (sent,) = server.requests
    assert (sent["logprobs"], sent["top_logprobs"], sent["temperature"]) == (True, 20, 0.0)


def test_tokens_that_are_the_same_letter_count_together_and_words_do_not(server):
    reply = compared(
        server, told(("A", -1.0), (" A", -1.0), ("A:", -2.0), ("Left", -0.1), ("\u2581B", -1.2), ("a", -0.2))
    )
    total = math.log(2 * math.exp(-1.0) + math.exp(-2.0))
    assert reply.letters[:2] == pytest.approx((total, -1.2))
    assert reply.letters[2] < -2.0  # less likely than all that the server tells


@pytest.mark.parametrize("space", [" ", "\n", "\u2581", "\u0120"])
def test_white_space_before_the_letter_does_not_count(server, space):
    assert compared(server, told(("C", -0.2), ("A", -1.0), before=space)).letters[2] == pytest.approx(-0.2)


def test_an_answer_that_begins_with_no_letter_is_the_error_of_its_question(server):
    reply = compared(server, told(("I", -0.1), ("Sorry", -2.0)))
    assert "no letter of an option" in reply.error and not reply.letters
    assert compared(server, told(("D", -0.1), ("Sorry", -2.0))).error  # there are three options


@pytest.mark.parametrize("nothing", [-9999.0, -math.inf, math.nan, -1e308])
def test_a_number_that_stands_for_no_likelihood_is_none_of_its_letter(server, nothing):
    reply = compared(server, told(("B", -0.5), ("A", nothing), ("The", -2.0)))
    assert reply.letters[1] == pytest.approx(-0.5) and reply.letters[0] == reply.letters[2] < -2.0


@pytest.mark.parametrize("wrong", [3.0, 1e6, math.inf])
def test_a_likelihood_above_one_is_the_error_of_its_question(server, wrong):
    assert "log-probabilities that are none" in compared(server, told(("B", -0.5), ("A", wrong))).error
    assert "log-probabilities that are none" in compared(server, told(("B", math.nan), ("A", math.nan))).error
    assert not compared(server, told(("B", 1e-6), ("A", -9.0))).error  # rounded


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"choices": [{"index": 0, "message": {"content": "A"}}]}),
        json.dumps({"choices": [{"index": 0, "message": {"content": "A"}, "logprobs": None}]}),
        json.dumps({"choices": [{"index": 0, "logprobs": {"content": [{"token": "A", "top_logprobs": 5}]}}]}),
        json.dumps({"choices": [{"index": 0, "logprobs": {"content": [{"token": "A", "logprob": -1}]}}]}),
    ],
)
def test_a_server_without_log_probabilities_ends_it_with_the_key_to_change(server, body):
    with pytest.raises(UserError, match="does not tell how likely") as caught:
        compared(server, body)
    assert "bench.protocol" in caught.value.fix and "--protocol" in caught.value.fix


def test_a_server_that_refuses_logprobs_ends_it_too_in_its_words(server):
    server.error = "This model does not support logprobs"
    with pytest.raises(UserError, match="does not tell how likely") as caught:
        list(ask_openai.compare(server.url, "tiny", [Question("always 400", options=OPTIONS)]))
    assert "does not support logprobs" in caught.value.reason
    server.error = "the image is too small"
    (reply,) = ask_openai.compare(server.url, "tiny", [Question("always 400", options=OPTIONS)])
    assert "too small" in reply.error


def test_likelihoods_of_a_server_have_other_keys_than_its_answers(server):
    compare = compared(server, told(("A", -0.1)))
    other = compared(server, told(("A", -0.1)), Question(ASKED.prompt, options=OPTIONS[:2]))
    (answer,) = ask_openai.ask(server.url, "tiny", [ASKED])
    assert len({compare.key, other.key, answer.key}) == 3


PICTURES = [Image.new("RGB", (60, 40), (9 * i, 0, 0)) for i in range(4)]


def costly(text, images):
    """The tokens of a prompt whose images all arrive."""
    return len(text.split()) + 100 * len(images)


def asked(server):
    """The questions that were put to a server, without those that only count tokens."""
    return [one for one in server.requests if one["max_tokens"] != 1]


@pytest.mark.parametrize(
    ("kept", "images", "said"),
    [
        (lambda images: [], 1, "1 tokens with an image and 1 without"),
        (lambda images: images[:1], 2, "101 tokens with 2 images, 101 with 1 and 1 with none"),
        (lambda images: images[-3:], 4, "301 tokens with 4 images, 301 with 3 and 1 with none"),
    ],
)
def test_a_server_that_drops_images_is_refused_before_it_is_asked(server, kept, images, said):
    server.count = lambda text, shown: costly(text, kept(shown))
    questions = [Question("blind"), Question("seen", PICTURES[:images])]
    with pytest.raises(UserError, match="drops images of the questions to 'tiny'") as caught:
        list(ask_openai.ask(server.url, "tiny", questions))
    assert said in caught.value.reason and caught.value.exit_code == 2
    assert f"--limit-mm-per-prompt '{{\"image\": {images}}}'" in caught.value.fix and "template" in caught.value.fix
    assert all(len(one["messages"][0]["content"]) == 1 for one in asked(server))


def test_a_server_that_takes_fewer_images_is_refused_in_its_words(server):
    server.count, words = costly, "At most 2 image(s) may be provided in one prompt."
    server.refuse = lambda images: words if len(images) > 2 else ""
    assert [r.text for r in ask_openai.ask(server.url, "tiny", [Question("two", PICTURES[:2])])] == ["echo two"]
    with pytest.raises(UserError, match="takes no question with 3 images") as caught:
        list(ask_openai.ask(server.url, "tiny", [Question("three", PICTURES[:3])]))
    assert caught.value.reason.endswith(words) and '{"image": 3}' in caught.value.fix


def test_tokens_are_counted_once_for_each_number_of_images(server):
    server.count, learned, counts = costly, ask_openai.Learned(), []
    for numbers in ([1, 0, 1], [1, 2], [2, 1, 2]):
        server.requests.clear()
        questions = [Question(f"images {n}", PICTURES[:n]) for n in numbers]
        list(ask_openai.ask(server.url, "tiny", questions, learned=learned))
        counts.append(len(server.requests) - len(asked(server)))
    assert counts == [3, 3, 0]
    assert learned.facts() == {"images_arrive": "seen in questions of up to 2, by usage.prompt_tokens"}


def test_likelihoods_are_asked_of_no_server_that_drops_images(server):
    server.count = lambda text, images: 5
    with pytest.raises(UserError, match="drops images"):
        list(ask_openai.compare(server.url, "tiny", [Question("which?", PICTURES[:1], OPTIONS)]))


def test_a_server_without_counts_is_said_once_not_to_be_verified(server, capsys):
    learned = ask_openai.Learned()
    for _ in range(2):
        questions = [Question(f"number {i}", PICTURES[: 1 + i]) for i in range(3)]
        assert all(r.text for r in ask_openai.ask(server.url, "tiny", questions, learned=learned))
    assert capsys.readouterr().err.count("not verified that images reach 'tiny'") == 1
    assert learned.facts() == {"images_arrive": "not verified: the server tells no usage.prompt_tokens"}
    assert len(server.requests) - len(asked(server)) == 1


def test_a_question_by_which_nothing_can_be_counted_leaves_it_to_the_next(server):
    server.count, learned = costly, ask_openai.Learned()
    questions = [Question("always 400", PICTURES[:1]), Question("fine", PICTURES[1:2])]
    first, second = ask_openai.ask(server.url, "tiny", questions, learned=learned)
    assert "HTTP 400" in first.error and second.text == "echo fine" and learned.costs.images == 1


def test_a_reply_whose_prompt_is_too_short_for_its_images_is_an_error(server):
    server.count = lambda text, images: costly(text, images[:1] if "drop" in text else images)
    questions = [Question("fine", PICTURES[:2]), Question("drop it", PICTURES[:2]), Question("drop none", PICTURES[:1])]
    replies = list(ask_openai.ask(server.url, "tiny", questions))
    assert [bool(reply.error) for reply in replies] == [False, True, False]
    assert "has 102 tokens, and its 2 images alone should have" in replies[1].error and not replies[1].text
    assert [(reply.prompt_tokens, reply.new_tokens) for reply in replies] == [(201, 1), (102, 1), (102, 1)]


def test_an_image_has_the_digest_of_its_pixels_as_its_uuid(server):
    server.count = costly
    same = [Question("one", PICTURES[:2]), Question("two", [PICTURES[1].copy(), PICTURES[2]])]
    list(ask_openai.ask(server.url, "tiny", same, batch_size=1))
    (a, b), (c, d) = ([part["uuid"] for part in one["messages"][0]["content"][:-1]] for one in asked(server))
    assert b == c and len({a, b, d}) == 3 and len(b) == 64
    server.requests.clear()
    list(ask_openai.ask(server.url, "tiny", [Question("given", PICTURES[:1], pixels=["known"])]))
    assert asked(server)[0]["messages"][0]["content"][0]["uuid"] == "known"


def test_a_server_that_knows_no_uuid_is_asked_without_it_and_remembered(server):
    server.fields -= {"uuid"}
    server.count, learned = costly, ask_openai.Learned()
    for _ in range(2):
        questions = [Question(f"number {i}", PICTURES[:1]) for i in range(20)]
        replies = list(ask_openai.ask(server.url, "tiny", questions, learned=learned))
        assert [reply.text for reply in replies] == [f"echo number {i}" for i in range(20)]
    named = [one for one in server.requests if any("uuid" in part for part in one["messages"][0]["content"])]
    assert len(named) == 1 and len(asked(server)) == 40


def test_a_question_that_is_refused_for_itself_is_sent_twice_at_most(server):
    """Once more without `uuid`, where it is not known whether the server takes it."""
    server.error = "this image is damaged"
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("always 400", PICTURES[:1])])
    assert reply.error == "HTTP 400: this image is damaged" and len(asked(server)) == 2
    server.requests.clear()
    server.count = costly
    list(ask_openai.ask(server.url, "tiny", [Question("fine", PICTURES[:1]), Question("always 400", PICTURES[:1])]))
    assert len(asked(server)) == 2


def test_as_many_requests_as_asked_for_are_under_way_all_the_time(server):
    """The others pass a barrier of three, though the first one is answered after as many as may be taken with it."""
    barrier, answered, all_of_them = threading.Barrier(3), [], threading.Event()

    def wait(text):
        if text == "number 0":
            assert all_of_them.wait(30)
        else:
            barrier.wait(30)
            answered.append(text)
            if len(answered) == 4 * 4 - 1:
                all_of_them.set()

    server.wait = wait
    taken = []
    questions = (taken.append(i) or Question(f"number {i}") for i in range(1000))
    replies = ask_openai.ask(server.url, "tiny", questions, batch_size=4)
    assert next(replies).text == "echo number 0" and len(answered) == len(taken) - 1 == 4 * 4 - 1
    server.wait = lambda text: None
    barrier.reset()
    for number in range(1, 100):
        assert next(replies).text == f"echo number {number}"
        assert len(taken) <= number + 1 + 4 * 4
    replies.close()
    assert len(taken) < 150  # the other questions are never made


def test_calls_that_go_on_at_once_share_the_requests_under_way(server):
    """As where the probes of a benchmark are asked in turns."""
    busy, most, lock, learned = 0, 0, threading.Lock(), ask_openai.Learned()

    def wait(text):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.01)
        with lock:
            busy -= 1

    server.wait = wait
    calls = [
        ask_openai.ask(server.url, "tiny", [Question(f"{name} {i}") for i in range(20)], 2, learned=learned)
        for name in "abc"
    ]
    assert len([reply for replies in zip(*calls, strict=True) for reply in replies]) == 60
    assert most == 2


def test_a_question_that_takes_too_long_is_its_own_error_while_others_are_answered(server, monkeypatch):
    monkeypatch.setattr(ask_openai, "_TIMEOUT", 0.5)
    monkeypatch.setattr(ask_openai, "_PER_TOKEN", 0.0)
    tries, end = [], threading.Event()

    def wait(text):
        if text == "slow":
            tries.append(text)
            assert end.wait(30)

    def questions():
        yield Question("slow")
        while len(tries) < 2 or len(server.requests) < 12:
            yield Question("fine")
            time.sleep(0.02)

    server.wait = wait
    slow, *others = ask_openai.ask(server.url, "tiny", questions(), batch_size=40)
    end.set()
    assert slow.error == "no answer within 0 s, while others were answered" and len(tries) == 2
    assert {reply.text for reply in others} == {"echo fine"}


def test_a_question_that_fails_the_server_is_its_own_error_while_others_are_answered(server):
    failing, *others = ask_openai.ask(server.url, "tiny", [Question("always 500"), *[Question("fine")] * 5], 4)
    assert failing.error == "HTTP 500: no, thanks, while others were answered"
    assert {reply.text for reply in others} == {"echo fine"}
    assert len(server.requests) == 4 + 5, "it is tried as often as any"


def test_a_limit_of_requests_ends_nothing_while_others_are_answered(server):
    """One question meets the limit once more for each other that is answered."""
    answered, tries, more = [], [], threading.Condition()

    def wait(text):
        with more:
            if text != "always 429":
                assert more.wait_for(lambda: len(tries) > len(answered), 30)
                answered.append(text)
            else:
                tries.append(text)
                more.notify_all()
                assert more.wait_for(lambda: len(answered) >= min(len(tries), 12), 30)
            more.notify_all()

    server.wait = wait
    questions = [Question("always 429"), *(Question(f"number {i}") for i in range(12))]
    with pytest.raises(Unavailable, match="answers 429"):  # when all others are
        list(ask_openai.ask(server.url, "tiny", questions, batch_size=4))
    assert len(tries) > 8 and len(answered) == 12


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


@pytest.mark.parametrize(
    ("made", "text", "told"), [(9, "B", "9 tokens"), (0, "B" * 2000, "2,000 char"), (3, "B" * 2000, "2,000 char")]
)
def test_a_server_that_ignores_the_longest_answer_answers_none(server, made, text, told):
    server.count, server.made, server.say = costly, made, lambda _: text
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")], max_new_tokens=7)
    assert f"the server ignores max_tokens: {told}" in reply.error and not reply.text
    server.made, server.say = 8, lambda _: "B"  # one more is the end of an answer
    (reply,) = ask_openai.ask(server.url, "tiny", [Question("hello")], max_new_tokens=7)
    assert reply.text == "B" and reply.new_tokens == 8
