"""A registered model, loaded as anybody loads an MLflow model, says what the model itself says."""

import base64
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import ask, ask_hf, llava, saving
from medmim.lvlm.mantis import MANTIS
from medmim.recipe.schema import Recipe
from medmim.registry import promote, pyfunc_model, register
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.terms import APACHE
from medmim.tiny import architecture

QUESTION = "Which image shows the larger opacity?\nA: image 1\nB: image 2"


@pytest.fixture
def model(ws: Workspace, tmp_path: Path) -> Artifact:
    llava.quiet_transformers()
    tokenizer = architecture.train_tokenizer([QUESTION, "A: image 1"], MANTIS)
    made = llava.Lvlm(
        architecture.build(MANTIS, tokenizer, 0), tokenizer, architecture.image_processor(MANTIS), MANTIS, tmp_path
    )
    saving.save(made, tmp_path / "model")
    return store.publish(tmp_path / "model", ws.store, "model", {}, {"terms": APACHE.as_dict()})


def _png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (48, 48), shade).save(out, "PNG")
    return out.getvalue()


def _chat(*images: bytes) -> dict[str, Any]:
    urls = [f"data:image/png;base64,{base64.b64encode(one).decode()}" for one in images]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}, *parts]}]}


def test_the_champion_answers_by_base64_and_data_url_and_reads_no_file(
    ws: Workspace, recipe: Recipe, model: Artifact, bench: Any, publish: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = publish("data", rows__txt="r")
    register.run(recipe, ws, data.uri, model.uri, bench(model.digest).uri)
    promote.promote(ws, "medmim-demo", "1", "test")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", ws.tracking)
    loaded = mlflow.pyfunc.load_model("models:/medmim-demo@champion")
    file = tmp_path / "dark.png"
    file.write_bytes(_png(10))
    dark, bright = (base64.b64encode(_png(shade)).decode() for shade in (10, 240))
    requests = [
        {"question": QUESTION, "images": [dark, bright]},
        {"question": QUESTION, "images": [dark, f"data:image/png;base64,{bright}"]},
        {"question": QUESTION},
    ]
    said = loaded.predict(requests)
    images = [Image.open(io.BytesIO(_png(shade))).convert("RGB") for shade in (10, 240)]
    questions = [ask.Question(QUESTION, images), ask.Question(QUESTION, images), ask.Question(QUESTION, [])]
    own = list(ask_hf.ask(llava.load(Path(model.uri)), questions, 32, recipe.bench.max_new_tokens))
    assert said == [reply.text for reply in own]
    assert said[0] == said[1] and all(said)

    with pytest.raises(UserError, match="images that cannot be read") as error:
        loaded.predict([{"question": QUESTION, "images": [str(file), str(tmp_path / "none.png"), "bm90IGFuIGltYWdl"]}])
    for place in (1, 2):  # a server does not tell which files there are
        assert f"request 1, image {place}: the image is not base64" in str(error.value)
    assert "request 1, image 3: the image cannot be used: not an image" in str(error.value)
    large = io.BytesIO()
    Image.new("1", (10_000, 5_000)).save(large, "PNG")
    with pytest.raises(UserError, match="10000 x 5000 pixels; it may have 40,000,000"):
        loaded.predict([{"question": QUESTION, "images": [base64.b64encode(large.getvalue()).decode()]}])
    with pytest.raises(UserError, match="request 1: 17 images; it may hold 16"):
        loaded.predict([{"question": QUESTION, "images": [dark] * 17}])

    # a request of OpenAI's chat API, as `mlflow models serve` hands it on
    completion = loaded.predict(_chat(file.read_bytes(), _png(240)))
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": said[0]}
    for wrong, where in (
        ({"stream": True}, "stream: "),
        ({"messages": []}, "messages: "),
        ({"n": 2}, "n: answers are"),
    ):
        with pytest.raises(MlflowException, match=where) as refused:
            loaded.predict(_chat() | wrong)
        assert refused.value.get_http_status_code() == 400
    elsewhere = _chat()
    elsewhere["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": "https://example.org/1.png"}})
    with pytest.raises(MlflowException, match="addresses are not fetched"):
        loaded.predict(elsewhere)
    with pytest.raises(UserError, match=r"(?s)cannot be asked.*request 2: question: Field required"):
        loaded.predict([*requests[:1], {"images": []}])
    with pytest.raises(UserError, match="questions are a list"):
        loaded.predict("What is it?")

    # what medmim registers today, with the file that 0.1.0 put into a version: its imports must be there still
    downloaded = Path(mlflow.artifacts.download_artifacts("models:/medmim-demo/1", dst_path=str(tmp_path / "version")))
    code = next(file for file in downloaded.rglob("pyfunc_model.py"))
    shutil.copyfile(Path(__file__).with_name("data") / "pyfunc_model_0_1_0.py", code)
    assert mlflow.pyfunc.load_model(str(downloaded)).predict(requests) == said

    shutil.rmtree(model.uri)
    with pytest.raises(UserError, match="there is no artifact"):
        mlflow.pyfunc.load_model("models:/medmim-demo/1")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_client_of_openai_asks_what_mlflow_serves(
    ws: Workspace, recipe: Recipe, model: Artifact, bench: Any, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server has no `/v1/chat/completions`: the client posts the same request to `/invocations`."""
    import requests
    from openai import BadRequestError, OpenAI
    from openai.types.chat import ChatCompletion

    register.run(recipe, ws, publish("data", rows__txt="r").uri, model.uri, bench(model.digest).uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ws.tracking)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # where it looks for uvicorn
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ["models", "serve", "-m", "models:/medmim-demo/1", "--env-manager", "local", "-h", "127.0.0.1"]
    server = subprocess.Popen([sys.executable, "-m", "mlflow", *serve, "-p", str(port)], start_new_session=True)
    try:
        url, last = f"http://127.0.0.1:{port}", time.monotonic() + 240
        while True:
            try:
                if requests.get(f"{url}/ping", timeout=5).ok:
                    break
            except requests.ConnectionError:
                assert time.monotonic() < last and server.poll() is None
                time.sleep(1)
        client = OpenAI(base_url=url, api_key="none", max_retries=0)
        body = _chat(_png(10), _png(240))
        got = client.post("/invocations", body=body, cast_to=ChatCompletion)
        images = [Image.open(io.BytesIO(_png(shade))).convert("RGB") for shade in (10, 240)]
        question = ask.Question(QUESTION, images)
        (own,) = ask_hf.ask(llava.load(Path(model.uri)), [question], 32, recipe.bench.max_new_tokens)
        assert got.choices[0].message.content == own.text and own.text
        assert got.usage is not None and got.usage.completion_tokens == own.new_tokens
        with pytest.raises(BadRequestError, match="answers are greedy"):
            client.post("/invocations", body=body | {"temperature": 1}, cast_to=ChatCompletion)
        plain = requests.post(f"{url}/invocations", json={"inputs": [{"question": QUESTION}]}, timeout=60)
        assert plain.ok and len(plain.json()["predictions"]) == 1
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.parametrize("text", ["x" * 300, "\0", "\ud83d", "é" * 200, "What is it? " * 50])
def test_a_text_that_is_no_picture_is_named(text: str) -> None:
    with pytest.raises(UserError, match="images that cannot be read") as caught:
        pyfunc_model._images([pyfunc_model.Request.model_construct(question="?", images=[text])])
    assert "request 1, image 1" in caught.value.problems[0]
