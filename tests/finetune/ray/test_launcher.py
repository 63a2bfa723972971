"""Ray changes where the loop runs, not what it computes; it replaces lost workers and leaves nothing behind."""

import importlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import save_file

from medmim.errors import Unavailable, UserError
from medmim.finetune import record
from medmim.finetune.ray import launcher
from medmim.finetune.ray.session import session
from medmim.finetune.worker import EXAMPLES, run_worker
from medmim.lvlm import checkpoint
from medmim.lvlm.family import Family
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from tests.support.finetune import SETTINGS, losses, make_job
from tests.support.ray_cluster import train_workers

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@pytest.mark.long
def test_ray_with_one_lost_worker_equals_bare_and_leaves_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One launch shows it all, because a launch takes most of a minute on two cores."""
    importlib.import_module("ray")  # as another test or stage may have done before
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    settings = SETTINGS.model_copy(update={"steps": 30, "save_every": 4})
    bare = run_worker(make_job(tmp_path, family, settings))
    (tmp_path / "out").rename(tmp_path / "bare")
    job = make_job(tmp_path, family, settings)
    short = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    left = short / "medmim-left-by-a-kill"
    left.mkdir()
    (left / "owner.pid").write_text(str(_dead_pid()))
    before = _environment()
    seen: dict[str, object] = {}
    watcher = threading.Thread(target=_kill_a_worker, args=(tmp_path / "out" / record.LOSSES, seen), daemon=True)
    watcher.start()
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(short))
        result = launcher.launch(job, tmp_path / "out", 1, tmp_path / "home")
    watcher.join(1)
    assert seen["workers"] == 1, "no worker was there to kill"
    assert seen["outside"] == []
    assert all(path.name.startswith("step-") for path in (tmp_path / "out" / "resume").iterdir()), "copies of Ray's own"
    assert result.resumed_from > 0
    assert (tmp_path / "out" / record.LOSSES).read_bytes() == (tmp_path / "bare" / record.LOSSES).read_bytes()
    assert checkpoint.digest(tmp_path / "out") == checkpoint.digest(tmp_path / "bare")
    assert result.loss == bare.loss
    short.rmdir()  # fails unless empty
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in " ".join(p.cmdline())]
    assert _environment() == before, "a Ray that starts later would find our settings, such as that it needs a token"
    shown = capfd.readouterr()
    assert shown.out == ""
    lines = shown.err.replace("\r\x1b[K", "").splitlines()
    assert any(line.startswith("step 30/30") for line in lines)
    assert [line for line in lines if not line.startswith(("starting Ray", "step ", "finetune: ", "resuming"))] == []


def _environment() -> dict[str, str]:
    once = "RAY_CLIENT_MODE", "PYTEST_CURRENT_TEST"  # set by the import of Ray
    return {name: value for name, value in os.environ.items() if name not in once}


def _dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def _wait_for_steps(file: Path, steps: int) -> None:
    until = time.monotonic() + 250
    while time.monotonic() < until and not (file.exists() and file.read_text().count("\n") >= steps):
        time.sleep(0.02)


def _look_at_ports(file: Path, seen: dict[str, object]) -> None:
    """After six steps: how many workers there are, and what listens beyond loopback."""
    _wait_for_steps(file, 6)
    seen["workers"] = len(train_workers())
    seen["outside"] = [
        (process.name(), c.laddr)
        for process in psutil.Process().children(recursive=True)
        for c in process.net_connections()
        if c.status == "LISTEN" and c.laddr.ip not in LOOPBACK
    ]


def _kill_a_worker(file: Path, seen: dict[str, object]) -> None:
    _look_at_ports(file, seen)
    _wait_for_steps(file, 9)  # the save of step 8 waits until that of step 4 is whole
    for process in train_workers():
        process.kill()


@pytest.mark.long
def test_a_workers_user_error_is_raised_whole_and_not_retried(tmp_path: Path) -> None:
    job = make_job(tmp_path, MANTIS, SETTINGS.model_copy(update={"lr": 1e38, "optimizer": "adamw"}))
    with pytest.raises(UserError) as raised:
        launcher.launch(job, tmp_path / "out", 1, tmp_path / "home")
    assert "the loss is" in raised.value.fact and "finetune.lr" in raised.value.fix
    assert not list(Path(job.folder).glob(".error*"))


@pytest.mark.long
def test_an_unforeseen_exception_of_a_worker_is_reported_and_not_retried(tmp_path: Path) -> None:
    job = make_job(tmp_path, LLAVA_MED)
    save_file({}, tmp_path / "out" / EXAMPLES, metadata={"examples": "[2, 0, 1]"})
    with pytest.raises(RuntimeError, match=r"SafetensorError: .* \(in a training worker\)") as raised:
        launcher.launch(job, tmp_path / "out", 2, tmp_path / "home")
    assert "in load" in raised.value.__notes__[0]
    assert not list(Path(job.folder).glob(".error*"))


@pytest.mark.long
def test_two_workers_take_the_steps_of_one_and_meet_on_loopback_only(tmp_path: Path) -> None:
    """Of one family and ZeRO-3: a launch takes most of a minute, and torchrun shows all engines and both families."""
    settings = SETTINGS.model_copy(update={"steps": 40, "optimizer": "adamw"})
    run_worker(make_job(tmp_path, LLAVA_MED, settings))
    (tmp_path / "out").rename(tmp_path / "bare")
    job = make_job(tmp_path, LLAVA_MED, settings.model_copy(update={"zero": 3}))
    seen: dict[str, object] = {}
    watcher = threading.Thread(target=_look_at_ports, args=(tmp_path / "out" / record.LOSSES, seen), daemon=True)
    watcher.start()
    launcher.launch(job, tmp_path / "out", 2, tmp_path / "home")
    watcher.join(1)
    assert seen["workers"] == 2 and seen["outside"] == []
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "bare"), rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "raised"), [(Exception, Unavailable), (RuntimeError, Unavailable), (KeyError, KeyError)]
)
def test_a_machine_too_busy_to_start_ray_is_no_fault_of_ours(
    kind: type[Exception], raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*_: object, **__: object) -> None:
        raise kind("The current node timed out during startup.")

    monkeypatch.setattr(importlib.import_module("ray"), "init", init)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(raised, match="timed out" if raised is KeyError else "does not start"), session(tmp_path, 1):
        raise AssertionError
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
