"""Ctrl-C, SIGTERM, SIGHUP: one line and the shell's code, whatever a command does and however often; none is left."""

import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
import pytest

from medmim import shards, store
from tests.support.bench import picture, samples

LINE = b"interrupted; run the same command again to resume"
Pressed = Literal["process", "terminal", "twice"]


def interrupt(
    typed: list[str], mark: bytes, pressed: Pressed, number: signal.Signals = signal.SIGINT
) -> tuple[int, list[bytes]]:
    """Press Ctrl-C when stderr shows `mark`: the exit code, and the lines of stderr from then on.

    In a terminal the signal reaches the whole group of processes; `kill -INT` reaches one.
    """
    command = [sys.executable, "-m", "medmim.cli.main", *typed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, start_new_session=True,
        preexec_fn=_as_in_a_terminal,
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if mark in line:
            break
    else:
        pytest.fail(f"never saw {mark!r}")
    time.sleep(0.3)
    family = psutil.Process(child.pid).children(recursive=True)
    if pressed == "process":
        child.send_signal(number)
    else:
        os.killpg(child.pid, number)
    while pressed == "twice" and child.poll() is None:
        time.sleep(0.01)
        os.killpg(child.pid, number)
    lines = child.communicate(timeout=30)[1].splitlines()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    return child.returncode, lines


def _as_in_a_terminal() -> None:
    """Take the signals that a shell ignores in the background, and nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def check(ended: tuple[int, list[bytes]], expected: int = 130, line: bytes = LINE) -> None:
    code, lines = ended
    assert (code, lines[-1], lines.count(line)) == (expected, line, 1)
    assert not [line for line in lines if b"Traceback" in line or b"Exception ignored" in line]


@pytest.mark.parametrize("pressed", ["process", "twice"])
def test_while_data_is_built(pressed: Pressed, tmp_path: Path) -> None:
    typed = ["data", "build", "demo", "--set", "data.patients=20000", "--home", str(tmp_path)]
    check(interrupt(typed, b"source phantom", pressed))


@pytest.mark.parametrize(
    ("number", "pressed", "code"), [(signal.SIGTERM, "process", 143), (signal.SIGHUP, "twice", 129)]
)
def test_what_ends_a_command_from_outside(number: signal.Signals, pressed: Pressed, code: int, tmp_path: Path) -> None:
    typed = ["data", "build", "demo", "--set", "data.patients=20000", "--home", str(tmp_path)]
    ended = interrupt(typed, b"source phantom", pressed, number)
    check(ended, code, f"ended by {number.name}; run the same command again to resume".encode())
    assert not list(tmp_path.glob("store/data/*/manifest.json"))


def test_nohup_keeps_its_word(silent: str, tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-m", "medmim.cli.main", "ask", silent, "What?", "--home", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    assert child.stderr is not None
    while b"model " not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    child.terminate()
    assert child.wait(20) == 143


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_while_the_pipeline_runs(number: signal.Signals, code: int, tmp_path: Path) -> None:
    typed = ["run", "demo", "--set", "data.patients=20000", "--home", str(tmp_path)]
    code_and_lines = interrupt(typed, b"data  images: ", "twice", number)
    check(code_and_lines, code, LINE if code == 130 else code_and_lines[1][-1])
    assert number == signal.SIGINT or f"ended by {number.name}".encode() in code_and_lines[1][-1]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes every request and answers none."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(65536):
                pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"openai:http://127.0.0.1:{listening.server_address[1]}/v1#model"
        listening.shutdown()


def test_while_a_server_is_asked_that_does_not_answer(silent: str, tmp_path: Path) -> None:
    asked = samples()
    names = sorted({name for sample in asked for name in sample.images})
    shards.write(tmp_path / "data", asked, [(name, name, picture(i)) for i, name in enumerate(names)])
    data = store.publish(tmp_path / "data", str(tmp_path / "store"), "data", {}, {})
    typed = ["bench", "run", "--model", silent, "--task", "temporal", "--data", data.uri, "--home", str(tmp_path)]
    begin = time.monotonic()
    check(interrupt(typed, b"model answers", "process"))
    assert time.monotonic() - begin < 25


@pytest.mark.long
@pytest.mark.parametrize(
    ("mark", "pressed"), [(b"starting Ray", "twice"), (b"/2000 loss", "terminal"), (b"/2000 loss", "process")]
)
def test_while_ray_trains(mark: bytes, pressed: Pressed, tmp_path: Path) -> None:
    sets = ("data.patients=220", "finetune.steps=2000")
    typed = ["finetune", "demo", "--home", str(tmp_path), *(part for item in sets for part in ("--set", item))]
    check(interrupt(typed, mark, pressed))


@pytest.mark.long
@pytest.mark.parametrize("pressed", ["process", "terminal"])
def test_sigterm_while_ray_trains_saves_a_checkpoint_that_the_same_command_resumes(
    pressed: Pressed, tmp_path: Path
) -> None:
    """A scheduler sends it to the command, or to all its processes, Ray's included."""
    sets = ("data.patients=220", "finetune.steps=2000", "finetune.save_every=2h", "platform.workers=2")
    typed = ["finetune", "demo", "--home", str(tmp_path), *(part for item in sets for part in ("--set", item))]
    code, lines = interrupt(typed, b"/2000 loss", pressed, signal.SIGTERM)
    assert code == 75, lines
    assert not [line for line in lines if b"Traceback" in line]
    assert b"run the same command again" in lines[-1]
    saved = list(tmp_path.glob("work/finetune-*/resume/step-*/state.json"))
    assert b"told to stop (SIGTERM), after step " in b"\n".join(lines) and len(saved) == 1


@pytest.mark.long
def test_while_a_night_runs(tmp_path: Path) -> None:
    typed = ["nightly", "demo", "--set", "data.patients=20000", "--home", str(tmp_path)]
    check(interrupt(typed, b"data  images: ", "terminal"))
