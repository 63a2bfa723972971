"""A checkpoint is on the disk before older ones are removed."""

import os
from pathlib import Path

import pytest
import torch

from medmim.finetune import checkpoint


def test_files_are_on_the_disk_before_the_rename_and_the_rename_before_older_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    folder = tmp_path / "resume"
    for step in (1, 2):
        checkpoint.save(folder, step, model, [optimizer], {})
    synced: list[tuple[str, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((str(path.relative_to(folder)), sorted(p.name for p in folder.iterdir() if p.name[0] != ".")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    final = checkpoint.save(folder, 3, model, [optimizer], {})
    before, after = ["step-00000001", "step-00000002"], ["step-00000001", "step-00000002", "step-00000003"]
    files = {f".part-00000003/{path.name}" for path in final.iterdir()}
    assert {path for path, there in synced if there == before} == {*files, ".part-00000003"}
    assert [path for path, there in synced if there == after] == ["."]
    assert sorted(p.name for p in folder.iterdir()) == after[1:]
