"""A pod that is preempted: its hook tells the trainings in it, and waits for them and for nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest

from medmim import ray_nodes


def hook(home: Path, seconds: int = 60) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sh", "-c", ray_nodes.pre_stop(seconds)], env=os.environ | {"MEDMIM_HOME": str(home)})


def test_a_pod_waits_until_its_training_has_saved(tmp_path: Path) -> None:
    told = Event()
    with ray_nodes.leaving(tmp_path, told.set) as left:
        assert not left.wait(1.5), "nobody has told it to go"
        pod = hook(tmp_path)
        assert told.wait(20) and left.is_set()
        with pytest.raises(subprocess.TimeoutExpired):
            pod.wait(1.5)
    assert pod.wait(20) == 0


def test_a_pod_without_a_training_or_with_a_killed_one_ends_at_once(tmp_path: Path) -> None:
    assert hook(tmp_path).wait(20) == 0
    (tmp_path / "other").mkdir()
    code = "import os, sys; from pathlib import Path; from medmim import ray_nodes\n"
    code += "with ray_nodes.leaving(Path(sys.argv[1]), lambda: None): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")]).returncode == -9
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
