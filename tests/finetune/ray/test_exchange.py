"""What workers and driver share in the store: checkpoints that are whole or absent, and an error that is read once."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from medmim import store
from medmim.errors import Unavailable
from medmim.finetune.checkpoint import STATE
from medmim.finetune.ray import errors, exchange
from medmim.finetune.validation import VALIDATION
from medmim.store.folder import FolderStore
from tests.support.killing import killed_at


def write(root: Path, step: int, rank: int = 0, world: int = 1) -> tuple[int, Path, Path]:
    """A worker's part of a checkpoint: step, folder and the losses so far, as for `Uploads.begin`."""
    path, losses = root / "resume" / f"step-{step:08d}", root / "losses.jsonl"
    path.mkdir(parents=True)
    (path / f"rank-{rank:05d}-of-{world:05d}.safetensors").write_text(f"weights {step} of {rank}")
    if rank == 0:
        (path / STATE).write_text("{}")
        losses.write_text("".join(f"{i}\n" for i in range(step)))
    return step, path, losses


def upload(
    folder: str, root: Path, *steps: int, group: str = "a", keep: int = 2, protected: Sequence[int] = ()
) -> None:
    """The checkpoints of one worker alone."""
    with exchange.Uploads(folder, group, 0, 1, keep, protected) as uploads:
        for step in steps:
            uploads.begin(*write(root, step))
            uploads.finish()


def steps_in(folder: str) -> list[str]:
    return sorted({key.partition("/")[0] for key in store.open_store(folder).list("step-")})


