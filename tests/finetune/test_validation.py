"""Validation: likelihoods are those of a plain forward pass, it changes no training, and the best model is kept."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from medmim import shards
from medmim.errors import UserError
from medmim.finetune import batch, loop, record, validation
from medmim.finetune.engines.plain import Plain
from medmim.finetune.examples import Choices, Examples, chosen, prepare_dev
from medmim.finetune.loader import loader
from medmim.finetune.pace import Preempted
from medmim.finetune.validation import VALIDATION, Validated
from medmim.finetune.worker import DEV, Job, run_worker
from medmim.lvlm import checkpoint as models
from medmim.lvlm import llava
from medmim.lvlm.encode import Encoded, encode, options
from medmim.lvlm.family import Family, Turn
from medmim.lvlm.features import pixels
from medmim.lvlm.llava import Lvlm
from medmim.lvlm.mantis import MANTIS
from medmim.recipe.schema import Finetune, Validation
from medmim.sample import Sample
from tests.support.finetune import (
    SETTINGS,
    batches,
    copy_of,
    losses,
    make_data,
    make_dev,
    make_job,
    make_samples,
    set_dropout,
)

Plainly = tuple[float, int, dict[int, float]]
"""Of a sample: summed loss, trained tokens, and the log-likelihood of each letter."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("dev") / "data", [*make_samples(6), *make_dev()])


@pytest.fixture(scope="module")
def dev(lvlm: Lvlm, data: Path) -> Examples:
    found, bad = prepare_dev(lvlm.path, data, 400, 0.0, 200, 0)
    assert found is not None and not bad
    return found


def plainly(lvlm: Lvlm, sample: Sample, images: shards.Images) -> Plainly:
    """One sample in transformers' own forward pass; a letter is the token that follows what the model would read."""
    shown = pixels(lvlm, [images[name] for name in sample.images]) if sample.images else None

    def logits(ids: list[int]) -> Tensor:
        with torch.no_grad():
            found: Tensor = lvlm.model.eval()(input_ids=torch.tensor([ids]), pixel_values=shown).logits[0].float()
        return found

    whole = encode(lvlm, [Turn(sample.prompt, sample.target)], len(sample.images))
    labels = torch.tensor(whole.labels[1:])
    loss = cross_entropy(logits(whole.ids)[:-1], labels, ignore_index=-100, reduction="sum")
    prompt = encode(lvlm, [Turn(sample.prompt)], len(sample.images)).ids
    space = [] if lvlm.family.name == "mantis" else [lvlm.tokenizer.convert_tokens_to_ids("Ġ")]
    following = logits([*prompt, *space])[-1].log_softmax(-1)
    letters = {i: float(following[lvlm.tokenizer.convert_tokens_to_ids("ABCD"[i])]) for i in range(len(sample.options))}
    return float(loss), int((labels != -100).sum()), letters


@pytest.mark.parametrize("packing", [True, False])
def test_losses_and_likelihoods_are_those_of_a_plain_forward_pass(
    lvlm: Lvlm, data: Path, dev: Examples, packing: bool
) -> None:
    images, samples = shards.Images(data), {s.id: s for s in shards.read_samples(data, "dev")}
    want = [plainly(lvlm, samples[dev.ids[i]], images) for i in range(len(dev))]
    tuned = copy_of(lvlm)
    set_dropout(tuned, 0.5)
    tuned.model.train()
    settings = Finetune(batch_size=6, max_tokens=150, packing=packing, freeze_vision=False)
    engine = Plain(tuned.model, settings, bf16=False)
    found: list[tuple[float, ...]] = []

    class Watched:
        device = engine.device

        def losses(self, of: batch.Batch) -> list[Tensor]:
            rows = engine.losses(of)
            for row, values in zip(of.rows, rows, strict=True):
                found.extend(tuple((-values[q.begin : q.begin + len(q.right)]).tolist()) for q in row.questions)
            return rows

    with loader(tuned, dev, images, settings) as batch_at:
        got = validation.measure(Watched(), batch_at, 3, 7)  # type: ignore[arg-type]
    closed = [(samples[dev.ids[i]], letters) for i, (_, _, letters) in enumerate(want) if letters]
    expected = sorted(tuple(letters.values()) for _, letters in closed)
    assert [len(one) for one in sorted(found)] == [len(one) for one in expected]
    flat = itertools.chain.from_iterable
    assert list(flat(sorted(found))) == pytest.approx(list(flat(expected)), abs=2e-5)
    right = [max(letters, key=lambda i: letters[i]) in sample.gold for sample, letters in closed]
    assert 0 < sum(right) < len(right), "an answer that is always right or wrong would show nothing"
    mean = sum(loss for loss, _, _ in want) / sum(tokens for _, tokens, _ in want)
    assert mean != pytest.approx(sum(loss / tokens for loss, tokens, _ in want) / len(want), rel=1e-3)
    assert got.loss == pytest.approx(mean, rel=1e-5)
    assert (got.accuracy, got.closed, got.items, got.step) == (sum(right) / len(right), len(closed), len(want), 7)
    assert tuned.model.training


