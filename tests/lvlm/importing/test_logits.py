"""Logits are those of the original formula, and what config.json changes in it changes them alike."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from medmim import store
from medmim.lvlm import llava
from medmim.lvlm.encode import encode, tokens_per_image
from medmim.lvlm.family import Turn
from medmim.lvlm.features import pixels
from medmim.lvlm.importing.run import import_base
from medmim.run.workspace import Workspace
from tests.support import originals
from tests.support.importing import BOTH, IMAGES, SIGLIP, edit, options
from tests.support.originals import LLAVA_MED, QUESTION, write_original


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
    lvlm = llava.load(folder, "cpu", torch.float32)
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
