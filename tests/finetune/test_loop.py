"""The training loop: rows and workers change no loss, and a killed training resumes bit for bit."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file

from medmim.errors import UserError
from medmim.finetune import checkpoint, loop, record
from medmim.finetune.batch import Batch
from medmim.finetune.engines.engine import Engine
from medmim.finetune.pace import Preempted
from medmim.finetune.validation import Validated
from medmim.finetune.worker import run_worker
from medmim.lvlm.checkpoint import digest
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm, load
from medmim.lvlm.mantis import MANTIS
from medmim.recipe.schema import Finetune, Lora, Validation
from tests.support.finetune import SETTINGS, batches, copy_of, losses, make_job, set_dropout, steps_of


def train(lvlm: Lvlm, folder: Path, settings: Finetune, steps: int = 4) -> list[float]:
    tuned = copy_of(lvlm)
    loop.train(tuned, batches(tuned, settings), steps, settings, folder)
    return losses(folder)


@pytest.mark.parametrize("error", [torch.AcceleratorError("CUDA error: out of memory"), MemoryError()], ids=repr)
@pytest.mark.parametrize(
    ("place", "doing", "fix"),
    [
        ("medmim.finetune.engines.plain.row_loss", "in step 1", "finetune.max_tokens (now 10000)"),
        ("torch.nn.utils.clip_grad_norm_", "in the update of step 1", "finetune.freeze_vision"),
        ("torch.optim.AdamW.step", "in the update of step 1", "finetune.freeze_vision"),
    ],
)
def test_memory_that_runs_out_in_any_part_of_a_step_names_what_to_lower(
    place: str, doing: str, fix: str, error: Exception, lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    where = "machine" if isinstance(error, MemoryError) else "GPU"
    with pytest.raises(UserError, match=f"the {where} ran out of memory {doing}") as caught:
        train(lvlm, tmp_path, SMALL)
    assert caught.value.exit_code == 2 and fix in caught.value.fix and caught.value.reason


SMALL = Finetune(batch_size=8, max_tokens=10_000, lr=1e-3, freeze_vision=False)


@pytest.mark.parametrize(
    "change", [{"max_tokens": 150}, {"packing": False}, {"packing": False, "max_tokens": 150}], ids=str
)
def test_the_split_into_rows_does_not_change_the_losses(lvlm: Lvlm, tmp_path: Path, change: dict[str, object]) -> None:
    want = train(lvlm, tmp_path / "a", SMALL)
    assert train(lvlm, tmp_path / "b", SMALL.model_copy(update=change)) == pytest.approx(want, rel=2e-5)
    assert want[-1] < want[0]


def test_a_frozen_tower_is_not_trained_and_the_projector_is(lvlm: Lvlm, tmp_path: Path) -> None:
    tuned = copy_of(lvlm)
    settings = SMALL.model_copy(update={"freeze_vision": True, "optimizer": "muon", "weight_decay": 0.1})
    loop.train(tuned, batches(tuned, settings), 2, settings, tmp_path)
    moved = {
        name
        for (name, new), old in zip(tuned.model.named_parameters(), lvlm.model.parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert not any("vision_tower" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    assert not list(tmp_path.glob("**/*.bin")) and not list(tmp_path.glob("**/*.pt"))


SCRIPT = """
from medmim.finetune.worker import Job, run_worker
run_worker(Job(**{job!r}))
"""


@pytest.mark.parametrize("family", [MANTIS], indirect=True)  # both resume in test_resume and below, in this process
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, family: Family) -> None:
    settings = SETTINGS.model_copy(update={"steps": 11, "save_every": 3})
    run_worker(make_job(tmp_path, family, settings))
    (tmp_path / "out").rename(tmp_path / "whole")
    job = make_job(tmp_path, family, settings)
    text = SCRIPT.format(job=dataclasses.asdict(job))
    process = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.DEVNULL)  # noqa: S603
    file = tmp_path / "out" / record.LOSSES
    until = time.monotonic() + 300
    while not (file.exists() and file.read_text().count("\n") >= 7):  # the save of step 6 waits for that of step 3
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert file.read_text().count("\n") < 11
    with file.open("a") as torn:
        torn.write('{"step": 9')
    assert run_worker(job).resumed_from >= 3
    assert file.read_bytes() == (tmp_path / "whole" / record.LOSSES).read_bytes()
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_dropout_differs_by_step_and_resumes_bit_for_bit(lvlm: Lvlm, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"save_every": 1})
    random = copy_of(lvlm)
    set_dropout(random, 0.3)
    same = batches(lvlm, settings)(0)

    def train(folder: Path, until: int = 0) -> list[float]:
        tuned = copy_of(random)

        def stop(step: int, _: Path) -> None:
            if step == until:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) if until else nullcontext():
            loop.train(tuned, lambda step: same, 4, settings, folder, on_save=stop)
        return losses(folder)

    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", until=2)
    torch.manual_seed(1)  # as a new process would have another state than one that has done two steps
    assert train(tmp_path / "parts") == whole
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    frozen = SMALL.model_copy(update={"lr": 1e-30, "weight_decay": 0.0})
    loop.train(copy_of(random), lambda step: same, 3, frozen, tmp_path / "still")
    assert len(set(losses(tmp_path / "still"))) == 3  # of the same weights and batch, with other dropout


def test_each_epoch_has_an_order_of_its_own(tmp_path: Path, family: Family) -> None:
    settings = SETTINGS.model_copy(
        update={"steps": None, "epochs": 3.0, "lr": 1e-30, "muon_lr": 1e-30, "weight_decay": 0.0, "save_every": 100}
    )
    run_worker(make_job(tmp_path, family, settings))
    steps = steps_of(tmp_path / "out")
    first, second, third = (steps[i]["tokens"] for i in (3, 7, 11))  # so far; 30 samples are 4 steps of 8
    assert first == second - first == third - second  # each sample once in an epoch
    curves = [[step["loss"] for step in steps[i : i + 4]] for i in (0, 4, 8)]  # of weights that never change
    assert all(a != pytest.approx(b, rel=1e-4) for a, b in combinations(curves, 2))


def test_no_checkpoint_outlives_the_lines_of_its_steps(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash of the machine there is what was synced: a model is published with the losses of all its steps."""
    settings = SMALL.model_copy(update={"save_every": 2})
    real, lines = os.fsync, [0]
    saved: list[tuple[int, int]] = []

    def fsync(descriptor: int) -> None:
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == record.LOSSES:
            lines[0] = path.read_text().count("\n")
        if path.name == ".part-state":
            saved.append((checkpoint.step_of(path.parent.name), lines[0]))

    monkeypatch.setattr(os, "fsync", fsync)
    train(lvlm, tmp_path, settings)
    assert saved == [(2, 2), (4, 4)]


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    lvlm: Lvlm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SMALL.model_copy(update={"save_every": 1})
    want = train(lvlm, tmp_path, settings)
    newest = checkpoint.newest(tmp_path / "resume")
    assert newest is not None and newest["step"] == 4
    assert len(list((tmp_path / "resume").iterdir())) == 2
    weights = newest["path"] / "rank-00000-of-00001.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    before = checkpoint.newest(tmp_path / "resume")
    assert before is not None and before["step"] == 3
    assert f"{newest['path']} is damaged, and an older checkpoint is taken" in capsys.readouterr().err
    assert train(lvlm, tmp_path, settings) == want


