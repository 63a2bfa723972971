"""The code of a registered version (MLflow models-from-code): answers questions with the artifact in its config.

The version holds this file and a store URI, not a second copy of the weights; loading checks the artifact's digest.
It takes questions of its own form, and requests of OpenAI's chat API, as `mlflow models serve` hands them on.
"""

import io
import json
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlflow.exceptions import MlflowException
from mlflow.models import ModelConfig, set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medmim import store
from medmim.errors import UserError


class Request(BaseModel):
    """One question.

    Attributes:
        question: The question, its options included as lines `A: text`; without image placeholders.
        images: Pictures in order: files as `data:` URLs or as plain base64.
    """

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1)
    images: list[str] | None = None


class LvlmModel(PythonModel):  # type: ignore[misc]
    """Answers with the LVLM at `uri` as it was benched: same batch size, same longest answer, greedy."""

    _skip_type_hint_validation = True  # the hint is for the signature; a request of the chat API has another form

    def load_context(self, context: PythonModelContext) -> None:
        """Fetch the artifact and load it.

        Raises:
            UserError: The artifact is gone, damaged, or not the one that was registered.
        """
        from medmim.lvlm import llava

        config = ModelConfig(development_config=context.model_config)
        artifact = store.get(config.get("uri"))
        if artifact.digest != config.get("digest"):
            raise UserError(
                f"{artifact.uri} is not the model that was registered",
                reason=f"its digest is {artifact.digest}, the registered one {config.get('digest')}",
                fix="run the recipe again: it registers what is there now",
            )
        self._scratch = tempfile.TemporaryDirectory(prefix="medmim-")  # removed with the model; unused by folders
        self._lvlm = llava.load(store.fetch(artifact, Path(self._scratch.name)))
        self._batch_size, self._max_new_tokens = config.get("batch_size"), config.get("max_new_tokens")

    def predict(self, model_input: list[Request]) -> list[str] | dict[str, Any]:
        """Answer each question, or a request of OpenAI's chat API, `{"messages": [...]}`, with a chat completion.

        Raises:
            UserError: An image that cannot be read, or a question that cannot be asked; every one is named.
            MlflowException: A request of the chat API that asks for something else than one question, by its field.
        """
        from medmim.lvlm import ask, ask_hf

        given: Any = model_input
        if isinstance(given, dict):
            return self._chat(given)
        requests = _requests(given)
        images = _images(requests)
        questions = [ask.Question(request.question, own) for request, own in zip(requests, images, strict=True)]
        replies = list(ask_hf.ask(self._lvlm, questions, self._batch_size, self._max_new_tokens))
        problems = [f"request {i}: {reply.error}" for i, reply in enumerate(replies, 1) if reply.error]
        if problems:
            raise UserError("questions that cannot be asked", problems=problems)
        return [reply.text for reply in replies]

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        from medmim.lvlm import ask_hf
        from medmim.registry import chat

        try:
            asked = chat.parse(json.dumps({"model": "", **body}).encode(), chat.Limits(answer=self._max_new_tokens))
            if asked.stream:
                raise chat.Refused(400, "an answer is sent as a whole here: leave out stream", "stream")
            (reply,) = ask_hf.ask(self._lvlm, [asked.question], self._batch_size, asked.new_tokens)
            if reply.error:
                raise chat.Refused(400, reply.error, "messages")
        except chat.Refused as error:
            where = f"{error.param}: " if error.param else ""
            raise MlflowException(where + error.message, INVALID_PARAMETER_VALUE) from None
        return chat.answer(uuid4().hex, asked.model or "medmim", reply)


def _requests(given: Any) -> list[Request]:
    """The questions, as the signature says; every one that has another form is named."""
    if not isinstance(given, list):
        raise UserError(
            f"questions are a list, and this is a {type(given).__name__}",
            fix='give [{"question": "...", "images": [...]}], or {"messages": [...]} of the chat API',
        )
    found, problems = [], []
    for number, one in enumerate(given, 1):
        try:
            found.append(one if isinstance(one, Request) else Request.model_validate(one))
        except ValidationError as error:
            wrong = error.errors(include_input=False)[0]
            problems.append(f"request {number}: {': '.join([*map(str, wrong['loc']), wrong['msg']])}")
    if problems:
        raise UserError("questions that cannot be asked", problems=problems)
    return found


def _images(requests: list[Request]) -> list[list[Any]]:
    """The pictures of each request, prepared as those of a data set are.

    Not from files: whoever may ask a server would be told of what lies on its machine.
    """
    from PIL import Image

    from medmim.registry import chat

    limits, problems = chat.Limits(), list[str]()
    opened = []
    for number, request in enumerate(requests, 1):
        given, row, room = request.images or [], list[Any](), limits.pixels_in_all
        if len(given) > limits.images:
            problems.append(f"request {number}: {len(given)} images; it may hold {limits.images}")
            continue
        for place, text in enumerate(given, 1):
            url = text if text.startswith("data:") else f"data:;base64,{text}"
            try:
                found = chat.image(url, "images", limits, room)
            except chat.Refused as error:
                problems.append(f"request {number}, image {place}: {error.message}")
                continue
            room -= found.pixels.width * found.pixels.height
            row.append(Image.open(io.BytesIO(found.shrunk())).convert("RGB"))
        opened.append(row)
    if problems:
        raise UserError("images that cannot be read", fix="give data: URLs or base64 of files", problems=problems)
    return opened


LvlmModel.predict._is_pyfunc = True  # type: ignore[attr-defined]  # else MLflow warns that it does not check inputs
set_model(LvlmModel())
