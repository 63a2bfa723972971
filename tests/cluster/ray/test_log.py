"""A job's log is shown once and whole, also when a node or the API server does not answer for a while."""

import time
from typing import Any

import pytest

from medmim.cluster.ray.log import Log


class FakeKube:
    """The API's side of a log: whole seconds back from now, nothing while the node is down."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []
        self.down = False

    def pods(self) -> list[dict[str, Any]]:
        return [{"metadata": {"name": "submitter"}, "spec": {"containers": [{"name": "submit"}]}}]

    def log(self, pod: str, container: str, since: int | None) -> str:
        if self.down:
            return ""
        begin = 0.0 if since is None else time.monotonic() - since
        return "".join(f"{stamp(when)} {text}\n" for when, text in self.lines if when >= begin)


def stamp(seconds: float) -> str:
    """As Kubernetes writes it: the zeros at the fraction's end are left out."""
    return f"2026-11-25T12:{int(seconds) // 60 % 60:02d}:{seconds % 60:09.6f}".rstrip("0").rstrip(".") + "Z"


def test_lines_come_once_and_none_is_lost_while_the_node_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [60.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    kube = FakeKube()
    log = Log(kube, kube.pods)  # type: ignore[arg-type]
    shown: list[str] = []
    for second in range(200):
        clock[0] += 1
        kube.down = 50 <= second < 110
        kube.lines.append((clock[0] - 0.5, f"line {second}"))
        shown += log.new_lines()
    assert shown == [f"line {second}" for second in range(200)]


def test_lines_of_one_moment_are_all_shown_once_also_where_they_were_read_in_two_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CRI-O gives lines that were written at once the same time."""
    clock = [60.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    kube = FakeKube()
    log = Log(kube, kube.pods)  # type: ignore[arg-type]
    shown: list[str] = []
    written: list[str] = []
    for second in range(40):
        clock[0] += 1
        for number in range(second % 4):
            written.append(f"line {second}.{number}")
            kube.lines.append((clock[0], written[-1]))
            if number != 1:
                shown += log.new_lines()
    assert shown == written and log.lines["submitter"] == len(written)
