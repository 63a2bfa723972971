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
        threading.Thread(target=running.serve_forever, daemon=True).start()
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
