"""Adapters that stock peft wrote are a model beside their base, wherever both lie, and no other base is taken."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from medmim import store, terms
from medmim.bench.engines import engine
from medmim.errors import UserError
from medmim.lvlm import adapters, checkpoint, llava, saving, weights
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn
from medmim.lvlm.features import pixels
from medmim.lvlm.importing.show import describe
from medmim.lvlm.llava import Lvlm
from medmim.run.workspace import workspace
from medmim.terms import Terms

SERVE = Terms(serve=True, text=("of base and data",))


def adapted(lvlm: Lvlm) -> Any:
    """Stock peft around a copy of the model; adapters and projector are not what they began as."""
    torch.manual_seed(0)
    made = peft.get_peft_model(
        copy.deepcopy(lvlm.model),
        peft.LoraConfig(
            r=4,
            lora_alpha=12,
            target_modules=r".*language_model\..*\.(q_proj|v_proj|down_proj)",
            modules_to_save=["multi_modal_projector"],
            init_lora_weights=False,
        ),
    ).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name or ".modules_to_save." in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


@pytest.fixture
def trained(lvlm: Lvlm) -> Any:
    return adapted(lvlm)


def put(lvlm: Lvlm, trained: Any, folder: Path, ref: str, store_uri: str = "/elsewhere") -> Path:
    """A folder of adapters, written by peft itself."""
    trained.save_pretrained(folder)
    settings = (lvlm.model.config, lvlm.model.generation_config, lvlm.tokenizer, lvlm.image_processor, lvlm.family)
    saving.save_settings(folder, *settings)
    (folder / terms.FILE).write_text(SERVE.dump())
    adapters.record_base(folder, ref, checkpoint.digest(lvlm.path), store_uri)
    return folder


def logits(lvlm: Lvlm, model: Any) -> torch.Tensor:
    """Of a conversation on two pictures."""
    ids = encode(lvlm, [Turn("Which image shows opacity?")], 2).ids
    values = pixels(lvlm, [Image.radial_gradient("L"), Image.linear_gradient("L")])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([ids]), pixel_values=values).logits
    return found


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_adapters_of_stock_peft_are_added_to_their_base(lvlm: Lvlm, trained: Any, tmp_path: Path) -> None:
    folder = put(lvlm, trained, tmp_path / "a", str(lvlm.path))
    loaded = llava.load(folder, "cpu")
    assert close(logits(lvlm, loaded.model), logits(lvlm, trained))
    assert not close(logits(lvlm, loaded.model), logits(lvlm, lvlm.model))
    assert not [name for name, _ in loaded.model.named_modules() if "lora" in name or "modules_to_save" in name]
    assert loaded.family is lvlm.family and loaded.digest == checkpoint.digest(folder)
    half = llava.load(folder, "cpu", torch.bfloat16).model
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_what_we_write_is_what_peft_writes(lvlm: Lvlm, trained: Any, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    adapters.write(trained, tmp_path / "ours", adapters.of_training(trained))
    theirs, ours = (weights.tensors(tmp_path / name / adapters.WEIGHTS) for name in ("theirs", "ours"))
    assert {n: (s.dtype, s.shape) for n, s in ours.items()} == {n: (s.dtype, s.shape) for n, s in theirs.items()}
    assert any("multi_modal_projector" in name for name in ours)
    again = peft.PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(lvlm.path), tmp_path / "ours")
    assert torch.equal(logits(lvlm, again.eval()), logits(lvlm, trained))
    configs = [json.loads((tmp_path / name / adapters.CONFIG).read_text()) for name in ("theirs", "ours")]
    assert [one.pop("base_model_name_or_path") for one in configs] == [str(lvlm.path), None]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("bf16", [False, True])
def test_merged_weights_have_published_names_and_say_the_same(
    lvlm: Lvlm, trained: Any, tmp_path: Path, bf16: bool
) -> None:
    read: list[str] = []

    def whole(name: str) -> torch.Tensor:
        read.append(name)
        found: torch.Tensor = trained.get_base_model().state_dict()[name]
        return found

    merged = adapters.merged(trained, whole, bf16)
    assert not read  # values are computed as they are written
    assert [weight.name for weight in merged] == [weight.name for weight in weights.of_model(lvlm.model)]
    saving.save(lvlm, tmp_path / "merged", merged)
    stored = weights.tensors(tmp_path / "merged" / "model.safetensors")
    assert {one.dtype for one in stored.values()} == {"BF16" if bf16 else "F32"}
    given = llava.load(tmp_path / "merged", "cpu", torch.float32).model
    if not bf16:
        assert close(logits(lvlm, given), logits(lvlm, trained))
    exact = trained.merge_and_unload().state_dict()
    for name, value in given.state_dict().items():
        goal = exact[name].to(torch.bfloat16).float() if bf16 else exact[name]
        assert torch.allclose(value, goal, rtol=2**-7 if bf16 else 1e-6, atol=1e-7), name


def test_the_digest_covers_adapters_and_base_alike_in_a_folder_and_an_artifact(
    lvlm: Lvlm, trained: Any, tmp_path: Path
) -> None:
    ws = workspace(tmp_path / "home")
    folder = put(lvlm, trained, tmp_path / "a", str(lvlm.path))
    first = checkpoint.digest(folder)
    assert checkpoint.digest(store.publish(folder, ws.store, "model", {}, {})) == first
    (folder / "README.md").write_text("of no weight")
    assert checkpoint.digest(folder) == first
    digests = {first}
    for file, key, value in (
        (adapters.BASE, "digest", "0" * 64),
        (adapters.CONFIG, "lora_alpha", 24),
    ):
        record = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**record, key: value}))
        digests |= {checkpoint.digest(folder), checkpoint.digest(store.publish(folder, ws.store, "model", {}, {}))}
        (folder / file).write_text(json.dumps(record))
    with (folder / adapters.WEIGHTS).open("r+b") as out:
        out.seek(-1, 2)
        out.write(b"\x01")
    assert len(digests | {checkpoint.digest(folder)}) == 4


def test_adapters_and_base_in_one_store_move_with_it_and_are_copied_to_another(
    lvlm: Lvlm, trained: Any, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    goal = logits(lvlm, trained)
    there, uris = f"{bucket}/s", []
    for place in (str(tmp_path / "first"), there):
        base = store.publish(lvlm.path, place, "model", {}, {})
        put(lvlm, trained, tmp_path / "a", base.uri, place)
        uris.append(store.publish(tmp_path / "a", place, "model", {}, {}).uri)
    assert uris[0].rpartition("/")[2] == uris[1].rpartition("/")[2]  # no address of a store is in the digest
    (tmp_path / "first").rename(tmp_path / "moved")
    moved = uris[0].replace("/first/", "/moved/")

    ws = workspace(tmp_path / "home")
    again = checkpoint.upload_if_local(moved, ws)
    assert again.startswith(ws.store)
    shutil.rmtree(tmp_path / "moved")
    for number, ref in enumerate((again, uris[1])):  # another machine, which has nothing but the store
        node = workspace(tmp_path / f"node{number}")
        folder = checkpoint.resolve(ref, node)
        assert close(logits(lvlm, llava.load(folder, "cpu").model), goal)
        assert checkpoint.terms_of(ref) == SERVE and checkpoint.family_of(checkpoint.locate(ref)) is lvlm.family
    assert not (tmp_path / ".medmim").exists()


def test_a_base_in_s3_of_adapters_in_a_folder_is_copied_to_the_given_cache(
    lvlm: Lvlm, trained: Any, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = store.publish(lvlm.path, f"{bucket}/bases", "model", {}, {})
    folder = put(lvlm, trained, tmp_path / "a", base.uri, f"{bucket}/other")
    assert json.loads((folder / adapters.CONFIG).read_text())["base_model_name_or_path"] == base.uri
    loaded = llava.load(folder, "cpu", cache=tmp_path / "cache")
    assert close(logits(lvlm, loaded.model), logits(lvlm, trained))
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name == base.digest]
    assert not (tmp_path / ".medmim").exists()


@pytest.mark.parametrize("what", ["absent", "another one", "adapters too"])
def test_without_its_very_base_a_model_is_refused_in_one_error(
    lvlm: Lvlm, trained: Any, tmp_path: Path, what: str
) -> None:
    base = shutil.copytree(lvlm.path, tmp_path / "base")
    folder = put(lvlm, trained, tmp_path / "a", str(base))
    if what == "absent":
        shutil.rmtree(base)
        fact = "the base of the adapters .* is missing"
    elif what == "another one":
        with (base / "model.safetensors").open("r+b") as out:
            out.seek(-1, 2)
            out.write(b"\x01")
        fact = "is not the base of the adapters"
    else:
        put(lvlm, trained, tmp_path / "b", str(folder))
        adapters.record_base(tmp_path / "b", str(folder), checkpoint.digest(folder), "/elsewhere")
        folder, fact = tmp_path / "b", "must be a whole model"
    with pytest.raises(UserError, match=fact) as error:
        llava.load(folder, "cpu")
    assert error.value.reason and "finetune.lora.merge: true" in error.value.fix
    if what != "adapters too":
        assert checkpoint.digest(lvlm.path) in error.value.reason
        with pytest.raises(UserError, match=fact):  # before the first question
            engine(str(folder), workspace(tmp_path / "home"))


DAMAGES = {
    "no base.json": (adapters.BASE, None, "no base.json"),
    "a broken base.json": (adapters.BASE, b'{"ref": 1}', "not the record of a base"),
    "no store": (
        adapters.BASE,
        json.dumps({"ref": f"model/{'0' * 64}", "digest": ""}).encode(),
        "in which store its base",
    ),
    "no weights": (adapters.WEIGHTS, None, r"no \*.safetensors"),
    "weights cut off": (adapters.WEIGHTS, b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "damaged"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_adapters_are_refused(lvlm: Lvlm, trained: Any, tmp_path: Path, what: str) -> None:
    folder = put(lvlm, trained, tmp_path / "a", str(lvlm.path))
    file, content, message = DAMAGES[what]
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        llava.load(folder, "cpu")
    assert error.value.fix


def test_a_missing_adapter_is_named_and_not_taken_for_an_untrained_one(
    lvlm: Lvlm, trained: Any, tmp_path: Path
) -> None:
    folder = put(lvlm, trained, tmp_path / "a", str(lvlm.path))
    first, *others = adapters.of_training(trained)
    weights.write_file(folder / adapters.WEIGHTS, others)
    with pytest.raises(UserError, match="lacks 1 weights") as error:
        llava.load(folder, "cpu")
    assert error.value.problems == (first.name,)


def test_a_weight_that_is_not_finite_is_named(lvlm: Lvlm, trained: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        next(p for name, p in trained.named_parameters() if "lora_B" in name)[0, 0] = float("nan")
    folder = put(lvlm, trained, tmp_path / "a", str(lvlm.path))
    with pytest.raises(UserError, match="not finite") as error:
        llava.load(folder, "cpu")
    (problem,) = error.value.problems
    assert "lora_B" in problem and adapters.WEIGHTS in problem


def test_a_description_counts_base_and_adapters_as_one_model(lvlm: Lvlm, trained: Any, tmp_path: Path) -> None:
    folder = put(lvlm, trained, tmp_path / "a", str(lvlm.path))
    ws = workspace(tmp_path / "home")
    own, of_base = describe(str(folder), ws), describe(str(lvlm.path), ws)
    assert own["parameters"] == of_base["parameters"] == lvlm.model.num_parameters()
    assert own["base"] == str(lvlm.path) and of_base["base"] == ""
    assert own["digest"] == checkpoint.digest(folder) != of_base["digest"]
