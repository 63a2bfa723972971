"""Inference on a server with the OpenAI chat API (vLLM, SGLang, llama.cpp, a hosted model): images as data URLs."""

import base64
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from medmim.errors import Unavailable, UserError, require
from medmim.lvlm.ask import Question, Reply, key

if TYPE_CHECKING:
    from PIL.Image import Image

_TRIES = 5
_TIMEOUT = 120.0  # s for one answer
_SHOWN = 60  # characters of an invalid answer that are shown


def ask(
    url: str,
    model: str,
    questions: Sequence[Question],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[Reply]:
    """Answer questions; one that the server refuses gets a reply with its error, and the others are answered.

    The API key is OPENAI_API_KEY, where the server requires one.

    Args:
        url: Base of the API, such as `http://127.0.0.1:8000/v1`.
        model: Name of the model on that server.
        questions: What to ask.
        batch_size: Concurrent requests.
        max_new_tokens: Longest answer.
        on_done: Called after each answer with 1.

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: The server does not know the model or the path, refuses the API key, or is not OpenAI-compatible.
        Unavailable: It does not answer, or answers with a temporary error, after several tries.
    """
    openai = require("openai", "bench")
    client = openai.OpenAI(
        base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=0, timeout=_TIMEOUT
    )
    pool = ThreadPoolExecutor(batch_size)
    try:
        for reply in pool.map(partial(_one, client, url, model, max_new_tokens), questions):
            yield reply
            if on_done is not None:
                on_done(1)
    finally:
        pool.shutdown(cancel_futures=True)
        client.close()


def _one(client: Any, url: str, model: str, max_new_tokens: int, question: Question) -> Reply:
    import openai
    import tenacity
    from openai.types.chat import ChatCompletion

    name = key(f"{url}#{model}", question.prompt, question.images, max_new_tokens)
    content = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in question.images]
    temporary = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
    send = tenacity.retry(
        retry=tenacity.retry_if_exception_type(temporary),
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_random_exponential(0.2, max=20),
        reraise=True,
    )(client.chat.completions.create)
    try:
        answer = send(
            model=model,
            messages=[{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}],
            temperature=0.0,
            seed=0,
            max_tokens=max_new_tokens,
        )
    except temporary as error:
        problem = f"answers {error.status_code}" if isinstance(error, openai.APIStatusError) else "does not answer"
        raise Unavailable(
            f"{url} {problem}, after {_TRIES} tries",
            reason=str(error),
            fix="check address and server, then run the same command: answers so far are kept",
        ) from None
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise UserError(
            f"{url} refuses the model '{model}'", reason=error.message, fix="check address, name and OPENAI_API_KEY"
        ) from None
    except openai.APIStatusError as error:
        return Reply("", name, f"HTTP {error.status_code}: {error.message}")
    except json.JSONDecodeError as error:
        raise _not_compatible(url, str(error)) from None
    if not isinstance(answer, ChatCompletion):  # the client returns a web page as text
        raise _not_compatible(url, f"it sent {str(answer)[:_SHOWN]!r}")
    if not answer.choices or answer.choices[0].message.content is None:
        return Reply("", name, "the server sent no text")
    return Reply(answer.choices[0].message.content.strip(), name)


def _not_compatible(url: str, reason: str) -> UserError:
    return UserError(
        f"what answers at {url} is not an OpenAI-compatible server",
        reason=f"its answer is not a chat completion: {reason}",
        fix="check the address: usually it ends in /v1; it may also be a web page or a login in front of the server",
    )


def data_url(image: "Image") -> str:
    """An image as a data URL; PNG, so nothing is lost."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
