"""Every row is trained on or quarantined with its reason; too many bad ones stop the step."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medmim import progress
from medmim.errors import UserError
from medmim.finetune import examples as module
from medmim.finetune.examples import Examples, group, prepare, refuse_too_many_bad, tokenize
from medmim.lvlm import llava
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Family, Segment, Turn
from medmim.lvlm.llava import Lvlm
from medmim.sample import Sample
from tests.support.finetune import make_data, make_lvlm, make_samples

IMAGES = frozenset(f"i{i}" for i in range(10))


def same(a: Examples, b: Examples) -> bool:
    """Whether two have the same samples."""
    if len(a) != len(b):
        return False
    return all(
        (a[i].ids, a[i].labels, a[i].images, a.images_of(i), a.ids[i])
        == (b[i].ids, b[i].labels, b[i].images, b.images_of(i), b.ids[i])
        for i in range(len(a))
    )


def samples_with(counts: list[int]) -> list[Sample]:
    """Samples of so many images each."""
    names = [tuple(f"i{(row + k) % 10}" for k in range(count)) for row, count in enumerate(counts)]
    return [
        dataclasses.replace(sample, images=name, paths=name)
        for sample, name in zip(make_samples(len(counts)), names, strict=True)
    ]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_samples_are_what_encode_gives_one_by_one_and_survive_the_file(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    samples = samples_with([0, 1, 2, 3, 4, 0, 2])
    examples, bad = tokenize(lvlm, samples, IMAGES, 400)
    assert bad == []
    alone = [encode(lvlm, [Turn(s.prompt, s.target)], len(s.images)) for s in samples]
    assert [(examples[i].ids, examples[i].labels) for i in range(7)] == [(e.ids, e.labels) for e in alone]
    assert examples.lengths == [len(e.ids) for e in alone]
    assert [examples.images_of(i) for i in range(7)] == [list(s.images) for s in samples]
    assert [examples.ids[i] for i in range(7)] == [s.id for s in samples]
    examples.save(tmp_path / "examples")
    assert same(Examples.load(tmp_path / "examples"), examples)
    assert [p.name for p in tmp_path.iterdir()] == ["examples"]


def test_an_image_takes_one_token_in_the_file(lvlm: Lvlm, tmp_path: Path) -> None:
    examples, _ = tokenize(lvlm, samples_with([0, 4]), IMAGES, 400)
    assert (examples.tokens == lvlm.config.image_token_id).sum() == 4
    assert len(examples.tokens) == sum(examples.lengths) - 4 * (examples.tokens_per_image - 1)


def test_text_only_samples_and_none_at_all_survive_the_file(lvlm: Lvlm, tmp_path: Path) -> None:
    for name, samples in (("text", samples_with([0, 0])), ("none", [])):
        examples, _ = tokenize(lvlm, samples, (), 400)
        examples.save(tmp_path / name)
        assert same(Examples.load(tmp_path / name), examples)
        assert len(examples.images) == 0


def test_the_bytes_do_not_depend_on_the_number_of_threads(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, parallel in (("one", "false"), ("all", "true"), ("again", "true")):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        tokenize(lvlm, make_samples(200), IMAGES, 400)[0].save(tmp_path / name)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


THREADS = """
import os, sys
from tokenizers import Tokenizer, models
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:int(sys.argv[1])])
before = len(os.listdir("/proc/self/task"))
Tokenizer(models.BPE()).encode_batch(["a"] * 100)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity here")
@pytest.mark.parametrize("cores", [1, 2])
def test_the_tokenizer_takes_the_cores_that_the_affinity_allows(cores: int) -> None:
    if len(os.sched_getaffinity(0)) < cores:
        pytest.skip("one core")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAYON", "TOKENIZERS"))}
    command = [sys.executable, "-c", THREADS, str(cores)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert int(out) == cores


def test_progress_has_rate_and_time_left(lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, object]] = []
    monkeypatch.setattr(progress, "forward", lambda event, to=None: events.append(event))
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setattr(module, "_CHUNK", 10)
    tokenize(lvlm, make_samples(40), IMAGES, 400)
    assert [event["done"] for event in events] == [0, 10, 20, 30, 40]
    assert all(event["rate"] and event["eta"] is not None for event in events[1:])


