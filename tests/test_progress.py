"""Progress is reported to a file of events, to stdout, or on the terminal."""

import contextlib
import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medmim import progress
from medmim.progress import bar, emit, render, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDMIM_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("MEDMIM_STAGE", "bench")
    return tmp_path / "events"


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_go_to_the_file_with_their_stage_and_not_to_the_screen(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say("grüße\nzwei Zeilen")
    emit("step", loss=0.5)
    line, step = read(events)
    assert (line["kind"], line["text"], line["stage"]) == ("line", "grüße\nzwei Zeilen", "bench")
    assert step["loss"] == 0.5
    assert capsys.readouterr() == ("", "")


def test_lines_of_many_processes_do_not_mix(events: Path) -> None:
    code = "import sys; from medmim.progress import say\nfor i in range(50): say(sys.argv[1] * 20000)"
    writers = [subprocess.Popen([sys.executable, "-c", code, letter]) for letter in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = read(events)
    assert len(found) == 150 and {str(event["text"]) for event in found} == {letter * 20000 for letter in "abc"}


def test_a_bar_reports_its_start_and_its_end_once(events: Path) -> None:
    with bar("answers", 1000, "answers") as it:
        for _ in range(1000):
            it.add()
    reported = read(events)
    assert [event["done"] for event in reported][:1] == [0] and [event["done"] for event in reported].count(1000) == 1
    assert len(reported) < 10, "at most twice a second"
    assert reported[-1]["eta"] == 0.0 and reported[-1]["unit"] == "answers"


def test_a_bar_reports_how_far_it_came_when_the_work_fails(events: Path) -> None:
    with pytest.raises(RuntimeError), bar("answers", 10, "answers") as it:
        it.add(3)
        raise RuntimeError
    assert read(events)[-1]["done"] == 3


def test_without_a_terminal_a_bar_is_a_few_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("plain rows", 500, "rows") as it:
        for _ in range(500):
            it.add()
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 2 and lines[0].startswith("plain rows: 0/500 rows") and lines[1].startswith("plain rows: 500/500")
    )
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_a_bar_is_drawn_in_place_and_ends_with_one_line_break() -> None:
    out = Terminal()
    for done in (0, 5, 10):
        progress._draw({"kind": "bar", "label": "x", "done": done, "total": 10, "unit": "u", "rate": 1.0}, out)
    assert out.getvalue().count("\n") == 1 and out.getvalue().endswith("\n") and out.getvalue().count("\r") == 3


def test_events_are_rendered_as_text() -> None:
    event = {
        "kind": "bar",
        "label": "answers",
        "done": 1500,
        "total": 3000,
        "unit": "answers",
        "rate": 120.4,
        "eta": 12.6,
    }
    assert render(event) == "answers: 1,500/3,000 answers (120/s, 13 s left)"
    assert render({"kind": "step", "stage": "s", "time": 1.0, "step": 7, "loss": 1.23456}) == "step 7 loss 1.235"
    rates = [render({"kind": "step", "tokens_per_s": rate}) for rate in (9_418.6, 10_823.4, 1_234_567.0)]
    assert rates == ["tokens_per_s 9,419", "tokens_per_s 10,823", "tokens_per_s 1,234,567"]


def test_events_go_to_stdout_however_it_is_redirected(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDMIM_EVENTS", "-")
    with contextlib.redirect_stdout(io.StringIO()):
        say("here")
        progress.forward({"kind": "line", "text": "of a worker"})
    out, err = capfd.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["here", "of a worker"] and not err


EVENT = {"kind": "line", "time": 1.5, "stage": "finetune", "text": "a {b} (pid=7) \x1b[31mred"}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "(RayTrainWorker pid=41, ip=10.0.0.7) ",
        "(_ask pid=41) ",
        "\x1b[36m(RayTrainWorker pid=41, ip=10.0.0.7)\x1b[0m ",
        "(RayTrainWorker(rank=1) pid=41) ",
    ],
)
def test_an_event_is_found_in_the_line_of_a_log(prefix: str) -> None:
    assert progress.parse(prefix + json.dumps(EVENT) + "\n") == EVENT


@pytest.mark.parametrize(
    "line",
    ["", "\n", "text", "{", '{"kind": 3}', '{"kind": "line"}', "[1]", "(a pid=1) {x}", "{" * 3000, '{"a": "b"} x'],
)
def test_any_other_line_is_no_event(line: str) -> None:
    assert progress.parse(line) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (40_960, "41.0 kB"),
        (5e8, "500.0 MB"),
        (16.08e9, "16.1 GB"),
        (2e12, "2.0 TB"),
        (3e15, "3,000.0 TB"),
    ],
)
def test_a_size_has_the_unit_that_fits(count: float, text: str) -> None:
    assert progress.size(count) == text


def test_what_a_stage_reported_last_is_its_open_bar_its_metrics_and_its_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert progress.last(path, "data") == []
    bar = {"kind": "bar", "label": "images", "unit": "images", "rate": 10.0, "eta": 9.0, "stage": "data", "time": 0}
    events = [{"kind": "line", "text": f"old {'x' * 90}", "stage": "data", "time": 0}] * 2000
    events += [{**bar, "done": 10, "total": 100}, {**bar, "done": 20, "total": 100}]
    events += [
        {"kind": "line", "text": "of another", "stage": "audit", "time": 0},
        {"kind": "bar", "stage": "data", "time": 0},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"kind": "li')
    assert progress.last(path, "data")[0] == "images: 20/100 images (10/s, 9 s left)"
    assert progress.last(path, "audit") == ["of another"]
    path.write_text(json.dumps({**bar, "done": 100, "total": 100}))
    assert progress.last(path, "data") == []


def test_who_listens_hears_the_events_of_its_own_thread_until_the_end_of_the_block(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard: list[str] = []
    with progress.heard(lambda event: heard.append(event["text"])):
        progress.say("here")
        other = threading.Thread(target=progress.say, args=["elsewhere"])
        other.start()
        other.join()
    progress.say("after")
    assert heard == ["here"]
    assert capsys.readouterr().err.split() == ["here", "elsewhere", "after"]
