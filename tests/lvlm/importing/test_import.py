"""Published checkpoints come in: names, shapes, logits by the original formula, tokens, images, and what is refused."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoProcessor, LlavaForConditionalGeneration

from medmim import store, terms
from medmim.errors import UserError
from medmim.lvlm import checkpoint, weights
from medmim.lvlm.ask_hf import pixels
from medmim.lvlm.encode import encode, tokens_per_image
from medmim.lvlm.family import Turn
from medmim.lvlm.importing import convert, layouts, source
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace, workspace
from medmim.tiny import architecture
from tests.support import hub_server, originals
from tests.support.originals import LLAVA_MED, QUESTION, write_original

SIGLIP = originals.MANTIS
BOTH = pytest.mark.parametrize("which", [SIGLIP, LLAVA_MED])
IMAGES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8))
    for i, shape in enumerate([(20, 50, 3), (40, 16, 3)])
]
TOWER = Options(tower="checkpoint")


def options(which: str) -> Options:
    return TOWER if which == LLAVA_MED else Options()


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home")


def original_ids(which: str, folder: Path, prompt: str, tokenizer: Any) -> list[int]:
    """Token ids as the original code makes them, each image one -200."""
    if (
        which == LLAVA_MED
    ):  # mm_utils.tokenizer_image_token: SentencePiece on each piece between the images, <s> in front
        data = (folder / "tokenizer.model").read_bytes()
        parts = prompt.removeprefix("<s>").split("<image>")
        found = [1]
        for index, part in enumerate(parts):
            found += [-200] * (index > 0) + originals.sentencepiece_ids(data, part)
        return found
    return [-200 if i == tokenizer.image_token_id else i for i in tokenizer_ids(tokenizer, prompt)]


def tokenizer_ids(tokenizer: Any, prompt: str) -> list[int]:
    return list(tokenizer.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False).ids)


@BOTH
@pytest.mark.parametrize("images", [0, 1, 2])
def test_logits_are_those_of_the_original_formula(which: str, images: int, ws: Workspace, tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "original", which)
    artifact = import_base(str(tmp_path / "original"), ws, options(which), limit=20_000)
    folder = store.fetch(artifact, ws.cache)
    assert len(list(folder.glob("*.safetensors"))) > 2
    check_logits(which, tmp_path / "original", tensors, folder, images, 16 if which == LLAVA_MED else 15)


def check_logits(
    which: str, original: Path, tensors: dict[str, torch.Tensor], folder: Path, images: int, per_image: int
) -> None:
    lvlm = checkpoint.load(folder, "cpu", torch.float32)
    turns = [Turn(QUESTION)]
    prompt = "".join(segment.text for segment in lvlm.family.render(turns, images))
    processor = AutoProcessor.from_pretrained(folder)
    ids = original_ids(which, original, prompt, processor)
    encoded = encode(lvlm, turns, images)
    assert tokens_per_image(lvlm.model.config) == lvlm.model.config.image_seq_length == per_image
    image = lvlm.model.config.image_token_id
    assert encoded.ids == [i for one in ids for i in ([image] * per_image if one == -200 else [one])]
    shown = pixels(lvlm, IMAGES[:images]) if images else torch.zeros(0, 3, 16, 16)
    config = json.loads((original / "config.json").read_text())
    expected = originals.logits(which, config, tensors, ids, shown)
    with torch.no_grad():
        found = lvlm.model(input_ids=torch.tensor([encoded.ids]), **({"pixel_values": shown} if images else {})).logits[
            0
        ]
    assert torch.allclose(found[:, : expected.shape[1]], expected, atol=2e-4, rtol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("which", "change", "per_image"),
    [
        (LLAVA_MED, {"mm_vision_select_layer": -3}, 16),
        (LLAVA_MED, {"mm_vision_select_feature": "cls_patch"}, 17),
        (LLAVA_MED, {"tie_word_embeddings": True}, 16),
        (SIGLIP, {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}, 16),
        (SIGLIP, {"tie_word_embeddings": True}, 15),
    ],
)
def test_a_changed_setting_changes_the_logits_as_in_the_original(
    which: str, change: dict[str, Any], per_image: int, ws: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, which, 1)
    edit(folder / "config.json", change)
    artifact = import_base(str(folder), ws, options(which))
    check_logits(which, folder, tensors, store.fetch(artifact, ws.cache), 1, per_image)


def edit(file: Path, change: dict[str, Any]) -> None:
    """Change keys of a file in JSON."""
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | change))


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
    assert model.config.text_config.pad_token_id == AutoProcessor.from_pretrained(folder).tokenizer.pad_token_id
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    total = sum(tensor.numel() for tensor in tensors.values())
    added = model.config.text_config.vocab_size - max(t.shape[0] for n, t in tensors.items() if "embed_tokens" in n)
    width = model.config.text_config.hidden_size
    assert artifact.counts["parameters"] == total + 2 * added * width == sum(p.numel() for p in model.parameters())
    assert not (ws.home / "work").exists() or not list((ws.home / "work").iterdir())
    again = import_base(str(tmp_path / "original"), ws, options(which), limit=None)
    assert again.digest == artifact.digest


def test_llava_med_gets_image_and_padding_tokens_and_rows_that_are_the_mean(ws: Workspace, tmp_path: Path) -> None:
    tensors = write_original(tmp_path / "original", LLAVA_MED)
    rows = len(tensors["lm_head.weight"])
    lvlm = checkpoint.load(
        store.fetch(import_base(str(tmp_path / "original"), ws, TOWER), ws.cache), "cpu", torch.float32
    )
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


def test_llava_med_pads_to_a_square_with_the_mean_colour(ws: Workspace, tmp_path: Path) -> None:
    """Against expand2square of llava/mm_utils.py, by hand; the border of a wide image is kept."""
    write_original(tmp_path / "original", LLAVA_MED)
    lvlm = checkpoint.load(store.fetch(import_base(str(tmp_path / "original"), ws, TOWER), ws.cache), "cpu")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for image in IMAGES:
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        small = np.asarray(square.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        expected = ((small - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
        assert np.allclose(pixels(lvlm, [image])[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": [0.1, 0.2, 0.3]},
        {"image_std": [0.5, 0.6, 0.7]},
        {"resample": 2},
        {"rescale_factor": 1 / 127.5},
        {"image_aspect_ratio": "square"},  # of config.json, the others of the CLIP
    ],
)
def test_llava_med_sees_what_the_settings_of_its_clip_say(
    change: dict[str, Any], ws: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "original"
    write_original(folder, LLAVA_MED, 1)
    square = "image_aspect_ratio" in change
    edit(folder / ("config.json" if square else "clip/preprocessor_config.json"), change)
    edit(folder / "clip" / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"})
    lvlm = checkpoint.load(store.fetch(import_base(str(folder), ws, TOWER), ws.cache), "cpu")
    mean = np.array(change.get("image_mean", (0.48145466, 0.4578275, 0.40821073)))
    std = np.array(change.get("image_std", (0.26862954, 0.26130258, 0.27577711)))
    for image in IMAGES:
        if square:  # the shorter side becomes 16, the middle of the longer one is kept
            width, height = (16 * n // min(image.size) for n in image.size)
            left, top = (width - 16) // 2, (height - 16) // 2
            small = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 16, top + 16))
        else:
            side = max(image.size)
            padded = Image.new("RGB", (side, side), tuple(int(255 * m) for m in mean))
            padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            small = padded.resize((16, 16), Image.Resampling(change.get("resample", 3)))
        expected = (np.asarray(small, dtype=np.float32) * change.get("rescale_factor", 1 / 255) - mean) / std
        assert np.allclose(pixels(lvlm, [image])[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


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


@BOTH
def test_the_real_names_and_shapes_are_planned_whole(which: str, tmp_path: Path) -> None:
    """The list of the published checkpoint, as a file of its real size that takes no room."""
    originals.write_sparse(tmp_path, which)
    (tmp_path / "config.json").write_text(json.dumps(originals.REAL_CONFIG[which]))
    layout = layouts.layout_of(tmp_path, None)
    rows = 32064 if which == LLAVA_MED else 128258
    planned = convert.plan(convert.find(layout, tmp_path, "checkpoint"), layout.config, rows)
    assert len(planned) == len(list(originals.listed(which)))
    by_name = {weight.name: weight.shape for weight in planned}
    assert by_name["language_model.model.embed_tokens.weight"] == (rows, 4096)
    assert by_name["language_model.lm_head.weight"] == (rows, 4096)
    total = sum(np.prod(shape) for shape in by_name.values())
    assert total == pytest.approx(7.57e9 if which == LLAVA_MED else 8.48e9, rel=0.01)
    assert tokens_per_image(layout.config) == (576 if which == LLAVA_MED else 728)
    text = layout.config.text_config
    assert text.rope_parameters["rope_theta"] == (1e6 if which == LLAVA_MED else 5e5)
    assert text.num_key_value_heads == 8 and text.rms_norm_eps == 1e-5 and not layout.config.tie_word_embeddings
    assert layout.config.vision_feature_layer == -2
    vision = layout.config.vision_config
    assert vision.num_attention_heads == 16 and vision.layer_norm_eps == (1e-5 if which == LLAVA_MED else 1e-6)
    assert vision.hidden_act == ("quick_gelu" if which == LLAVA_MED else "gelu_pytorch_tanh")


@pytest.mark.parametrize("generation", ["transformers 4.52", "transformers 5"])
def test_every_generation_of_transformers_names_is_read(generation: str, ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, SIGLIP)
    first = import_base(str(folder), ws, Options())
    renamed = {}
    for name, tensor in tensors.items():
        if generation == "transformers 4.52":
            name = name.replace("language_model.lm_head", "lm_head") if "lm_head" in name else f"model.{name}"
            name = name.replace("model.language_model.model", "model.language_model")
        else:
            name = name.replace("vision_tower.vision_model", "vision_tower")
        renamed[name] = tensor
    renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(16)[None]
    renamed["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    for file in (*folder.glob("*.safetensors"), folder / weights.INDEX):
        file.unlink()
    save_file(renamed, folder / "model.safetensors")
    assert import_base(str(folder), ws, Options()).digest == first.digest


def test_a_siglip_without_its_pooling_head_is_read(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = {n: t for n, t in write_original(folder, SIGLIP, 1).items() if ".head." not in n}
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    (folder / weights.INDEX).unlink()
    lvlm = checkpoint.load(store.fetch(import_base(str(folder), ws, Options()), ws.cache), "cpu")
    assert lvlm.model.config.vision_config.vision_use_head is False


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


_FROM_HUB = """
import sys
from pathlib import Path
from medmim.errors import UserError
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.provenance import terms_of
from medmim.run.workspace import workspace
for name in sys.argv[2:]:
    try:
        print(terms_of(import_base(name, workspace(Path(sys.argv[1])), Options(hub=True))).text[0])
    except UserError as error:
        print(" ".join(str(error).split()))
