"""What OpenAI-like servers send: text in many shapes, or no text and a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.lvlm import openai_reply

LIMIT = 32


def chat(message, finish="stop", **more):
    return {"object": "chat.completion", "choices": [{"index": 0, "finish_reason": finish, "message": message}], **more}


def read(body):
    return openai_reply.read(openai_reply.parse(json.dumps(body).encode()), "key", LIMIT)


@pytest.mark.parametrize(
    "body",
    [
        chat({"role": "assistant", "content": " B "}),
        chat({"content": [{"type": "text", "text": "B"}]}),
        chat({"content": [{"text": "B"}]}),
        chat({"content": ["B"]}),
        chat({"content": {"type": "text", "text": "B"}}),
        chat({"content": [{"type": "output_text", "text": "B"}]}),
        chat({"content": [{"type": "text", "text": {"value": "B", "annotations": []}}]}),
        chat({"content": [{"type": "thinking", "thinking": [{"text": "A?"}]}, {"type": "text", "text": "B"}]}),
        chat({"content": [{"type": "reasoning", "text": "A?"}, {"type": "text", "text": "B"}]}),
        chat({"content": [{"type": "text", "text": ""}, {"type": "text", "text": "B"}]}),
        chat({"content": "B", "reasoning_content": "A?"}),
        chat({"content": "B", "refusal": None, "tool_calls": None}),
        chat({"content": None, "refusal": "B"}),
        chat("B"),
        {"choices": [{"delta": {"content": "B"}, "finish_reason": "stop"}]},
        {"object": "text_completion", "choices": [{"index": 0, "finish_reason": "stop", "text": "B"}]},
        {"choices": [{"text": "B"}]},
        {"choices": [{"message": None, "text": "B"}]},
        {"error": None, **chat({"content": "B"})},
        {"error": "", **chat({"content": "B"})},
        [chat({"content": "B"})],
        {"message": {"role": "assistant", "content": "B"}, "done": True},
    ],
)
def test_the_text_is_found_in_every_shape(body):
    reply = read(body)
    assert (reply.text, reply.error, reply.key, reply.cut) == ("B", "", "key", False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "model overloaded", "code": 503}}, "model overloaded"),
        ({"error": "model overloaded"}, "model overloaded"),
        ({"error": {"code": 7}}, '"code": 7'),
        ({"error": ["a", "b"]}, '["a", "b"]'),
        ([{"error": {"message": "quota"}}], "quota"),
        ({"detail": "Not ready"}, "Not ready"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"object": "error", "message": "too many images", "type": "BadRequestError"}, "too many images"),
        ({"choices": [{"error": {"message": "provider gone"}, "finish_reason": "error"}]}, "provider gone"),
        (chat(None), "no text"),
        (chat({}), "no text"),
        (chat({"content": None}), "no text"),
        (chat({"content": []}), "no text"),
        (chat({"content": 7}), "no text"),
        (chat([]), "no text"),
        ({"choices": [{"finish_reason": "stop"}]}, "no text"),
        ({"choices": []}, "empty list of choices"),
        ({"choices": None}, '"choices": null'),
        ({"choices": {}}, '"choices": {}'),
        ({"choices": ["B"]}, "no object"),
        ({"choices": [None]}, "no object"),
        ({"id": "1"}, '"id": "1"'),
        ({}, "{}"),
        (chat({"content": None, "reasoning_content": "B, I think"}), "only the model's reasoning"),
        (chat({"content": "", "reasoning": "B, I think"}), "only the model's reasoning"),
        (chat({"content": None, "reasoning_content": "B"}, "length"), "cut at 32 new tokens"),
        (chat({"content": "", "reasoning_content": "B"}, "length"), "--max-new-tokens"),
        (chat({"content": ""}, "length"), "cut at 32 new tokens"),
        (chat({"content": None}, "content_filter"), "content filter"),
        (chat({"content": None, "tool_calls": [{"id": "1"}]}), "call of a tool"),
        (chat({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}), "no text"),
    ],
)
def test_without_text_the_question_gets_an_error_with_the_server_s_words(body, words):
    reply = read(body)
    assert words in reply.error and reply.text == ""


def test_an_empty_answer_of_the_model_is_an_answer():
    reply = read(chat({"content": " "}))
    assert (reply.text, reply.error) == ("", "")


@pytest.mark.parametrize(
    ("body", "cut"),
    [
        (chat({"content": "B"}, "length"), True),
        (chat({"content": "B"}, "MAX_TOKENS"), True),
        (chat({"content": "B"}, "model_length"), True),
        (chat({"content": "B"}, "stop", usage={"completion_tokens": LIMIT}), False),
        (chat({"content": "B"}, None, usage={"completion_tokens": LIMIT}), True),
        (chat({"content": "B"}, None, usage={"completion_tokens": LIMIT - 1}), False),
        (chat({"content": "B"}, None, usage=None), False),
        ({"choices": [{"text": "B", "finish_reason": "length"}]}, True),
    ],
)
def test_a_reply_that_the_limit_ended_is_marked(body, cut):
    assert read(body).cut == cut and read(body).text == "B"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "text",
                    "error",
                    "type",
                    "delta",
                    "usage",
                    "finish_reason",
                    "completion_tokens",
                    "detail",
                    "refusal",
                    "reasoning",
                ]
            ),  # fmt: skip
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_reply_or_no_completion(value):
    try:
        body = openai_reply.parse(json.dumps(value).encode())
    except ValueError:
        assert not isinstance(value, dict)
        return
    reply = openai_reply.read(body, "key", LIMIT)
    assert reply.text.encode() is not None and reply.error.encode() is not None
    assert not (reply.text and reply.error)


@pytest.mark.parametrize("data", [b"<html>", b"", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000, b"data: {}\n\n", b"null"])
def test_what_is_no_json_object_is_no_completion(data):
    with pytest.raises(ValueError, match=r".+"):
        openai_reply.parse(data)


def test_a_long_error_is_shortened_to_one_line():
    assert len(read({"error": "words\n" * 1000}).error) < 400 and "\n" not in read({"error": "a\nb"}).error


def test_bytes_that_are_not_utf_8_are_replaced():
    body = openai_reply.parse(b'{"choices": [{"message": {"content": "B \xff\xc3"}}]}')
    assert openai_reply.read(body, "key", LIMIT).text == "B \ufffd\ufffd"


def test_a_choice_is_found_by_its_index_whatever_the_order():
    body = {"choices": [{"index": 1, "message": {"content": "A"}}, {"index": 0, "message": {"content": "B"}}]}
    assert openai_reply.read(body, "key", 9).text == "B"


def test_an_answer_that_a_filter_emptied_is_an_error():
    body = {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
    assert openai_reply.read(body, "key", 9).error == "the server's content filter removed the answer"


def test_a_byte_order_mark_before_an_answer_is_no_part_of_it():
    assert openai_reply.parse(b'\xef\xbb\xbf{"choices": []}') == {"choices": []}


@pytest.mark.parametrize("code", [408, 429, 503, "503"])
def test_the_status_within_an_answer_is_found_in_every_place(code):
    places = [{"error": {"code": code}}, {"error": {"status": code}}, {"choices": [{"error": {"code": code}}]}]
    assert [openai_reply.status_of(body) for body in places] == [int(code)] * 3


@pytest.mark.parametrize("code", [None, True, 40303, 200, 399, 600, "5x3", "invalid", 5.5, [503], {"a": 503}])
def test_another_code_is_no_status(code):
    assert openai_reply.status_of({"error": {"code": code}}) is None
