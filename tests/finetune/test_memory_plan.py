"""The memory plan: what it counts and predicts beside what a training allocates, and what it refuses."""

import copy
import itertools
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medmim.errors import BAD_INPUT, TRY_AGAIN, Unavailable, UserError
from medmim.finetune import attention, checkpoint, loop, memory_plan, memory_trace, trainable, worker
from medmim.finetune.batch import Batch
from medmim.finetune.engines.plain import Plain
from medmim.finetune.examples import Examples
from medmim.finetune.memory_plan import GIB, Need, Part, Room
from medmim.finetune.memory_trace import Pass
from medmim.finetune.worker import EXAMPLES
from medmim.lvlm import memory
from medmim.lvlm.family import Family
from medmim.lvlm.mantis import MANTIS
from medmim.recipe.schema import Finetune, Lora
from tests.support.finetune import SETTINGS, batches, make_job, make_lvlm

WAYS = {
    "plain": Finetune(max_tokens=1000, freeze_vision=False),
    "checkpointing": Finetune(max_tokens=1000, activation_checkpointing=True),
    "lora": Finetune(max_tokens=1000, lora=Lora(rank=8, alpha=16)),
    "muon": Finetune(max_tokens=1000, optimizer="muon", freeze_vision=False),
}


@pytest.fixture(scope="module")
def config() -> Any:
    """Of a tiny model."""
    return make_lvlm(MANTIS, layers=4).model.config


def _pass_of(batch: Batch) -> Pass:
    (row,) = batch.rows
    images = 0 if row.pixel_values is None else len(row.pixel_values)
    return Pass(row.lengths, images, len(row.targets), row.packed)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_planned_is_what_a_training_allocates(family: Family, way: str) -> None:
    """The bytes of all storages that torch really makes, of a model with more layers than the plan tries."""
    settings = WAYS[way].model_copy(update={"batch_size": 12})
    mine = make_lvlm(family, layers=4)
    config = mine.model.config
    trainable.prepare(mine.model, settings)
    engine = Plain(mine.model, settings, bf16=False)
    batch = batches(mine, settings)(0)
    mine.model.train()
    with attention.packed(mine.model):
        engine.gradients(batch)
        kept = [*mine.model.parameters(), *mine.model.buffers(), *(p.grad for p in engine.params if p.grad is not None)]
        (row,) = batch.rows
        kept += [row.input_ids, row.predicts, row.targets, *([] if row.pixel_values is None else [row.pixel_values])]
        with memory_trace._watching(kept) as live:
            engine.gradients(batch)
    predicted = memory_trace.of_pass(config, settings, _pass_of(batch), bf16=False, flash=False)
    assert predicted == pytest.approx(live.peak, rel=0.15)
    counted = memory_plan.sizes(config, settings, bf16=False)
    assert counted.trained == sum(p.numel() for p in engine.params)
    used = sum(p.grad.nbytes for p in engine.params if p.grad is not None)
    assert 0.85 * 4 * counted.trained < used <= 4 * counted.trained
    engine.update(1.0)
    states = [value for one in engine.optimizers for state in one.state.values() for value in state.values()]
    assert 0.85 * counted.state < sum(value.nbytes for value in states if value.ndim) <= counted.state
    whole = {id(p): p.nbytes for p in mine.model.parameters()}
    assert counted.weights == sum(whole.values())
    assert memory_plan._bound(config, _pass_of(batch)) > live.peak


def test_a_model_with_more_layers_grows_as_its_short_ones(config: Any) -> None:
    row = Pass((100, 100), 4, 40)
    whole = memory_trace._phases(config, WAYS["plain"], row, bf16=True, flash=True)
    assert memory_trace.of_pass(config, WAYS["plain"], row, bf16=True, flash=True) == pytest.approx(
        max(whole), rel=0.01
    )


def test_a_row_in_bf16_keeps_less_and_checkpointing_less_still(config: Any) -> None:
    row = Pass((250, 250), 4, 40)
    fp32, bf16 = (memory_trace.of_pass(config, WAYS["plain"], row, bf16, flash=bf16) for bf16 in (False, True))
    again = memory_trace.of_pass(config, WAYS["checkpointing"], row, bf16=True, flash=True)
    assert again < bf16 < fp32


def test_of_what_is_held_for_a_moment_only_the_largest_counts() -> None:
    parts = (Part("a", 4, 1), Part("b", 2, 9, passing=True), Part("c", 3, 0, passing=True))
    assert (Need(parts).device, Need(parts).host) == (7, 10)