@pytest.fixture(params=["folder", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")
    return f"{root}/resume/finetune-key"


def test_the_newest_whole_checkpoint_counts_and_two_are_kept(tmp_path: Path, folder: str) -> None:
    assert exchange.newest_checkpoint(folder) == ""
    upload(folder, tmp_path / "worker", 5, 10, 15, keep=1)  # one more than that: a new group may be fetching it
    found = exchange.newest_checkpoint(folder)
    assert "/step-00000015/" in found
    assert steps_in(folder) == ["step-00000010", "step-00000015"]
    assert (store.fetch(store.get(found), tmp_path / "cache") / "losses.jsonl").read_text().count("\n") == 15
    store.open_store(found).write("rank-00000-of-00001.safetensors", b"cut")
    assert "/step-00000010/" in exchange.newest_checkpoint(folder)
    store.open_store(found).delete(store.MANIFEST)  # as a worker that was killed while it wrote
    assert "/step-00000010/" in exchange.newest_checkpoint(folder)


def test_the_newest_k_and_a_protected_step_stay(tmp_path: Path, folder: str) -> None:
    upload(folder, tmp_path / "worker", *range(1, 7), keep=3, protected=[2])
    assert steps_in(folder) == [f"step-0000000{step}" for step in (2, 4, 5, 6)]


def test_validations_travel_with_a_checkpoint_and_that_of_a_step_is_fetched_whole(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    with ExitStack() as undo:
        workers = [undo.enter_context(exchange.Uploads(folder, "a", rank, 2, 2, {5})) for rank in range(2)]
        for step in (5, 10, 15):
            for rank, worker in enumerate(workers):
                parts = write(tmp_path / str(rank), step, rank, 2)
                parts[2].with_name(VALIDATION).write_text(f"up to {step}")
                worker.begin(*parts)
            for worker in workers:
                worker.finish()
    found = exchange.fetch_checkpoint(folder, 5)
    assert {path.read_text() for path in found.glob("rank-*")} == {"weights 5 of 0", "weights 5 of 1"}
    assert (found / VALIDATION).read_text() == "up to 5"
    with pytest.raises(FileNotFoundError, match="step 7"):
        exchange.fetch_checkpoint(folder, 7)


def test_the_first_worker_makes_a_checkpoint_of_the_parts_of_all(tmp_path: Path, folder: str) -> None:
    """Before the last part is there, there is none, and training goes on meanwhile."""
    with ExitStack() as undo:
        first, second, third = (undo.enter_context(exchange.Uploads(folder, "a", rank, 3, 2)) for rank in range(3))
        first.begin(*write(tmp_path / "0", 5, 0, 3))
        second.begin(*write(tmp_path / "1", 5, 1, 3))
        second.finish()
        (tmp_path / "0" / "losses.jsonl").write_text("of later steps")
        assert not first.last.done() and exchange.newest_checkpoint(folder) == ""
        third.begin(*write(tmp_path / "2", 5, 2, 3))
        third.finish()
        first.finish()
        found = exchange.newest_checkpoint(folder)
    whole = store.fetch(store.get(found), tmp_path / "cache")
    parts = {path.name: path.read_text() for path in whole.glob("rank-*")}
    assert parts == {f"rank-0000{rank}-of-00003.safetensors": f"weights 5 of {rank}" for rank in range(3)}
    assert (whole / "losses.jsonl").read_text().count("\n") == 5
    assert not list((tmp_path / "1" / "resume").iterdir()), "the loop does not remove what only the first worker knows"


def test_the_next_save_waits_for_the_one_before_and_says_so(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    with exchange.Uploads(folder, "a", 1, 2, 2) as other, exchange.Uploads(folder, "a", 0, 2, 2) as uploads:
        uploads.begin(*write(tmp_path / "0", 5, 0, 2))
        with ThreadPoolExecutor(1) as training:
            next_save = training.submit(uploads.begin, *write(tmp_path / "next", 10, 0, 2))
            while "waiting: the checkpoint of step 5 is still being uploaded" not in capfd.readouterr().err:
                assert not next_save.done()
            other.begin(*write(tmp_path / "1", 5, 1, 2))
            next_save.result()
    assert "/step-00000005/" in exchange.newest_checkpoint(folder)


def test_an_upload_that_fails_ends_the_training_at_the_next_save(tmp_path: Path, folder: str) -> None:
    def fail(*_: object) -> None:
        raise Unavailable("the store does not answer")

    with (
        pytest.raises(Unavailable, match="does not answer"),
        exchange.Uploads(folder, "a", 0, 1, 2) as uploads,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(type(store.open_store(folder)), "upload", fail)
        uploads.begin(*write(tmp_path, 5))
        uploads.begin(*write(tmp_path, 10))


def test_a_late_upload_of_a_lost_group_does_not_replace_a_newer_checkpoint(tmp_path: Path, folder: str) -> None:
    upload(folder, tmp_path / "new", 10, 15, group="b")
    upload(folder, tmp_path / "old", 5, group="a")
    assert "/step-00000015/" in exchange.newest_checkpoint(folder)
    assert steps_in(folder) == ["step-00000010", "step-00000015"]


def test_what_a_killed_group_left_of_a_save_is_removed_when_the_next_one_gets_there(
    tmp_path: Path, folder: str
) -> None:
    """The end of training waits for no other worker: here one of two was killed."""
    with exchange.Uploads(folder, "a", 0, 2, 2) as first:
        first.begin(*write(tmp_path / "killed", 10, 0, 2))
    upload(folder, tmp_path / "next", 5, group="b")
    assert steps_in(folder) == ["step-00000005", "step-00000010"]
    assert "/step-00000005/" in exchange.newest_checkpoint(folder)
    upload(folder, tmp_path / "next", 10, group="b")
    assert {key.split("/")[1] for key in store.open_store(folder).list("step-")} == {"b"}


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_at_any_call_of_the_store_there_is_a_whole_checkpoint_or_the_one_before(
    rank: int, tmp_path: Path
) -> None:
    """A worker of two dies at each call of its save in turn; the other one has uploaded, or goes on waiting."""
    calls = ("upload", "create_from", "write", "create", "read", "read_unchanged", "list", "delete")
    for number in count():
        root = tmp_path / str(number)
        folder = str(root / "store")
        upload(folder, root / "before", 5)
        uploads = [exchange.Uploads(folder, "b", one, 2, 2) for one in range(2)]
        parts = [write(root / str(one), 10, one, 2) for one in range(2)]

        shutil.copyfile(parts[0][2], parts[0][1] / "losses.jsonl")  # as `begin` does
        uploads[0].ended.set()  # so that the first worker waits for nobody
        save = [partial(uploads[one]._upload, parts[one][1]) for one in range(2)]
        if rank == 0:
            save[1]()
        killed = killed_at(number, FolderStore, calls, save[rank])
        if rank == 1:
            save[0]()
        found = exchange.newest_checkpoint(folder)
        artifact = store.get(found)
        assert store.verify(artifact) == []
        expected = 2 if "/step-00000010/" in found else 1
        assert len([name for name in artifact.files if name.startswith("rank-")]) == expected
        if not killed:
            break
    assert number >= 2 and "/step-00000010/" in found


def test_nothing_is_left_of_a_finished_training(tmp_path: Path, folder: str) -> None:
    upload(folder, tmp_path / "worker", 5)
    with exchange.Uploads(folder, "b", 1, 2, 2) as second:
        second.begin(*write(tmp_path / "second", 10, 1, 2))
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
        ".dev.safetensors": "items",
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
    (work / ".dev.safetensors").write_text("items")
    (work / "quarantine.jsonl").write_text("rows")
    return work
