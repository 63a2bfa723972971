"""Training checkpoints, to resume from: weights, optimizer state and step, as safetensors and JSON, without pickle.

    FOLDER/resume/step-00000100/model.safetensors, optimizer.safetensors, state.json

The batches are a pure function of the step, so nothing else is needed to resume bit for bit.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

_KEEP = 2


def save(folder: Path, step: int, model: nn.Module, optimizers: Sequence[Optimizer], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically; the newest two are kept.

    Args:
        folder: The `resume` folder.
        step: Optimizer steps done.
        model: Its trainable parameters are saved; the frozen ones are in the base.
        optimizers: Their state is saved by parameter name.
        state: Plain JSON that `newest` returns.
    """
    final = folder / f"step-{step:08d}"
    part = folder / f".part-{step:08d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    save_file({n: p.detach().contiguous() for p, n in names.items() if p.requires_grad}, part / "model.safetensors")
    save_file(_state_by_name(names, optimizers), part / "optimizer.safetensors")
    (part / "state.json").write_text(json.dumps({**state, "step": step}, sort_keys=True), encoding="utf-8")
    for path in (*part.iterdir(), part):
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    _sync(folder)  # else a crash of the machine could undo the rename, after older checkpoints are gone
    for old in _newest_first(folder)[_KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path) -> dict[str, Any] | None:
    """State of the newest undamaged checkpoint, with its `path` and `step`; None where there is none."""
    for path in _newest_first(folder):
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            for name in ("model", "optimizer"):
                with safe_open(path / f"{name}.safetensors", "pt"):  # reads the header and checks the size of the file
                    pass
            return {**state, "path": path}
        except (OSError, ValueError, SafetensorError):  # cut off by a crash of the machine: try an older one
            continue
    return None


def load(path: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Load the weights and the optimizer state of a checkpoint into the model and its optimizers."""
    weights = load_file(path / "model.safetensors")
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            params[name].copy_(value)
    stored = load_file(path / "optimizer.safetensors")
    by_param: dict[str, dict[str, Tensor]] = {}
    for key, value in stored.items():
        name, _, field = key.rpartition("/")
        by_param.setdefault(name, {})[field] = value
    owner = {p: optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for name, fields in by_param.items():
        param = params[name]
        owner[param].state[param] = {field: value.to(param.device) for field, value in fields.items()}


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _state_by_name(names: Mapping[Tensor, str], optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    return {
        f"{names[param]}/{field}": value.detach().cpu().contiguous()
        for optimizer in optimizers
        for param, fields in optimizer.state.items()
        for field, value in fields.items()
    }


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