def test_what_only_the_first_worker_holds_is_on_its_machine_once() -> None:
    needed = Need((Part("a", 0, 3), Part("b", 0, 8, passing=True), Part("c", 0, 10, passing=True, first=True)))
    assert [needed.host_of(workers) for workers in (1, 2)] == [3 + 10, 2 * 3 + 2 * 8]
    room = Room(None, 22, "the node")
    assert memory_plan.lacking(needed, room, gpu=True, sharing=2) is None
    assert memory_plan.lacking(needed, replace(room, host=21), gpu=True, sharing=2)


@pytest.mark.parametrize("way", ["plain", "lora", "muon"])
def test_the_copy_that_is_written_as_a_checkpoint_is_planned(config: Any, way: str) -> None:
    """Of a model of the same shape, after its first step."""
    lvlm = make_lvlm(MANTIS, layers=4)
    trainable.prepare(lvlm.model, WAYS[way])
    engine = Plain(lvlm.model, WAYS[way], bf16=False)
    with attention.packed(lvlm.model):
        engine.gradients(batches(lvlm, WAYS[way])(0))
    engine.update(1.0)
    copies = [value for one in checkpoint.copied(engine.fragments()) for value in one.fields.values()]
    needed = memory_plan.need(config, WAYS[way], 1, ROW, gpu=False, bf16=False, quick=True)
    (planned,) = (part for part in needed.parts if part.name == "writing a checkpoint")
    assert not planned.passing and planned.host == pytest.approx(sum(value.nbytes for value in copies), rel=0.15)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_no_worker_on_a_gpu_needs_host_memory_for_a_whole_base(config: Any, stage: int) -> None:
    """A base whose largest weight is a tenth of all, as in a published model of 8B its embeddings are."""
    config = copy.deepcopy(config)
    config.text_config.num_hidden_layers = 40
    settings = Finetune().model_copy(update={"zero": stage})
    of = memory_plan.sizes(config, settings, bf16=True)
    needed = memory_plan.need(config, settings, 4, ROW, gpu=True, bf16=True, quick=True)
    (loading,) = (part for part in needed.parts if part.name == "loading the base")
    assert of.largest <= loading.host < of.weights / 2 and loading.first is (stage == 3)


@pytest.mark.parametrize("stage", [2, 3])
def test_more_workers_hold_less_each_of_what_a_stage_splits(config: Any, stage: int) -> None:
    settings = Finetune().model_copy(update={"zero": stage})
    sizes = memory_plan.sizes(config, settings, bf16=False)
    of = [
        {part.name: part.device for part in memory_plan._held(sizes, settings, workers, bf16=False)}
        for workers in (1, 4)
    ]
    split = ["gradients", "optimizer"] + ["weights, frozen"] * (stage == 3)
    for name in split:
        assert of[1][name] == pytest.approx(of[0][name] / 4, rel=0.01)
    assert (of[1]["weights, frozen"] == of[0]["weights, frozen"]) is (stage == 2)


def test_zero_3_gathers_a_frozen_base_of_bf16_in_half_the_bytes() -> None:
    numbers, settings = 10**10, Finetune(zero=3, lora=Lora())
    found = []
    for width in (2, 4):
        size = width * numbers
        sizes = memory_plan.Sizes(size, size, 0, 0, 0, width * 10**6, 0, 0)
        parts = {p.name: p.device for p in memory_plan._held(sizes, settings, 8, bf16=width == 2)}
        found.append((parts["gathered weights"], parts["exchange of ZeRO"]))
    assert [2 * size for size in found[0]] == list(found[1])


ROW = Pass((500, 500), 4, 40)


def _check(config: Any, settings: Finetune, room: Room) -> None:
    memory_plan.check(config, settings, 1, ROW, room, gpu=True, bf16=True)


def test_what_fits_is_not_refused_and_one_byte_less_is(config: Any) -> None:
    settings = WAYS["plain"]
    needed = memory_plan.need(config, settings, 1, ROW, gpu=True, bf16=True)
    _check(config, settings, Room(needed.device, needed.host, "the GPU"))
    for room in (Room(needed.device - 1, None, "the GPU"), Room(None, needed.host - 1, "the node")):
        with pytest.raises(UserError, match="does not fit") as caught:
            _check(config, settings, room)
        assert caught.value.exit_code == BAD_INPUT and room.says in caught.value.fact
        assert any(line.startswith("activations of a row") for line in caught.value.problems)


