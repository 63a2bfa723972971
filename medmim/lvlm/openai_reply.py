"""Reads what OpenAI-like servers answer: the text of a completion in any of its shapes, or why there is none.

Servers differ: content as a list of parts, a text completion, an error in an answer of status 200, only the reasoning
of a model, no choice at all. Whatever brings no text is the error of that one question, in the server's own words.
"""

import html
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from medmim.lvlm.ask import Reply
from medmim.sample import LETTERS

_CUT = ("length", "max_tokens", "max_output_tokens", "max_new_tokens", "model_length", "token_limit")
_TEXT_PARTS = (None, "text", "output_text")  # not `thinking`, `reasoning`, `refusal`
_REASONING = ("reasoning_content", "reasoning", "thinking")
_HTML = re.compile(r"\s*<(!doctype|html|head|body|title|h\d|center|p|div|\?xml)\b|\s*<!", re.IGNORECASE)
_MORE = 1  # token beyond the limit: some count the one that ends an answer
_TOKEN = 256  # characters that no token of a vocabulary has
_SHOWN = 300  # characters of a server's words
_SPACES = str.maketrans("\u0120\u2581\u010a", "   ")  # of byte-level vocabularies and of SentencePiece
_LETTER = re.compile(r"[(\[*\"']*([A-H])[)\]*\"':.]*")
_BELOW = 1e-6
# Log-probabilities as numbers that tell something: -9999, -inf and NaN stand for "not among them" (vLLM, OpenAI);
# rounding in half precision may lift 0 a little.
_RANGE = (-700.0, 0.1)


def parse(data: bytes) -> Mapping[str, Any]:
    """The JSON object that a server sent.

    Raises:
        ValueError: It sent something else, such as a web page.
    """
    text = data.decode("utf-8-sig", "replace")
    try:
        body = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError(_received(text)) from None
    if isinstance(body, list) and len(body) == 1:  # Gemini's errors
        body = body[0]
    if not isinstance(body, dict):
        raise ValueError(f"it sent {shortened(text)!r}")
    return body


def read(body: Mapping[str, Any], key: str, max_new_tokens: int) -> Reply:
    """A completion as a reply.

    Args:
        body: What the server sent.
        key: The key of the reply.
        max_new_tokens: The limit that was asked for.
    """
    choice = _first(body)
    if not isinstance(choice, dict):
        return Reply("", key, f"the server sent a choice that is no object: {shortened(json.dumps(choice))}")
    error = error_of(body)
    if error:
        return Reply("", key, f"the server sent an error: {error}")
    asked, made = usage(body)
    message = choice.get("message") or choice.get("delta")
    content = message.get("content") if isinstance(message, dict) else message
    text = _text(choice.get("text") if content is None else content)
    cut = _is_cut(body, choice, max_new_tokens)
    fields = message if isinstance(message, dict) else choice
    if not text.strip() and isinstance(fields.get("refusal"), str):
        text = fields["refusal"]  # the model's own words: it declines to answer
    reasoned = any(fields.get(name) for name in _REASONING)
    filtered = choice.get("finish_reason") == "content_filter"
    if made > max_new_tokens + _MORE or len(text) > _TOKEN * max_new_tokens:
        much = f"{made:,} tokens" if made > max_new_tokens + _MORE else f"{len(text):,} characters"
        error = f"the server ignores max_tokens: {much} where at most {max_new_tokens:,} tokens were asked for"
        return Reply("", key, error, prompt_tokens=asked, new_tokens=made)
    if text.strip() or (
        text == content and not cut and not reasoned and not filtered
    ):  # an empty answer of the model is one
        return Reply(text.strip(), key, cut=cut, prompt_tokens=asked, new_tokens=made)
    why = _why_no_text(body, choice, fields, cut, max_new_tokens)
    return Reply("", key, why, prompt_tokens=asked, new_tokens=made)


def refused(body: Mapping[str, Any]) -> str:
    """Why a model writes nothing to a request, by its own refusal or the server's filter; empty where it writes."""
    choice = _first(body)
    message = choice.get("message") if isinstance(choice, dict) else None
    if isinstance(message, dict) and isinstance(message.get("refusal"), str) and message["refusal"].strip():
        return f"the model refuses: {shortened(message['refusal'])}"
    if isinstance(choice, dict) and choice.get("finish_reason") == "content_filter":
        return "the model refuses: the server's content filter removed the answer"
    return ""


