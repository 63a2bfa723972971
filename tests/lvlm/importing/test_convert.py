"""Which tensors are read and from which file, what is written, and the memory that it takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import llava, weights
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn
from medmim.lvlm.importing import convert, layouts
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.workspace import Workspace
from tests.support import originals
from tests.support.importing import BOTH, SIGLIP, TOWER, edit, options, refused
from tests.support.originals import LLAVA_MED, QUESTION, write_original

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


def test_llava_med_gets_image_and_padding_tokens_and_rows_that_are_the_mean(ws: Workspace, tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "original", LLAVA_MED)
    rows = len(tensors["lm_head.weight"])
    lvlm = llava.load(store.fetch(import_base(str(tmp_path / "original"), ws, TOWER), ws.cache), "cpu", torch.float32)
    assert lvlm.tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [rows, rows + 1]
    assert lvlm.model.config.image_token_id == rows
    made = lvlm.model.lm_head.weight.detach()
    assert len(made) % 64 == 0 and rows + 2 <= len(made) < rows + 66
    for name, weight in (
        ("lm_head.weight", made),
        ("model.embed_tokens.weight", lvlm.model.get_input_embeddings().weight),
    ):
        source_rows = tensors[name].float()
        assert torch.equal(weight[:rows], source_rows)
        mean = source_rows.double().mean(0).to(torch.bfloat16).float()
        assert torch.equal(weight[rows:], mean.expand(len(made) - rows, -1))
    # an added token is never the most likely one
    with torch.no_grad():
        logits = lvlm.model(input_ids=torch.tensor([encode(lvlm, [Turn(QUESTION)], 0).ids])).logits[0]
    assert (logits[:, rows:].max(-1).values < logits[:, :rows].max(-1).values).all()


@pytest.mark.parametrize("above", [0, 1, 33, 63])
def test_rows_are_rounded_up_to_the_next_multiple_of_64_whatever_the_checkpoint_has(
    above: int, ws: Workspace, tmp_path: Path
) -> None:
    """Of a checkpoint whose rows are that many above such a multiple, some of them for no token."""
    folder = tmp_path / "original"
    tensors = write_original(folder, LLAVA_MED, 1)
    tokens, width = tensors["lm_head.weight"].shape
    rows = tokens + (above - tokens) % 64
    larger = {name: torch.ones(rows, width).bfloat16() for name in ("lm_head.weight", "model.embed_tokens.weight")}
    save_file(tensors | larger, folder / "model-00001-of-00001.safetensors")
    edit(folder / "config.json", {"vocab_size": rows})
    made = store.fetch(import_base(str(folder), ws, TOWER), ws.cache)
    needed = max(rows, tokens + 2)  # <image> and <pad>
    stored = weights.tensors(made / "model.safetensors")
    for name in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"):
        found = stored[name].shape[0]
        assert found % 64 == 0 and needed <= found < needed + 64
    assert llava.load_text(made).config.text_config.vocab_size == found


@pytest.mark.parametrize("piece", [1, 200, 1 << 26])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_become_the_nearest_of_bf16_and_added_rows_their_mean_whatever_the_pieces(
    dtype: torch.dtype, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, LLAVA_MED, 1)
    rows, width = tensors["lm_head.weight"].shape
    rng = np.random.default_rng(0)
    drawn = (rng.normal(size=(rows, width)) * 10.0 ** rng.integers(-4, 4, (rows, width))).astype(np.float32)
    drawn[0, :4] = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0]  # halfway between two
    head = torch.from_numpy(drawn).to(dtype)
    save_file(tensors | {"lm_head.weight": head}, folder / "model-00001-of-00001.safetensors")
    monkeypatch.setattr(weights, "PIECE", piece)
    layout = layouts.layout_of(folder, None)
    planned = convert.plan(convert.find(layout, folder, "checkpoint"), layout.config, rows + 3)
    (made,) = (weight for weight in planned if weight.name == "language_model.lm_head.weight")
    found = np.frombuffer(b"".join(bytes(part) for part in made.pieces()), np.uint16).reshape(rows + 3, width)
    values = head.float().numpy()
    assert np.array_equal(found[:rows], nearest(values))
    mean = values.mean(0, dtype=np.float64).astype(np.float32)
    assert np.array_equal(found[rows:], nearest(np.tile(mean, (3, 1))))


def nearest(values: Any) -> Any:
    """Bits of the nearest bf16, of two equally near ones the even: the upper half of a float32, rounded."""
    bits = values.view(np.uint32).astype(np.uint64)
    low, high = bits & 0xFFFF, bits >> 16
    return (high + ((low > 0x8000) | ((low == 0x8000) & (high % 2 == 1)))).astype(np.uint16)


def test_two_names_of_one_tensor_are_refused(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, SIGLIP, 1)
    (folder / weights.INDEX).unlink()
    again = {"model.language_model.norm.weight": tensors["language_model.model.norm.weight"] + 1}
    save_file(tensors | again, folder / "model-00001-of-00001.safetensors")
    (problem,) = refused(folder, ws, Options()).problems
    assert problem.endswith("a second language_model.model.norm.weight")


def test_a_tensor_that_only_the_index_has_is_named_with_the_index(ws: Workspace, tmp_path: Path) -> None:
    """A buffer, which the model does not miss: the file is older than its index all the same."""
    folder = tmp_path / "original"
    tensors = write_original(folder, SIGLIP, 1)
    name = "vision_tower.vision_model.embeddings.position_ids"
    file = "model-00001-of-00001.safetensors"
    where = {"weight_map": dict.fromkeys([*tensors, name], file)}
    (folder / weights.INDEX).write_text(json.dumps(where))
    error = refused(folder, ws, Options())
    assert "lacks 1 tensors that model.safetensors.index.json lists" in error.fact and error.problems == (name,)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "model.bin"])
def test_an_index_names_weights_of_its_folder_only(name: str, ws: Workspace, tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "original", SIGLIP, 1)
    (tmp_path / "original" / weights.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    error = refused(tmp_path / "original", ws, Options())
    assert "is not an index of weights" in error.fact and "outside of its folder" in error.reason


def test_of_a_checkpoint_with_a_stock_tower_nothing_of_its_own_is_read(ws: Workspace, tmp_path: Path) -> None:
    """Its own may have another size."""
    folder, at = tmp_path / "original", "model.vision_tower.vision_tower."
    tensors = write_original(folder, LLAVA_MED, 1)
    (folder / weights.INDEX).unlink()
    tower = {n.removeprefix(at): t + 1 for n, t in tensors.items() if n.startswith(at)}
    save_file(tower, folder / "clip" / "model.safetensors")
    own = {f"{at}vision_model.encoder.layers.7.layer_norm1.bias": torch.ones(24)}
    save_file(tensors | own, folder / "model-00001-of-00001.safetensors")
    found = load_file(store.fetch(import_base(str(folder), ws, Options("stock")), ws.cache) / "model.safetensors")
    of_tower = {n: t for n, t in found.items() if n.startswith("vision_tower.")}
    assert of_tower.keys() == {f"vision_tower.{name}" for name in tower}
    assert all(torch.equal(of_tower[f"vision_tower.{name}"], tensor) for name, tensor in tower.items())


def test_a_siglip_without_its_pooling_head_is_read(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = {n: t for n, t in write_original(folder, SIGLIP, 1).items() if ".head." not in n}
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    (folder / weights.INDEX).unlink()
    lvlm = llava.load(store.fetch(import_base(str(folder), ws, Options()), ws.cache), "cpu")
    assert lvlm.model.config.vision_config.vision_use_head is False


@BOTH
def test_missing_surplus_and_misshapen_tensors_are_named(which: str, ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, which, 1)
    (folder / weights.INDEX).unlink()
    at = "model." if which == LLAVA_MED else "language_model.model."
    wrong = dict(tensors)
    wrong[f"{at}layers.1.mlp.up_proj.weight"] = torch.ones(7, 5)
    del wrong[f"{at}norm.weight"]
    wrong[f"{at}layers.9.input_layernorm.weight"] = torch.ones(4)
    wrong[f"{at}layers.0.input_layernorm.weight"] = torch.ones(40, dtype=torch.int8)
    save_file(wrong, folder / "model-00001-of-00001.safetensors")
    problems = "\n".join(refused(folder, ws, options(which)).problems)
    assert "layers.1.mlp.up_proj.weight: [7, 5], the configuration asks for [48, " in problems
    assert "language_model.model.norm.weight: missing" in problems
    assert "layers.9.input_layernorm.weight: not in a model of this configuration" in problems
    assert "layers.0.input_layernorm.weight" in problems
    save_file(tensors | {"model.qformer.weight": torch.ones(2)}, folder / "model-00001-of-00001.safetensors")
    assert refused(folder, ws, options(which)).problems == ("model.qformer.weight",)
    name = f"{at}layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name] * torch.inf}, folder / "model-00001-of-00001.safetensors")
    error = refused(folder, ws, options(which))
    assert "layers.1.mlp.up_proj.weight" in error.fact and "not finite" in error.fact


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_file_of_weights_is_named(index: bool, ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED, 3)
    (tmp_path / "original" / "model-00002-of-00003.safetensors").unlink()
    if not index:
        (tmp_path / "original" / weights.INDEX).unlink()
    error = refused(tmp_path / "original", ws)
    assert "1 of 3 weight files" in error.fact and error.problems == ("model-00002-of-00003.safetensors",)


def test_a_file_that_is_cut_off_is_named(ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    file = tmp_path / "original" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert refused(tmp_path / "original", ws).problems[0].startswith("model-00002-of-00002.safetensors: it is cut off")


def test_pickled_weights_are_refused_with_a_line_that_converts_them(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, LLAVA_MED, 1)
    for file in (*folder.glob("*.safetensors"), folder / weights.INDEX):
        file.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    error = refused(folder, ws)
    assert "pytorch_model.bin" in error.fact and "run code" in error.reason
    command = error.fix[error.fix.index("python -c") :]
    subprocess.run(command.replace("python -c", f"{sys.executable} -c", 1), shell=True, check=True)
    assert torch.equal(load_file(folder / "pytorch_model.safetensors")["lm_head.weight"], tensors["lm_head.weight"])
    assert import_base(str(folder), ws, TOWER).counts["family"] == "llava-med"


@pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", "tokenizer.model"])
def test_a_git_lfs_pointer_is_named(file: str, ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 493443\n"
    (tmp_path / "original" / file).write_text(pointer)
    error = refused(tmp_path / "original", ws)
    assert "a Git LFS pointer" in error.fact and file in str(error)
    assert error.fix == f"`git lfs pull` in {tmp_path / 'original'}"


_MEASURED = """
import sys, threading, time
from pathlib import Path
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.workspace import workspace
seen = []
def watch():  # without the pages of mapped files, which the system drops when it needs the memory
    while True:
        seen.append(int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024)
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
artifact = import_base(sys.argv[1], workspace(Path(sys.argv[2])), Options(tower="checkpoint"))
print(max(seen))
print(artifact.counts["parameters"])
"""


@pytest.mark.long
def test_memory_is_that_of_some_pieces_whatever_the_size_of_the_model(tmp_path: Path) -> None:
    """Real widths, two layers, in float32: 3 GB come in, the largest tensor has half a gigabyte."""
    originals.write_sparse(tmp_path, LLAVA_MED, "F32", layers=2)
    config = originals.REAL_CONFIG[LLAVA_MED] | {"num_hidden_layers": 2, "vision_config": _clip_of_two_layers()}
    (tmp_path / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "clip of two layers"}))
    vocabulary = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(31997))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path), str(tmp_path / "home")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak, parameters = map(int, done.stdout.split())
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    largest = 4 * 32000 * 4096
    print(f"{size / 1e9:.2f} GB, {parameters:,} parameters, largest {largest >> 20} MiB: peak {peak >> 20} MiB")
    assert size > 2.5e9 and peak < largest + 2**30


def _clip_of_two_layers() -> dict[str, Any]:
    return layouts.CLIPS["openai/clip-vit-large-patch14-336"] | {"num_hidden_layers": 2}