def test_options_that_are_equally_likely_share_the_point() -> None:
    row = batch.Row(
        torch.zeros(1, 9, dtype=torch.long), None, (5, 4), torch.zeros(7), torch.zeros(7), True,
        (batch.Question(2, (False, True)), batch.Question(4, (True, False, True))),
    )  # fmt: skip
    assert validation._sums(row, torch.tensor([1.0, 2.0, 0.5, 0.5, 3.0, 1.0, 1.0])) == [3.0, 2, 2, 0.5 + 0.5, 2]


def test_letters_are_compared_where_the_answers_first_differ() -> None:
    def encoded(*ids: int) -> Encoded:
        return Encoded(torch.tensor(ids, dtype=torch.int32).numpy(), torch.ones(len(ids)).bool().numpy(), 0, 99, 1)

    answers = [encoded(1, 2, 7, 5), encoded(1, 2, 8, 5, 5)]
    found = options(encoded(1, 2, 8, 5, 6, 6), answers, [False, True])
    assert found is not None and found.back == 4 and found.tokens.tolist() == [7, 8]
    assert found.right.tolist() == [False, True]
    assert options(answers[0], [answers[0], answers[0]], [True, False]) is None
    assert options(answers[0], [*answers, encoded(1, 3, 9)], [True, False, False]) is None  # 2 stands for two letters
    assert options(encoded(4, 2, 7, 5), answers, [True, False]) is None


def test_items_are_drawn_from_all_abilities_in_equal_numbers() -> None:
    abilities = ["a"] * 50 + ["b"] * 3 + ["c"] * 20
    drawn = chosen(abilities, 15, 0)
    assert Counter(abilities[i] for i in drawn) == {"a": 6, "b": 3, "c": 6}
    assert drawn == sorted(set(drawn)) == chosen(abilities, 15, 0) != chosen(abilities, 15, 1)
    assert chosen(abilities, 1000, 0) == list(range(73)) and chosen([], 5, 0) == []


def test_dev_items_are_stored_whole_and_come_from_the_dev_split(data: Path, dev: Examples, tmp_path: Path) -> None:
    dev.save(tmp_path / "dev")
    loaded = Examples.load(tmp_path / "dev")
    assert isinstance(loaded.choices, Choices)
    ids = {s.id for s in shards.read_samples(data, "dev")}
    assert {loaded.ids[i] for i in range(len(loaded))} == ids
    assert not ids & {s.id for s in shards.read_samples(data, "train")}
    for i in range(len(dev)):
        kept, given = loaded[i].options, dev[i].options
        if given is None:
            assert kept is None
        else:
            assert kept is not None and kept.back == given.back
            assert kept.tokens.tolist() == given.tokens.tolist() and kept.right.tolist() == given.right.tolist()


def test_dev_rows_that_do_not_fit_are_quarantined_or_refused(lvlm: Lvlm, tmp_path: Path) -> None:
    long = dataclasses.replace(make_dev()[1], question="mass " * 500)
    folder = make_data(tmp_path, [*make_samples(3), long, *make_dev()])
    found, bad = prepare_dev(lvlm.path, folder, 400, 0.5, 200, 0)
    assert found is not None and len(found) == len(make_dev())
    assert [(row.file, row.row, row.key) for row in bad] == [("dev", 0, long.id)]
    with pytest.raises(UserError, match="1 of 15 dev rows cannot be validated on"):
        prepare_dev(lvlm.path, folder, 400, 0.01, 200, 0)
    assert prepare_dev(lvlm.path, folder, 400, 0.01, 0, 0) == (None, [])


WILD = SETTINGS.model_copy(
    update={"steps": 10, "save_every": 3, "keep": "best", "lr": 1e-2, "muon_lr": 6e-2, "schedule": "linear",
            "decay_fraction": 0.0, "warmup": 0.0, "validation": Validation(every=1)}
)  # fmt: skip


def measured(job: Job, model: Path) -> Validated:
    """The dev items measured with a model of which only the folder is known."""
    lvlm = llava.load(model, "cpu")
    dev = Examples.load(Path(job.folder) / DEV)
    engine = Plain(lvlm.model, WILD, bf16=False)
    with loader(lvlm, dev, shards.Images(Path(job.data)), WILD) as batch_at:
        return validation.measure(engine, batch_at, 2, 0)


