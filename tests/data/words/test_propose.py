"""Wordings are asked of a real HTTP server: once, checked, counted, resumed; whatever the server does."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim.data.words import ask, prompt, propose
from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai
from tests.support.openai_server import Server

pytestmark = pytest.mark.usefixtures("no_waiting")

FAMILIES = (
    "change",
    "which_finding",
    "describe",
)  # the answers of two are worded, too: five requests of one wording each


def true_words(request: str) -> str:
    """The last of the examples, which is true, or the answer alone."""
    asked = re.findall(r"^(?:Question|Answer): (.*)$", request, re.MULTILINE)[-1]
    return json.dumps({"text": asked if asked != "{answer}" else "{answer}."})


def put(
    server: Server, home: Path, families: tuple[str, ...] = FAMILIES, wordings: int = 1, tries: int = 3, **more: Any
):
    own = ask.Server(server.url, "m", **more)
    return propose.propose(own, families, wordings, tries, ask.replies(home, "m"))


def test_true_words_are_proposed_and_nothing_of_any_data_is_sent(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    made = put(server, tmp_path)
    assert made.book.of("change", "question") == ("What is the change of the {finding} between image 1 and image 2?",)
    assert made.book.of("which_finding", "answer") == ("{answer}.",) and made.book.of("describe", "answer") == ()
    assert (made.counts["wordings"], made.counts["requests"], made.counts["rejected"]) == (5, 5, {})
    assert all(sent["response_format"]["json_schema"]["strict"] for sent in server.requests)
    sent = {one["messages"][0]["content"][-1]["text"] for one in server.requests}
    known = {
        prompt.of(family, part, 0) for family in FAMILIES for part in ("question", "answer")
    }  # made of no data set
    assert len(sent) == 5 and sent <= known


def test_a_lie_is_asked_for_again_with_its_reason_and_told(server: Server, tmp_path: Path) -> None:
    def say(request: str) -> str:
        if "Which image shows {value}?" in request and "Answer:" not in request:  # the second time it is true
            lie = "Which image used to show {value}?"
            return true_words(request) if "It was rejected, since it says" in request else json.dumps({"text": lie})
        return json.dumps({"text": "How did the pneumonia change?"})

    server.say = say
    made = put(server, tmp_path, FAMILIES[:2])
    assert made.counts["wordings"] == 1 and made.book.of("change", "question") == ()
    assert made.counts["rejected"] == {"leaves a slot out": 9, "says something of its own": 1}
    assert len(made.rejected["change"]) == 6 and "question: How did the p" in made.rejected["change"][0]
    assert len(server.requests) == 4 + 4 + 3


def test_two_equal_wordings_are_one_and_another_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    made = put(server, tmp_path, ("describe",), wordings=2)
    assert made.counts["wordings"] == 1 and made.counts["rejected"] == {"is the same as another one": 3}


def test_what_was_answered_is_not_asked_again_and_gives_the_same(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    first = put(server, tmp_path)
    (path,) = (tmp_path / "words").rglob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"request": "torn')  # by a power cut
    again = put(server, tmp_path)
    assert (again.book, again.counts["requests"]) == (first.book, 0) and len(server.requests) == 5
    put(server, tmp_path, (*FAMILIES, "what_caption"))
    assert len(server.requests) == 6


def test_a_server_that_dies_in_between_keeps_what_it_answered(server: Server, tmp_path: Path) -> None:
    answered = 0

    def say(request: str) -> str:
        nonlocal answered
        answered += 1
        return true_words(request)

    server.say = say
    server.raw = lambda _: json.dumps({"error": {"message": "down", "code": 503}}) if answered > 3 else None
    with pytest.raises(Unavailable, match="503"):
        put(server, tmp_path, at_once=1)
    known = {one["messages"][0]["content"][-1]["text"] for one in server.requests[:3]}
    server.raw, before = lambda _: None, len(server.requests)
    made = put(server, tmp_path, at_once=1)
    later = {one["messages"][0]["content"][-1]["text"] for one in server.requests[before:]}
    assert made.counts["wordings"] == 5 and len(known) == 3 and later and not later & known


def body(content: Any, finish: str = "stop", **message: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "finish_reason": finish, "message": {"content": content, **message}}]})


@pytest.mark.parametrize(
    ("raw", "reason", "tries"),
    [
        (body("I am a model."), "is not the JSON that was asked for", 3),
        (body('{"text": "How did the {finding} change fr', "length"), "was cut at the token limit", 3),
        (body('{"text": 5}'), "is not the JSON that was asked for", 3),
        (body('```json\n{"text": "What is it?"}\n``` Done.'), "has another form", 3),
        (body(None, refusal="I cannot help with medical questions."), "refused", 1),
        (body('{"question": "How', "content_filter"), "refused", 1),
        (body(""), "is not the JSON that was asked for", 1),
        (json.dumps({"choices": []}), "no reply", 1),
    ],
)
def test_a_reply_that_is_none_is_counted_by_its_reason(
    server: Server, tmp_path: Path, raw: str, reason: str, tries: int
) -> None:
    server.raw = lambda _: raw
    made = put(server, tmp_path, ("describe", "what_caption"))
    by_slot = {"leaves a slot out": 3, reason: 3} if reason == "has another form" else {reason: 2 * tries}
    assert not made.counts["wordings"] and made.counts["rejected"] == by_slot
    assert len(server.requests) == 2 * tries


def test_a_reply_that_stalls_is_given_up_while_others_come(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_openai, "_TIMEOUT", 0.3)
    monkeypatch.setattr(ask_openai, "_PER_TOKEN", 0.0)

    def stalls(request: str) -> Iterator[bytes] | None:
        def drops() -> Iterator[bytes]:
            for _ in range(40):
                yield b" "
                time.sleep(0.05)

        return drops() if "Which image shows {value}?" in request and "Answer:" not in request else None

    def say(request: str) -> str:
        time.sleep(0.15)
        return true_words(request)

    server.say, server.stream = say, stalls
    made = put(server, tmp_path, (*FAMILIES, "what_caption", "match_caption"), at_once=2)
    assert made.counts["rejected"] == {"no reply": 1} and made.counts["wordings"] == 6
    assert made.counts["requests"] == 7 and made.unanswered.startswith("no whole answer within")


def test_a_server_that_cuts_the_connection_off_is_told_in_one_message(server: Server, tmp_path: Path) -> None:
    server.stream = lambda _: iter([b'{"choices": [{"mess'])  # and closes
    with pytest.raises(UserError, match="not an OpenAI-compatible server") as caught:
        put(server, tmp_path)
    assert "cut" in caught.value.reason


@pytest.mark.parametrize("status", [401, 404])
def test_a_key_or_a_name_that_is_wrong_ends_it_at_the_first_request(
    server: Server, tmp_path: Path, status: int
) -> None:
    server.status, server.error = status, "the model `m` does not exist"
    with pytest.raises(UserError, match="refuses") as caught:
        put(server, tmp_path)
    assert caught.value.exit_code == 2 and len(server.requests) == 1 and "does not exist" in caught.value.reason


def test_a_first_text_that_a_filter_refuses_is_counted_and_the_others_are_worded(
    server: Server, tmp_path: Path
) -> None:
    server.say, refused = true_words, "The prompt was filtered: content management policy"
    server.error = refused
    server.status_of = lambda request: 400 if "{finding}" in request else 200
    made = put(server, tmp_path)
    assert made.counts["rejected"] == {"no reply": 2} and made.counts["wordings"] == 3
    server.status_of = lambda _: 400
    with pytest.raises(UserError, match="refuses the requests") as caught:
        put(server, tmp_path, ("joined", "larger", "order"))
    assert refused in caught.value.reason


def test_too_many_requests_are_waited_for_and_count_as_requests_of_the_minute(server: Server, tmp_path: Path) -> None:
    server.say, server.first = true_words, 429
    server.headers = {"Retry-After": "0"}
    begin = time.monotonic()
    made = put(server, tmp_path, ("describe", "change"), per_minute=1200)
    assert made.counts["wordings"] == 3 and len(server.requests) == 6
    assert time.monotonic() - begin > 0.24  # 50 ms apart, the refused ones included


def test_the_limit_of_a_minute_holds_for_the_probe_and_for_what_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.say, server.unknown = (lambda _: '{"text": "What is it?"}'), {"response_format"}
    begin = time.monotonic()
    put(server, tmp_path, ("describe",), per_minute=1200)
    assert len(server.requests) == 4 and time.monotonic() - begin > 0.14


def test_a_server_without_structured_output_is_asked_without_and_told_of_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say, server.unknown = true_words, {"response_format"}
    made = put(server, tmp_path)
    assert made.counts["wordings"] == 5 and capsys.readouterr().err.count("takes no response_format") == 1
    assert ["response_format" in sent for sent in server.requests] == [True, *[False] * 5]


def test_another_limit_of_tokens_or_number_is_another_request(tmp_path: Path) -> None:
    kept, server = ask.replies(tmp_path, "m"), ask.Server("http://127.0.0.1/v1", "m")
    kept.keep(server, prompt.of("change", "question", 0), ask.Said("x"))
    assert kept.find(replace(server, endpoint="http://h/v1"), prompt.of("change", "question", 0))
    assert not kept.find(replace(server, max_tokens=5), prompt.of("change", "question", 0))
    assert len({prompt.of("change", "question", number) for number in range(40)}) == 40


def test_a_kind_of_question_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UserError, match="no kind of question 'chnage'") as caught:
        propose.propose(ask.Server("http://127.0.0.1/v1", "m"), ["chnage"], 1, 1, ask.Replies(Path("nowhere")))
    assert "change" in caught.value.reason
