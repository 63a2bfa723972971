"""A process that starts, serves, fails and ends as vLLM's server does: `-c CODE` tells its version, `-m MODULE` serves.

The log's lines are those of vLLM 0.32.0 (v1/core/kv_cache_utils.py, model_executor/models/registry.py). VLLM_STAND_IN
says what it does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

MODE = "VLLM_STAND_IN"
LAST_WORDS = {
    "memory": "(EngineCore pid=7) ValueError: No available memory for the cache blocks. Try increasing "
    "`gpu_memory_utilization` when initializing the engine.",
    "class": "pydantic_core.ValidationError: Value error, Model architectures ['OtherForCausalLM'] are not supported "
    "for now. Supported architectures: dict_keys(['LlavaForConditionalGeneration'])",
    "other": "RuntimeError: Engine core initialization failed. See root cause above.",
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str = "") -> Path:
    """Make it the Python of vLLM's environment; returns the file with what each start of it was given."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setenv("MEDMIM_VLLM_PYTHON", str(program))
    monkeypatch.setenv(MODE, mode)
    monkeypatch.setenv("VLLM_STAND_IN_LOG", str(folder / "starts.jsonl"))
    return folder / "starts.jsonl"


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from openai_server import Server

    arguments = sys.argv[1:]
    if arguments[0] == "-c":
        print(json.dumps(["0.0.1"]))
        return
    mode, starts = os.environ[MODE], Path(os.environ["VLLM_STAND_IN_LOG"])
    helper = subprocess.Popen(["sleep", "600"])  # as vLLM's engine is
    known = starts.read_text(encoding="utf-8") if starts.exists() else ""
    given = {"arguments": arguments, "pid": os.getpid(), "helper": helper.pid}
    with starts.open("a", encoding="utf-8") as file:  # of several nodes
        file.write(json.dumps(given) + "\n")
    if mode in LAST_WORDS:
        print("INFO Available KV cache memory: 12.3 GiB", LAST_WORDS[mode], sep="\n", flush=True)
        sys.exit(1)
    if mode == "taken" and not known:
        print("OSError: [Errno 98] Address already in use", flush=True)
        sys.exit(1)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = Server(int(arguments[arguments.index("--port") + 1]))
    server.say = lambda text: "B"
    server.count = lambda text, images: len(text.split()) + 16 * len(images)
    if mode == "dies":

        def wait(text: str) -> None:
            if len(server.requests) > 8:
                print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", flush=True)
                os._exit(1)

        server.wait = wait
    if mode == "slow":
        server.wait = lambda text: time.sleep(1)
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
