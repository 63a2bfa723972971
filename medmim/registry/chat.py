"""Requests and answers of `/v1/chat/completions`, as whatever serves a version takes them: one question, one answer.

The wording is the model's own: `medmim.lvlm` writes the prompt around the question and places the images before it, as
in training and in benchmarks. What would change that, or the greedy decoding, is refused and not ignored.
"""

import base64
import binascii
import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from medmim.lvlm.ask import Question, Reply
from medmim.sample import split_options

if TYPE_CHECKING:
    from PIL.Image import Image

    from medmim.data.sources.image_file import ImageFile

_ROLES = (
    "there is one message, of role user: the model is asked as it was trained, without a system message or a dialogue"
)
_GREEDY = "answers are greedy, as in benchmarks"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ImageUrl(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # the model sees all of an image either way


class _ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: _ImageUrl
    uuid: str | None = None


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _Message(_Strict):
    role: str
    content: str | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]]
    name: str | None = None


class _StreamOptions(_Strict):
    include_usage: StrictBool | None = None
    include_obfuscation: StrictBool | None = None


class _ResponseFormat(_Strict):
    type: str = "text"


class _Body(_Strict):
    model: str
    messages: list[_Message]
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    stream: StrictBool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None  # nothing is drawn by chance
    user: str | None = None
    stop: Any = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: _ResponseFormat | None = None


_FIELDS = {name for kind in (_Body, _Message, _ImagePart, _ImageUrl) for name in kind.model_fields}


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        images: In a request.
        pixels: Of an image, width x height.
        pixels_in_all: Of the images of a request together, which are held decoded until it is answered: 3 bytes each.
        new_tokens: Longest answer that may be asked for.
        answer: New tokens of a request that names no limit.
    """

    images: int = 16
    pixels: int = 40_000_000
    pixels_in_all: int = 100_000_000
    new_tokens: int = 1024
    answer: int = 64


class Refused(Exception):
    """A request that gets no answer.

    Args:
        status: Of HTTP.
        message: What is wrong with it, and what would be right.
        param: The field of the request, where it is one's fault.
        retry: Seconds after which it may be sent again, where time helps.
    """

    def __init__(self, status: int, message: str, param: str | None = None, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry = status, message, param, retry

    @property
    def body(self) -> dict[str, object]:
        """As the OpenAI API writes errors."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message, "type": kinds.get(self.status, kind), "param": self.param, "code": self.status,
            }
        }  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Attributes:
        model: The name that it gives.
        question: With RGB images.
        new_tokens: Longest answer.
        stream: Whether the answer is sent as events.
        usage: Whether an event of its own says how many tokens there were.
    """

    model: str
    question: Question
    new_tokens: int
    stream: bool = False
    usage: bool = False


def parse(body: bytes, limits: Limits) -> Asked:
    """A request's question, with its images decoded as those of a data set are.

    Raises:
        Refused: 400 with the field that is wrong, 413 for images that are too large or too many.
    """
    try:
        given = _Body.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from None
    except RecursionError:
        raise Refused(400, "the request is no JSON object of this API: it is nested too deeply") from None
    _refuse_unlike_greedy(given)
    message = _only_message(given.messages)
    parts = [_TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
    text = "\n".join(part.text for part in parts if isinstance(part, _TextPart))
    if not text.strip():
        raise Refused(400, "the message holds no text: the question is missing", "messages.0.content")
    urls = [(number, part.image_url.url) for number, part in enumerate(parts) if isinstance(part, _ImagePart)]
    if len(urls) > limits.images:
        raise Refused(413, f"{len(urls)} images; a request may hold {limits.images}", "messages.0.content")
    images, room = list["Image"](), limits.pixels_in_all
    for number, url in urls:
        images.append(image(url, f"messages.0.content.{number}.image_url.url", limits, room).pixels.convert("RGB"))
        room -= images[-1].width * images[-1].height
    return Asked(
        given.model,
        Question(text, images, split_options(text)[1]),  # an answer that is one of them is read faster
        _new_tokens(given, limits),
        bool(given.stream),
        bool(given.stream_options and given.stream_options.include_usage),
    )


def _invalid(error: ValidationError) -> Refused:
    problems = []
    for one in error.errors():
        # pydantic names the kinds of content that it tried among the fields
        where = ".".join(
            str(part) for part in one["loc"] if not re.search(r"[\[_]|^str$", str(part)) or part in _FIELDS
        )
        wrong = "unknown field" if one["type"] == "extra_forbidden" else str(one["msg"])
        problems.append((where, f"{where}: {wrong}" if where else wrong))
    return Refused(400, "; ".join(dict.fromkeys(text for _, text in problems[:5])), problems[0][0] or None)


def _refuse_unlike_greedy(given: _Body) -> None:
    wrong = {
        "temperature": given.temperature not in (None, 0),
        "top_p": given.top_p not in (None, 1),
        "n": given.n not in (None, 1),
        "stop": given.stop not in (None, []),
        "logprobs": bool(given.logprobs),
        "top_logprobs": given.top_logprobs not in (None, 0),
        "presence_penalty": given.presence_penalty not in (None, 0),
        "frequency_penalty": given.frequency_penalty not in (None, 0),
        "response_format": given.response_format is not None and given.response_format.type != "text",
    }
    names = [name for name, is_wrong in wrong.items() if is_wrong]
    if names:
        raise Refused(
            400, f"{_GREEDY}: leave out {', '.join(names)}, or set temperature to 0, top_p and n to 1", names[0]
        )


def _only_message(messages: Sequence[_Message]) -> _Message:
    if len(messages) != 1 or messages[0].role != "user":
        roles = ", ".join(message.role[:20] for message in messages[:5]) or "none"
        raise Refused(400, f"the roles of the messages are: {roles}; {_ROLES}", "messages")
    return messages[0]


def _new_tokens(given: _Body, limits: Limits) -> int:
    asked = given.max_completion_tokens or given.max_tokens
    if asked is not None and asked > limits.new_tokens:
        name = "max_completion_tokens" if given.max_completion_tokens else "max_tokens"
        raise Refused(400, f"{name} is {asked}; an answer may have {limits.new_tokens}", name)
    return asked or min(limits.answer, limits.new_tokens)


def image(url: str, param: str, limits: Limits, room: int) -> "ImageFile":
    """The image of a data URL.

    Args:
        url: As in a request.
        param: The field that it stands in, which a refusal names.
        limits: What a request may hold.
        room: How many pixels it may still hold.

    Raises:
        Refused: 400 for what is no image, 413 for one that is too large.
    """
    from medmim.data.sources import image_file
    from medmim.data.sources.source import BadImage

    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise Refused(400, "an image is a data: URL; addresses are not fetched, by design", param)
    if not comma or not head.endswith(";base64"):
        raise Refused(400, "the data: URL of an image is data:image/png;base64,...", param)
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "the image is not base64", param) from None
    _refuse_large(raw, param, limits, room)
    try:
        found = image_file.decode(raw)
    except BadImage as error:
        raise Refused(400, f"the image cannot be used: {error}", param) from None
    _refuse_many_pixels(*found.pixels.size, param, limits, room)
    return found


def _refuse_large(raw: bytes, param: str, limits: Limits, room: int) -> None:
    """By the header, before anything is decoded; what Pillow does not know is told when it is."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(raw)) as opened:
                width, height = opened.size
    except Image.DecompressionBombError:
        raise Refused(413, f"the image has too many pixels; it may have {limits.pixels:,}", param) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return  # the decoder says what is wrong with it
    _refuse_many_pixels(width, height, param, limits, room)


