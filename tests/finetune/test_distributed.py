"""Several workers: the GPU of each, one gradient for all, and all of them stop together."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medmim.errors import UserError
from medmim.finetune import checkpoint, loop, validation
from medmim.finetune.distributed import pick_device
from medmim.finetune.engines.engine import WEIGHT
from medmim.finetune.validation import VALIDATION
from medmim.finetune.worker import Job, run_worker
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.finetune import batches, copy_of, losses, make_job, steps_of
from tests.support.two_workers import POISONED, SHORT, UNEVEN, run

Seen = tuple[Path, list[dict[str, Any]]]


@pytest.fixture(scope="session")  # as `family`, after which pytest sorts the tests
def both(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The folder and what each of two workers has seen, by family; see `two_workers.main`."""
    root = tmp_path_factory.mktemp("two")
    for family in FAMILIES:
        (root / family.name).mkdir()
    return root, run(root, {family.name: make_job(root / family.name, family, SHORT, dev=True) for family in FAMILIES})


@pytest.fixture
def two(both: Seen, family: Family) -> Seen:
    """The same of one family."""
    root, seen = both
    return root / family.name, [of_worker[family.name] for of_worker in seen]


@pytest.mark.parametrize(
    ("name", "environ", "gpus", "device"),
    [
        ("auto", {}, 0, "cpu"),
        ("auto", {"LOCAL_RANK": "3"}, 0, "cpu"),
        ("auto", {}, 8, "cuda:0"),
        ("auto", {"LOCAL_RANK": "3"}, 8, "cuda:3"),
        ("cuda", {"LOCAL_RANK": "7"}, 8, "cuda:7"),
        ("cuda:2", {"LOCAL_RANK": "3"}, 8, "cuda:2"),  # as Ray gives it
        ("cpu", {"LOCAL_RANK": "3"}, 8, "cpu"),
    ],
)
def test_local_rank_decides_the_gpu(name: str, environ: dict[str, str], gpus: int, device: str) -> None:
    assert pick_device(name, environ, gpus) == device


@pytest.mark.parametrize("rank", ["2", "-1", "one", ""])
def test_a_local_rank_beyond_the_gpus_is_refused(rank: str) -> None:
    with pytest.raises(UserError, match="this machine has 2 GPUs") as raised:
        pick_device("auto", {"LOCAL_RANK": rank}, 2)
    assert "--nproc-per-node 2" in raised.value.fix


def test_a_worker_takes_its_gpu_before_it_touches_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Taken(Exception):
        pass

    def set_device(device: str) -> None:
        assert not torch.cuda.is_initialized()
        raise Taken(device)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(Taken, match="cuda:1"):
        run_worker(Job(str(tmp_path / "no base"), "", str(tmp_path), Finetune().model_dump_json(), 1))


def test_the_others_wait_an_hour_for_a_checkpoint(two: Seen) -> None:
    assert [worker["timeout"] for worker in two[1]] == [3600, 3600]


def test_gpus_of_different_kinds_are_refused_by_all_workers(both: Seen) -> None:
    for worker in both[1]:
        assert worker["kinds"]["problems"] == ["worker 0: GPU of 0", "worker 1: GPU of 1"]
        assert "accelerator" in worker["kinds"]["fix"]


def test_two_workers_of_torchrun_take_the_steps_of_one_even_when_one_has_no_row(
    two: Seen, lvlm: Lvlm, tmp_path: Path
) -> None:
    one = copy_of(lvlm)
    loop.train(one, batches(one, UNEVEN), 3, UNEVEN, tmp_path)
    pairs = list(zip(steps_of(two[0] / "uneven"), steps_of(tmp_path), strict=True))
    for key in ("loss", "grad_norm", "lr", "tokens"):  # AdamW alone would not notice a gradient of half the size
        assert [of_two[key] for of_two, _ in pairs] == pytest.approx([of_one[key] for _, of_one in pairs], rel=1e-4)


def test_a_whole_training_with_validation_under_torchrun_equals_one_process(
    two: Seen, family: Family, tmp_path: Path
) -> None:
    run_worker(make_job(tmp_path, family, SHORT, dev=True))
    assert losses(two[0] / "out") == pytest.approx(losses(tmp_path / "out"), rel=1e-4)
    found, one = (validation.read(root / "out" / VALIDATION) for root in (two[0], tmp_path))
    assert [v.step for v in found] == [0, 2, 3]
    assert [(v.accuracy, v.items, v.closed) for v in found] == [(v.accuracy, v.items, v.closed) for v in one]
    assert [v.loss for v in found] == pytest.approx([v.loss for v in one], rel=1e-5)


def test_dropout_differs_by_worker(two: Seen) -> None:
    first, second = two[1]
    assert first["dropout 0.0"] == pytest.approx(second["dropout 0.0"], rel=1e-5)
    for a, b in zip(first["dropout 0.5"], second["dropout 0.5"], strict=True):
        assert abs(a - b) > 1e-3 * abs(a)
    assert first["dropout 0.5"][0] != pytest.approx(first["dropout 0.0"][0], rel=1e-3)


@pytest.mark.parametrize("optimizer", POISONED)
def test_all_workers_stop_before_an_infinite_gradient_of_one_is_used_or_saved(two: Seen, optimizer: str) -> None:
    root, seen = two
    for worker in seen:
        assert worker[optimizer]["saved"] == [1, 2]
        fact = worker[optimizer]["error"]["fact"]
        assert "norm of the gradient is" in fact and "step 3" in fact
    newest = checkpoint.newest(root / optimizer / "resume")
    assert newest is not None and newest["step"] == 2
    assert str(newest["path"]) in seen[0][optimizer]["error"]["reason"]
    assert "checkpoint" not in seen[1][optimizer]["error"]["reason"]  # on a cluster it has none
    assert seen[0][optimizer]["weights"] == seen[1][optimizer]["weights"]
    with checkpoint.reader(newest["path"]) as read:
        stored = {
            name: {field: values[:] for field, values in read(name).fields.items()}
            for name in seen[0][optimizer]["trained"]
        }
    sums = {name: float(fields[WEIGHT].double().sum()) for name, fields in stored.items()}
    assert sums == {name: seen[0][optimizer]["weights"][name] for name in stored}
    assert all(values.isfinite().all() for fields in stored.values() for values in fields.values())


def test_no_checkpoint_is_whole_before_all_workers_have_written(both: Seen) -> None:
    """The second worker writes only after both have looked twice."""
    assert [worker["whole"] for worker in both[1]] == [[False, False, True]] * 2


def test_workers_save_by_the_clock_of_the_first_and_stop_when_any_is_told_to(both: Seen) -> None:
    first, second = both[1]
    assert first["pace"] == second["pace"] == {
        "late by its own clock: the second": [False, False],
        "late by its own clock: the first": [True, False],
        "told to stop: the second": [True, True],
    }  # fmt: skip