@pytest.mark.parametrize("chunk", [2, 1000])
def test_each_bad_row_is_quarantined_with_its_own_reason(
    lvlm: Lvlm, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    good = make_samples(4)
    bad_ones = [
        dataclasses.replace(good[0], images=("i0", "gone")),
        dataclasses.replace(good[1], question="mass " * 500),
        dataclasses.replace(good[2], question="see <image>"),
    ]
    examples, bad = tokenize(lvlm, [*bad_ones, good[3]], IMAGES, 400)
    assert len(examples) == 1 and examples.ids[0] == good[3].id
    assert [row.row for row in bad] == [0, 1, 2]
    assert [row.key for row in bad] == [s.id for s in bad_ones]
    reasons = [row.reason for row in bad]
    assert "not in the data set" in reasons[0]
    length = len(encode(lvlm, [Turn(bad_ones[1].prompt, bad_ones[1].target)], len(bad_ones[1].images)))
    assert reasons[1] == f"longer than finetune.max_tokens (400): {length:,} tokens"
    assert "<image>" in reasons[2]


def test_a_sample_whose_format_trains_nothing_is_quarantined(lvlm: Lvlm) -> None:
    """Not even the first token: no position predicts it."""
    first = dataclasses.replace(lvlm.family, write=lambda turns, images: [Segment("a", trained=True), Segment("b c d")])
    silent = dataclasses.replace(lvlm, family=first)
    examples, bad = tokenize(silent, make_samples(2), IMAGES, 400)
    assert len(examples) == 0 and [row.reason for row in bad] == ["nothing to train on"] * 2


def test_the_longest_sample_that_fits_is_kept(lvlm: Lvlm) -> None:
    (sample,) = make_samples(1)
    length = len(encode(lvlm, [Turn(sample.prompt, sample.target)], len(sample.images)))
    assert len(tokenize(lvlm, [sample], IMAGES, length)[0]) == 1
    assert len(tokenize(lvlm, [sample], IMAGES, length - 1)[0]) == 0


@pytest.mark.parametrize("larger", [0, 1])
@pytest.mark.parametrize(
    ("key", "what"), [("max_position_embeddings", "context"), ("sliding_window", "sliding window")], ids=str
)
def test_a_sample_is_never_longer_than_the_base_reads(lvlm: Lvlm, key: str, what: str, larger: int) -> None:
    samples = make_samples(20)
    lengths = [len(encode(lvlm, [Turn(s.prompt, s.target)], len(s.images))) for s in samples]
    bound = sorted(lengths)[10]
    config = copy.deepcopy(lvlm.config)
    setattr(config.text_config, key, bound)
    reader = llava.Text(config, lvlm.tokenizer, lvlm.family, lvlm.path)
    examples, bad = tokenize(reader, samples, IMAGES, bound + larger * 1000)
    assert sorted(examples.lengths) == sorted(length for length in lengths if length <= bound)
    assert {(row.key, row.reason) for row in bad} == {
        (s.id, f"longer than the {what} of the base ({bound}): {length:,} tokens")
        for s, length in zip(samples, lengths, strict=True)
        if length > bound
    }
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad, 20, 0.0)
    (problem,) = caught.value.problems  # all of them under one reason, each with its length
    assert problem.startswith(f"{len(bad)} rows: longer than the {what} of the base ({bound}): {bad[0].key} with ")
    assert "a base that reads more" in caught.value.fix and "raise finetune.max_tokens" not in caught.value.fix


