"""Checkpoints of the zoo's classes: read as their processors read them, refused with what to do."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from medmim.errors import UserError
from medmim.lvlm import llava
from medmim.lvlm.ask import Question
from medmim.lvlm.zoo import model as zoo
from medmim.lvlm.zoo import processors
from medmim.lvlm.zoo.idefics3 import IDEFICS3
from medmim.lvlm.zoo.model import Model


def image(turn: int, width: int = 64, height: int = 48) -> Image.Image:
    return Image.linear_gradient("L").rotate(90 * turn).resize((width, height)).convert("RGB")


QUESTIONS = [
    Question("Which is larger?", [image(0), image(1, 90, 70)]),
    Question("Blind?"),
    Question("A longer question about one image.", [image(2, 30, 100)]),
]


def test_a_batch_is_what_the_processor_makes_of_all_questions(model: Model) -> None:
    """Token by token and pixel by pixel: but for the tiles that it pads, which the model leaves out."""
    rows = [zoo.read(model, question) for question in QUESTIONS]
    made = zoo.batch(model, rows)
    by_kind = {len(question.images): zoo.settings(model, len(question.images)) for question in QUESTIONS}
    theirs = model.padding.apply_chat_template(
        [zoo.conversation(model, question) for question in QUESTIONS],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"text_kwargs": {"padding": True, "padding_side": "left"}, "images_kwargs": by_kind[2]},
    )  # fmt: skip
    if by_kind[1] == by_kind[2]:
        for name in rows[0].tokens:
            assert torch.equal(made[name], theirs[name]), name
    assert set(made) == set(theirs)
    if model.adapter.name in ("llava", "qwen-vl", "gemma3"):
        for name in set(made) - set(rows[0].tokens):
            assert torch.equal(made[name], theirs[name]), name


def test_images_stand_in_their_order_and_several_are_numbered(model_of: Callable[[str], Model]) -> None:
    text = zoo.rendered(model_of("qwen2_5_vl"), QUESTIONS[0])
    marker = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == f"<u>Picture 1: {marker}Picture 2: {marker}Which is larger?<end><a>"
    assert "Picture" not in zoo.rendered(model_of("qwen2_5_vl"), QUESTIONS[2])


def test_what_ends_an_answer_is_the_checkpoint_s_and_the_zoo_s(model_of: Callable[[str], Model]) -> None:
    gemma = model_of("gemma3")  # its own is 1, <eos>
    assert gemma.stop == [1, gemma.tokenizer.convert_tokens_to_ids("<end_of_turn>")]


def test_a_model_of_one_image_is_not_shown_the_first_of_two(model_of: Callable[[str], Model]) -> None:
    single = replace(model_of("llava"), asking=replace(model_of("llava").asking, most=1))
    with pytest.raises(UserError, match="shows 2 images, and the model takes 1"):
        zoo.read(single, QUESTIONS[0])
    assert len(zoo.read(single, QUESTIONS[2])) > 0


def test_a_question_with_a_special_token_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match="contains <eos>"):
        zoo.read(model, Question("one <eos> two"))
    with pytest.raises(UserError, match="surrogate"):
        zoo.read(model, Question("\ud83d"))


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (600, 1), (3, 2), (2000, 7)])
def test_an_image_of_any_shape_is_read_or_rejected_in_the_processor_s_words(
    model: Model, size: tuple[int, int]
) -> None:
    try:
        row = zoo.read(model, Question("What?", [image(0, *size), image(1)]))
    except UserError as error:
        assert "rejects" in error.fact and len(error.fact) > 60
    else:
        with torch.inference_mode():
            assert model.model(**zoo.batch(model, [row]), logits_to_keep=1).logits.isfinite().all()


def test_an_image_that_a_processor_rejects_is_its_own_error(model_of: Callable[[str], Model]) -> None:
    with pytest.raises(UserError, match="rejects the question or an image: .*aspect ratio"):
        zoo.read(model_of("qwen2_5_vl"), Question("What?", [image(0, 1, 600)]))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ nothing.there }}", "UndefinedError: 'nothing' is undefined"),
        ("{% if %}", "TemplateSyntaxError: Expected an expression"),
        ("{{ raise_exception('one image only') }}", "TemplateError: one image only"),
        ("{{ 'USER: ' + messages[0].content }}", "TypeError: can only concatenate str"),  # made for texts alone
    ],
)
def test_a_chat_template_that_fails_is_the_question_s_error(
    template: str, words: str, folder_of: Callable[[str], Path]
) -> None:
    broken = zoo.load(folder_of("qwen2_5_vl"), "cpu")
    broken.processor.chat_template = template
    for made in (zoo.read, zoo.rendered):
        with pytest.raises(UserError, match=words):
            made(broken, QUESTIONS[0])


def test_an_image_that_a_checkpoint_does_not_split_is_counted_as_one_tile(folder_of: Callable[[str], Path]) -> None:
    whole = zoo.load(folder_of("idefics3"), "cpu")
    whole.processor.image_processor.do_image_splitting = False
    row, sizes = zoo.read(whole, QUESTIONS[2]), [(100, 30)]
    counted = IDEFICS3.features(whole.processor, whole.config, sizes, zoo.settings(whole, 1))
    assert counted == [4] == [int((row.tokens["input_ids"] == whole.config.image_token_id).sum())]


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_class_that_is_not_proven_is_refused_with_the_command_that_tries_it(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("mllama")
    for refused in (zoo.load, zoo.refuse_unusable):
        with pytest.raises(UserError, match="model_type 'mllama', which is not proven") as caught:
            refused(folder)
        assert f"zoo check {folder}" in caught.value.fix
    zoo.refuse_unusable(folder_of("llava"))


def test_a_checkpoint_of_the_zoo_is_known_without_its_weights(
    folder_of: Callable[[str], Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    assert zoo.is_ours(folders["mantis"]) and zoo.is_ours(folders["llava-med"])
    assert not any(zoo.is_ours(folder_of(kind)) for kind in ("llava", "qwen3_vl"))
    for text in ("{", "[]", '{"model_type": 3}'):
        (tmp_path / "config.json").write_text(text)
        assert zoo.model_type(tmp_path) == "" and not zoo.is_ours(tmp_path)


def test_no_class_of_the_zoo_is_a_base_to_train(model: Model) -> None:
    with pytest.raises(UserError, match="llava|LLaVA|family") as caught:
        llava.load_text(model.path)
    assert "can be asked, not fine-tuned" in caught.value.fix


def test_the_digest_of_what_is_asked_needs_no_weights_and_holds_the_template(
    folder_of: Callable[[str], Path], model_of: Callable[[str], Model], tmp_path: Path
) -> None:
    folder = copy(folder_of("gemma3"), tmp_path)
    assert zoo.template_digest(folder) == model_of("gemma3").template_digest
    (folder / "chat_template.jinja").write_text("another")
    assert zoo.template_digest(folder) != model_of("gemma3").template_digest
    other = replace(model_of("gemma3"), asking=replace(model_of("gemma3").asking, pixels={"do_pan_and_scan": True}))
    assert other.template_digest != model_of("gemma3").template_digest


def test_a_chat_template_is_found_where_transformers_finds_it(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """In the order in which it looks; of each kind of file, the last one decides."""
    folder = copy(folder_of("qwen2_5_vl"), tmp_path)
    (folder / "chat_template.jinja").unlink()
    assert processors.template_of(folder) is None
    with pytest.raises(UserError, match="has no chat template"):
        zoo.load(folder, "cpu")
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": "of the tokenizer"}]
    for name, text, found in (
        ("tokenizer_config.json", json.dumps({"chat_template": named}), "of the tokenizer"),
        ("chat_template.jinja", "raw", "raw"),
        ("chat_template.json", json.dumps({"chat_template": "legacy"}), "legacy"),
    ):
        file = folder / name
        kept = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**kept, **json.loads(text)}) if name.endswith("json") else text)
        assert processors.template_of(folder) == found
        settings, _ = processors.class_of("qwen2_5_vl").get_processor_dict(folder)
        assert settings.get("chat_template", found) == found
    assert zoo.load(folder, "cpu").processor.chat_template == "legacy"


def test_a_damaged_checkpoint_is_one_error_of_its_class(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(folder_of("internvl"), tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="does not load as a internvl model"):
        zoo.load(folder, "cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        zoo.load(folder, "cpu")


def test_our_families_are_read_as_they_are_encoded(folders: dict[str, Path]) -> None:
    """The admission test examines what the bench asks: the same tokens, to the byte."""
    from medmim.lvlm.encode import encode
    from medmim.lvlm.family import Turn

    for folder in folders.values():
        model, lvlm = zoo.load_in_fp32(folder, "cpu"), llava.load(folder, "cpu")
        for question in QUESTIONS:
            ids = encode(lvlm, [Turn(question.prompt)], len(question.images)).ids
            assert zoo.read(model, question).tokens["input_ids"].tolist() == ids


def test_a_checkpoint_in_the_layout_of_older_libraries_is_read_alike(model: Model, tmp_path: Path) -> None:
    """As most are published: an image processor of its own file, by its name with torchvision, and its own budget."""
    folder = copy(model.path, tmp_path)
    processor = json.loads((folder / "processor_config.json").read_text())
    reader = processor.pop("image_processor")
    reader |= {"image_processor_type": f"{reader['image_processor_type']}Fast", "processor_class": "Anything"}
    if model.adapter.name == "qwen-vl":
        del reader["size"]
        reader |= {"min_pixels": 3136, "max_pixels": 12845056}
    (folder / "preprocessor_config.json").write_text(json.dumps(reader))
    (folder / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": model.processor.chat_template}))
    older = zoo.load(folder, "cpu")
    assert type(older.processor.image_processor) is type(model.processor.image_processor)
    for question in QUESTIONS:
        one, other = zoo.read(model, question), zoo.read(older, question)
        for made, again in ((one.tokens, other.tokens), (one.images, other.images)):
            assert made.keys() == again.keys() and all(torch.equal(made[name], again[name]) for name in made)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "it has no config.json"),
        ("{", "cannot be read: Expecting"),
        ("{}", "no model_type"),
        ("[]", "no model_type"),
    ],
)
def test_what_is_no_model_is_refused_with_its_reason(tmp_path: Path, config: str | None, reason: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert reason in str(zoo.no_model(tmp_path, tmp_path))
    with pytest.raises(UserError, match=reason):
        zoo.load(tmp_path)
