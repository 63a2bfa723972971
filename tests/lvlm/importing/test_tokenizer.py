"""The tokenizer of a checkpoint: its own rules, ids as every one of its files says them, and nothing around a text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoProcessor, AutoTokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import llava, weights
from medmim.lvlm.checkpoint import FAMILIES
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Family, Turn
from medmim.lvlm.importing import layouts
from medmim.lvlm.importing.run import Options, import_base
from medmim.lvlm.importing.tokenizer import read
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.run.workspace import workspace
from medmim.tiny import architecture
from tests.support import originals
from tests.support.originals import QUESTION, add_bos, pieces, sentencepiece_model, write_original

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 493443\n"
BOTH = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
OWN = pieces(sentencepiece_model())
SWAPPED = {"<pad>": OWN, "<image>": OWN + 1}  # not the order in which missing ones are added


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    return tmp_path


def written(family: Family, images: int) -> str:
    return "".join(segment.text for segment in family.render([Turn(QUESTION, "B: image 2"), Turn("and now")], images))


def fast(folder: Path, family: Family) -> tuple[Path, Tokenizer]:
    """A folder with the family's tokenizer.json, and the same tokenizer without anything around a text."""
    architecture.train_tokenizer([QUESTION], family, size=512).save_pretrained(folder)
    file = folder / "tokenizer.json"
    return file, Tokenizer.from_file(str(file))


# ------------------------------------------------------------------ nothing around a text


@BOTH
def test_the_first_token_stands_once_whoever_tokenizes_a_rendered_prompt(family: Family, tmp_path: Path) -> None:
    file, plain = fast(tmp_path / "original", family)
    add_bos(file, family.bos)
    doubled = Tokenizer.from_file(str(file)).encode(written(family, 2)).ids
    want = plain.encode(written(family, 2), add_special_tokens=False).ids
    assert doubled == [want[0], *want]  # what the file alone would do
    tokens, _ = read(file.parent, family, add=False)
    tokens.save_pretrained(tmp_path / "saved")
    for found in (tokens, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert found(written(family, 2)).input_ids == want
        assert Tokenizer.from_str(found.backend_tokenizer.to_str()).encode(written(family, 2)).ids == want


@pytest.mark.parametrize("which", [originals.MANTIS, originals.LLAVA_MED])
def test_a_published_base_tokenizes_its_own_rendering_as_training_does(which: str, tmp_path: Path) -> None:
    write_original(tmp_path / "original", which)
    chosen = Options(tower="checkpoint") if which == originals.LLAVA_MED else Options()
    ws = workspace(tmp_path / "home")
    folder = store.fetch(import_base(str(tmp_path / "original"), ws, chosen), ws.cache)
    processor = AutoProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    ids = processor(text=text)["input_ids"][0]
    assert ids == encode(llava.load_text(folder), [Turn(QUESTION)], 0).ids
    assert ids.count(processor.tokenizer.bos_token_id) == 1


@BOTH
@pytest.mark.parametrize("direction", ["left", "right"])
def test_padding_and_truncation_of_the_file_are_not_published(family: Family, direction: str, tmp_path: Path) -> None:
    file, plain = fast(tmp_path / "original", family)
    asks = Tokenizer.from_file(str(file))
    asks.enable_padding(
        length=700, direction=direction, pad_id=asks.token_to_id(family.pad), pad_token=family.pad, pad_to_multiple_of=8
    )
    asks.enable_truncation(16, direction=direction)
    asks.save(str(file))
    tokens, _ = read(file.parent, family, add=False)
    tokens.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["padding"] is None and saved["truncation"] is None
    want = plain.encode(written(family, 2), add_special_tokens=False).ids
    assert tokens.backend_tokenizer.encode(written(family, 2), add_special_tokens=False).ids == want
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(written(family, 2)).input_ids == want


# ------------------------------------------------------------------ tokens beside a model


def in_added_tokens(folder: Path, tokens: dict[str, int]) -> None:
    (folder / "added_tokens.json").write_text(json.dumps(tokens))


def in_tokenizer_config(folder: Path, tokens: dict[str, int], **flags: bool) -> None:
    told = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": True} | flags
    decoder = {str(index): {"content": token, **told} for token, index in tokens.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))