@pytest.mark.parametrize("family", [MANTIS], indirect=True)  # what is measured, above, is of both
def test_the_best_model_is_kept_over_interruptions_and_validation_changes_no_loss(
    family: Family, tmp_path: Path
) -> None:
    job = make_job(tmp_path, family, WILD, "whole", dev=True)
    result = run_worker(job)
    found = validation.read(tmp_path / "whole" / VALIDATION)
    assert [one.step for one in found] == list(range(11))
    lowest = min(found[1:], key=lambda one: one.loss)
    assert lowest.step < 9, "the best must be older than the two checkpoints that are kept anyway"
    assert result.kept == lowest.step and result.seconds > 0
    assert measured(job, tmp_path / "whole").loss == pytest.approx(lowest.loss, rel=1e-6)
    kept = {path.name for path in (tmp_path / "whole" / "resume").iterdir()}
    assert kept == {f"step-{step:08d}" for step in (lowest.step, 9, 10)}

    parts = make_job(tmp_path, family, WILD, "parts", dev=True)
    for until in (2, 5, 8, 0):  # before step 8 is one that is validated and not saved

        def stop(line: Mapping[str, Any], until: int = until) -> None:
            if line["step"] == until:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) if until else nullcontext():
            run_worker(parts, on_step=stop)
        with (tmp_path / "parts" / VALIDATION).open("a") as torn:
            torn.write('{"step": 11' if until else "")
    for name in (VALIDATION, record.LOSSES):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert models.digest(tmp_path / "parts") == models.digest(tmp_path / "whole")

    off = WILD.model_copy(update={"keep": "last", "validation": Validation(items=0)})
    assert run_worker(make_job(tmp_path, family, off, "off", dev=True)).kept == 10
    assert not (tmp_path / "off" / VALIDATION).exists()
    assert losses(tmp_path / "off") == losses(tmp_path / "whole")
    assert models.digest(tmp_path / "off") != models.digest(tmp_path / "whole")


def test_a_scheduler_that_stops_the_training_does_not_wait_for_a_validation(lvlm: Lvlm, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"validation": Validation(every=2)})
    stop, seen = Event(), list[int]()

    def validate(_: object, step: int) -> Validated:
        seen.append(step)
        return Validated(step, 1.0, None, 1, 0)

    def train(stop_at: int = 0) -> None:
        tuned = copy_of(lvlm)

        def on_step(line: Mapping[str, Any]) -> None:
            if line["step"] == stop_at:
                stop.set()

        loop.train(
            tuned, batches(tuned, settings), 4, settings, tmp_path, validate=validate, on_step=on_step, stop=stop
        )

    with pytest.raises(Preempted):
        train(stop_at=2)
    assert seen == [0]
    stop.clear()
    train()
    assert seen == [0, 2, 4]


def test_of_equally_good_steps_the_first_is_kept_and_never_the_base() -> None:
    found = [Validated(step, loss, None, 1, 0) for step, loss in enumerate((0.5, 3.0, 1.0, 2.0, 1.0))]
    best = validation.best(found)
    assert best is not None and best.step == 2
    assert validation.best(found[:1]) is None


def test_validation_costs_a_fiftieth_of_the_time_unless_the_recipe_says_how_often() -> None:
    assert validation.interval(Finetune(batch_size=64)) == 100
    rare = validation.interval(Finetune(batch_size=4, validation=Validation(items=300)))
    assert 300 / 3 / (4 * rare) == pytest.approx(0.02)
    every = Finetune(batch_size=4, validation=Validation(every=7))
    assert [step for step in range(17) if validation.is_due(step, 16, every)] == [0, 7, 14, 16]


def test_a_dev_loss_that_is_not_finite_ends_the_training(lvlm: Lvlm, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"save_every": 1, "validation": Validation(every=2)})
    tuned = copy_of(lvlm)

    def validate(_: object, step: int) -> Validated:
        return Validated(step, float("inf") if step else 1.0, None, 1, 0)

    with pytest.raises(UserError, match="the dev loss is inf in step 2") as raised:
        loop.train(tuned, batches(tuned, settings), 4, settings, tmp_path, validate=validate)
    assert "step-00000001" in raised.value.reason


def test_what_is_only_measured_does_not_keep_a_checkpoint_from_being_resumed(tmp_path: Path) -> None:
    assert loop._identity(3, SETTINGS) == loop._identity(
        3, SETTINGS.model_copy(update={"validation": Validation(items=7)})
    )
    best = SETTINGS.model_copy(update={"keep": "best"})
    assert loop._identity(3, best) != loop._identity(3, SETTINGS)
    assert loop._identity(3, best) != loop._identity(3, best.model_copy(update={"validation": Validation(items=7)}))


def test_a_record_leaves_the_time_of_validations_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 0.0, 10.0, 40.0, 42.0, 44.0))  # start twice, a validation of 30 s, a step, the end
    monkeypatch.setattr(record.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr("medmim.progress.Bar.add", lambda *_: None)
    monkeypatch.setattr("medmim.progress.Bar.__init__", lambda *_: None)
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("medmim.progress.forward", lambda event, to=None: shown.append(event))
    kept = record.Record(tmp_path, 0, 1, 0, None)
    with kept:
        kept.validate(0, lambda: Validated(0, 1.0, 0.5, 4, 4))
        kept.add(0, loss=1.0, lr=0.1, grad_norm=1.0, tokens=28, tokens_seen=28, flops=1.0, peak_flops=None, waited=7.0)
    result = kept.result(28, 1)
    assert (result.seconds, result.tokens_per_s, result.data_wait) == (14.0, 2.0, 0.5)
    assert json.loads((tmp_path / VALIDATION).read_text())["accuracy"] == 0.5
    measured = [(event["step"], event["dev_loss"], event["dev_accuracy"]) for event in shown]
    assert measured == [("0/1", "1", "50.0%"), ("1/1", "1", "50.0%")]
