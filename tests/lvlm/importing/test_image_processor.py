"""Images are seen as the original code sees them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medmim import store
from medmim.lvlm import llava
from medmim.lvlm.features import pixels
from medmim.lvlm.importing.run import Options, import_base
from medmim.run.workspace import Workspace
from tests.support.importing import IMAGES, SIGLIP, TOWER, edit
from tests.support.originals import LLAVA_MED, write_original


def test_llava_med_pads_to_a_square_with_the_mean_colour(ws: Workspace, tmp_path: Path) -> None:
    """Against expand2square of llava/mm_utils.py, by hand; the border of a wide image is kept."""
    write_original(tmp_path / "original", LLAVA_MED)
    lvlm = llava.load(store.fetch(import_base(str(tmp_path / "original"), ws, TOWER), ws.cache), "cpu")
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
    lvlm = llava.load(store.fetch(import_base(str(folder), ws, TOWER), ws.cache), "cpu")
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


def test_a_checkpoint_of_transformers_keeps_its_own_image_processor(ws: Workspace, tmp_path: Path) -> None:
    """Against SiglipImageProcessor by hand: an image is squeezed into the square; without a file it is SigLIP's own."""
    folder = tmp_path / "original"
    write_original(folder, SIGLIP)
    settings = folder / "preprocessor_config.json"
    edit(settings, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 2})
    for mean, std, resample in (((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 2), ((0.5,) * 3, (0.5,) * 3, 3)):
        lvlm = llava.load(store.fetch(import_base(str(folder), ws, Options()), ws.cache), "cpu")
        for image in IMAGES:
            small = np.asarray(image.resize((16, 16), Image.Resampling(resample)), dtype=np.float32) / 255
            expected = ((small - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
            assert np.allclose(pixels(lvlm, [image])[0].numpy(), expected, atol=1e-5)
        settings.unlink(missing_ok=True)
