"""What is published: a base that everybody loads, with its tower, tokens and terms, or nothing."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoProcessor, LlavaForConditionalGeneration

from medmim import store, terms
from medmim.errors import UserError
from medmim.lvlm import checkpoint, llava, weights
from medmim.lvlm.importing import layouts
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.tiny import architecture
from tests.support.importing import BOTH, SIGLIP, TOWER, edit, options, refused
from tests.support.originals import LLAVA_MED, QUESTION, write_original


@BOTH
def test_what_comes_in_is_a_base_that_recipes_name_and_everybody_loads(
    which: str, ws: Workspace, tmp_path: Path
) -> None:
    tensors = write_original(tmp_path / "original", which)
    artifact = import_base(str(tmp_path / "original"), ws, options(which))
    assert artifact.kind == "model"
    assert artifact.counts["layout"] == ("llava_mistral" if which == LLAVA_MED else "llava")
    assert checkpoint.resolve(artifact.uri, ws) == store.fetch(artifact, ws.cache)
    folder = store.fetch(artifact, ws.cache)
    stored = weights.tensors(folder / "model.safetensors")
    assert {one.dtype for one in stored.values()} == {"BF16"}
    assert all(
        name.startswith(("vision_tower.vision_model.", "multi_modal_projector.", "language_model.")) for name in stored
    )
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert model.config.text_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.padding_side == "left", "generating from a batch goes on at the end of each row"
    assert model.generation_config.bos_token_id == tokenizer.bos_token_id is not None
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        assert part["dtype"] == "bfloat16"
    assert not [
        key for key in (*config, *config["text_config"]) if key.startswith(("mm_", "tune_", "freeze_", "image_aspect"))
    ]
    assert not {"auto_map", "tokenizer_model_max_length", "use_mm_proj"} & config["text_config"].keys()
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    total = sum(tensor.numel() for tensor in tensors.values())
    added = model.config.text_config.vocab_size - max(t.shape[0] for n, t in tensors.items() if "embed_tokens" in n)
    width = model.config.text_config.hidden_size
    assert artifact.counts["parameters"] == total + 2 * added * width == sum(p.numel() for p in model.parameters())
    assert not (ws.home / "work").exists() or not list((ws.home / "work").iterdir())
    again = import_base(str(tmp_path / "original"), ws, options(which), limit=None)
    assert again.digest == artifact.digest


def test_the_tower_of_llava_med_is_chosen_and_recorded(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, LLAVA_MED)
    with pytest.raises(UserError, match="which vision tower") as caught:
        import_base(str(folder), ws, Options())
    assert "--vision-tower checkpoint" in caught.value.fix and "--vision-tower stock" in caught.value.fix
    stock = {
        name.removeprefix("model.vision_tower.vision_tower."): tensor + 1
        for name, tensor in tensors.items()
        if name.startswith("model.vision_tower.vision_tower.")
    }
    extra = {"text_model.final_layer_norm.weight": torch.ones(3), "logit_scale": torch.ones(1)}
    extra["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(stock | extra, folder / "clip" / "model.safetensors")
    towers = {}
    for tower in ("checkpoint", "stock"):
        artifact = import_base(str(folder), ws, Options(tower=tower))
        towers[tower] = load_file(store.fetch(artifact, ws.cache) / "model.safetensors")
        assert artifact.counts["vision_tower"] == tower
        assert json.loads((Path(artifact.uri) / "provenance.json").read_text())["vision_tower"] == tower
    name = "encoder.layers.0.self_attn.q_proj.weight"
    own = tensors[f"model.vision_tower.vision_tower.vision_model.{name}"]
    assert torch.equal(towers["checkpoint"][f"vision_tower.vision_model.{name}"], own)
    assert torch.equal(towers["stock"][f"vision_tower.vision_model.{name}"], own + 1)
    decoder = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(towers["stock"][decoder], towers["checkpoint"][decoder])


def test_a_checkpoint_without_its_tower_is_told_to_take_the_stock_one(ws: Workspace, tmp_path: Path) -> None:
    folder, at = tmp_path / "original", "model.vision_tower.vision_tower."
    tensors = write_original(folder, LLAVA_MED, 1)
    (folder / weights.INDEX).unlink()
    save_file({n: t for n, t in tensors.items() if at not in n}, folder / "model-00001-of-00001.safetensors")
    error = refused(folder, ws)
    assert "has no vision tower" in error.fact and error.fix == "give --vision-tower stock"
    save_file({n.removeprefix(at): t for n, t in tensors.items() if at in n}, folder / "clip" / "model.safetensors")
    chosen = Options(tower="stock", clip=str(folder / "clip"))
    assert import_base(str(folder), ws, chosen).counts["vision_tower"] == "stock"


def test_terms_come_with_the_checkpoint(ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "llava", LLAVA_MED)
    write_original(tmp_path / "mantis", SIGLIP)
    assert terms_of(import_base(str(tmp_path / "llava"), ws, TOWER)) == terms.PUBLISHED["llava-med"]
    assert terms_of(import_base(str(tmp_path / "mantis"), ws, Options())) == terms.UNKNOWN
    given = import_base(str(tmp_path / "mantis"), ws, Options(allowed=terms.PUBLISHED["llama3"]))
    assert checkpoint.terms_of(given.uri) == terms.PUBLISHED["llama3"]
    own = terms.Terms(serve=True, text=("mine",))
    (tmp_path / "mantis" / "terms.json").write_text(own.dump())
    assert terms_of(import_base(str(tmp_path / "mantis"), ws, Options())) == own


def test_a_folder_that_is_called_as_a_checkpoint_of_the_hub_does_not_get_its_terms(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TIGER-Lab/Mantis-8B-siglip-llama3"
    write_original(tmp_path / name, SIGLIP)
    monkeypatch.chdir(tmp_path)
    assert terms_of(import_base(name, ws, Options(hub=True))) == terms.UNKNOWN


@pytest.mark.parametrize("part", ["", "text_config", "vision_config"])
def test_how_floats_were_loaded_is_not_kept(part: str, ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", SIGLIP)
    config = layouts.read_config(tmp_path / "original")
    loaded = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    edit(tmp_path / "original" / "config.json", {part: config[part] | loaded} if part else loaded)
    folder = store.fetch(import_base(str(tmp_path / "original"), ws, Options()), ws.cache)
    assert "quantization_config" not in (folder / "config.json").read_text()
    llava.load(folder, "cpu")


def test_tokenizer_and_model_that_disagree_are_refused(ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "mantis", SIGLIP)
    config = json.loads((tmp_path / "mantis" / "config.json").read_text())
    right = config["image_token_index"]
    (tmp_path / "mantis" / "config.json").write_text(json.dumps(config | {"image_token_index": 7}))
    assert refused(tmp_path / "mantis", ws, Options()).problems == (
        f"<image> is token {right} of the tokenizer and 7 of config.json",
    )
    (tmp_path / "mantis" / "config.json").write_text(json.dumps(config))
    more = Tokenizer.from_file(str(tmp_path / "mantis" / "tokenizer.json"))
    before = more.get_vocab_size()
    more.add_tokens(["one that the weights do not have"])
    more.save(str(tmp_path / "mantis" / "tokenizer.json"))
    assert refused(tmp_path / "mantis", ws, Options()).problems == (
        f"{before + 1} tokens, but the embedding has {before} rows",
    )
    write_original(tmp_path / "llava", LLAVA_MED)
    (tmp_path / "llava" / "tokenizer.model").unlink()
    assert "no tokenizer" in refused(tmp_path / "llava", ws).fact
    for file in (tmp_path / "mantis").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "llava")
    assert "the tokenizer of" in refused(tmp_path / "llava", ws).fact
    other = architecture.train_tokenizer([QUESTION], checkpoint.LLAVA_MED, size=300)
    other.save_pretrained(tmp_path / "llava")
    assert "rows" in refused(tmp_path / "llava", ws).problems[-1]
    (tmp_path / "llava" / "tokenizer.json").write_text("{")
    assert "is not a tokenizer" in refused(tmp_path / "llava", ws).fact


def test_what_would_not_load_is_refused_before_it_is_published(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, SIGLIP, 1)
    edit(folder / "preprocessor_config.json", {"size": {"height": 20, "width": 20}})
    error = refused(folder, ws, Options())
    assert error.fact.startswith(f"{folder}: its processor makes pictures of 20 x 20 pixels")
    edit(folder / "preprocessor_config.json", {"size": {"height": 16, "width": 16}})
    name = "language_model.lm_head.weight"
    large = tensors[name].float()
    large[0, 0] = 3.4e38  # finite in float32
    save_file(tensors | {name: large}, folder / "model-00001-of-00001.safetensors")
    assert f"{name} in model-00001-of-00001.safetensors holds values that are not finite in bf16" in str(
        refused(folder, ws, Options())
    )


def test_a_full_disk_leaves_nothing(ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        error = refused(tmp_path / "original", ws)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "a file grew too large while" in error.fact
    assert not list((ws.home / "work").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 5000))
    assert "has 5.0 kB free; this needs" in refused(tmp_path / "original", ws).fact
    monkeypatch.undo()
    assert import_base(str(tmp_path / "original"), ws, TOWER).kind == "model"
