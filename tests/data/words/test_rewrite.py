"""Questions are worded by a real HTTP server: asked once, checked, counted, resumed; whatever the server does."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medmim import shards
from medmim.data import build, plan
from medmim.data.words import ask, rewrite
from medmim.errors import Unavailable, UserError
from medmim.lvlm import ask_openai
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.recipe.words import Words
from medmim.run.workspace import workspace
from medmim.sample import Sample
from medmim.terms import Terms
from tests.support.openai_server import Server

pytestmark = pytest.mark.usefixtures("no_waiting")

TRUE = "Looking at image 1 and the later image 2, how did the {} change?"


def samples(count: int = 3) -> list[Sample]:
    findings = ("mass", "nodule", "bleed", "effusion", "cyst", "opacity")[:count]
    return [
        Sample(
            "temporal", "change", "s", "train", False, ("p",), (f"{name}1", f"{name}2"), (f"{name}1", f"{name}2"),
            f"How did the {name} change from image 1 to image 2?", ("worse", "stable", "improved"), "worse", (0,),
        )
        for name in findings
    ]  # fmt: skip


def finding_of(prompt: str) -> str:
    return re.findall(r"did the (\w+) change", prompt)[0]


def true_words(prompt: str) -> str:
    return json.dumps({"question": TRUE.format(finding_of(prompt))})


def words(server: Server, **more: Any) -> Words:
    return Words(endpoint=server.url, model="m", max_fallback_fraction=1.0, variants=1, **more)


def put(
    server: Server, home: Path, given: list[Sample] | None = None, **more: Any
) -> tuple[list[Sample], dict[str, Any]]:
    own = words(server, **more)
    return rewrite.rewrite(samples() if given is None else given, own, 0, writable(home, own), home)


def writable(home: Path, own: Words, store: str = "", erased: str = "") -> ask.Replies:
    return ask.writable(home, own, store, erased, lambda: erased)


def test_true_words_are_taken_and_all_else_stays(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    before, (after, told) = samples(), put(server, tmp_path)
    assert [one.question for one in after] == [TRUE.format(name) for name in ("mass", "nodule", "bleed")]
    for one, other in zip(before, after, strict=True):
        assert (one.options, one.answer, one.gold, one.images) == (
            other.options,
            other.answer,
            other.gold,
            other.images,
        )
    assert told["written"] == 3 and not told["fallbacks"] and not told["rejected"]
    assert all(sent["response_format"]["json_schema"]["strict"] for sent in server.requests)
    assert (tmp_path / "words.jsonl").read_text() == ""


def test_a_lie_is_asked_for_again_with_its_reason_and_at_last_the_template_stays(
    server: Server, tmp_path: Path
) -> None:
    def say(prompt: str) -> str:
        if "nodule" in prompt:  # the second time it is true
            return true_words(prompt) if "It was rejected, since it" in prompt else '{"question": "What is it?"}'
        return json.dumps({"question": f"How did the {finding_of(prompt)} grow from image 1 to image 2?"})

    server.say = say
    after, told = put(server, tmp_path)
    assert after[1].question == TRUE.format("nodule") and [after[0], after[2]] == [samples()[0], samples()[2]]
    assert (told["written"], told["fallbacks"]) == (1, {"asks something else": 2})
    assert len(server.requests) == 3 + 3 + 2  # three tries
    rows = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert len(rows) == 7 and {row["try"] for row in rows} == {1, 2, 3} and all("grow" in r["reply"] for r in rows[3:])


def test_the_same_text_is_asked_for_once(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    (one,) = samples(1)
    other = Sample(*(("q",) if name == "patients" else getattr(one, name) for name in Sample.__slots__))
    other = Sample(
        **{name: getattr(other, name) for name in Sample.__slots__} | {"images": ("c", "d"), "paths": ("c", "d")}
    )
    after, told = put(server, tmp_path, [one, other])
    assert len(server.requests) == 1 and told["questions"] == 2 and told["texts"] == 1
    assert after[0].question == after[1].question == TRUE.format("mass")


def test_what_was_answered_is_not_asked_again_and_gives_the_same(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    first = put(server, tmp_path)
    asked = len(server.requests)
    (path,) = (tmp_path / "words").rglob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"request": "torn')  # by a power cut
    assert put(server, tmp_path) == first and len(server.requests) == asked
    put(server, tmp_path, samples(4))
    assert len(server.requests) == asked + 1


def test_a_server_that_dies_in_between_keeps_what_it_answered(server: Server, tmp_path: Path) -> None:
    answered = 0

    def say(prompt: str) -> str:
        nonlocal answered
        answered += 1
        return true_words(prompt)

    server.say = say
    server.raw = lambda _: json.dumps({"error": {"message": "down", "code": 503}}) if answered > 3 else None
    with pytest.raises(Unavailable, match="503"):
        put(server, tmp_path, samples(6), at_once=1)
    known = {one["messages"][0]["content"][-1]["text"] for one in server.requests[:3]}
    server.raw, before = lambda _: None, len(server.requests)
    _, told = put(server, tmp_path, samples(6), at_once=1)
    later = {one["messages"][0]["content"][-1]["text"] for one in server.requests[before:]}
    assert told["written"] == 6 and len(known) == 3 and later and not later & known


def test_another_list_of_erased_patients_empties_what_is_kept(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    put(server, tmp_path)
    assert len(ask.replies(tmp_path, words(server)).known) == 3
    assert not writable(tmp_path, words(server), erased="f" * 64).known
    assert not ask.replies(tmp_path, words(server)).known


def test_neither_a_plan_nor_another_store_removes_what_is_kept(server: Server, tmp_path: Path) -> None:
    server.say = true_words
    put(server, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert not ask.replies(tmp_path, words(server), "", "f" * 64).known and sorted(tmp_path.rglob("*")) == before
    assert not writable(tmp_path, words(server), "s3://other/store", "f" * 64).known
    assert len(ask.replies(tmp_path, words(server)).known) == 3


def test_an_erasure_meanwhile_ends_it_and_no_reply_is_kept_after_it(server: Server, tmp_path: Path) -> None:
    def say(prompt: str) -> str:
        if "bleed" in prompt:
            ask.clear(tmp_path)
        return true_words(prompt)

    server.say = say
    with pytest.raises(Unavailable, match="a patient was erased while") as caught:
        put(server, tmp_path, samples(6), at_once=1)
    assert "run it again" in caught.value.fix and not list(tmp_path.rglob("*.jsonl"))
    with pytest.raises(Unavailable, match="a patient was erased while"):  # erased since the build read its tables
        ask.writable(tmp_path, words(server), "", "", lambda: "f" * 64)
    assert not list(tmp_path.rglob("*.jsonl"))


def body(content: Any, finish: str = "stop", **message: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "finish_reason": finish, "message": {"content": content, **message}}]})


@pytest.mark.parametrize(
    ("raw", "reason", "tries"),
    [
        (body("I am a model."), "no JSON of the form asked for", 3),
        (body('{"question": "How did the mass change fr', "length"), "cut at the token limit", 3),
        (body(None, refusal="I cannot help with medical questions."), "refused", 1),
        (body('{"question": "How', "content_filter"), "refused", 1),
        (body(""), "no JSON of the form asked for", 1),
        (json.dumps({"choices": []}), "no reply", 1),
    ],
)
def test_a_reply_that_is_none_is_counted_by_its_reason(
    server: Server, tmp_path: Path, raw: str, reason: str, tries: int
) -> None:
    server.raw = lambda _: raw
    after, told = put(server, tmp_path)
    assert after == samples() and told["fallbacks"] == {reason: 3} and len(server.requests) == 3 * tries


def test_a_reply_that_stalls_is_given_up_while_others_come(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_openai, "_TIMEOUT", 0.3)
    monkeypatch.setattr(ask_openai, "_PER_TOKEN", 0.0)

    def stalls(prompt: str) -> Iterator[bytes] | None:
        def drops() -> Iterator[bytes]:
            for _ in range(40):
                yield b" "
                time.sleep(0.05)

        return drops() if "nodule" in prompt else None

    def say(prompt: str) -> str:
        time.sleep(0.15)
        return true_words(prompt)

    server.say, server.stream = say, stalls
    after, told = put(server, tmp_path, samples(6), at_once=2)
    assert told["fallbacks"] == {"no reply": 1} and told["written"] == 5 and after[1] == samples(6)[1]


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
    server.status_of = lambda prompt: 400 if "mass" in prompt else 200
    after, told = put(server, tmp_path)
    assert told["fallbacks"] == {"no reply": 1} and told["written"] == 2 and after[0] == samples()[0]
    server.status_of = lambda _: 400
    with pytest.raises(UserError, match="refuses the requests") as caught:
        put(server, tmp_path, samples(6))
    assert refused in caught.value.reason


def test_too_many_requests_are_waited_for(server: Server, tmp_path: Path) -> None:
    server.say, server.first = true_words, 429
    server.headers = {"Retry-After": "0"}
    _, told = put(server, tmp_path)
    assert told["written"] == 3 and len(server.requests) == 6


def test_a_server_without_structured_output_is_asked_without_and_told_of(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say, server.unknown = true_words, {"response_format"}
    _, told = put(server, tmp_path)
    assert told["written"] == 3 and "takes no response_format" in capsys.readouterr().err
    assert ["response_format" in sent for sent in server.requests] == [True, False, False, False]


def test_a_form_is_tried_once_however_often_texts_are_asked_for_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.say, server.unknown = (lambda _: '{"question": "What is it?"}'), {"response_format"}
    put(server, tmp_path)
    assert capsys.readouterr().err.count("takes no response_format") == 1
    assert ["response_format" in sent for sent in server.requests] == [True, *[False] * 9]


def test_requests_keep_to_the_limit_of_a_minute(server: Server, tmp_path: Path) -> None:
    server.say, begin = true_words, time.monotonic()
    put(server, tmp_path, samples(5), per_minute=600)
    assert time.monotonic() - begin > 0.3  # the first by itself, then four 0.1 s apart


def test_more_fallbacks_than_allowed_fail_with_reasons_and_keep_the_replies(server: Server, tmp_path: Path) -> None:
    server.say = lambda _: '{"question": "What is it?"}'
    own = words(server, tries=1).model_copy(update={"max_fallback_fraction": 0.5})
    with pytest.raises(UserError, match="3 of 3 questions have no wording of m that is right") as caught:
        rewrite.rewrite(samples(), own, 0, writable(tmp_path, own), tmp_path)
    assert "3 x asks something else" not in caught.value.fact and "drops a value" in caught.value.reason
    assert "max_fallback_fraction" in caught.value.fact and len(ask.replies(tmp_path, own).known) == 3


@pytest.mark.parametrize(
    ("url", "allowed", "may_leave", "refused"),
    [
        ("http://127.0.0.1:8000/v1", False, False, ""),
        ("http://vllm.models.svc/v1", False, False, ""),
        ("https://api.example.com/v1", False, True, "outside_api: not allowed by embed"),
        ("https://api.example.com/v1", True, False, "data.words.may_leave"),
        ("https://api.example.com/v1", True, True, ""),
    ],
)
def test_texts_leave_only_where_terms_and_recipe_allow_it(
    url: str, allowed: bool, may_leave: bool, refused: str
) -> None:
    own = {"endpoint": url, "model": "m", "may_leave": may_leave}
    data = recipe(own).data
    terms = Terms(outside_api=allowed, text=("embed: agreement",))
    if not refused:
        rewrite.refuse_leaving(data, terms)
        return
    with pytest.raises(UserError, match="must not be sent to api.example.com") as caught:
        rewrite.refuse_leaving(data, terms)
    assert refused in caught.value.reason


def recipe(own: dict[str, Any] | None, **more: Any) -> Recipe:
    data = {"source": "phantom", "patients": 30, **({"words": own} if own else {}), **more}
    return loading.validate({"name": "test", "data": data}, "test")


def test_the_published_form_keeps_its_words() -> None:
    with pytest.raises(UserError) as caught:
        recipe({"endpoint": "http://127.0.0.1/v1", "model": "m"}, form="published")
    assert "form: strict" in str(caught.value)


def echo(prompt: str) -> str:
    """The template's own words after a comma, which is true."""
    asked = re.findall(r"^Question: (.*)$", prompt, re.MULTILINE)[0]
    answer = re.findall(r"^Answer: (.*)$", prompt, re.MULTILINE)
    return json.dumps({"question": f"Please note: {asked}", **({"answer": f"It is {answer[0]}."} if answer else {})})