def _refuse_many_pixels(width: int, height: int, param: str, limits: Limits, room: int) -> None:
    if width * height > limits.pixels:
        raise Refused(413, f"the image is {width} x {height} pixels; it may have {limits.pixels:,}", param)
    if width * height > room:
        raise Refused(
            413,
            f"with this image of {width} x {height} the request holds more than {limits.pixels_in_all:,} pixels, which "
            "all of its images together may have: send fewer or smaller ones",
            param,
        )


def answer(request: str, model: str, reply: Reply) -> dict[str, Any]:
    """The body of an answer.

    Args:
        request: Its id.
        model: The name of the model with its digest.
        reply: The model's.
    """
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply), "logprobs": None}
    return {**_head(request, model, "chat.completion"), "choices": [choice], "usage": _usage(reply)}


def events(request: str, model: str, reply: Reply, usage: bool) -> Iterator[dict[str, Any]]:
    """The events of an answer. It is one of them: a batch of short answers is decoded as a whole."""
    head = _head(request, model, "chat.completion.chunk")
    if usage:
        head["usage"] = None

    def event(delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]}

    yield event({"role": "assistant", "content": ""})
    yield event({"content": reply.text})
    yield event({}, _finish(reply))
    if usage:
        yield {**head, "choices": [], "usage": _usage(reply)}


def _head(request: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request}", "object": kind, "created": int(time.time()), "model": model}


def _finish(reply: Reply) -> str:
    return "length" if reply.cut else "stop"


def _usage(reply: Reply) -> dict[str, int]:
    read, written = reply.prompt_tokens, reply.new_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
