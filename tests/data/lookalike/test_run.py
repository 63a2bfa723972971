"""`medmim data lookalike`: all sources in one folder that appears whole or not at all, equal bytes for equal seeds."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medmim.cli.app import app
from medmim.data.lookalike import embed, llava_med, ms_cxr_t, odir, run, vqa_rad
from medmim.errors import UserError

SOURCES = {"embed", "lumiere", "ms-cxr-t", "llava-med", "odir", "vqa-rad", "medframeqa"}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """By a process of its own, and another order of its sets."""
    folder = tmp_path_factory.mktemp("made") / "deep" / "raw"
    command = [sys.executable, "-m", "medmim.cli.main", "data", "lookalike", str(folder), "--patients", "1", "--json"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "1"}, timeout=250
    )
    assert ended.returncode == 0, ended.stderr
    assert "look-alikes: 7/7 patients" in ended.stderr
    return folder, json.loads(ended.stdout)


def test_a_folder_of_each_source_and_nothing_else(made: tuple[Path, dict[str, object]]) -> None:
    folder, told = made
    assert {path.name for path in folder.iterdir()} == SOURCES
    assert [path.name for path in folder.parent.iterdir()] == ["raw"], "the temporary folder is gone"
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777
    assert set(told) == {"folder", "sources"} and set(told["sources"]) == SOURCES  # type: ignore[call-overload]
    for facts in told["sources"].values():  # type: ignore[attr-defined]
        assert set(facts) == {"source", "patients", "rows", "images", "dirty"} and facts["patients"] == 1


def test_equal_seeds_give_equal_bytes(made: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    run.write(tmp_path / "again", 1, 0)
    assert digests(tmp_path / "again") == digests(made[0])


@pytest.mark.parametrize("source", [embed, llava_med, ms_cxr_t, odir, vqa_rad])
def test_another_seed_gives_other_patients_and_more_patients_change_none(source: object, tmp_path: Path) -> None:
    for name, patients, seed in (("few", 2, 0), ("many", 5, 0), ("other", 2, 1)):
        source.write_source(tmp_path / name, patients, seed, lambda: None)  # type: ignore[attr-defined]
    few, many, other = ({*digests(tmp_path / name).items()} for name in ("few", "many", "other"))
    pictures = {(path, digest) for path, digest in few if path.endswith((".dcm", ".jpg"))}
    assert pictures and pictures < many and not pictures & other


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SOURCES", {"odir": odir.write_source})
    (tmp_path / "mine.txt").write_text("here")
    refused = CliRunner().invoke(app, ["data", "lookalike", str(tmp_path)])
    assert isinstance(refused.exception, UserError) and "mine.txt" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="is no folder"):
        run.write(tmp_path / "mine.txt", 1, 0)
    (tmp_path / "empty").mkdir()
    shown = CliRunner().invoke(app, ["data", "lookalike", str(tmp_path / "empty"), "--patients", "3"])
    assert shown.exit_code == 0 and {path.name for path in (tmp_path / "empty").iterdir()} == {"odir"}
    assert [word for word in ("odir", "3", "lens dust 1") if word not in shown.stdout] == []


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, patients: int, seed: int, done: object) -> Iterator[None]:
        (folder / "deep").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_SOURCES", {"odir": odir.write_source, "broken": broken})
    with pytest.raises(KeyboardInterrupt):
        run.write(tmp_path / "raw", 1, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_folder_of_the_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medmim.cli.main", "data", "lookalike", str(tmp_path / "raw"), "--patients", "400"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            if any(tmp_path.glob(".medmim-lookalike-*/raw/embed/images/cohort_1/*")):
                break
            time.sleep(0.1)
        else:
            pytest.fail("it wrote nothing")
        assert not (tmp_path / "raw").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "raw").exists()


def test_no_reader_shares_code_with_what_it_is_tested_on() -> None:
    """Else both could be wrong in the same way: only the phantom painter and the seeds are common."""
    data = Path(run.__file__).parents[1]
    imported = re.compile(r"^\s*(?:from|import) (medmim\.data\.[\w.]+)", re.MULTILINE)
    common = {"medmim.data.lookalike", "medmim.data.seeds", "medmim.data.sources.phantom_draw"}
    for path in data.rglob("*.py"):
        mine = path.parent.name == "lookalike"
        for module in imported.findall(path.read_text("utf-8")):
            if mine:
                assert module in common or module.startswith("medmim.data.lookalike."), f"{path.name}: {module}"
            else:
                assert not module.startswith("medmim.data.lookalike"), f"{path.name}: {module}"
