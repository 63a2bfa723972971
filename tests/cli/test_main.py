"""The process of a command: each way out has its exit code and one message, never a traceback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from medmim.cli.app import app
from medmim.cli.main import main
from medmim.errors import Refused
from medmim.recipe import loading
from tests.support.med_mim_files import film, row
from tests.support.rust import panic

Ended = tuple[int, str, str]  # exit code, stdout, stderr
Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `medmim recipe list`, or what is typed, in this process; a function instead of its own code."""

    def call(broken: Callable[[], object], *typed: str) -> Ended:
        monkeypatch.setattr(loading, "shipped", broken)
        monkeypatch.setattr(sys, "argv", ["medmim", *(typed or ("recipe", "list"))])
        monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        KeyError("patient"),
        AssertionError(),
        EOFError("the end of input"),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"),
        RuntimeError("ended"),
        ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unforeseen_exception_is_medmims_own_fault_with_its_traceback_in_a_file(
    error: Exception, run: Run, tmp_path: Path
) -> None:
    code, out, shown = run(raising(error))
    (log,) = (tmp_path / "home" / "errors").iterdir()
    assert shown.splitlines() == [
        f"error: a fault of medmim itself: {type(error).__name__}" + (f": {error}" if str(error) else ""),
        f"reason: its traceback is in {log}",
        "fix: report it, with that traceback; the same command on the same input would fail again",
    ]
    assert (code, out) == (70, "")
    text = log.read_text("utf-8")
    assert "Traceback (most recent call last)" in text and "in fail" in text and type(error).__name__ in text


def test_a_panic_of_a_rust_library_is_no_traceback_on_the_screen(run: Run, tmp_path: Path) -> None:
    code, out, shown = run(panic)
    (log,) = (tmp_path / "home" / "errors").iterdir()
    assert (code, out) == (70, "") and "a fault of medmim itself: PanicException: Precompiled" in shown
    assert str(log) in shown and "Traceback" not in shown and "Traceback" in log.read_text("utf-8")


def test_where_no_log_can_be_written_the_place_in_the_code_is_printed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    code, _, shown = run(raising(KeyError("x")))
    assert code == 70 and "could not be written to a log" in shown and " in fail" in shown and "Traceback" not in shown


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume\n"),
        (MemoryError(), 75, "error: Cannot allocate memory while running this command\n"),
        (FileNotFoundError(2, "x", "/x"), 2, "error: No such file or directory while running this command: /x\n"),
        (BrokenPipeError(32, "of a socket"), 75, "error: Broken pipe while running this command\n"),
        (Refused("too few patients"), 1, "error: too few patients\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_other_ways_out_keep_their_exit_code(
    error: BaseException, code: int, message: str, run: Run, tmp_path: Path
) -> None:
    ended, out, shown = run(raising(error))
    assert (ended, out) == (code, "") and shown.startswith(message) and bool(message) == bool(shown)
    assert not list(tmp_path.iterdir())


def test_a_command_of_its_own_process_reports_a_fault_in_the_home_that_was_given(tmp_path: Path) -> None:
    code = "from medmim.data import build\nfrom medmim.cli.main import main\ndef fail(*_): raise KeyError('x')\n"
    given = tmp_path / "a home"
    typed = ["data", "build", "demo", "--home", str(given)]
    command = [sys.executable, "-c", f"{code}build.run = fail\nmain()", *typed]
    environment = {**os.environ, "MEDMIM_HOME": str(tmp_path / "other")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, encoding="utf-8")
    assert done.returncode == 70 and f"its traceback is in {given}/errors/" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a home"]


@pytest.mark.parametrize("typed", ["recipe list", "recipe list --json", "--help"])  # by rich, by typer, by its help
def test_a_reader_that_has_gone_ends_a_command_as_sigpipe_would(typed: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medmim.cli.main", *typed.split()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert (child.wait(60), child.stderr.read()) == (141, b"")


@pytest.mark.parametrize(("redirected", "code"), [(">&- 2>&-", 0), ("> /dev/full", 2)])
def test_output_that_is_closed_or_full(redirected: str, code: int, tmp_path: Path) -> None:
    command = f"{sys.executable} -m medmim.cli.main recipe list --json {redirected}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == code and ("the disk is full" in done.stderr) == bool(code)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


ROW = row([film(1, 1), film(1, 2)], "Größer? 更大? ✓", "更大", ("größer", "更大", "same"))


@pytest.fixture
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a shell in ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locales")
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder / "de_DE.ISO-8859-1"], capture_output=True
    )
    if not made or not (folder / "de_DE.ISO-8859-1").exists():
        pytest.skip("no localedef that knows de_DE")
    return {"LOCPATH": str(folder), "LC_ALL": "de_DE.ISO-8859-1"}


def test_a_locale_that_is_not_utf8_changes_the_screen_and_nothing_else(latin1: dict[str, str], tmp_path: Path) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    root, home = tmp_path / "größe ✓", tmp_path / "hömé✓"
    root.mkdir()
    (root / "Med_MIM_benchmark_Held_in_Comparison.json").write_text(json.dumps([ROW], ensure_ascii=False), "utf-8")

    def call(shell: dict[str, str], *typed: str | Path) -> tuple[bytes, bytes]:
        command = [sys.executable, "-m", "medmim.cli.main", "data", *typed, "--home", home]
        done = subprocess.run(command, env=others | shell, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    build = ("build", "published", "--json", "--rows-only", "--set", f"data.root={root}")
    plain_c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    made = json.loads(call(plain_c, *build)[0])
    again, resolved = call(latin1, *build)
    assert json.loads(again)["digest"] == made["digest"]
    assert "hömé\\u2713" in resolved.decode("latin-1")
    shown, _ = call(latin1, "show", made["uri"])  # the bytes of its path are typed as UTF-8
    assert "Größer? \\u66f4\\u5927? \\u2713" in shown.decode("latin-1")
    assert {path.name for path in tmp_path.iterdir()} == {root.name, home.name}
    typed = [sys.executable, "-m", "medmim.cli.main", "data", "show", b"no/s\xf6", "--home", home]
    done = subprocess.run(typed, env=others | latin1, capture_output=True, timeout=60)
    assert "there is no artifact at no/sö" in done.stderr.decode("latin-1")


def test_text_that_utf8_cannot_hold_is_printed_as_its_number(run: Run) -> None:
    code, _, shown = run(raising(Refused("the file a\udcff.png")))
    assert (code, shown) == (1, "error: the file a\\udcff.png\n")


@pytest.mark.parametrize(
    ("words", "default"),
    [
        (["bench", "run"], "[default: 32]"),
        (["bench", "run"], "[default: the newest one of the store]"),
        (["zoo", "check"], "[default: MEDMIM_HOME or .medmim]"),
        (["runs", "list"], "[default: KFP_ENDPOINT, KF_PIPELINES_ENDPOINT]"),
    ],
)
def test_help_shows_the_defaults_that_a_text_tells(words: list[str], default: str) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).stdout
    assert default in " ".join(shown.replace("│", " ").split())
