"""The folder of an export: whole or as it was, nothing of others replaced, a mount point written inside."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim.cli import data as command
from medmim.data.export import folder, records, sums
from medmim.data.export import run as export
from medmim.data.export.run import Choice
from medmim.errors import UserError
from medmim.run.workspace import Workspace
from medmim.store import open_store
from tests.support.exports import lines, publish, sample, tree

_KILLED = """
import os, signal, sys
from pathlib import Path
from medmim.data.export import pictures, records, run
from medmim.run.workspace import workspace
left = [int(sys.argv[4])]
def killing(real):
    def act(*given):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*given)
    return act
pictures.put = killing(pictures.put)
records.write = killing(records.write)
run.folder._put = killing(run.folder._put)
run.export(workspace(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), "ms-swift")
"""


@pytest.mark.parametrize("at", ["3", "8", "9"])  # among the pictures, at the record, at the renaming
def test_killed_it_leaves_what_was_there_and_the_next_one_cleans_up(
    at: str, ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "out"
    export.export(ws, uri, out, "ms-swift")
    whole = tree(out)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(ws.home), uri, str(out), at], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert tree(out) == whole and len(list(out.parent.iterdir())) > 1
    export.export(ws, uri, out, "ms-swift")
    assert tree(out) == whole and [path.name for path in out.parent.iterdir()] == ["out"]
    states = records.states(records.load(open_store(ws.store)))
    assert sorted(states.values()) == ["here", *["replaced"] * (1 + (at == "9"))]


def test_a_full_disk_leaves_nothing(ws: Workspace, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.card, "text", full)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="disk is full"):
        export.export(ws, uri, tmp_path / "a" / "out", "llava")
    assert list((tmp_path / "a").iterdir()) == []


def test_what_is_no_export_is_never_replaced(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "llava")
    (out / folder.PICTURES / "mine.png").touch()
    with pytest.raises(UserError, match=r"added to it, or changed since(?s:.*)it would be lost: pictures/mine\.png"):
        export.export(ws, uri, out, "llava")
    (out / folder.PICTURES / "mine.png").unlink()
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match=r"it would be lost: notes\.txt"):
        export.export(ws, uri, out, "llava")


def test_a_damaged_mark_is_told_as_what_it_is(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "llava")
    (out / folder.MARK).write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"no export of medmim(?s:.*)export\.json is damaged"):
        export.export(ws, uri, out, "llava", replace=True)


def test_an_export_for_another_format_or_of_another_data_set_is_replaced_on_request_only(
    ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift", Choice(limit=2))
    few = publish(ws, tmp_path / "few", [sample(1)])
    for other, form, what in ((uri, "llava", "for another format"), (few, "ms-swift", "of another data set")):
        before = tree(out)
        with pytest.raises(UserError, match=f"holds an export {what}") as error:
            export.export(ws, other, out, form)
        assert "--replace" in error.value.fix and error.value.exit_code == 2 and tree(out) == before
        said = CliRunner().invoke(command.app, ["export", other, str(out), "--to", form, "--home", str(ws.home)])
        assert isinstance(said.exception, UserError) and tree(out) == before
    export.export(ws, uri, out, "ms-swift")
    assert len(lines(out / "train.jsonl")) == 11, "the same data set and format: nothing has to be said"
    words = ["export", uri, str(out), "--to", "trl", "--home", str(ws.home), "--replace"]
    CliRunner().invoke(command.app, words, catch_exceptions=False)
    assert not (out / "train.jsonl").exists() and (out / "data").is_dir()
    (out / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt"):
        export.export(ws, uri, out, "ms-swift", replace=True)


def test_an_edit_of_the_same_size_and_an_empty_folder_are_found(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift")
    picture = next((out / folder.PICTURES).rglob("*.png"))
    for path in (picture, out / "train.jsonl"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + b"x" + whole[-2:])
        assert folder.others(out) == [str(path.relative_to(out))]
        with pytest.raises(UserError, match=f"it would be lost: {path.relative_to(out)}"):
            export.export(ws, uri, out, "ms-swift")
        path.write_bytes(whole)
    (out / "mine").mkdir()
    with pytest.raises(UserError, match="it would be lost: mine/"):
        export.export(ws, uri, out, "ms-swift")
    (out / "mine").rmdir()
    shutil.rmtree(picture.parent)
    picture.parent.mkdir()
    export.export(ws, uri, out, "ms-swift")
    assert picture.exists(), "an empty folder of its own is nobody's"


def test_a_mark_with_sizes_only_is_still_read(ws: Workspace, uri: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift")
    files = [path for path in out.rglob("*") if path.is_file() and path.name != folder.MARK]
    held = [
        hashlib.blake2b(f"{path.stat().st_size} {path.relative_to(out)}".encode(), digest_size=8).hexdigest()
        for path in files
    ]
    said = {key: value for key, value in folder.mark(out).items() if key != "sums"}
    (out / folder.MARK).write_text(json.dumps({**said, "held": " ".join(held)}), encoding="utf-8")
    assert folder.others(out) == []
    (out / "train.jsonl").write_text("mine", encoding="utf-8")
    assert folder.others(out) == ["train.jsonl"]


def test_the_sum_of_a_file_is_that_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_PIECE", 100)
    monkeypatch.setattr(sums, "_READ", 30)
    held = {f"{size}.bin": os.urandom(size) for size in (0, 1, 99, 100, 101, 350)}
    for name, data in held.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "1.bin")
    os.mkfifo(tmp_path / "pipe")
    found = dict(sums.of_files(tmp_path, [*held, "link", "pipe"]))
    assert {name: found[name] for name in held} == {name: sums.of_bytes(data) for name, data in held.items()}
    assert found["link"] == found["pipe"] != found["0.bin"], "neither is followed"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the code takes for a mount point; a real one needs root."""
    place = tmp_path / "disk"
    (place / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == place)
    return place