def test_the_nearest_setting_is_named_and_fits(config: Any) -> None:
    settings = WAYS["plain"]
    again = settings.model_copy(update={"activation_checkpointing": True})
    room = Room(memory_plan.need(config, again, 1, ROW, gpu=True, bf16=True).device, None, "the GPU")
    with pytest.raises(UserError) as caught:
        _check(config, settings, room)
    assert caught.value.fix.startswith("set finetune.activation_checkpointing: true: ")


def test_no_pass_is_made_of_a_setting_whose_weights_alone_do_not_fit(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_trace, "of_pass", lambda *_: pytest.fail("a pass was made"))
    room = Room(1, None, "the GPU")
    found = memory_plan.nearest(config, WAYS["plain"], 1, ROW, room, gpu=True, bf16=True)
    assert found.startswith("take a larger device")


def test_a_worker_refuses_before_it_loads_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, MANTIS)
    monkeypatch.setattr(trainable, "load", lambda *_: pytest.fail("the base was loaded"))
    monkeypatch.setattr(memory, "of_machine", lambda: GIB // 2)
    with pytest.raises(UserError, match="does not fit"):
        worker.run_worker(job, "cpu")


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Free bytes at each look, total bytes -> a worker's check of a GPU that has them, and the seconds that it took."""

    def check(free: Iterable[int], total: int) -> float:
        looks, now = itertools.chain(free), [0.0]
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (next(looks), total))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
        worker.check_memory(Path(job.base), SETTINGS, examples, "cuda:0", 1)
        return now[0]

    job = make_job(tmp_path, MANTIS)
    examples = Examples.load(Path(job.folder) / EXAMPLES)
    return check


def test_a_worker_waits_for_gpu_memory_that_a_dying_process_still_holds(on_gpu: Any) -> None:
    assert on_gpu(itertools.repeat(GIB), 2 * GIB) == 0
    assert on_gpu([1] * 6 + [GIB], 2 * GIB) == 3  # three looks before it waits, and one a second
    assert on_gpu([1] * 63 + [GIB], 2 * GIB) == 60


def test_gpu_memory_that_others_hold_for_long_is_tried_again_and_too_little_of_it_is_not(on_gpu: Any) -> None:
    with pytest.raises(Unavailable, match=r"of cuda:0 0\.001 GiB of 2 GiB are free, and a worker needs") as caught:
        on_gpu(itertools.repeat(GIB // 1000), 2 * GIB)
    assert caught.value.exit_code == TRY_AGAIN and "nvidia-smi" in caught.value.fix
    with pytest.raises(UserError, match="this training does not fit") as refused:
        on_gpu(itertools.repeat(GIB // 1000), GIB // 1000)
    assert refused.value.exit_code == BAD_INPUT


@pytest.mark.parametrize("what", ["_engine", "_resume", "_publish"])
def test_memory_that_is_used_up_beside_the_steps_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def used_up(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, what, used_up)
    settings = SETTINGS.model_copy(update={"steps": 1})
    lvlm = make_lvlm(MANTIS)
    with pytest.raises(UserError, match="the GPU ran out of memory while") as caught:
        loop.train(lvlm, batches(lvlm, settings), 1, settings, tmp_path)
    assert caught.value.exit_code == BAD_INPUT and "finetune.zero: 3" in caught.value.fix


def test_pictures_that_use_up_the_memory_are_the_users_error(tmp_path: Path) -> None:
    def batch_at(step: int) -> Batch:
        raise MemoryError

    with pytest.raises(UserError, match="while the pictures of step 1 were prepared"):
        loop.train(make_lvlm(MANTIS), batch_at, 1, SETTINGS, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8), Lora(rank=4, alpha=8, merge=True)], ids=str)
def test_the_planned_size_is_that_of_the_files_that_come_out(tmp_path: Path, precision: str, lora: Lora | None) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": "adamw", "lora": lora, "precision": precision})
    lvlm = make_lvlm(MANTIS)
    planned = memory_plan.sizes(lvlm.config, settings, bf16=precision == "bf16").published
    loop.train(lvlm, batches(lvlm, settings), 1, settings, tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert planned == pytest.approx(written, abs=20_000)  # the names of the tensors
