"""The tuned tiny models of both families in a real vLLM, as they are published: no option of ours but its size.

By hand: `make test-vllm`. vLLM is in an environment of its own, whose Python is MEDMIM_VLLM_PYTHON.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medmim import shards
from medmim.data import build
from medmim.finetune import run
from medmim.finetune.ray import launcher
from medmim.finetune.worker import run_worker
from medmim.lvlm import ask_hf, ask_openai, llava
from medmim.lvlm.ask import Question
from medmim.recipe.loading import validate
from medmim.run.workspace import Workspace, workspace

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
QUESTIONS = 120
START = 600  # s that the server may take


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("MEDMIM_VLLM_PYTHON")
    if not found:
        pytest.skip("MEDMIM_VLLM_PYTHON is not set: make test-vllm")
    return found


@pytest.fixture(scope="module", params=["tiny-mantis", "tiny-llava-med"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Path, Path]:
    """Workspace, data set and a model tuned for some steps, in this process."""
    recipe = validate(
        {
            "name": "served",
            "data": {"source": "phantom", "patients": 200},
            "finetune": {
                "base": request.param, "steps": 30, "batch_size": 32, "max_tokens": 2048, "optimizer": "muon",
                "lr": 8e-4, "freeze_vision": False, "precision": "fp32",
            },
        },
        "test",
    )  # fmt: skip
    ws = workspace(tmp_path_factory.mktemp("served"), run="r")
    data = build.run(recipe, ws)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "launch", lambda job, *_: run_worker(job))
        model = run.run(recipe, ws, data.uri)
    return ws, ws.fetch(data.uri), ws.fetch(model.uri)


@pytest.fixture
def server(python: str, tuned: tuple[Workspace, Path, Path], tmp_path: Path) -> Iterator[str]:
    """Base URL of vLLM's own OpenAI server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tuned[2]), "--served-model-name", "tuned",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--max-model-len", "1024", "--limit-mm-per-prompt", json.dumps({"image": 4}),
    ]  # fmt: skip
    env = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1", "HOME": str(tmp_path), "VLLM_HOST_IP": "127.0.0.1",
    }  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            end = time.monotonic() + START
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    lines = (tmp_path / "log").read_text()[-6000:]
                    assert process.poll() is None and time.monotonic() < end, lines
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def test_vllm_gives_the_answers_of_this_process(server: str, tuned: tuple[Workspace, Path, Path]) -> None:
    _, data, model = tuned
    samples = [s for s in shards.read_samples(data, "test") if s.images][:QUESTIONS]
    images = shards.Images(data)
    asked = [Question(s.prompt, [images[name] for name in s.images]) for s in samples]
    asked += [Question(q.prompt) for q in asked[: QUESTIONS // 6]]  # without images, too
    lvlm = llava.load(model, "cpu", torch.float32)
    ours = [reply.text for reply in ask_hf.ask(lvlm, asked, max_new_tokens=16)]
    theirs = [reply.text for reply in ask_openai.ask(server, "tuned", asked, 8, max_new_tokens=16)]
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    right = [sum(t.startswith(s.target[:2]) for t, s in zip(r, samples, strict=False)) for r in (ours, theirs)]
    print(f"{lvlm.family.name}: {same} of {len(asked)} answers equal; right {right[0]} here, {right[1]} in vLLM")
    assert same >= 0.99 * len(asked), [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