def in_both(folder: Path, tokens: dict[str, int]) -> None:
    in_added_tokens(folder, dict(list(tokens.items())[:1]))
    in_tokenizer_config(folder, dict(list(tokens.items())[1:]))


LAYOUTS = pytest.mark.parametrize("put", [in_added_tokens, in_tokenizer_config, in_both])


@LAYOUTS
def test_tokens_that_a_slow_tokenizer_keeps_beside_its_model_have_the_ids_of_its_files(put: Any, slow: Path) -> None:
    put(slow, {"<unk>": 0, "<more>": OWN + 2, "<s>": 1, "</s>": 2, **SWAPPED})
    tokens, own = read(slow, LLAVA_MED, add=True)
    assert own == len(tokens) == OWN + 3
    assert tokens.convert_tokens_to_ids(["<pad>", "<image>", "<more>"]) == [OWN, OWN + 1, OWN + 2]
    found = tokens.backend_tokenizer.encode("is<image><more>the", add_special_tokens=False).ids
    assert found.count(OWN + 1) == found.count(OWN + 2) == 1
    assert (tokens.pad_token_id, tokens.bos_token_id, tokens.eos_token_id) == (OWN, 1, 2)


@LAYOUTS
def test_the_rows_that_were_trained_for_added_tokens_stay_theirs(put: Any, tmp_path: Path) -> None:
    folder = tmp_path / "original"
    tensors = write_original(folder, originals.LLAVA_MED, 1)
    put(folder, SWAPPED)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        two = torch.tensor([[2.0], [3.0]], dtype=torch.bfloat16).expand(2, tensors[name].shape[1])
        tensors[name] = torch.cat([tensors[name], two])
    save_file(tensors, folder / "model-00001-of-00001.safetensors")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": OWN + 2}))
    ws = workspace(tmp_path / "home")
    base = store.fetch(import_base(str(folder), ws, Options(tower="checkpoint")), ws.cache)
    text = llava.load_text(base)
    assert (text.config.image_token_id, text.tokenizer.pad_token_id) == (OWN + 1, OWN)
    stored = weights.tensors(base / "model.safetensors")["language_model.model.embed_tokens.weight"]
    rows = torch.cat(list(weights.values(stored))).reshape(stored.shape)
    assert rows[text.tokenizer.pad_token_id, 0] == 2 and rows[text.config.image_token_id, 0] == 3


def test_how_an_added_token_is_found_is_read_from_the_newer_file(slow: Path) -> None:
    in_added_tokens(slow, {"<image>": OWN})
    in_tokenizer_config(slow, {"<image>": OWN}, rstrip=True)
    tokens, _ = read(slow, LLAVA_MED, add=True)
    ids = tokens.backend_tokenizer.encode("<image>   ", add_special_tokens=False).ids
    assert ids == [OWN]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"<pad>": OWN}, {"<image>": OWN}, f"token {OWN} is <image> there and <pad> in added_tokens.json"),
        ({"<pad>": OWN}, {"<pad>": OWN + 1}, f"<pad> is {OWN + 1} there and {OWN} in the tokenizer"),
        ({}, {"<s>": 2}, "<s> is 2 there and 1 in the tokenizer"),
        ({"<pad>": OWN + 7}, {}, f"<pad> is {OWN + 7} there and {OWN} in the tokenizer"),
    ],
)
def test_files_that_disagree_about_an_id_are_refused(
    old: dict[str, int], new: dict[str, int], said: str, slow: Path
) -> None:
    in_added_tokens(slow, old)
    in_tokenizer_config(slow, new)
    with pytest.raises(UserError) as caught:
        read(slow, LLAVA_MED, add=True)
    assert caught.value.fact.endswith(said) and "same checkpoint" in caught.value.fix


