"""The engine `vllm`: a checkpoint is served by vLLM on this machine, asked as servers are, and its server removed."""

import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.errors import Unavailable, require
from medmim.lvlm import adapters, checkpoint, llava, vllm_server, weights
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.store.flock import try_lock
from medmim.store.folder import write_atomically

if TYPE_CHECKING:
    from medmim.lvlm.ask import Question, Reply
    from medmim.lvlm.vllm_server import Served

VLLM = "vllm"
_COPY = "model-"  # begins the name of one
_LOOK = 0.3  # s between two looks at one that another worker makes
_END = 5.0  # s from the last answer of a server to the end of its process


def inference() -> dict[str, str]:
    """What of this machine decides the answers: as of `llava.inference`, and vLLM with its version and options.

    Raises:
        UserError: vLLM is not installed.
    """
    own = vllm_server.arguments()
    return {
        **llava.inference(),
        "images": VLLM,  # its processors are those of its own transformers
        "engine": f"vllm {vllm_server.version(vllm_server.python())}",
        **({"options": digest_of(own)} if own else {}),
    }


class Server:
    """The server of a model: started when it is first asked, and again after `stop`; several threads may ask it.

    Args:
        ref: The model.
        digest: Of its weights.
        template: Of its chat format.
        ws: The workspace.
    """

    def __init__(self, ref: str, digest: str, template: str, ws: Workspace) -> None:
        self._ref, self._digest, self._template, self._ws = ref, digest, template, ws
        self._running: Served | None = None
        self._changes = threading.Lock()

    def ask(self, questions: "Iterable[Question]", batch_size: int, max_new_tokens: int) -> "Iterator[Reply]":
        """As `Engine.ask`."""
        from medmim.lvlm import ask_openai

        return self._asked(ask_openai.ask, questions, batch_size, max_new_tokens)

    def compare(self, questions: "Iterable[Question]", batch_size: int) -> "Iterator[Reply]":
        """As `Engine.compare`."""
        from medmim.lvlm import ask_openai

        return self._asked(ask_openai.compare, questions, batch_size)

    def learned(self) -> Mapping[str, Any]:
        """As `Engine.learned`."""
        return self._learned.facts() if self._running else {}

    def stop(self) -> None:
        """End the server, if it runs."""
        with self._changes:
            self._end(self._running)

    def _end(self, served: "Served | None") -> None:
        """End this server, unless another thread did, and perhaps started the next one."""
        if served and served is self._running:
            self._stop_at_last()
            self._running = None

    def _asked(self, how: "Callable[..., Iterator[Reply]]", *given: Any) -> "Iterator[Reply]":
        return self._replies(self._start(), how, given)  # it starts now: asking has not begun

    def _replies(
        self, served: "Served", how: "Callable[..., Iterator[Reply]]", given: Sequence[Any]
    ) -> "Iterator[Reply]":
        try:
            yield from how(served.url, served.name, *given, learned=self._learned, own=self._own)
        except Unavailable as error:
            died = served.died(_END)
            if died is None:
                raise
            with self._changes:
                self._end(served)
            raise died from error

    def _start(self) -> "Served":
        with self._changes:
            return self._running or self._started()

    def _started(self) -> "Served":
        from medmim.lvlm import ask_openai

        how = inference()
        own = self._ws.home / VLLM
        own.mkdir(parents=True, exist_ok=True)
        path = checkpoint.resolve(self._ref, self._ws)
        family = checkpoint.family_of(path)
        template = own / f"{family.name}.jinja"
        write_atomically(template, [family.chat_template.encode()])  # the other workers of this node read it
        options = ["--dtype", how["dtype"], "--chat-template", str(template)]
        with _loadable(path, self._digest, how["dtype"], self._ws) as folder:
            self._running = vllm_server.start(
                folder,
                self._digest[:16],
                own,
                [*options, "--chat-template-content-format", "openai"],
                self._ref,
                cpu=how["device"] == "cpu",
            )
        self._stop_at_last = weakref.finalize(self, self._running.stop)  # also where an error ends the benchmark
        self._learned = ask_openai.Learned()
        self._own = digest_of([self._digest, self._template, json.dumps(how, sort_keys=True)])
        return self._running


@contextmanager
def _loadable(path: Path, digest: str, dtype: str, ws: Workspace) -> Iterator[Path]:
    """The folder of a model as vLLM loads it; a copy is removed when it is in memory.

    It is one, as medmim saves models today, of adapters, which are merged into their base, and of what earlier versions
    saved, whose weights have other names.
    """
    files = sorted(path.glob("*.safetensors"))
    published = any(".vision_model." in name for file in files for name in weights.tensors(file))
    if published and not adapters.are_in(path) and (path / "processor_config.json").is_file():
        yield path
        return
    from medmim.lvlm import saving

    torch = require("torch", "finetune")
    own = ws.home / VLLM
    for lock in own.glob(f"{_COPY}*.lock"):
        if held := try_lock(lock):  # of a process that was killed
            with held:
                _remove(lock)
    lock = own / f"{_COPY}{digest_of([digest, dtype])[:16]}.lock"
    with _together(lock, lambda copy: saving.save(llava.load(path, "cpu", getattr(torch, dtype), ws.cache), copy)):
        yield lock.with_suffix("")


@contextmanager
def _together(lock: Path, make: Callable[[Path], object]) -> Iterator[None]:
    """The folder of a lock: made by the first worker of this node, used by all that come, removed by the last."""
    folder = lock.with_suffix("")
    while True:
        if alone := try_lock(lock):
            with alone:
                _make(lock, make)
        if (used := try_lock(lock, shared=True)) and folder.is_dir():
            break
        if used:
            used.close()
        time.sleep(_LOOK)  # another one makes or removes it
    try:
        with used:
            yield
    finally:
        if last := try_lock(lock):
            with last:
                _remove(lock)


def _make(lock: Path, make: Callable[[Path], object]) -> None:
    folder, part = lock.with_suffix(""), lock.with_suffix(".part")
    if folder.is_dir():
        return
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        make(part)
    except BaseException:  # an interrupt, too, leaves no copy of a model behind
        _remove(lock)
        raise
    os.replace(part, folder)


def _remove(lock: Path) -> None:
    for folder in (lock.with_suffix(""), lock.with_suffix(".part")):
        shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)