def test_a_build_is_worded_as_planned_and_found_whoever_serves_the_model(server: Server, tmp_path: Path) -> None:
    server.say = echo
    given = recipe({"endpoint": server.url, "model": "m", "variants": 2})
    ws = workspace(str(tmp_path))
    planned = plan.of(given, ws)["words"]
    assert planned["requests"] > 50 and planned["kept"] == 0 and not server.requests  # nothing is asked for a plan
    built = build.run(given, ws)
    told = built.facts["words"]
    assert (told["questions"], told["texts"]) == (planned["questions"], planned["requests"])
    assert len(server.requests) >= planned["requests"] and told["written"] > 0.9 * told["questions"]
    worded = list(shards.read_samples(ws.fetch(built.uri)))
    assert all(
        one.question.startswith("Please note: ") is (one.split == "train") for one in worded if one.split != "train"
    )
    assert sum(one.question.startswith("Please note: ") for one in worded) == told["written"]
    assert plan.of(given, ws)["words"]["kept"] == planned["requests"]
    with Server() as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        elsewhere = recipe({"endpoint": other.url, "model": "m", "variants": 2, "at_once": 1})
        again = build.run(elsewhere, ws)
        other.shutdown()
        assert again.digest == built.digest and again.cached and not other.requests
    away = recipe({"endpoint": "https://api.example.com/v1", "model": "m", "variants": 2})
    assert build.run(away, ws).digest == built.digest  # found: nothing is sent
    for name, value in (("variants", 3), ("model", "n")):
        with pytest.raises(UserError, match="must not be sent to api.example.com"):
            build.run(recipe({"endpoint": "https://api.example.com/v1", "model": "m", name: value}), ws)


def test_without_the_section_the_key_of_a_data_set_is_what_it_was() -> None:
    assert rewrite.section(recipe(None).data) == {}
    section = rewrite.section(recipe({"endpoint": "http://127.0.0.1/v1", "model": "m"}).data)["words"]
    assert section["model"] == "m" and "revision" in section and "endpoint" not in section
