"""What the original layouts look like: their configuration, and how their tensors are called.

Two layouts are read. `llava` is transformers' own, in every generation of its names; TIGER-Lab/Mantis-8B-siglip-llama3
has it. `llava_mistral` is that of haotian-liu/LLaVA and microsoft/LLaVA-Med: a Mistral decoder whose config.json has
LLaVA's keys, and modules `model.mm_projector` and `model.vision_tower.vision_tower` within it.
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import sniff
from medmim.errors import UserError
from medmim.lvlm import checkpoint, llava
from medmim.lvlm.family import Family
from medmim.lvlm.llava_med import LLAVA_MED, rename

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import LlavaConfig

ROWS = 64  # embedding rows come in multiples of it, as tensor cores and tensor parallelism want them
# Buffers that older versions saved and newer ones compute; never a parameter.
_BUFFER = re.compile(r"(\.rotary_emb\.inv_freq|\.position_ids)$")
_GENERATIONS = (  # transformers 5 as it saves, 4.52 and newer, older; each leads to the published names
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), "vision_tower.vision_model."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "multi_modal_projector."),
    (re.compile(r"^(?:language_model\.)?lm_head\."), "language_model.lm_head."),
    (re.compile(r"^(?:language_model\.model|model\.language_model|language_model)\."), "language_model.model."),
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CLIP_336 = {  # openai/clip-vit-large-patch14-336, config.json
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
CLIPS = {"openai/clip-vit-large-patch14-336": _CLIP_336}
TOWER = "vision_tower.vision_model."


@dataclass(frozen=True)
class Layout:
    """A checkpoint's layout.

    Attributes:
        name: `llava` or `llava_mistral`.
        family: The chat format.
        config: The configuration as transformers has it; the embedding has the source's rows still.
        clip: Folder of the stock CLIP that a `llava_mistral` names, where it is at hand.
    """

    name: str
    family: Family
    config: "LlavaConfig"
    clip: Path | None = None


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        UserError: It is missing or unreadable.
    """
    file = folder / "config.json"
    if not file.exists():
        raise UserError(
            f"{folder} is not a checkpoint: it has no config.json",
            fix="give the folder that `hf download NAME --local-dir FOLDER` filled",
        )
    return read_object(file)


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint; empty where the file is missing.

    Raises:
        UserError: It holds something else; a Git LFS pointer, another encoding and the like are named.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(sniff.read_text(file, "a file of a checkpoint in JSON"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON", reason=str(error), fix="copy the checkpoint again") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object", fix="copy the checkpoint again")
    return found


def layout_of(folder: Path, clip: Path | None) -> Layout:
    """The layout of a checkpoint, from its config.json.

    Args:
        folder: The checkpoint.
        clip: Folder of the stock CLIP tower, where it was given.

    Raises:
        UserError: A layout or a family that is not known, or one with features that transformers' LLaVA lacks.
    """
    values = read_config(folder)
    kind = values.get("model_type")
    if kind == "llava_mistral":
        return _llava_mistral(folder, values, clip)
    if kind != "llava":
        raise UserError(
            f"{folder} is a checkpoint of model_type '{kind}'",
            reason="known are llava (transformers' own layout, as Mantis has it) and llava_mistral (LLaVA-Med v1.5)",
            fix=checkpoint.supported(),
        )
    family = checkpoint.family_of(folder)
    transformers = llava.quiet_transformers()
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = transformers.LlavaConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise unusable(folder, error) from None
    return Layout("llava", family, config)


def _llava_mistral(folder: Path, values: dict[str, Any], clip: Path | None) -> Layout:
    problems = [
        f"{key} is {values[key]!r}; known: {' or '.join(map(repr, known))}"
        for key, known in {
            "mm_projector_type": ("mlp2x_gelu",),
            "mm_patch_merge_type": ("flat",),
            "image_aspect_ratio": ("pad", "square"),
            "mm_vision_select_feature": ("patch", "cls_patch"),
            "mm_use_im_start_end": (False,),
            "mm_use_im_patch_token": (False,),
        }.items()
        if values.get(key) is not None and values[key] not in known
    ]
    if problems:
        raise UserError(
            f"{folder} is a LLaVA with features that LLaVA-Med v1.5 does not have",
            reason="its images or prompts would be read in another way than in its training",
            fix="give microsoft/llava-med-v1.5-mistral-7b, or a checkpoint tuned from it",
            problems=problems,
        )
    named = str(values.get("mm_vision_tower") or "")
    if clip is None and named and (folder / named / "config.json").is_file():
        clip = folder / named  # an absolute path replaces the folder
    transformers = llava.quiet_transformers()
    from huggingface_hub.errors import StrictDataclassError

    try:
        text = transformers.MistralConfig.from_dict(
            {key: value for key, value in values.items() if not key.startswith("mm_") and key not in _NOT_TEXT}
        )
        vision = transformers.CLIPVisionConfig(**_clip_config(folder, named, clip))
        config = transformers.LlavaConfig(
            vision_config=vision,
            text_config=text,
            vision_feature_layer=values.get("mm_vision_select_layer", -2),
            vision_feature_select_strategy="full"
            if values.get("mm_vision_select_feature") == "cls_patch"
            else "default",
            projector_hidden_act="gelu",
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise unusable(folder, error) from None
    config.image_seq_length = (vision.image_size // vision.patch_size) ** 2
    return Layout("llava_mistral", LLAVA_MED, config, clip)


# Of the checkpoint's training or of a class that is gone; `MistralConfig` would keep them for ever.
_NOT_TEXT = (
    "model_type", "architectures", "auto_map", "_name_or_path", "transformers_version", "torch_dtype", "dtype",
    "image_aspect_ratio", "image_crop_resolution", "image_grid_pinpoints", "image_split_resolution", "use_mm_proj",
    "freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "tune_mm_mlp_adapter", "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower", "tokenizer_model_max_length", "tokenizer_padding_side", "vision_config",
)  # fmt: skip


def _clip_config(folder: Path, named: str, clip: Path | None) -> dict[str, Any]:
    """The keys of a `CLIPVisionConfig`: of the given CLIP, of config.json itself, or of a CLIP known by name."""
    if clip is not None:
        found = read_config(clip)
        if found.get("model_type") not in ("clip", "clip_vision_model"):
            raise UserError(
                f"{clip} is not a CLIP: its model_type is '{found.get('model_type')}'",
                fix=f"give the folder of {named or next(iter(CLIPS))}",
            )
    else:
        found = {"vision_config": read_config(folder).get("vision_config") or CLIPS.get(named)}
        if found["vision_config"] is None:
            raise UserError(
                f"the size of the vision tower '{named}' is not known",
                reason="config.json only names it",
                fix=clip_fix(named),
            )
    vision = found.get("vision_config", found)
    return {key: value for key, value in vision.items() if key not in ("model_type", "transformers_version", "dtype")}


def clip_fix(named: str) -> str:
    """What brings in the stock CLIP that a config.json names: by its hub name, as a folder elsewhere, or not at all."""
    name = named or next(iter(CLIPS))
    if not HUB_NAME.fullmatch(name):
        return f"give --clip with a copy of {name}"
    return f"give --clip {name} and --hub; or, where there is a network: {clip_lines(name)}"


def clip_lines(name: str) -> str:
    """How the CLIP of that hub name is brought in by hand."""
    return f"`{shlex.join(['hf', 'download', name, '--local-dir', 'CLIP'])}`, then give --clip CLIP"


def unusable(folder: Path, error: Exception) -> UserError:
    """The error for a config.json of which transformers makes no configuration, or no model."""
    return UserError(
        f"{folder / 'config.json'} is not a configuration that transformers accepts",
        reason=" ".join(str(error).split()),
        fix="copy the checkpoint again, or give one in its original layout",
    )


def published_names(layout: str, names: "Iterable[str]") -> tuple[dict[str, str], list[str]]:
    """Name in the checkpoint -> published name, without buffers; and the names that the layout does not have."""
    renamed: dict[str, str] = {}
    unknown: list[str] = []
    for name in names:
        if _BUFFER.search(name):
            continue
        new = _of_llava_mistral(name) if layout == "llava_mistral" else _of_llava(name)
        if new is None:
            unknown.append(name)
        elif new:
            renamed[name] = new
    return renamed, unknown


def _of_llava_mistral(name: str) -> str | None:
    try:
        return rename([name]).get(name, "")
    except KeyError:
        return None


def _of_llava(name: str) -> str | None:
    for pattern, new in _GENERATIONS:
        if pattern.match(name):
            return pattern.sub(new, name)
    return None


def stock_tower_name(name: str) -> str | None:
    """The published name of a tensor of a CLIP checkpoint; None for its text half, its heads and its buffers."""
    if not name.startswith("vision_model.") or _BUFFER.search(name):
        return None
    return f"vision_tower.{name}"
