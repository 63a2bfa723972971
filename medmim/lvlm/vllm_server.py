"""Serves a checkpoint by vLLM on this machine for as long as it is asked: `start`, and `stop` of what it returns.

vLLM is in an environment of its own (MEDMIM_VLLM_PYTHON), since it pins other versions of torch and transformers. Its
server listens on 127.0.0.1, ends with this process, however that ends (`child`), and writes nothing outside the home.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from medmim.errors import Unavailable, UserError
from medmim.lvlm import child
from medmim.progress import say

PYTHON = "MEDMIM_VLLM_PYTHON"
ARGUMENTS = "MEDMIM_VLLM_ARGS"
_START = 1800.0  # s that it may take to load a model
_LOOK = 0.3  # s between two looks at it
_SAY = 30.0  # s between two reports that it is waited for
_KV = "VLLM_CPU_KVCACHE_SPACE"  # GiB
_PORTS = 3  # that are tried, where another process takes one first
_SHOWN = 12  # lines of its log in an error
_LOG = 200_000  # bytes of the log's end in which the cause is looked for
_VERSION = "import importlib.metadata as m, json; print(json.dumps([m.version(n) for n in ('vllm', 'vllm-cpu') \
if any(d.metadata['Name'] == n for d in m.distributions(name=n))]))"
_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)
# What its log says where it cannot serve a model -> what to do.
_CAUSES = (
    (
        re.compile(
            r"out of memory|no available memory for the cache|free memory on device"
            r"|larger than the available KV cache memory|cannot allocate memory|not enough memory",
            re.IGNORECASE,
        ),
        "the memory is used up",
        f"end what else uses it, or lower what vLLM takes: {ARGUMENTS}='--max-model-len 4096 "
        "--gpu-memory-utilization 0.8'",
    ),
    (
        re.compile(r"model architectures?\b.*\b(not supported|failed)", re.IGNORECASE),
        "vLLM does not serve this class of models",
        "set bench.engine to transformers (bench run: --engine transformers), or install a vLLM that does",
    ),
    (
        re.compile(r"no module or parameter named|weights were not initialized|unrecognized arguments", re.IGNORECASE),
        "vLLM does not take it",
        f"set bench.engine to transformers; or another vLLM by {PYTHON}, other options by {ARGUMENTS}",
    ),
)


@dataclass
class Served:
    """A running server.

    Attributes:
        url: Base of its API.
        name: Of the model there.
        log: What it writes.
    """

    url: str
    name: str
    log: Path
    process: "subprocess.Popen[bytes]"
    scratch: Path
    stopped: bool = field(default=False)

    def stop(self) -> None:
        """End it, with all its processes, and remove what it left in /tmp."""
        if self.stopped:
            return
        self.stopped = True
        assert self.process.stdin is not None  # noqa: S101  a pipe
        with suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def died(self, within: float = 0.0) -> UserError | None:
        """Why it ended by itself; None where it did not, nor does in so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(within)
            return None if self.stopped else _failed(self.name, self.log, f"it ended with code {code}")
        return None


def python() -> str:
    """The Python of the environment that vLLM is in.

    Raises:
        UserError: There is none.
    """
    given = os.environ.get(PYTHON, "").strip()
    if given:
        found = shutil.which(os.path.expanduser(given))
        if found is None:
            raise UserError(f"{PYTHON} is '{given}', which is no program", fix="give the path of bin/python")
        return found
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise UserError(
        "bench.engine is vllm, and vLLM is not installed",
        reason=f"it is not in this environment, and {PYTHON} is not set",
        fix=f"python3 -m venv VENV && VENV/bin/pip install vllm, then {PYTHON}=VENV/bin/python; "
        "docs/bench.md has more; or --engine transformers",
    )


@lru_cache
def version(program: str) -> str:
    """The version of vLLM in the environment of a Python; it is not imported.

    Raises:
        UserError: There is none.
    """
    ended = subprocess.run(
        [program, "-c", _VERSION], capture_output=True, text=True, encoding="utf-8", errors="replace", env=_plain()
    )
    with suppress(ValueError):
        if ended.returncode == 0 and (found := json.loads(ended.stdout)):
            return str(found[0])
    raise UserError(
        f"{program} has no vLLM",
        reason=(ended.stderr.strip().splitlines() or ["neither vllm nor vllm-cpu is installed there"])[-1],
        fix=f"set {PYTHON} to the Python of an environment that has it",
    )