def test_a_folder_of_another_training_is_refused(lvlm: Lvlm, tmp_path: Path) -> None:
    train(lvlm, tmp_path, SMALL, steps=1)
    same = {"save_every": "10m", "keep_checkpoints": 1, "activation_checkpointing": True}
    assert len(train(lvlm, tmp_path, SMALL.model_copy(update=same), steps=1)) == 1
    with pytest.raises(UserError, match="another training") as caught:
        train(lvlm, tmp_path, SMALL.model_copy(update={"lr": 2e-3, "lora": Lora(rank=4)}), steps=2)
    assert {
        "finetune.lr: 0.001 in the checkpoint, 0.002 in the recipe",
        "finetune.steps: 1 in the checkpoint, 2 in the recipe",
        "finetune.lora.rank: not set in the checkpoint, 4 in the recipe",
    } < set(caught.value.problems)
    assert not [line for line in caught.value.problems if "seed" in line]


def test_it_stops_with_a_checkpoint_and_goes_on_from_there(lvlm: Lvlm, tmp_path: Path) -> None:
    want = train(lvlm, tmp_path / "whole", SMALL)
    stop = Event()
    tuned = copy_of(lvlm)
    with pytest.raises(Preempted, match="after step 2 of 4") as caught:
        loop.train(
            tuned, batches(tuned, SMALL), 4, SMALL, tmp_path / "parts", stop=stop,
            on_step=lambda line: stop.set() if line["step"] == 2 else None,
        )  # fmt: skip
    assert caught.value.exit_code == 75
    assert len(losses(tmp_path / "parts")) == 2
    with pytest.raises(Preempted, match="after step 2 of 4"):  # told before it has done any
        loop.train(copy_of(lvlm), batches(tuned, SMALL), 4, SMALL, tmp_path / "parts", stop=stop)
    assert train(lvlm, tmp_path / "parts", SMALL) == want


