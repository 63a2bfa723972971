"""The process: its command, its end, and what a killed one leaves."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from medmim.registry import promote
from tests.support.inference import promote_version
from tests.support.waiting import until


class Process:
    """A server that runs, and what it says."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medmim.cli.main", "serve", *map(str, arguments), "--port", "0"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr
        self.lines.extend(iter(self.process.stderr.readline, ""))

    @property
    def url(self) -> str:
        def found() -> "re.Match[str] | None":
            assert self.process.poll() is None, self.lines
            return re.search(r"http://[^ ]+/v1", "".join(self.lines))

        return until(found, 120)[0]

    def answered(self) -> list[str]:
        """The log's line of each request that was taken."""
        return [line for line in list(self.lines) if "/v1/chat/completions" in line]

    def model(self) -> str:
        """The model that answers a question now."""
        client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0)
        (alias, _) = (one.id for one in client.models.list())
        return client.chat.completions.create(model=alias, messages=[{"role": "user", "content": "Which?"}]).model


@contextmanager
def serving(*arguments: object) -> Iterator[Process]:
    one = Process(*arguments)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


@pytest.mark.long
def test_a_server_follows_the_champion_and_a_killed_one_leaves_nothing_in_the_way(ws, recipe, versions):
    promote_version(ws, recipe, versions[0])
    ref = f"models:/{recipe.register_.model}@champion"
    with serving(ref, "--home", ws.home, "--every", 0.5) as one:
        first = one.model()
        promote_version(ws, recipe, versions[1])
        second = until(lambda: (now := one.model()) != first and now, 60)
        promote.rollback(ws, recipe.register_.model, "a test", "a tester")
        until(lambda: one.model() == first, 60)
        one.process.send_signal(signal.SIGKILL)
        one.process.wait()
    with serving(ref, "--home", ws.home) as again:
        assert again.model() == first != second
        asked = [again.model() for _ in range(3)]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(again.model) for _ in range(8)]
            until(lambda: len(again.answered()) > len(asked) + 1, 30)  # some are answered, some under way
            again.process.send_signal(signal.SIGTERM)
            ended = [call.exception() for call in calls]
        assert again.process.wait(60) == 143
        until(lambda: again.lines[-1] == "ended by SIGTERM\n", 10)
        assert {type(error) for error in ended} <= {type(None), openai.APIConnectionError}
        assert all(" 200 in " in line for line in again.answered()), "what was taken was answered"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models:/nobody@champion"], "nobody"),
        (["tiny-mantis", "--engine", "tgi"], "'tgi' is not one of"),
        (["tiny-mantis", "--host", "192.0.2.1", "--anyone"], "cannot be used"),
    ],
)
def test_what_cannot_be_served_ends_with_one_message(tmp_path: Path, arguments: list[str], words: str):
    with serving(*arguments, "--home", tmp_path) as one:
        assert one.process.wait(120) == 2
        until(lambda: words in "".join(one.lines), 10)
        assert "Traceback" not in "".join(one.lines)