def arguments() -> list[str]:
    """The options of the user: MEDMIM_VLLM_ARGS.

    Raises:
        UserError: They are no shell words.
    """
    given = os.environ.get(ARGUMENTS, "")
    try:
        return shlex.split(given)
    except ValueError as error:
        raise UserError(f"{ARGUMENTS} is {given!r}", reason=str(error), fix="quote it as for a shell") from None


def start(folder: Path, name: str, own: Path, options: Sequence[str], label: str, cpu: bool) -> Served:
    """Serve a checkpoint.

    Args:
        folder: The checkpoint, with its weights under the published names.
        name: Of the model in the API.
        own: A folder for its log, its caches and whatever else it writes.
        options: Of vLLM, before those of MEDMIM_VLLM_ARGS.
        label: Of the model in progress reports.
        cpu: Whether it runs without a GPU.

    Raises:
        UserError: It ended; with the cause and the last lines of its log.
        Unavailable: It did not come up in half an hour.
    """
    program = python()
    gpus = re.sub(r"\W+", "_", os.environ.get("CUDA_VISIBLE_DEVICES", ""))[:60]
    log = own / f"{name}{gpus and '-gpu'}{gpus}.log"  # the workers of a node have a server of this model each
    for attempt in range(1, _PORTS + 1):
        port = _free_port()
        command = [
            program, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", name,
            "--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm", "--seed", "0", *options,
            *(["--enforce-eager"] if cpu else []), *arguments(),
        ]  # fmt: skip
        scratch = Path(tempfile.mkdtemp(prefix="medmim-"))
        say(f"vLLM {version(program)} starts for {label}; its log: {log}")
        with log.open("wb") as out:
            out.write(f"{shlex.join(command)}\n".encode())
            out.flush()
            process = _run(command, out, {**_plain(), **_places(own, scratch), **({_KV: "1"} if cpu else {})})
        served = Served(f"http://127.0.0.1:{port}/v1", name, log, process, scratch)
        try:
            _wait(served, port, label)
        except BaseException as error:  # an interrupt, too, leaves no server behind
            served.stop()
            if attempt < _PORTS and isinstance(error, UserError) and _TAKEN.search(_end_of(log)):
                continue
            raise
        return served
    raise AssertionError("the last attempt raises")


def _run(command: Sequence[str], out: IO[bytes], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(child.__file__), *command],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=dict(env),
        start_new_session=True,  # Ctrl-C reaches this process alone, which stops the server
    )


def _plain() -> dict[str, str]:
    """This environment without what is meant for this Python, and without a key that the server would demand."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VLLM_API_KEY")
    return {key: value for key, value in os.environ.items() if key not in left_out}


def _places(own: Path, scratch: Path) -> dict[str, str]:
    """Where it writes, and that it calls nobody."""
    return {
        "HOME": str(own), "XDG_CACHE_HOME": str(own / "cache"), "VLLM_CACHE_ROOT": str(own / "cache"),
        "VLLM_CONFIG_ROOT": str(own / "config"), "TMPDIR": str(scratch), "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(served: Served, port: int, label: str) -> None:
    """Until it answers; no proxy of the environment stands between."""
    direct: Any = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    begun = said = time.monotonic()
    while True:
        if died := served.died():
            raise died
        with suppress(urllib.error.URLError, OSError):
            direct.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        now = time.monotonic()
        if now - begun > _START:
            raise Unavailable(
                f"vLLM did not come up for {label} in {_START / 60:.0f} minutes",
                problems=_lines(served.log),
                fix=f"see {served.log}, then run the same command",
            )
        if now - said > _SAY:
            said = now
            say(f"vLLM loads {label}: {now - begun:.0f} s")
        time.sleep(_LOOK)


def _failed(name: str, log: Path, reason: str) -> UserError:
    """The error for a server that ended, with what its log says of the cause."""
    text = _end_of(log)
    for pattern, fact, fix in _CAUSES:
        if lines := [line.strip() for line in text.splitlines()[1:] if pattern.search(line)]:
            return UserError(f"vLLM cannot serve {name}: {fact}", reason=lines[-1][:500], fix=fix, problems=_lines(log))
    return UserError(f"vLLM ended while it served {name}", reason=reason, fix=f"see {log}", problems=_lines(log))


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG))
        return file.read().decode("utf-8", "replace")


def _lines(log: Path) -> list[str]:
    return [line.rstrip()[:300] for line in _end_of(log).splitlines() if line.strip()][-_SHOWN:]
