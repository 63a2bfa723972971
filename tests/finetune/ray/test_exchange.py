"""What workers and driver share in the store: checkpoints that are whole or absent, and an error that is read once."""

from pathlib import Path

import pytest

from medmim import store
from medmim.errors import Unavailable
from medmim.finetune.ray import errors, exchange


def checkpoint(root: Path, step: int, text: str = "") -> tuple[Path, Path, int, int]:
    """A checkpoint's folder, the losses so far, and the rank and number of workers that wrote it."""
    path, losses = root / "resume" / f"step-{step:08d}", root / "losses.jsonl"
    path.mkdir(parents=True)
    (path / "rank-00000-of-00001.safetensors").write_text(text or f"weights {step}")
    losses.write_text("".join(f"{i}\n" for i in range(step)))
    return path, losses, 0, 1


@pytest.fixture(params=["folder", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")
    return f"{root}/resume/finetune-key"


def test_the_newest_whole_checkpoint_counts_and_two_are_kept(tmp_path: Path, folder: str) -> None:
    assert exchange.newest_checkpoint(folder) == ""
    for step in (5, 10, 15):
        exchange.upload_checkpoint(folder, *checkpoint(tmp_path / "worker", step))
    found = exchange.newest_checkpoint(folder)
    assert "/step-00000015/" in found
    assert not list(store.open_store(folder).list("step-00000005")) and list(
        store.open_store(folder).list("step-00000010")
    )
    assert (store.fetch(store.get(found), tmp_path / "cache") / "losses.jsonl").read_text().count("\n") == 15
    store.open_store(found).delete(store.MANIFEST)  # as a worker that was killed while it wrote
    assert "/step-00000010/" in exchange.newest_checkpoint(folder)


def test_a_late_upload_of_a_lost_worker_does_not_replace_a_newer_checkpoint(tmp_path: Path, folder: str) -> None:
    for step in (10, 15):
        exchange.upload_checkpoint(folder, *checkpoint(tmp_path / "new", step))
    exchange.upload_checkpoint(folder, *checkpoint(tmp_path / "old", 5))
    assert "/step-00000015/" in exchange.newest_checkpoint(folder)
    assert not list(store.open_store(folder).list("step-00000005"))


def test_nothing_is_left_of_a_finished_training(tmp_path: Path, folder: str) -> None:
    exchange.upload_checkpoint(folder, *checkpoint(tmp_path / "worker", 5))
    exchange.upload_examples(_prepared(tmp_path / "work"), folder)
    exchange.clear(folder)
    root = folder.removesuffix("/resume/finetune-key")
    assert list(store.open_store(root).list()) == []
    assert not (tmp_path / "store" / "resume").exists()


def test_a_new_driver_finds_the_examples(tmp_path: Path, folder: str) -> None:
    exchange.download_examples(tmp_path, folder)
    assert list(tmp_path.glob(".examples*")) == []
    exchange.upload_examples(_prepared(tmp_path / "work"), folder)
    (tmp_path / "other").mkdir()
    exchange.download_examples(tmp_path / "other", folder)
    assert {path.name: path.read_text() for path in (tmp_path / "other").iterdir()} == {
        ".examples.safetensors": "tokens",
        "quarantine.jsonl": "rows",
    }


def test_an_error_is_read_once_and_whole(folder: str) -> None:
    assert not errors.exists(folder) and errors.pop(folder) is None
    errors.write(folder, Unavailable("fact", "reason", "fix", ["a", "b"]))
    assert errors.exists(folder)
    error = errors.pop(folder)
    assert error is not None
    assert (str(error), error.exit_code) == (str(Unavailable("fact", "reason", "fix", ["a", "b"])), 75)
    assert errors.pop(folder) is None


def _prepared(work: Path) -> Path:
    work.mkdir()
    (work / ".examples.safetensors").write_text("tokens")
    (work / "quarantine.jsonl").write_text("rows")
    return work
