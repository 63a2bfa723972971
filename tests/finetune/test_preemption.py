"""SIGTERM during a training: one checkpoint more, then the end; on other machines by a word in the shared folder."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.finetune import checkpoint, preemption
from medmim.finetune.pace import Preempted
from medmim.finetune.record import LOSSES
from medmim.finetune.worker import run_worker
from medmim.lvlm.family import Family
from tests.support.finetune import SETTINGS, make_job

LONG = SETTINGS.model_copy(update={"steps": 6, "save_every": "2h"})


class Outside(Exception):
    """What SIGTERM does outside of a training."""


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> Any:
    def raise_it(*_: object) -> None:
        raise Outside

    before = signal.signal(signal.SIGTERM, raise_it)
    yield raise_it
    assert signal.signal(signal.SIGTERM, before) is raise_it, "the handler of the command is back"


def test_sigterm_saves_after_the_step_and_the_same_job_goes_on_bit_for_bit(family: Family, tmp_path: Path) -> None:
    run_worker(make_job(tmp_path, family, LONG), "cpu")
    (tmp_path / "out").rename(tmp_path / "whole")
    job = make_job(tmp_path, family, LONG)

    def terminate(line: Mapping[str, Any]) -> None:
        if line["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Preempted, match="after step 2 of 6") as caught:
        run_worker(job, "cpu", on_step=terminate)
    assert caught.value.exit_code == 75 and "the same command" in caught.value.fix
    newest = checkpoint.newest(tmp_path / "out" / "resume")
    assert newest is not None and newest["step"] == 2
    assert run_worker(job, "cpu").resumed_from == 2
    assert (tmp_path / "out" / LOSSES).read_bytes() == (tmp_path / "whole" / LOSSES).read_bytes()


def test_a_later_sigterm_does_what_it_does_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    acts: list[int] = []
    with preemption.on_sigterm(lambda: acts.append(1)) as came:
        assert not came.is_set()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # to the process and to its group
        assert came.is_set() and acts == [1]
        now[0] += 3
        with pytest.raises(Outside):
            signal.raise_signal(signal.SIGTERM)


def test_a_forked_process_ends_as_any_other() -> None:
    """Also when it is the one that has just reached the whole group."""
    with preemption.on_sigterm(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGTERM)
            except Outside:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_another_thread_than_the_main_one_and_nohup_change_nothing() -> None:
    def other() -> None:
        with preemption.on_sigterm(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[Any] = []
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    ours = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with preemption.on_sigterm(lambda: None):
        seen.append(signal.getsignal(signal.SIGTERM))
    signal.signal(signal.SIGTERM, ours)
    assert seen == [ours, signal.SIG_IGN]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_the_word_reaches_the_workers_through_the_shared_folder_and_is_forgotten(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = str(tmp_path / "store") if kind == "folder" else f"{request.getfixturevalue('bucket')}/resume/key"
    with preemption.watching(folder) as stop:
        assert not stop.is_set()
        preemption.ask(folder)
        assert stop.wait(30)
    preemption.forget(folder)
    assert not store.open_store(folder).exists(preemption.FILE)