def test_a_diverged_training_reports_step_rate_and_checkpoint(lvlm: Lvlm, tmp_path: Path) -> None:
    tuned = copy_of(lvlm)
    good = batches(tuned, SMALL)

    def batch_at(step: int) -> Batch:
        rows = good(step).rows
        if step < 2:
            return Batch(rows)
        poison = torch.full_like(rows[0].pixel_values, float("nan")) if rows[0].pixel_values is not None else None
        return Batch((dataclasses.replace(rows[0], pixel_values=poison),))

    with pytest.raises(UserError) as caught:
        loop.train(tuned, batch_at, 5, SMALL.model_copy(update={"save_every": 2}), tmp_path)
    assert "step 3" in caught.value.fact and "nan" in caught.value.fact
    assert "step-00000002" in caught.value.reason
    assert "finetune.lr" in caught.value.fix


def test_every_step_is_reported_and_counted_once(lvlm: Lvlm, tmp_path: Path) -> None:
    tuned = copy_of(lvlm)
    records: list[int] = []
    saves: list[int] = []
    validated: list[int] = []

    def validate(_: Engine, step: int) -> Validated:
        validated.append(step)
        return Validated(step, 1.0, 0.5, 4, 2)

    settings = SMALL.model_copy(update={"save_every": 2, "validation": Validation(every=3)})

    result = loop.train(
        tuned,
        batches(tuned, SMALL),
        5,
        settings,
        tmp_path,
        on_step=lambda record: records.append(record["step"]),
        on_save=lambda step, _: saves.append(step),
        validate=validate,
    )
    assert records == [1, 2, 3, 4, 5]
    assert saves == [2, 4] and validated == [0, 3, 5]
    assert result.steps == 5 and result.tokens > 0 and not tuned.model.training
    lines = [json.loads(line) for line in (tmp_path / record.LOSSES).read_text().splitlines()]
    assert lines[-1]["tokens"] == result.tokens
    assert {"step", "loss", "lr", "grad_norm", "tokens"} == set(lines[0])


def test_a_base_that_is_not_finite_is_named_and_not_the_learning_rate(lvlm: Lvlm, tmp_path: Path) -> None:
    tuned = copy_of(lvlm)
    name, weight = next((n, w) for n, w in tuned.model.state_dict().items() if n.endswith("language_model.norm.weight"))
    weight.view(-1)[3] = float("nan")
    with pytest.raises(UserError, match="weights of the base .* are not finite") as caught:
        loop.train(tuned, batches(tuned, SMALL), 2, SMALL, tmp_path)
    assert caught.value.problems == (name,) and "lr" not in caught.value.fix


def test_weights_that_an_update_made_infinite_are_not_saved_as_the_last_good_checkpoint(
    lvlm: Lvlm, tmp_path: Path
) -> None:
    tuned = copy_of(lvlm)
    name, weight = next((n, w) for n, w in tuned.model.named_parameters() if n.endswith("q_proj.weight"))

    def overflow(record: Mapping[str, object]) -> None:
        if record["step"] == 3:
            weight.data[0, 0] = float("inf")

    settings = SMALL.model_copy(update={"save_every": 1})
    with pytest.raises(UserError, match="1 weights are not finite in step 3") as caught:
        loop.train(tuned, batches(tuned, settings), 4, settings, tmp_path, on_step=overflow)
    assert caught.value.problems == (name,) and "step-00000002" in caught.value.reason
    newest = checkpoint.newest(tmp_path / "resume")
    assert newest is not None and newest["step"] == 2


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_gradient_that_is_not_finite_changes_no_weight_and_reaches_no_checkpoint(
    lvlm: Lvlm, tmp_path: Path, optimizer: str
) -> None:
    tuned = copy_of(lvlm)
    weight = {
        "adamw": tuned.model.lm_head.weight,
        "muon": tuned.model.model.language_model.layers[0].self_attn.q_proj.weight,
    }[optimizer]
    steps: list[int] = []

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return torch.full_like(gradient, float("inf")) if len(steps) > 2 else gradient

    settings = SMALL.model_copy(update={"save_every": 1, "optimizer": optimizer})
    weight.register_hook(poison)
    with pytest.raises(UserError, match="gradient is (inf|nan)") as caught:
        loop.train(tuned, batches(tuned, settings), 5, settings, tmp_path)
    assert "last good checkpoint" in caught.value.reason and "finetune.lr" in caught.value.fix
    assert weight.isfinite().all()
    newest = checkpoint.newest(tmp_path / "resume")
    assert newest is not None
    assert all(t.isfinite().all() for t in load_file(newest["path"] / "rank-00000-of-00001.safetensors").values())


def test_a_model_that_was_computed_in_bf16_is_published_in_bf16(lvlm: Lvlm, tmp_path: Path) -> None:
    tuned = copy_of(lvlm)
    settings = SMALL.model_copy(update={"precision": "bf16"})
    loop.train(tuned, batches(tuned, settings), 2, settings, tmp_path)
    assert tuned.model.lm_head.weight.dtype == torch.float32
    published = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    head = tuned.model.lm_head.weight.detach().bfloat16()
    assert torch.equal(load(tmp_path, "cpu", torch.bfloat16).model.lm_head.weight, head)