def test_a_mount_point_is_written_inside_and_holds_nothing_else(ws: Workspace, uri: str, mount: Path) -> None:
    export.export(ws, uri, mount.parent / "out", "ms-swift")
    wanted, before = tree(mount.parent / "out"), mount.stat().st_ino
    for _ in range(2):
        export.export(ws, uri, mount, "ms-swift")
        assert tree(mount) == wanted and mount.stat().st_ino == before
        assert not [path for path in mount.iterdir() if path.name.startswith(".")]
    export.export(ws, uri, mount, "llava", replace=True)
    assert not (mount / "train.jsonl").exists() and (mount / "train.json").exists()
    folder.remove(mount)
    assert [path.name for path in mount.iterdir()] == ["lost+found"]


_KILLED_AT_A_MOUNT = """
import os, signal, sys
from pathlib import Path
from medmim.data.export import run
from medmim.run.workspace import workspace
left, place = int(sys.argv[4]), Path(sys.argv[3])
os.path.ismount = lambda path: Path(path) == place
real = os.replace
def replace(*given):
    global left
    if place in Path(given[0]).parents:
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    return real(*given)
os.replace = replace
run.export(workspace(Path(sys.argv[1])), sys.argv[2], place, "llava", replace=True)
"""


# moves: 6 of what was there, the mark first, then 6, the mark last
@pytest.mark.parametrize(("at", "then"), [(0, "export"), (4, "export"), (8, "export"), (1, "erasure"), (11, "erasure")])
def test_killed_while_it_moves_into_a_mount_point_the_next_command_ends_it(
    at: int, then: str, ws: Workspace, uri: str, mount: Path
) -> None:
    export.export(ws, uri, mount.parent / "out", "llava")
    wanted = tree(mount.parent / "out")
    export.export(ws, uri, mount, "ms-swift")
    given = [sys.executable, "-c", _KILLED_AT_A_MOUNT, str(ws.home), uri, str(mount), str(at)]
    assert subprocess.run(given, check=False).returncode == -signal.SIGKILL
    assert (mount / folder.MARK).exists() == (at == 0), "half of it is never marked as an export"
    if then == "export":
        with pytest.raises(UserError, match="no rows in dev"):
            export.export(
                ws, publish(ws, mount.parent / "few", [sample(1)]), mount, "llava", Choice(("dev",)), replace=True
            )
        assert folder.mark(mount)["for"] == "llava" and folder.others(mount) == []
        export.export(ws, uri, mount, "llava")
    else:
        folder.remove_unfinished(mount)
    assert tree(mount) == wanted and not [path for path in mount.iterdir() if path.name.startswith(".")]


def test_where_a_mount_point_cannot_take_it_what_was_there_is_back(
    ws: Workspace, uri: str, mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.export(ws, uri, mount, "ms-swift")
    before, real = tree(mount), os.replace

    def busy(one: Path, other: Path) -> None:
        if Path(other) == mount / "train.json":
            raise OSError(16, "Device or resource busy")
        real(one, other)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(UserError, match="busy"):
        export.export(ws, uri, mount, "llava", replace=True)
    assert tree(mount) == before and folder.others(mount) == []


def test_a_picture_in_the_place_of_another_and_an_edited_file_are_never_replaced(
    ws: Workspace, uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export.export(ws, uri, out, "ms-swift")
    picture = next((out / folder.PICTURES).rglob("*.png"))
    picture.unlink()
    assert folder.others(out) == [], "what is gone, as after a killed removal, cannot be lost"
    (out / folder.PICTURES / "mine.png").touch()
    with pytest.raises(UserError, match=r"it would be lost: pictures/mine\.png"):
        export.export(ws, uri, out, "ms-swift")
    (out / folder.PICTURES / "mine.png").unlink()
    (out / "train.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"it would be lost: train\.jsonl"):
        export.export(ws, uri, out, "ms-swift")
    (out / "train.jsonl").unlink()
    (out / "linked").symlink_to(tmp_path)
    with pytest.raises(UserError, match="it would be lost: linked"):
        export.export(ws, uri, out, "ms-swift")
    (out / "linked").unlink()
    export.export(ws, uri, out, "ms-swift")
    assert picture.exists() and folder.others(out) == []