def usage(body: Mapping[str, Any]) -> tuple[int, int]:
    """The tokens of prompt (those of images included) and answer, as a server counts them; 0 if it does not."""
    told = body.get("usage")
    counts = [told.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(told, dict) else [0, 0]
    prompt, answer = (max(0, one) if isinstance(one, int) else 0 for one in counts)
    return prompt, answer


def letters(body: Mapping[str, Any], key: str, options: int) -> Reply | None:
    """A completion with `logprobs` as a reply with the log-probability of the letter of each option.

    The first token that is not white space counts. Where several of the likeliest tokens are one letter (`A`, ` A`,
    `A:`), their probabilities are added. A letter that is not among them is less likely than all that are: it stands
    just below the last.

    Args:
        body: What the server sent.
        key: The key of the reply.
        options: How many there are.

    Returns:
        None where the server gives no log-probabilities; an error where no letter is among the likeliest tokens.
    """
    if error := error_of(body):
        return Reply("", key, f"the server sent an error: {error}")
    choice = _first(body)
    told = choice.get("logprobs") if isinstance(choice, dict) else None
    content = told.get("content") if isinstance(told, dict) else None
    if not isinstance(content, list):
        return None
    tokens = [one for one in content if isinstance(one, dict) and _plain(one.get("token"))]
    if not tokens:
        return Reply("", key, "the server sent no token but white space")
    top = tokens[0].get("top_logprobs")
    told_of = [
        (str(one.get("token")), float(one["logprob"]))
        for one in (top if isinstance(top, list) else ())
        if isinstance(one, dict) and isinstance(one.get("logprob"), int | float)
    ]
    if not told_of:
        return None
    likeliest = [(token, value) for token, value in told_of if value >= _RANGE[0]]  # not NaN either
    if not likeliest or any(value > _RANGE[1] for _, value in likeliest):
        return Reply("", key, f"the server sent log-probabilities that are none: {told_of[0][1]}, ...")
    below = min(value for _, value in likeliest) - _BELOW
    found = []
    for letter in LETTERS[:options]:
        own = [
            value for token, value in likeliest if (match := _LETTER.fullmatch(_plain(token))) and match[1] == letter
        ]
        found.append(math.log(math.fsum(map(math.exp, own))) if own else below)
    if max(found) == below:
        return Reply("", key, f"no letter of an option is among the {len(likeliest)} likeliest tokens")
    asked, made = usage(body)
    return Reply("", key, letters=tuple(found), prompt_tokens=asked, new_tokens=made)


def _plain(token: Any) -> str:
    """A token without white space, and without the marks that stand for it in vocabularies."""
    return str(token or "").translate(_SPACES).strip()


def error_of(body: Mapping[str, Any]) -> str:
    """What a server says in an error that it sent as if it were an answer; empty where it sent none."""
    return words(_error(body))


def status_of(body: Mapping[str, Any]) -> int | None:
    """The HTTP status that such an error names as its code; None where it names none."""
    error = _error(body)
    code = error.get("code") or error.get("status") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def words(error: Any) -> str:
    """What an error says, in one line; empty where there is none."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    if isinstance(error, list) and all(isinstance(one, dict) and isinstance(one.get("msg"), str) for one in error):
        error = "; ".join(map(_invalid, error))  # FastAPI's list of what is wrong with a request
    if isinstance(error, str) and _HTML.match(error):
        error = _of_page(error)
    return shortened(error if isinstance(error, str) else json.dumps(error)) if error else ""


def _invalid(one: Mapping[str, Any]) -> str:
    place = ".".join(map(str, one["loc"])) if isinstance(one.get("loc"), list) else ""
    return f"{place}: {one['msg']}" if place else str(one["msg"])


def _of_page(page: str) -> str:
    """The title of a web page, and the beginning of its text."""
    page = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->", " ", page)
    title, _, rest = page.partition("</title>")
    parts = [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split()) for part in (title, rest)]
    return "a web page: " + (": ".join(dict.fromkeys(filter(None, parts))) or "without text")


def _received(text: str) -> str:
    """What a text is that is no JSON."""
    if not text.strip():
        return "it sent nothing"
    if _HTML.match(text):
        return f"it sent {shortened(_of_page(text))}"
    if re.match(r"\s*(data|event|id|retry|):", text):
        return f"it sent a stream of events, which was not asked for: {shortened(text)!r}"
    if text.lstrip()[0] in "{[":
        line = " ".join(text.split())
        return f"it sent JSON that is cut or damaged, {len(text):,} characters that end in {line[-60:]!r}"
    return f"it sent {shortened(text)!r}"


def shortened(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def _untitled_error(body: Mapping[str, Any]) -> Any:
    """An error as FastAPI (`detail`), older vLLM and proxies (`message`) write it."""
    if "choices" in body:
        return None
    message = body.get("message")
    return body.get("detail") or (message if isinstance(message, str) else None)


def _first(body: Mapping[str, Any]) -> Any:
    """The choice that comes first, by its index where the server gives one; without any, what was sent."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        return body
    return next((one for one in choices if isinstance(one, dict) and one.get("index") == 0), choices[0])


def _error(body: Mapping[str, Any]) -> Any:
    choice = _first(body)
    within = choice.get("error") if isinstance(choice, dict) else None
    return body.get("error") or within or _untitled_error(body)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    return "".join(map(_part, content)) if isinstance(content, list) else ""


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return part if isinstance(part, str) else ""
    text = part.get("text") if part.get("type") in _TEXT_PARTS else None
    if isinstance(text, dict):
        text = text.get("value")
    return text if isinstance(text, str) else ""


def _is_cut(body: Mapping[str, Any], choice: Mapping[str, Any], max_new_tokens: int) -> bool:
    reason = choice.get("finish_reason") or choice.get("stop_reason")
    if isinstance(reason, str):
        return reason.lower() in _CUT
    return usage(body)[1] >= max_new_tokens


def _why_no_text(
    body: Mapping[str, Any], choice: Mapping[str, Any], message: Mapping[str, Any], cut: bool, max_new_tokens: int
) -> str:
    limit = f", cut at {max_new_tokens} new tokens: raise bench.max_new_tokens or --max-new-tokens" if cut else ""
    if any(message.get(name) for name in _REASONING):
        return f"the server sent only the model's reasoning and no answer{limit}"
    if choice.get("finish_reason") == "content_filter":
        return "the server's content filter removed the answer"
    if message.get("tool_calls") or message.get("function_call"):
        return "the server sent a call of a tool and no text"
    if choice is body and "message" not in body and "text" not in body:
        known = "an empty list of choices" if body.get("choices") == [] else shortened(json.dumps(body))
        return f"the server sent no completion but {known}"
    return f"the server sent no text{limit}"
