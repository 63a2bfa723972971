"""The API over real HTTP: answers are a benchmark's, errors have the right status, a switch fails no request."""

import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from medmim_inference import connections
from medmim_inference.access import Access
from medmim_inference.limits import Limits

from medmim import shards
from medmim.bench import run as bench
from medmim.lvlm.ask import Question, Reply
from medmim.lvlm.ask_hf import NOT_FINITE
from medmim.registry import promote
from tests.support.bench import publish
from tests.support.inference import SETTINGS, data_url, promote_version, running
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server(ws, recipe, versions):
    promote_version(ws, recipe, versions[0])
    limits = Limits(images=3, body=300_000, upload=0.7, wait=5.0, waiting=40)
    with running(f"models:/{recipe.register_.model}@champion", ws, limits=limits, questions=2) as server:
        yield server


def test_answers_are_those_of_the_model_asked_directly(server, world):
    images = shards.Images(world.data)
    samples = shards.read_samples(world.data)[:6]
    model = server.following.replica()
    for sample in samples:
        shown = [images[name] for name in sample.images]
        (direct,) = model.ask([Question(sample.prompt, shown)], 4)
        got = server.ask(sample.prompt, *shown)
        assert got.choices[0].message.content == direct.text
        assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (direct.prompt_tokens, direct.new_tokens)
        assert got.model == model.target.name
        parts = list(server.ask(sample.prompt, *shown, stream=True, stream_options={"include_usage": True}))
        assert "".join(one.choices[0].delta.content or "" for one in parts if one.choices) == direct.text
        assert parts[-1].usage == got.usage


def test_a_benchmark_of_the_server_has_the_scores_of_the_model(server, world, ws):
    data, name = publish(world, ws.store), server.following.replica().target.alias
    models = {"served": f"openai:{server.url}#{name}", "direct": server.following.replica().target.uri}
    artifact, _ = bench.bench(ws, data, models, SETTINGS.model_copy(update={"limit": 16}))
    texts = [[row["answers"][role]["none"]["text"] for role in models] for row in bench.predictions(ws, artifact.uri)]
    assert len(texts) == 16 and all(served == direct for served, direct in texts)


