"""A pod that is preempted: its hook tells the trainings in it, and waits for them and for nothing else."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medmim import ray_nodes


def hook(home: Path, seconds: int = 60) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sh", "-c", ray_nodes.pre_stop(seconds)], env=os.environ | {"MEDMIM_HOME": str(home)})


TRAINING = """
import os, sys, time
from pathlib import Path
from threading import Event
from medmim import ray_nodes
home, told = Path(sys.argv[1]), Event()
with ray_nodes.leaving(home, told.set) as left:
    print("trains", flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
    told.wait()
    time.sleep(1.5)
    assert left.is_set()
(home / "saved").touch()
time.sleep(1.5)
"""


def training(home: Path, end: str = "saves") -> "subprocess.Popen[bytes]":
    """A process that trains until it is told to save."""
    made = subprocess.Popen([sys.executable, "-c", TRAINING, str(home), end], stdout=subprocess.PIPE)
    assert made.stdout is not None and made.stdout.readline() == b"trains\n"
    threading.Thread(target=made.wait, daemon=True).start()  # else it stays a zombie, which counts as alive
    return made


def test_a_pod_waits_until_its_training_has_saved_and_ended(tmp_path: Path) -> None:
    trains = training(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        trains.wait(1.5)  # nobody has told it to go
    assert hook(tmp_path).wait(30) == 0
    assert trains.poll() == 0 and (tmp_path / "saved").exists()


def test_a_pod_without_a_training_or_with_a_killed_one_ends_at_once(tmp_path: Path) -> None:
    with ray_nodes.leaving(tmp_path, lambda: None):
        pass
    assert hook(tmp_path).wait(20) == 0
    (tmp_path / "other").mkdir()
    assert training(tmp_path / "other", "killed").wait(20) == -9
    assert list((tmp_path / "other").rglob("*")), "it has left something"
    assert hook(tmp_path / "other").wait(20) == 0


def test_a_container_that_was_started_again_trains(tmp_path: Path) -> None:
    """Its home is still that of the one that was told to go; what comes to it late is told at once."""
    assert hook(tmp_path, 0).wait(20) == 0
    time.sleep(1)
    with ray_nodes.leaving(tmp_path, lambda: None) as left:
        assert not left.wait(1.5)
    hook(tmp_path).wait(20)
    with ray_nodes.leaving(tmp_path, lambda: None) as left:
        assert left.wait(20)
