"""Loading what was saved, and refusing a checkpoint that is damaged or does not fit together."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration
from transformers.integrations import HfDeepSpeedConfig

from medmim.errors import Unavailable, UserError
from medmim.lvlm import checkpoint, llava, saving
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn
from medmim.lvlm.features import pixels
from tests.support.rust import PRECOMPILED


def logits(model, ids, values):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), pixel_values=values).logits


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["mantis"], tmp_path / "model")


def test_a_saved_model_is_loaded_with_equal_logits_and_digest(lvlm, tmp_path):
    saved = saving.save(lvlm, tmp_path / "again")
    loaded = llava.load(tmp_path / "again", device="cpu")
    assert loaded.digest == saved.digest
    assert loaded.family is lvlm.family
    ids = encode(lvlm, [Turn("Which image shows opacity?")], 2).ids
    values = pixels(lvlm, [Image.radial_gradient("L"), Image.linear_gradient("L")])
    assert torch.equal(logits(lvlm.model, ids, values), logits(loaded.model, ids, values))


def test_stock_transformers_loads_it_and_tokenizes_the_same_prompt(lvlm):
    model = LlavaForConditionalGeneration.from_pretrained(lvlm.path).eval()
    processor = AutoProcessor.from_pretrained(lvlm.path)
    images = [Image.radial_gradient("L").convert("RGB"), Image.linear_gradient("L").convert("RGB")]
    turns = [Turn("Which image shows opacity?\nA: image 1\nB: image 2")]
    text = "".join(segment.text for segment in lvlm.family.render(turns, 2))
    inputs = processor(images=images, text=text, return_tensors="pt", add_special_tokens=False)
    encoded = encode(lvlm, turns, 2)
    assert inputs["input_ids"][0].tolist() == encoded.ids
    assert torch.equal(
        logits(model, encoded.ids, inputs["pixel_values"]), logits(lvlm.model, encoded.ids, pixels(lvlm, images))
    )


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_weights_that_are_cut_off_are_refused_naming_the_file(copy, keep):
    weights = copy / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(UserError) as caught:
        llava.load(copy)
    assert "damaged" in caught.value.fact
    assert "model.safetensors" in caught.value.problems[0]


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"
ELSE = {
    "Git LFS": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "Xet": ("# xet version 0\nfilesize = 9\n", "a Xet pointer", "hf download"),
    "git-annex": ("/annex/objects/SHA256E-s9--0123.bin\n", "a git-annex pointer", "git annex get"),
    "link as text": ("../../blobs/0123456789abcdef", "the text of a symbolic link", "with links"),
    "sign-in page": ("<!DOCTYPE html><title>Sign in</title>", "a web page", "access"),
    "refusal": ("Access to model x is restricted. You must be authenticated", "the error of a server", "access"),
}


@pytest.mark.parametrize("name", ELSE)
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "processor_config.json"])
def test_a_file_of_a_checkpoint_that_is_something_else_is_named_with_its_fix(copy, name, file):
    text, words, fix = ELSE[name]
    assert (copy / file).is_file()
    (copy / file).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        llava.load(copy)
    assert file in str(caught.value) and fix in caught.value.fix and "checkpoint again" not in caught.value.fix


def test_no_weights_and_missing_weights_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("model.language_model.norm.weight", None) or weights.pop("language_model.model.norm.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights"):
        llava.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        llava.load(copy)


def test_a_missing_tokenizer_is_refused(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="does not load"):
        llava.load(copy)


def test_a_tokenizer_of_another_checkpoint_is_refused(copy, folders):
    for file in folders["llava-med"].glob("tokenizer*"):
        shutil.copy(file, copy)
    with pytest.raises(UserError, match="the model expects"):
        llava.load(copy)


@pytest.mark.parametrize(
    ("value", "name", "count"),
    [
        (float("nan"), "norm.weight", "1 NaN"),
        (float("inf"), "embed_tokens.weight", "1 infinite"),
        (-float("inf"), "q_proj.weight", "1 infinite"),
    ],
)
@pytest.mark.parametrize("where", [0, -1])
def test_weights_that_are_not_finite_are_refused_by_name_and_file(copy, value, name, count, where):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    poisoned = next(key for key in weights if key.endswith(name) and "vision" not in key)
    weights[poisoned].view(-1)[where] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="are not finite") as caught:
        llava.load(copy, device="cpu")
    (problem,) = caught.value.problems
    assert poisoned in problem and "model.safetensors" in problem and count in problem
    assert str(copy) in caught.value.fact and caught.value.fix and caught.value.exit_code == 2


def test_weights_that_the_dtype_cannot_hold_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = 1e30
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="are not finite") as caught:
        llava.load(copy, "cpu", torch.float16)
    assert "float16" in caught.value.reason
    assert llava.load(copy, "cpu", torch.float32)


def change(file: Path, *keys: Any, value: Any) -> None:
    whole = node = json.loads(file.read_text("utf-8"))
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    file.write_text(json.dumps(whole), "utf-8")


@pytest.mark.parametrize(
    ("file", "keys", "value", "reason"),
    [
        ("config.json", ("text_config", "num_attention_heads"), 0, "ZeroDivisionError: "),
        ("config.json", ("vision_config", "patch_size"), 0, "ZeroDivisionError: "),
        ("config.json", ("text_config", "hidden_size"), "x", "'hidden_size' expected int, got str"),
        ("config.json", ("text_config", "rope_scaling"), [1], "StrictDataclassFieldValidationError: "),
        ("config.json", ("text_config", "hidden_act"), "nope", "KeyError: 'nope'"),
        ("tokenizer.json", ("normalizer",), PRECOMPILED, "PanicException: "),
        ("tokenizer.json", ("model",), {}, ""),
    ],
)
def test_a_damaged_checkpoint_is_bad_input_and_the_parser_s_error_is_named(copy, file, keys, value, reason):
    change(copy / file, *keys, value=value)
    with pytest.raises(UserError, match="does not load as a mantis model") as caught:
        llava.load(copy, device="cpu")
    assert caught.value.exit_code == 2 and reason in caught.value.reason and caught.value.fix


def test_a_processor_of_another_model_is_refused_before_anything_is_asked(copy):
    found = json.loads((copy / "processor_config.json").read_text("utf-8"))["image_processor"]
    change(copy / "processor_config.json", "image_processor", value={**found, "size": {"height": 40, "width": 56}})
    with pytest.raises(UserError, match=r"pictures of 40 x 56 pixels, but the vision tower reads \d+ x \d+"):
        llava.load(copy, device="cpu")


def test_a_damaged_tokenizer_is_bad_input_where_no_weights_are_read(copy):
    change(copy / "tokenizer.json", "normalizer", value=PRECOMPILED)
    with pytest.raises(UserError, match="does not load as a mantis model") as caught:
        llava.load_text(copy)
    assert "PanicException: " in caught.value.reason


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "", "null", "\ufeff{}", "1" * 5000])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json", "processor_config.json"])
def test_a_file_that_is_another_thing_is_bad_input(copy, file, text):
    (copy / file).write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        llava.load(copy, device="cpu")
    assert caught.value.exit_code == 2 and str(copy) in caught.value.fact


BASE = checkpoint.resolve("tiny-mantis")
PARSED = {path.name: json.loads(path.read_text("utf-8")) for path in sorted(BASE.glob("*.json"))}
PLACES = [
    (name, keys)
    for name, top in PARSED.items()
    if name not in ("terms.json", "first_losses.json")
    for keys in [(key,) for key in top] + [(key, low) for key in top if isinstance(top[key], dict) for low in top[key]]
]
ODD = [None, True, 0, -1, 7, 0.5, float("nan"), "", "x", "\x00", "\ud83d", [], [1], [[]], {}, {"type": "x"}, {"a": {}}]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return shutil.copytree(BASE, tmp_path_factory.mktemp("damaged") / "model")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=st.sampled_from(ODD))
def test_no_value_in_a_file_of_a_checkpoint_is_called_medmim_s_fault(damaged, place, value):
    name, keys = place
    try:
        change(damaged / name, *keys, value=value)
        llava.load(damaged, device="cpu")
    except UserError as error:
        assert error.exit_code == 2 and str(damaged) in error.fact
    finally:
        shutil.copy(BASE / name, damaged / name)


@pytest.mark.parametrize(("number", "code"), [(5, 75), (116, 75), (13, 2)])
def test_a_file_that_cannot_be_read_is_not_called_damaged(copy, monkeypatch, number, code):
    def unreadable(*_, **__):
        raise OSError(number, "of the file system", str(copy / "tokenizer.json"))

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreadable)
    with pytest.raises(UserError) as caught:
        llava.load(copy, device="cpu")
    assert caught.value.exit_code == code and "does not load" not in caught.value.fact
    assert isinstance(caught.value, Unavailable) == (code == 75)


@pytest.mark.parametrize("broken", ["from_pretrained", "to"])
def test_memory_that_runs_out_while_a_model_is_loaded_is_no_damage(copy, monkeypatch, broken):
    def allocate(*_, **__):
        return torch.empty(1 << 60)

    monkeypatch.setattr(LlavaForConditionalGeneration, broken, allocate)
    with pytest.raises(UserError, match=f"the machine ran out of memory while {copy} was loaded") as caught:
        llava.load(copy, device="cpu")
    assert "you tried to allocate" in caught.value.reason and caught.value.fix and caught.value.exit_code == 2


def test_a_gpu_gets_each_weight_as_it_is_read_and_the_model_is_the_same(copy, monkeypatch):
    """Here the GPU is the CPU: what reads straight into a device is given another one."""
    devices: list[Any] = []
    real = LlavaForConditionalGeneration.from_pretrained

    def from_pretrained(*given: Any, device_map: Any = None, **more: Any) -> Any:
        devices.append(device_map)
        return real(*given, device_map={"": "cpu"} if device_map else None, **more)

    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", from_pretrained)
    monkeypatch.setattr(LlavaForConditionalGeneration, "to", lambda model, _: model)
    of_cpu, of_gpu = (llava.load(copy, device, torch.bfloat16).model for device in ("cpu", "cuda:1"))
    assert devices == [None, {"": "cuda:1"}]
    held = [dict([*model.named_parameters(), *model.named_buffers()]) for model in (of_cpu, of_gpu)]
    assert held[0].keys() == held[1].keys()
    assert all(torch.equal(held[0][name], held[1][name]) for name in held[0])
    assert {p.dtype for p in of_gpu.parameters()} == {torch.bfloat16}


def test_deepspeed_places_itself_what_it_splits():
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    assert llava.placement("cuda:1") == {} and llava.placement("cpu") == {}
    del config
    assert llava.placement("cuda:1") == {"device_map": {"": "cuda:1"}}
