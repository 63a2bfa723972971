"""A request is a question that can be asked as a benchmark asks it, or is refused with the field and what is right."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medmim.lvlm.ask import Reply
from medmim.registry import chat
from medmim.registry.chat import Limits, Refused
from tests.support.dicom_files import dicom
from tests.support.inference import data_url

LIMITS = Limits(images=3, pixels=10_000, new_tokens=100, answer=7)
PICTURE = Image.linear_gradient("L").resize((40, 30)).convert("RGB")


def body(content: Any = "Which?", **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def test_images_keep_their_order_and_pixels_and_texts_are_joined():
    other = Image.new("RGB", (5, 7), (1, 2, 3))
    content = [
        {"type": "text", "text": "Which?"},
        image(data_url(PICTURE), detail="high"),
        {"type": "text", "text": "A: left\nB: right"},
        {**image(data_url(other)), "uuid": "x"},
    ]  # fmt: skip
    asked = chat.parse(body(content, temperature=0, seed=3, user="me"), LIMITS)
    assert asked.question.prompt == "Which?\nA: left\nB: right" and asked.question.options == ("left", "right")
    assert [one.tobytes() for one in asked.question.images] == [PICTURE.tobytes(), other.tobytes()]
    assert (asked.model, asked.new_tokens, asked.stream) == ("m", 7, False)


@pytest.mark.parametrize(("given", "tokens"), [({}, 7), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 100}, 100)])
def test_the_longest_answer_is_the_one_that_is_asked_for(given: dict[str, int], tokens: int):
    assert chat.parse(body(**given), LIMITS).new_tokens == tokens


@pytest.mark.parametrize(
    ("sent", "status", "param", "words"),
    [
        (b"", 400, None, "JSON"),
        (b"[]", 400, None, "object"),
        (b"{}", 400, "model", "required"),
        (b"\xff\xfe", 400, None, "JSON"),
        (b"[" * 100_000, 400, None, ""),
        (body(foo=1), 400, "foo", "unknown field"),
        (body(tools=[]), 400, "tools", "unknown field"),
        (body(max_tokens=0), 400, "max_tokens", "greater"),
        (body(max_tokens="many"), 400, "max_tokens", "integer"),
        (body(max_tokens=101), 400, "max_tokens", "100"),
        (body(temperature=0.7), 400, "temperature", "greedy"),
        (body(n=2), 400, "n", "greedy"),
        (body(logprobs=True), 400, "logprobs", "greedy"),
        (body(stop=["."]), 400, "stop", "greedy"),
        (body(response_format={"type": "json_object"}), 400, "response_format", "greedy"),
        (body(""), 400, "messages.0.content", "question is missing"),
        (body([image(data_url(PICTURE))]), 400, "messages.0.content", "question is missing"),
        (body([{"type": "input_audio"}]), 400, "messages.0.content", "input_audio"),
        (body([image(data_url(PICTURE))] * 4 + [{"type": "text", "text": "?"}]), 413, "messages.0.content", "4 images"),
        (body(messages=[]), 400, "messages", "one message"),
        (body(messages=[{"role": "system", "content": "Be kind."}]), 400, "messages", "system"),
        (body(messages=[{"role": "user", "content": "a"}] * 2), 400, "messages", "dialogue"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_its_field(sent: bytes, status: int, param: str | None, words: str):
    with pytest.raises(Refused) as caught:
        chat.parse(sent, LIMITS)
    assert caught.value.status == status
    assert (caught.value.param or "").startswith(param or "") and words in caught.value.message


def test_what_is_wrong_with_a_part_is_said_in_the_words_of_the_api():
    for part in ({"type": "image_url", "image_url": "data:x"}, {"type": "image_url"}, {"type": "text", "text": 1}, "x"):
        with pytest.raises(Refused) as caught:
            chat.parse(body([part]), LIMITS)
        assert "[" not in caught.value.message.partition("Input")[0] and "_" not in caught.value.message.replace(
            "image_url", ""
        )
        assert caught.value.param and caught.value.param.startswith("messages.0.content")


def png(width: int, height: int) -> str:
    """A file whose header promises this size and that has no pixels."""
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "PNG")
    raw = bytearray(out.getvalue())
    raw[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return "data:image/png;base64," + base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", 400, "not fetched"),
        ("file:///etc/passwd", 400, "not fetched"),
        ("/etc/passwd", 400, "not fetched"),
        ("data:image/png,abc", 400, "base64"),
        ("data:image/png;base64", 400, "base64"),
        ("data:image/png;base64,@@@@", 400, "not base64"),
        ("data:image/png;base64," + base64.b64encode(b"<svg/>").decode(), 400, "cannot be used"),
        ("data:image/png;base64,", 400, "cannot be used"),
        (data_url(Image.new("RGB", (101, 100))), 413, "101 x 100"),
        ("data:;base64," + base64.b64encode(dicom(np.zeros((101, 100)), 8)).decode(), 413, "100 x 101"),
        (png(25_000, 20_000), 413, "pixels"),
        (png(2_000_000, 2_000_000), 413, "pixels"),
    ],
)
def test_what_is_no_image_that_may_be_read_is_refused(url: str, status: int, words: str):
    with pytest.raises(Refused) as caught:
        chat.parse(body([{"type": "text", "text": "?"}, image(url)]), LIMITS)
    assert caught.value.status == status and words in caught.value.message
    assert caught.value.param == "messages.0.content.1.image_url.url"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["model", "messages", "role", "content", "type", "text", "image_url", "url", "stream", "max_tokens"]
    ), inner, max_size=4),
)  # fmt: skip


@given(JSON | st.fixed_dictionaries({"model": st.text(), "messages": JSON}))
def test_any_json_is_a_question_or_refused(value: Any):
    try:
        asked = chat.parse(json.dumps(value).encode(), LIMITS)
    except Refused as refused:
        assert refused.status in (400, 413) and refused.message
    else:
        assert asked.question.prompt.strip()


@pytest.mark.parametrize("usage", [False, True])
def test_events_put_together_are_the_answer(usage: bool):
    reply = Reply("B: right", "k", cut=True, prompt_tokens=5, new_tokens=3)
    whole = chat.answer("id", "m#1", reply)
    events = list(chat.events("id", "m#1", reply, usage))
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert "".join(one["delta"].get("content", "") for one in choices) == whole["choices"][0]["message"]["content"]
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["length"]
    assert {(event["id"], event["model"]) for event in events} == {(whole["id"], whole["model"])}
    assert (events[-1].get("usage") == whole["usage"]) == usage


def test_the_images_of_a_request_are_bound_together_before_the_next_one_is_decoded():
    limits = Limits(images=9, pixels=10_000, pixels_in_all=3 * 40 * 30)
    asked = [{"type": "text", "text": "Which?"}, *[image(data_url(PICTURE))] * 3]
    assert len(chat.parse(body(asked), limits).question.images) == 3
    for more in (data_url(PICTURE), png(1, 2)):
        with pytest.raises(Refused) as caught:
            chat.parse(body([*asked, image(more)]), limits)
        assert (caught.value.status, caught.value.param) == (413, "messages.0.content.4.image_url.url")
        assert "3,600 pixels, which all of its images together may have" in caught.value.message
