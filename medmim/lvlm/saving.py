"""Saves a model so that others load it as it is: weights, configuration, tokenizer, processor and chat template."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmim.errors import from_os_error
from medmim.lvlm import adapters, weights
from medmim.lvlm.family import Family
from medmim.lvlm.llava import Lvlm, quiet_transformers, stop_tokens


def save(lvlm: Lvlm, folder: Path, written: Sequence[weights.Weight] | None = None) -> Lvlm:
    """Save a model so that `load`, transformers, TRL and vLLM can use it as it is.

    The weights have their published names, the processor the chat template of the family, and generation stops at all
    the tokens that end an answer.

    Args:
        lvlm: The model.
        folder: Is created.
        written: Its weights, where the model itself does not hold all of them. [default: those of the model]

    Returns:
        The same model with its new folder.
    """
    written = weights.of_model(lvlm.model) if written is None else written
    config = copy.deepcopy(lvlm.model.config)
    config.dtype = weights.kind(written[0].dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        weights.write(folder, written)
        save_settings(folder, config, lvlm.model.generation_config, lvlm.tokenizer, lvlm.image_processor, lvlm.family)
    except OSError as error:
        raise from_os_error(error, "saving the model") from error
    return replace(lvlm, path=folder)


def save_adapters(lvlm: Lvlm, adapted: Any, folder: Path, written: list[weights.Weight]) -> None:
    """Save what was trained of a model, and all that `load` needs beside it but `adapters.record_base`.

    Args:
        lvlm: The model, which peft has changed.
        adapted: The `PeftModel` around it.
        folder: Is created.
        written: See `adapters.of_training`.

    Raises:
        UserError: The disk is full.
    """
    config = copy.deepcopy(lvlm.model.config)
    config.dtype = lvlm.model.dtype
    try:
        folder.mkdir(parents=True, exist_ok=True)
        adapters.write(adapted, folder, written)
        save_settings(folder, config, lvlm.model.generation_config, lvlm.tokenizer, lvlm.image_processor, lvlm.family)
    except OSError as error:
        raise from_os_error(error, "saving the adapters") from error


def save_settings(
    folder: Path, config: Any, generation: Any, tokenizer: Any, image_processor: Any, family: Family
) -> None:
    """Write all but the weights: configuration, generation settings, tokenizer, image processor and chat template.

    Args:
        folder: Exists.
        config: A `LlavaConfig`.
        generation: A `GenerationConfig`; the tokens that end an answer are set to the family's.
        tokenizer: Fast tokenizer.
        image_processor: Of the vision tower.
        family: The chat format.

    Raises:
        OSError: The disk is full.
    """
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    generation = copy.deepcopy(generation)
    generation.eos_token_id = stop_tokens(tokenizer, family)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.save_pretrained(folder)
    processor_of(config, tokenizer, image_processor, family).save_pretrained(folder)


def processor_of(config: Any, tokenizer: Any, image_processor: Any, family: Family) -> Any:
    """A model's `LlavaProcessor`, which writes the chat format of its family."""
    return quiet_transformers().LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(config.vision_config.model_type == "clip_vision_model"),
        chat_template=family.chat_template,
    )