def test_a_fast_tokenizer_is_held_against_the_files_beside_it(tmp_path: Path) -> None:
    file, plain = fast(tmp_path, LLAVA_MED)
    right = {token: plain.token_to_id(token) for token in ("<s>", "<image>", "<pad>")}
    in_tokenizer_config(tmp_path, right)
    assert len(read(tmp_path, LLAVA_MED, add=False)[0]) == plain.get_vocab_size()
    in_tokenizer_config(tmp_path, right | {"<image>": right["<pad>"], "<pad>": right["<image>"]})
    with pytest.raises(UserError, match="in the tokenizer"):
        read(tmp_path, LLAVA_MED, add=False)


# ------------------------------------------------------------------ bad files

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)
IDS = st.integers(-2, OWN + 3)
ENTRIES = st.fixed_dictionaries({}, optional={"content": VALUES, "special": VALUES, "lstrip": VALUES, "rstrip": VALUES})
OLD = VALUES | st.dictionaries(st.text(st.characters(), max_size=4), IDS | VALUES, max_size=3)
NEW = VALUES | st.fixed_dictionaries(
    {"added_tokens_decoder": VALUES | st.dictionaries(IDS.map(str) | st.text(max_size=3), ENTRIES | VALUES, max_size=3)}
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=OLD.map(json.dumps) | st.text(max_size=5), new=NEW.map(json.dumps) | st.text(max_size=5))
def test_any_file_beside_a_tokenizer_is_read_or_refused_by_name(old: str, new: str, slow: Path) -> None:
    (slow / "added_tokens.json").write_text(old, encoding="utf-8")
    (slow / "tokenizer_config.json").write_text(new, encoding="utf-8")
    try:
        tokens, own = read(slow, LLAVA_MED, add=True)
    except UserError as error:
        assert error.fix and any(name in error.fact for name in ("added_tokens.json", "tokenizer_config.json"))
    else:
        assert OWN <= own <= len(tokens)


@pytest.mark.parametrize(
    "text", ["{", "[1, 2]", '{"<x>": null}', '{"<x>": "a"}', f'{{"": {OWN}}}', f'{{"\\ud800": {OWN}}}']
)
def test_a_bad_added_tokens_is_refused(text: str, slow: Path) -> None:
    (slow / "added_tokens.json").write_text(text)
    with pytest.raises(UserError, match="added_tokens.json") as caught:
        read(slow, LLAVA_MED, add=True)
    assert caught.value.fix


def test_a_decoder_of_added_tokens_that_is_a_list_is_refused(slow: Path) -> None:
    (slow / "tokenizer_config.json").write_text('{"added_tokens_decoder": [1]}')
    with pytest.raises(UserError, match="added_tokens_decoder is not an object"):
        read(slow, LLAVA_MED, add=True)


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json", "tokenizer.model"])
def test_a_git_lfs_pointer_in_place_of_a_tokenizer_file_is_named(name: str, slow: Path) -> None:
    (slow / name).write_text(POINTER)
    with pytest.raises(UserError) as caught:
        read(slow, LLAVA_MED, add=True)
    assert name in caught.value.fact and "Git LFS pointer" in str(caught.value) and "git lfs pull" in str(caught.value)


def test_a_git_lfs_pointer_in_place_of_config_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(POINTER)
    with pytest.raises(UserError, match="Git LFS pointer"):
        layouts.read_config(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("normalizer_spec", "precompiled_charsmap", b"\0\0"),
        ("normalizer_spec", "remove_extra_whitespaces", True),
        ("normalizer_spec", "escape_whitespaces", False),
        ("trainer_spec", "treat_whitespace_as_suffix", True),
    ],
)
def test_a_sentencepiece_model_that_changes_a_text_is_refused_by_the_rule(
    part: str, key: str, value: object, slow: Path
) -> None:
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(sentencepiece_model())
    setattr(getattr(proto, part), key, value)
    if key == "precompiled_charsmap":
        proto.normalizer_spec.name = "nmt_nfkc"
    (slow / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(UserError) as caught:
        read(slow, LLAVA_MED, add=True)
    (problem,) = caught.value.problems
    assert f"{part}.{key}" in problem and ("nmt_nfkc" in problem) == (key == "precompiled_charsmap")
