"""The benchmark of one GPU: what it imports, that weights are made where they are used, that it stops in time."""

import hashlib
import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import gather_wheels
import gpu_cases
import pytest
import torch
import train_gpu
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from torch.nn.attention import varlen

from medmim.finetune import attention, trainable
from tests.support.attention import documented
from tests.support.originals import LLAVA_MED, MANTIS, listed

ROOT = Path(__file__).parents[2]


def closure(names: Iterable[str]) -> set[str]:
    """Distributions that pip installs with these, without extras."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            asked = map(Requirement, metadata.requires(name) or ())
            left += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def environment(site: Path, names: Iterable[str]) -> None:
    """Links to what these distributions installed, in a folder that has nothing else."""
    site.mkdir()
    for name in names:
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))).resolve())


@pytest.mark.long
def test_it_runs_with_torch_transformers_and_the_gathered_wheels_alone(tmp_path: Path) -> None:
    site, out = tmp_path / "site", tmp_path / "out.jsonl"
    environment(site, closure(["torch", "transformers"]) | set(gather_wheels.WANTED))
    assert not {"ray", "mlflow", "kfp", "joblib", "deepspeed", "pyarrow", "PIL"} & set(os.listdir(site))
    words = ["benchmarks/train_gpu.py", "--tiny", "--shape", MANTIS, "--out", str(out)]
    paths = os.pathsep.join((str(site), str(ROOT)))
    ended = subprocess.run(
        [sys.executable, "-S", *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    cases = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [(case["side"], case["checkpointing"]) for case in cases]
    assert kinds == [("medmim", False), ("Trainer", False), ("medmim", True), ("Trainer", True)]
    assert {case["steps"] for case in cases} == {1}
    assert all((case["plan_gib"] or 0) > 0 for case in cases if case["side"] == "medmim")
    # samples of one step: the same distribution
    assert max(case["tokens"] for case in cases) < 1.2 * min(case["tokens"] for case in cases)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_in_one_line_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_gpu.py"])
    with pytest.raises(SystemExit) as ended:
        train_gpu.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert not said.out
    assert said.err.count("\n") == 1 and said.err.endswith("here: no GPU\n")


@pytest.mark.parametrize("which", [MANTIS, LLAVA_MED])
def test_the_shapes_are_the_published_ones_and_nothing_is_made_on_the_host(which: str) -> None:
    case = gpu_cases.Case("medmim", which, True, 8192, 12, tiny=False)
    config, device = gpu_cases.config_of(which, tiny=False), torch.device("meta")
    model = gpu_cases.build(config, device)
    published = dict(listed(which))
    rows = config.text_config.vocab_size - next(n for name, (n, *_) in published.items() if "lm_head" in name)
    assert 0 < rows <= 64
    extra = 2 * rows * config.text_config.hidden_size
    assert model.num_parameters() == sum(math.prod(shape) for shape in published.values()) + extra
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with device:
        trainable.prepare(model, case.settings)
    assert {p.device for p in model.parameters()} == {device}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert not any("vision_tower" in name for name, p in model.named_parameters() if p.requires_grad)


def test_out_of_time_it_ends_with_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_gpu.run(train_gpu.SHAPES, tiny=True, minutes=0, out=None) == []
    said = capsys.readouterr().out
    assert sum(line.endswith("no time was left") for line in said.splitlines()) == 8


def test_what_does_not_fit_is_tried_with_half_the_tokens_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def small(case: gpu_cases.Case, *_: object) -> gpu_cases.Measured:
        if case.max_tokens > 256:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gpu_cases.Measured(steps=1, seconds=1.0, tokens=100, flops=1e9)

    monkeypatch.setattr(gpu_cases, "_medmim", small)
    monkeypatch.setattr(gpu_cases, "_trainer", small)
    train_gpu.run((MANTIS,), tiny=True, minutes=1, out=tmp_path / "out")
    cases = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [(case["side"], case["checkpointing"], case["max_tokens"], case["steps"]) for case in cases] == [
        ("medmim", False, 512, 0),
        ("medmim", False, 256, 1),
        ("Trainer", False, 256, 1),
        ("medmim", True, 512, 0),
        ("Trainer", True, 512, 0),
    ]
    assert cases[0]["note"] == "does not fit: CUDA out of memory"


def test_packed_rows_take_the_flash_kernel_also_of_a_torch_that_is_not_told_of_shared_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU a kernel of the documented meaning stands in for it."""

    def of_torch_2_11(*tensors: Any, scale: float, window_size: tuple[int, int]) -> torch.Tensor:
        return documented(*tensors, scale=scale, window_size=window_size, enable_gqa=True)

    real = attention.flash
    monkeypatch.setattr(attention, "flash", lambda _, dtype, dropout: real("cuda", dtype, dropout))

    def kernel(checkpointing: bool, stands_in: Callable[..., torch.Tensor]) -> str:
        monkeypatch.setattr(varlen, "varlen_attn", stands_in)
        case = gpu_cases.Case("medmim", MANTIS, checkpointing, 512, 12, tiny=True)
        return gpu_cases.measure(case, torch.device("cpu"), math.inf).attention

    rows = 2 * sum(gpu_cases.Case("medmim", MANTIS, True, 512, 12, tiny=True).steps)  # of 950 tokens
    layers = gpu_cases.config_of(MANTIS, tiny=True).text_config.num_hidden_layers
    assert kernel(False, documented) == f"varlen_attn, {rows * layers} calls"
    assert kernel(True, of_torch_2_11) == f"varlen_attn, {2 * rows * layers} calls"


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 64))
def test_the_trainer_pads_no_more_tokens_at_once_than_a_row_has(max_tokens: int, longest: int, batch: int) -> None:
    case = gpu_cases.Case("Trainer", MANTIS, True, max_tokens, batch, tiny=True)
    found = gpu_cases.micro_batch(case, longest)
    assert batch % found == 0
    assert found == 1 or found * longest <= max_tokens


@pytest.mark.parametrize("most", [10_000, 10])
def test_wheels_are_gathered_with_their_hashes_and_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    links, folder = tmp_path / "links", tmp_path / "out"
    links.mkdir()
    wheel = links / "little-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("little-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n")
        file.writestr("little-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("little-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"little==1.0 \\\n    --hash=sha256:{digest}\n    # via other\nother==2 \\\n    --hash=sha256:00\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setattr(gather_wheels, "PINS", pins)
    monkeypatch.setattr(gather_wheels, "WANTED", ("little",))
    if most < wheel.stat().st_size:
        with pytest.raises(SystemExit, match="more than"):
            gather_wheels.gather(folder, "3.12", most)
        assert not folder.exists()
    else:
        assert gather_wheels.gather(folder, "3.12", most) == wheel.stat().st_size
        assert [file.name for file in folder.iterdir()] == [wheel.name]


def test_all_wanted_wheels_are_pinned() -> None:
    entries = list(gather_wheels.pinned(gather_wheels.WANTED, gather_wheels.PINS.read_text()))
    assert len(entries) == len(gather_wheels.WANTED)
    assert all("--hash=sha256:" in entry for entry in entries)
