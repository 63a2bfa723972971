"""Weight files: the same bytes for everybody, whatever the size of a piece or a shard."""

import copy
import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from medmim.lvlm import llava, saving, weights
from medmim.lvlm.weights import Weight

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read(stored, dtype, piece):
    data = bytearray(b"".join(bytes(weights.buffer(part, dtype)) for part in weights.values(stored, piece)))
    return torch.frombuffer(data, dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])


def drawn(count):
    made = {}
    for index in range(count):
        shape = [(3, 5), (7,), (), (2, 1, 4), (0, 3)][index % 5]
        dtype = list(DTYPES.values())[index % 3]
        made[f"t{index}"] = torch.from_numpy(np.random.default_rng(index).normal(size=shape)).to(dtype)
    return made


@settings(max_examples=30)
@given(count=st.integers(1, 12), limit=st.integers(1, 200), piece=st.integers(1, 5))
def test_what_is_written_is_read_by_safetensors_and_by_us(tmp_path_factory, count, limit, piece):
    folder, values = tmp_path_factory.mktemp("w"), drawn(count)
    written = [weights.of_tensor(name, tensor) for name, tensor in values.items()]
    weights.write(folder, written, limit)
    files = sorted(folder.glob("*.safetensors"))
    loaded = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert loaded.keys() == values.keys()
    for name, tensor in values.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
    for file in files:
        stored = weights.tensors(file)
        assert len(stored) == 1 or sum(one.end - one.begin for one in stored.values()) <= limit
        for name, one in stored.items():
            assert torch.equal(read(one, one.dtype, piece * weights.SIZES[one.dtype]), values[name].reshape(-1))
    if len(files) > 1:
        index = json.loads((folder / weights.INDEX).read_text())
        assert index["weight_map"] == {n: f.name for f in files for n in weights.tensors(f)}
        assert index["metadata"]["total_size"] == sum(weight.bytes for weight in written)
    else:
        assert files[0].name == "model.safetensors" and not (folder / weights.INDEX).exists()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_another_dtype_is_rounded_as_torch_rounds(tmp_path, dtype):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 9))).to(DTYPES[dtype])
    save_file({"a": values}, tmp_path / "f.safetensors")
    one = weights.tensors(tmp_path / "f.safetensors")["a"]
    assert torch.equal(read(one, "BF16", 12), values.to(torch.bfloat16).reshape(-1))


@pytest.mark.parametrize("keep", [0, 4, 9, 60, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, keep):
    save_file({"a": torch.ones(8), "b": torch.ones(8)}, tmp_path / "f.safetensors")
    data = (tmp_path / "f.safetensors").read_bytes()
    (tmp_path / "f.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError):
        weights.tensors(tmp_path / "f.safetensors")


def of_another(header):
    header["b"]["data_offsets"] = header["a"]["data_offsets"]


@pytest.mark.parametrize(
    "damage",
    [
        of_another,
        lambda header: header["a"]["data_offsets"].reverse(),
        lambda header: header["a"].update(data_offsets=[0, 30]),
        lambda header: header["a"].update(data_offsets=[4, 32]),
        lambda header: header["a"].update(data_offsets=[-4, 28]),
        lambda header: header["a"].update(data_offsets=["0", "32"]),
        lambda header: header["a"].update(shape=[7]),
        lambda header: header["a"].update(shape=[-8]),
        lambda header: header["a"].update(shape=None),
        lambda header: header["a"].update(dtype="F16"),
        lambda header: header["a"].update(dtype="F33"),
        lambda header: header.pop("a"),
    ],
)
def test_a_header_that_does_not_describe_its_bytes_is_refused(tmp_path, damage):
    """Three tensors of 32 bytes; the last offset stays that of the file, so that its length alone says nothing."""
    save_file({"a": torch.ones(8), "b": torch.ones(8), "c": torch.ones(8)}, tmp_path / "f.safetensors")
    data = (tmp_path / "f.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    assert header["a"]["data_offsets"] == [0, 32] and weights.tensors(tmp_path / "f.safetensors")
    damage(header)
    text = json.dumps(header).encode()
    (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(ValueError, match="damaged"):
        weights.tensors(tmp_path / "f.safetensors")


def test_a_weight_with_other_bytes_than_its_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a has 4 bytes, its shape"):
        weights.write(tmp_path, [Weight("a", "F32", (2,), lambda: [b"1234"])])


def test_a_published_model_has_the_published_names(lvlm):
    """Those of the checkpoints of llava-hf and TIGER-Lab, which vLLM loads."""
    names = set(weights.tensors(lvlm.path / "model.safetensors"))
    towers = {name for name in names if name.startswith("vision_tower.")}
    assert towers and all(name.startswith("vision_tower.vision_model.") for name in towers)
    assert "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight" in names
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in names
    assert "multi_modal_projector.linear_1.weight" in names
    assert not any("lm_head" in name for name in names)  # tied


def test_an_untied_head_is_saved_and_shards_are_loaded_by_transformers(lvlm, tmp_path, monkeypatch):
    model = copy.deepcopy(lvlm.model)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() + 1)
    monkeypatch.setattr(weights.write, "__defaults__", (1_000_000, None))
    saved = saving.save(dataclasses.replace(lvlm, model=model), tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 5
    loaded, report = LlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert llava.load(tmp_path, device="cpu").digest == saved.digest