def test_models_and_health_say_which_model_answers(server):
    alias, pinned = (one.id for one in server.client.models.list())
    target = server.following.replica().target
    assert (alias, pinned) == (target.alias, target.name) and target.digest[:16] in pinned
    for name in (alias, pinned):
        assert server.client.models.retrieve(name).id == name
        assert server.ask("Which?", model=name).model == pinned
    base = server.url.removesuffix("/v1")
    assert httpx.get(f"{base}/health").json() == {"status": "ok"}
    assert httpx.get(f"{base}/ready").json() == {"status": "ok", "model": pinned}
    text = httpx.get(f"{base}/metrics").text
    assert f'medmim_answers_total{{model="{pinned}"}}' in text and target.digest in text


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda one: one.ask("Which?", model="gpt"), 404, "there is no model 'gpt'"),
        (lambda one: one.ask("Which?", model="medmim-demo@champion#0123456789abcdef"), 404, "now medmim-demo"),
        (lambda one: one.ask("Which?", temperature=1.0), 400, "greedy"),
        (lambda one: one.ask("Which <image> ?"), 400, "<image>"),
        (lambda one: one.ask("why " * 3000), 400, "tokens"),
        (lambda one: one.ask("why " * 100_000), 413, "300,000 bytes"),
        (lambda one: one.client.completions.create(model="m", prompt="a"), 404, "there is no POST /v1/completions"),
        (lambda one: one.client.models.retrieve("m"), 404, "there is no model 'm'"),
        (lambda one: one.client.get("/chat/completions", cast_to=object), 405, "there is no GET"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_gets_its_status_and_words(server, call, status: int, words: str):
    with pytest.raises(openai.APIStatusError) as caught:
        call(server)
    assert caught.value.status_code == status and words in caught.value.message
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_a_request_keeps_its_id_and_a_wild_one_gets_another(server):
    def id_of(given: str | None) -> str:
        headers = {} if given is None else {"X-Request-ID": given}
        return httpx.get(f"{server.url}/models", headers=headers).headers["x-request-id"]

    assert id_of("abc-1.2:3") == "abc-1.2:3"
    assert len({id_of(None), id_of("a b"), id_of("x" * 200), "a b", "x" * 200}) == 5


def test_a_path_writes_no_line_of_its_own_into_the_log(server, caplog):
    caplog.set_level("INFO", "medmim.inference")
    assert httpx.get(f"{server.url}/x%0Aforged").status_code == 404
    until(lambda: caplog.messages, 10)
    (line,) = caplog.messages
    assert "/v1/x%0Aforged 404 in" in line and "\n" not in line


def raw(server, text: bytes, seconds: float = 10) -> bytes:
    """What the server sends to these bytes until it closes the connection, or `seconds` have passed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as one:
        one.sendall(text)
        found = b""
        try:
            while part := one.recv(65536):
                found += part
        except TimeoutError:
            pass
        return found


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_a_body_that_never_ends_is_ended(server):
    begun = time.monotonic()
    assert raw(server, HEAD + b"Content-Length: 1000\r\n\r\n{").startswith(b"HTTP/1.1 408")
    assert raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n").startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begun < 8
    large = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (400_000, b"a" * 400_000)
    assert raw(server, large).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", HEAD, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /"])
def test_a_connection_without_a_whole_request_is_closed(server, monkeypatch, sent: bytes):
    monkeypatch.setattr(connections, "HEAD", 0.5)
    begun = time.monotonic()
    found = raw(server, sent, 20)
    assert time.monotonic() - begun < 15 and (b"200 OK" in found) == (b"health" in sent)


def test_a_client_that_leaves_is_not_asked_for_and_leaves_nothing(server):
    body = json.dumps({"model": "medmim-demo@champion", "messages": [{"role": "user", "content": "?"}]}).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.sendall(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    until(lambda: "medmim_waiting 0.0" in httpx.get(server.url.removesuffix("/v1") + "/metrics").text, 20)
    assert server.ask("Which?").choices


def test_a_promotion_and_a_rollback_fail_no_request(server, ws, recipe, versions):
    seen: Counter[str] = Counter()
    ended = threading.Event()

    def ask(number: int) -> None:
        while not ended.is_set():
            seen[server.ask(f"What changed in {number}?\nA: improved\nB: worse").model] += 1

    def wait_for(name: str, more: int = 8) -> None:
        goal = seen[name] + more
        until(lambda: seen[name] >= goal, 60)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask, number) for number in range(4)]
        try:
            first = server.following.replica().target.name
            wait_for(first)
            promote_version(ws, recipe, versions[1])
            assert server.following.look()
            second = server.following.replica().target.name
            wait_for(second)
            promote.rollback(ws, recipe.register_.model, "a test", "a tester")
            assert server.following.look() and server.following.replica().target.name == first
            wait_for(first)
        finally:
            ended.set()
        for client in clients:
            client.result()
    assert set(seen) == {first, second}


def test_an_answer_of_another_model_than_the_one_that_was_named_is_not_sent(server, monkeypatch):
    """The other one takes the place of the first after the request was let in, and gives it back before its answer."""
    first = server.following.replica()
    other = replace(first, target=replace(first.target, digest="f" * 64))

    def answering(questions, *_):
        monkeypatch.setattr(server.following, "current", first)
        yield from (Reply("of another model", "") for _ in questions)

    other = replace(other, engine=replace(first.engine, ask=answering))
    busy, free = threading.Event(), threading.Event()

    def slow(questions, *_):
        busy.set()
        assert free.wait(30)
        monkeypatch.setattr(server.following, "current", other)
        yield from (Reply("slow", "") for _ in questions)

    monkeypatch.setattr(server.following, "current", replace(first, engine=replace(first.engine, ask=slow)))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(server.ask, "first")]
        assert busy.wait(30)
        calls.append(pool.submit(server.ask, "second", model=first.target.name))
        base = server.url.removesuffix("/v1")
        until(lambda: "medmim_waiting 1.0" in httpx.get(f"{base}/metrics").text, 4)
        free.set()
        assert calls[0].result().choices[0].message.content == "slow"
        with pytest.raises(openai.NotFoundError, match=f"now {re.escape(other.target.name)}"):
            calls[1].result()
    assert server.ask("third", model=first.target.name).model == first.target.name


def test_a_question_without_an_answer_and_a_fault_of_the_server_are_two_things(server, monkeypatch):
    model = server.following.replica()

    for why, status in (("the question is too long", 400), (NOT_FINITE, 500)):

        def wrong(questions, *_, why=why):
            yield from (Reply("", "", why) for _ in questions)

        with monkeypatch.context() as patch:
            patch.setattr(server.following, "current", replace(model, engine=replace(model.engine, ask=wrong)))
            with pytest.raises(openai.APIStatusError, match=re.escape(why)) as refused:
                server.ask("Which?")
            assert refused.value.status_code == status

    def broken(*_):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(server.following, "current", replace(model, engine=replace(model.engine, ask=broken)))
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask("Which?")
    assert caught.value.status_code == 500 and "in its log" in caught.value.message
    assert caught.value.response.headers["x-request-id"]
    assert server.ask("Which?").choices


def test_who_may_not_ask_learns_nothing(ws, tmp_path: Path):
    file = tmp_path / "tokens"
    file.write_text("a-good-token-of-32-characters-ab\n")
    with running("tiny-mantis", ws, Access(file), questions=0) as server:
        for path in ("models", "chat/completions"):
            answer = httpx.request("POST" if "chat" in path else "GET", f"{server.url}/{path}", content=b"{}")
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        good = {"Authorization": "Bearer a-good-token-of-32-characters-ab"}
        assert httpx.get(f"{server.url}/models", headers=good).status_code == 200
        assert httpx.get(server.url.removesuffix("/v1") + "/health").status_code == 200


def test_images_of_a_request_are_limited(server, world):
    images = shards.Images(world.data)
    picture = images[next(iter(images))]
    with pytest.raises(openai.APIStatusError) as caught:
        server.ask("Which?", *[picture] * 4)
    assert caught.value.status_code == 413 and data_url(picture) not in caught.value.message


def test_a_model_that_takes_too_long_is_told_so_and_is_asked_no_further(server, monkeypatch):
    model, asked, free = server.following.replica(), [], threading.Event()

    def slow(questions, *_):
        asked.extend(questions)
        assert free.wait(60)
        yield from (Reply("late", "") for _ in questions)

    with monkeypatch.context() as patch:
        patch.setattr(server.following, "current", replace(model, engine=replace(model.engine, ask=slow)))
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(server.ask, "first")]
            until(lambda: asked, 4)
            calls.append(pool.submit(server.ask, "second"))
            for call in calls:
                with pytest.raises(openai.APIStatusError) as caught:
                    call.result()
                assert caught.value.status_code == 504 and "5 s" in caught.value.message
        free.set()
    until(lambda: server.ask("third").choices, 30)
    assert len(asked) == 1, "the second was given up before its turn"


def test_the_commands_of_the_readme_work(server):
    readme = (Path(__file__).parents[3] / "services/inference/README.md").read_text("utf-8")
    commands = [
        one for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) for one in re.split(r"\n(?=\w)", block)
    ]
    curls = [one.replace("http://127.0.0.1:8000", server.url.removesuffix("/v1")) for one in commands if "curl" in one]
    assert len(curls) == 3
    for curl in curls:
        done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=60)
        answer = json.loads(done.stdout)
        assert "error" not in answer, answer
    assert answer["choices"][0]["message"]["content"]