def test_a_few_bad_rows_are_accepted_and_many_are_an_error_that_names_them_with_their_lengths(lvlm: Lvlm) -> None:
    samples = make_samples(10)
    long = [dataclasses.replace(s, question="mass " * (500 + i)) for i, s in enumerate(samples)]
    lengths = [len(encode(lvlm, [Turn(s.prompt, s.target)], len(s.images))) for s in long]
    _, bad = tokenize(lvlm, [long[0], *samples[1:]], IMAGES, 400)
    refuse_too_many_bad(bad, 10, 0.1)
    with pytest.raises(UserError, match="1 of 10 train rows") as caught:
        refuse_too_many_bad(bad, 10, 0.05)
    assert caught.value.problems == (
        f"1 rows: longer than finetune.max_tokens (400): {long[0].id} with {lengths[0]:,} tokens",
    )
    assert caught.value.fix == "raise finetune.max_tokens; or raise data.max_bad_fraction"
    _, bad = tokenize(lvlm, long, IMAGES, 400)
    assert {group(row.reason) for row in bad} == {"longer than finetune.max_tokens (400)"}
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad, 10, 1.0)
    assert (caught.value.reason, caught.value.fix) == ("no row is left", "raise finetune.max_tokens")
    (problem,) = caught.value.problems
    assert problem.startswith("10 rows: longer than finetune.max_tokens (400): ") and problem.endswith(", 5 more")
    assert all(f"{s.id} with {n:,} tokens" in problem for s, n in list(zip(long, lengths, strict=True))[:5])


@pytest.mark.parametrize(("family", "token"), [(family, token) for family in FAMILIES for token in family.reserved])
def test_a_special_token_in_a_text_is_named_with_the_fix_that_helps(family: Family, token: str) -> None:
    lvlm = make_lvlm(family)
    samples = [dataclasses.replace(s, question=f"is it{token}larger?", answer=s.answer) for s in make_samples(3)]
    _, bad = tokenize(lvlm, samples, IMAGES, 400)
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad, 30, 0.01)
    assert caught.value.problems == (f"3 rows: a question or answer contains {token}",)
    assert caught.value.fix.startswith("remove that special token from the text") and "max_tokens" not in str(
        caught.value
    )


def test_each_reason_has_its_own_fix(lvlm: Lvlm) -> None:
    good = make_samples(4)
    rows = [dataclasses.replace(good[0], images=("gone",)), dataclasses.replace(good[1], question="see <image>")]
    _, bad = tokenize(lvlm, [*rows, *good[2:]], IMAGES, 400)
    with pytest.raises(UserError) as caught:
        refuse_too_many_bad(bad, 4, 0.0)
    images, special, fraction = caught.value.fix.split("; ")
    assert (images, fraction) == ("fix the images", "or raise data.max_bad_fraction") and "special token" in special


def test_neither_weights_nor_pixels_are_read(lvlm: Lvlm, tmp_path: Path) -> None:
    """Weights of NaN and images that are none: only the training itself would notice."""
    from medmim import shards

    samples = make_samples(12)
    make_data(tmp_path / "data", samples)
    want, _ = prepare(lvlm.path, tmp_path / "data", 400, 0.0)
    shards.write(tmp_path / "data", samples, [(f"i{i}", f"i{i}.png", b"no image") for i in range(10)])
    base = tmp_path / "base"
    base.mkdir()
    for file in lvlm.path.iterdir():
        if file.suffix == ".safetensors":
            save_file({"x": torch.full((4,), float("nan"))}, base / file.name)
        else:
            (base / file.name).write_bytes(file.read_bytes())
    found, bad = prepare(base, tmp_path / "data", 400, 0.0)
    assert bad == [] and same(found, want)


def test_a_file_of_an_earlier_version_is_refused_and_not_misread(tmp_path: Path) -> None:
    ids = {name: torch.zeros(4, dtype=torch.int32) for name in ("ids", "labels", "lengths")}
    save_file(ids, tmp_path / "old", metadata={"images": "[]"})
    with pytest.raises(UserError, match="in another layout"):
        Examples.load(tmp_path / "old")
