"""Which file a tensor is read from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medmim.errors import UserError
from medmim.lvlm import weights
from medmim.lvlm.importing import convert, layouts
from tests.support.originals import LLAVA_MED, write_original

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("which", ["a.safetensors", "z.safetensors"])
def test_a_tensor_in_two_files_is_read_from_that_which_the_index_names_and_refused_without(
    which: str, tmp_path: Path
) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, LLAVA_MED, 1)
    (folder / "model-00001-of-00001.safetensors").unlink()
    twice = {"a.safetensors": tensors, "z.safetensors": {NAME: tensors[NAME] + 1, "lm_head.weight": torch.ones(1)}}
    for file, content in twice.items():
        save_file(content, folder / file)
    where = dict.fromkeys(tensors, "a.safetensors") | {NAME: which}
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": where}))
    layout = layouts.layout_of(folder, None)
    found = convert.find(layout, folder, "checkpoint").tensors
    assert found["language_model.model.layers.0.mlp.up_proj.weight"].file.name == which
    assert found["language_model.lm_head.weight"].file.name == "a.safetensors"
    (folder / weights.INDEX).unlink()
    with pytest.raises(UserError) as caught:
        convert.find(layout, folder, "checkpoint")
    assert len(caught.value.problems) == 2 and any(NAME in problem for problem in caught.value.problems)


def test_a_git_lfs_pointer_in_place_of_the_index_is_named(tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 493443\n"
    (tmp_path / "original" / weights.INDEX).write_text(pointer)
    layout = layouts.layout_of(tmp_path / "original", None)
    with pytest.raises(UserError, match="Git LFS pointer"):
        convert.find(layout, tmp_path / "original", "checkpoint")