"""


@pytest.mark.long
def test_only_what_the_hub_sent_has_the_terms_of_its_name(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pickled = "TIGER-Lab/Mantis-8B-siglip-llama3", "owner/pickled"
    write_original(tmp_path / "hub" / name, SIGLIP)
    shutil.copytree(tmp_path / "hub" / name, tmp_path / "hub" / pickled)
    for file in (tmp_path / "hub" / pickled).glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with hub_server.serving(tmp_path / "hub") as address:
        done = subprocess.run(
            [sys.executable, "-c", _FROM_HUB, str(tmp_path / "other"), name, pickled],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "HF_ENDPOINT": address, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        )
    downloaded, refusal = done.stdout.splitlines()
    assert downloaded == terms.PUBLISHED["llama3"].text[0], done.stderr
    assert f"{pickled} are pickled: model-00001-of-00002.bin" in refusal and "hf download" in refusal
    monkeypatch.chdir(tmp_path / "hub")
    assert terms_of(import_base(name, ws, Options())) == terms.UNKNOWN


def test_a_checkpoint_comes_from_a_bucket_and_goes_into_one(ws: Workspace, bucket: str, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    near = import_base(str(tmp_path / "original"), ws, TOWER)
    there = store.open_store(f"{bucket}/raw/llava-med")
    for file in (tmp_path / "original").iterdir():
        if file.is_file():
            there.upload(file.name, file)
    (tmp_path / "clip").mkdir()
    shutil.copy(tmp_path / "original" / "clip" / "config.json", tmp_path / "clip")
    far = Workspace(tmp_path / "far", f"{bucket}/store", "")
    chosen = Options(tower="checkpoint", clip=tmp_path / "clip")
    artifact = import_base(f"{bucket}/raw/llava-med", far, chosen)
    assert artifact.uri.startswith(bucket) and artifact.digest == near.digest
    assert not list((far.home / "work").iterdir())
    with pytest.raises(UserError, match="no checkpoint at"):
        import_base(f"{bucket}/raw/other", far, chosen)
    store.open_store(f"{bucket}/raw/pickled").write("pytorch_model.bin", b"x")
    store.open_store(f"{bucket}/raw/pickled").write("config.json", b"{}")
    with pytest.raises(UserError, match="are pickled: pytorch_model.bin") as caught:
        import_base(f"{bucket}/raw/pickled", far, chosen)
    assert "aws s3 cp" in caught.value.fix and "python -c" in caught.value.fix


def test_what_was_replaced_in_the_bucket_is_copied_again_and_only_that(
    ws: Workspace, bucket: str, tmp_path: Path
) -> None:
    """A file of equal length, after an import that was refused: the copies of the first try are still there."""
    folder, ref = tmp_path / "original", f"{bucket}/raw"
    tensors = write_original(folder, SIGLIP, 1)
    name = "model-00001-of-00001.safetensors"
    good = (folder / "config.json").read_bytes()
    wrong = good.replace(b'"model_type": "llama"', b'"model_type": "lamma"')
    there = store.open_store(ref)
    for file in folder.iterdir():
        there.upload(file.name, file)
    there.write("config.json", wrong)
    there.write("zz.safetensors", b"of another checkpoint")
    far = Workspace(tmp_path / "far", f"{bucket}/store", "")
    with pytest.raises(UserError, match="of another family"):
        import_base(ref, far, Options())
    (copy,) = (far.home / "work").glob("import-*/source")
    before = {file.name: file.stat().st_ino for file in copy.iterdir()}
    there.write("config.json", good.replace(b'"projector_hidden_act": "gelu"', b'"projector_hidden_act": "nope"'))
    there.delete("zz.safetensors")
    with pytest.raises(UserError, match="not a configuration that transformers accepts"):
        import_base(ref, far, Options())
    after = {file.name: file.stat().st_ino for file in copy.iterdir()}
    assert before.keys() - after.keys() == {"zz.safetensors"}
    assert {file for file in after if before[file] != after[file]} == {"config.json"}
    changed = tensors | {"language_model.lm_head.weight": -tensors["language_model.lm_head.weight"]}
    save_file(changed, folder / name, {"format": "pt"})
    there.upload(name, folder / name)
    there.write("config.json", good)
    assert import_base(ref, far, Options()).digest == import_base(str(folder), ws, Options()).digest


# ------------------------------------------------------------------ bad input: nothing is published, all is named


def refused(folder: Path | str, ws: Workspace, chosen: Options = TOWER) -> UserError:
    with pytest.raises(UserError) as caught:
        import_base(str(folder), ws, chosen)
    assert caught.value.fix
    kept = Path(ws.store) / "model"
    assert not kept.exists() or not list(kept.iterdir())
    return caught.value


def test_a_hub_name_without_network_names_the_line_to_type(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    med = refused("microsoft/llava-med-v1.5-mistral-7b", ws, Options()).fix
    imported = "medmim base import llava-med-v1.5-mistral-7b"
    assert f"`{imported} --terms llava-med --vision-tower checkpoint`, or with `--vision-tower stock`" in med
    med = refused("microsoft/llava-med-v1.5-mistral-7b", ws, Options("stock", Path("CLIP"))).fix
    assert med.endswith(f"`{imported} --vision-tower stock --clip CLIP --terms llava-med`")
    name = "TIGER-Lab/Mantis-8B-siglip-llama3"
    folder = "Mantis-8B-siglip-llama3"
    line = f"`hf download {name} --local-dir {folder}`, then `medmim base import {folder} --terms llama3`"
    error = refused(name, ws, Options())
    assert "online only" in error.reason and "--hub" in error.fix and line in error.fix
    code = (
        "import sys, pathlib; from medmim.lvlm.importing.run import *; from medmim.run.workspace import workspace\n"
        f"try: import_base({name!r}, workspace(pathlib.Path({str(tmp_path / 'other')!r})), Options(hub=True))\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert "Unavailable: the Hugging Face Hub cannot be reached" in ended.stderr, ended.stderr
    assert line in ended.stderr


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


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_file_of_weights_is_named(index: bool, ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED, 3)
    (tmp_path / "original" / "model-00002-of-00003.safetensors").unlink()
    if not index:
        (tmp_path / "original" / weights.INDEX).unlink()
    error = refused(tmp_path / "original", ws)
    assert "1 of 3 weight files" in error.fact and error.problems == ("model-00002-of-00003.safetensors",)


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


def test_tokenizer_and_model_that_disagree_are_refused(ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "mantis", SIGLIP)
    config = json.loads((tmp_path / "mantis" / "config.json").read_text())
    right = config["image_token_index"]
    (tmp_path / "mantis" / "config.json").write_text(json.dumps(config | {"image_token_index": 7}))
    assert refused(tmp_path / "mantis", ws, Options()).problems == (
        f"<image> is token {right} of the tokenizer and 7 of config.json",
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


@pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", "tokenizer.model"])
def test_a_git_lfs_pointer_is_named(file: str, ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 493443\n"
    (tmp_path / "original" / file).write_text(pointer)
    error = refused(tmp_path / "original", ws)
    assert "Git LFS pointer" in str(error) and file in str(error)


def test_a_file_that_is_cut_off_is_named(ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    file = tmp_path / "original" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert refused(tmp_path / "original", ws).problems[0].startswith("model-00002-of-00002.safetensors: it is cut off")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type is 'spatial_unpad'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"model_type": "llava_qwen2"}, "model_type 'llava_qwen2'"),
        ({"mm_vision_tower": "google/vit"}, "the vision tower 'google/vit' is not known"),
        ({"hidden_size": "wide"}, "not a configuration that transformers accepts"),
        ({"bos_token_id": 7}, "<s> is token 1 of the tokenizer and 7 of config.json"),
        ({"eos_token_id": 7}, "</s> is token 2 of the tokenizer and 7 of config.json"),
        ({"mm_vision_select_layer": -5}, "reads layer -5 of a vision tower of 3 layers"),
        ({"mm_vision_select_layer": 4}, "reads layer 4 of a vision tower of 3 layers"),
    ],
)
def test_another_llava_is_refused_by_its_feature(
    change: dict[str, Any], message: str, ws: Workspace, tmp_path: Path
) -> None:
    write_original(tmp_path / "original", LLAVA_MED)
    file = tmp_path / "original" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert message in str(refused(tmp_path / "original", ws))


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


def test_how_floats_were_loaded_is_not_kept(ws: Workspace, tmp_path: Path) -> None:
    write_original(tmp_path / "original", SIGLIP)
    edit(
        tmp_path / "original" / "config.json",
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    )
    folder = store.fetch(import_base(str(tmp_path / "original"), ws, Options()), ws.cache)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    checkpoint.load(folder, "cpu")


def test_a_checkpoint_without_its_tower_is_told_to_take_the_stock_one(ws: Workspace, tmp_path: Path) -> None:
    folder, at = tmp_path / "original", "model.vision_tower.vision_tower."
    tensors = write_original(folder, LLAVA_MED, 1)
    (folder / weights.INDEX).unlink()
    save_file({n: t for n, t in tensors.items() if at not in n}, folder / "model-00001-of-00001.safetensors")
    error = refused(folder, ws)
    assert "has no vision tower" in error.fact and "--vision-tower stock --clip FOLDER" in error.fix
    save_file({n.removeprefix(at): t for n, t in tensors.items() if at in n}, folder / "clip" / "model.safetensors")
    chosen = Options(tower="stock", clip=folder / "clip")
    assert import_base(str(folder), ws, chosen).counts["vision_tower"] == "stock"


def test_each_disk_needs_room_for_what_it_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no disk of its own")
    free = {tmp_path: 150, other: 150}
    monkeypatch.setattr(shutil, "disk_usage", lambda disk: shutil._ntuple_diskusage(999, 0, free[disk]))
    source.refuse_full_disk(tmp_path, other / "store", 100)
    source.refuse_full_disk(tmp_path, None, 100)
    with pytest.raises(UserError, match="needs 0.0 GB") as caught:
        source.refuse_full_disk(tmp_path, tmp_path / "store" / "model", 100)
    assert "--home" in caught.value.fix
    free[other] = 50
    with pytest.raises(UserError, match="/dev/shm") as caught:
        source.refuse_full_disk(tmp_path, other / "store", 100)
    assert "--store" in caught.value.fix


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
    assert "GB free; this needs" in refused(tmp_path / "original", ws).fact
    monkeypatch.undo()
    assert import_base(str(tmp_path / "original"), ws, TOWER).kind == "model"


def test_what_is_no_place_is_refused(ws: Workspace, tmp_path: Path) -> None:
    assert "no checkpoint at" in refused(tmp_path / "nothing", ws).fact
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty", ws).fact
    assert source.is_hub_name("a/b") and not source.is_hub_name("a/b/c") and not source.is_hub_name("/a")


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
