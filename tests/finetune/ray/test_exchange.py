"""What workers exchange through the store: checkpoints that are whole or absent, and an error that is told once."""

from pathlib import Path

import pytest

from medmim import store
from medmim.errors import Unavailable
from medmim.finetune.ray import errors, exchange


def checkpoint(root: Path, step: int, text: str = "") -> tuple[Path, Path]:
    """A checkpoint's folder and the losses so far."""
    path, losses = root / "resume" / f"step-{step:08d}", root / "losses.jsonl"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(text or f"weights {step}")
    losses.write_text("".join(f"{i}\n" for i in range(step)))
    return path, losses


@pytest.fixture(params=["folder", "bucket"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")
    return f"{root}/resume/finetune-key"


def test_the_newest_whole_checkpoint_counts_and_two_are_kept(tmp_path: Path, where: str) -> None:
    assert exchange.newest(where) == ""
    for step in (5, 10, 15):
        exchange.keep(where, *checkpoint(tmp_path / "worker", step))
    found = exchange.newest(where)
    assert "/step-00000015/" in found
    assert not list(store.open_store(where).list("step-00000005")) and list(
        store.open_store(where).list("step-00000010")
    )
    assert (store.fetch(store.get(found), tmp_path / "cache") / "losses.jsonl").read_text().count("\n") == 15
    store.open_store(found).delete(store.MANIFEST)  # as a worker that was killed while it wrote
    assert "/step-00000010/" in exchange.newest(where)


def test_a_worker_taken_for_dead_sets_nobody_back(tmp_path: Path, where: str) -> None:
    for step in (10, 15):
        exchange.keep(where, *checkpoint(tmp_path / "new", step))
    exchange.keep(where, *checkpoint(tmp_path / "old", 5))
    assert "/step-00000015/" in exchange.newest(where)
    assert not list(store.open_store(where).list("step-00000005"))


def test_nothing_is_left_of_a_finished_training(tmp_path: Path, where: str) -> None:
    exchange.keep(where, *checkpoint(tmp_path / "worker", 5))
    exchange.give_examples(_prepared(tmp_path / "work"), where)
    exchange.clear(where)
    root = where.removesuffix("/resume/finetune-key")
    assert list(store.open_store(root).list()) == []
    assert not (tmp_path / "store" / "resume").exists()


def test_a_new_driver_finds_the_examples(tmp_path: Path, where: str) -> None:
    exchange.take_examples(tmp_path, where)
    assert list(tmp_path.glob(".examples*")) == []
    exchange.give_examples(_prepared(tmp_path / "work"), where)
    (tmp_path / "other").mkdir()
    exchange.take_examples(tmp_path / "other", where)
    assert {path.name: path.read_text() for path in (tmp_path / "other").iterdir()} == {
        ".examples.safetensors": "tokens",
        "quarantine.jsonl": "rows",
    }


def test_an_error_is_told_once_and_whole(where: str) -> None:
    assert not errors.there(where) and errors.take(where) is None
    errors.write(where, Unavailable("fact", "reason", "fix", ["a", "b"]))
    assert errors.there(where)
    error = errors.take(where)
    assert error is not None
    assert (str(error), error.exit_code) == (str(Unavailable("fact", "reason", "fix", ["a", "b"])), 75)
    assert errors.take(where) is None


def _prepared(folder: Path) -> Path:
    folder.mkdir()
    (folder / ".examples.safetensors").write_text("tokens")
    (folder / "quarantine.jsonl").write_text("rows")
    return folder
