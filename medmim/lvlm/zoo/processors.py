"""The processors of checkpoints without their video part, which asks for torchvision; images are read with PIL."""

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import llava

_ATTRIBUTES = ["image_processor", "tokenizer"]


def read(path: Path, model_type: str) -> Any:
    """The processor of a checkpoint: its tokenizer, image processor and chat template.

    Raises:
        UserError: It has no chat template, or transformers knows no processor of this class.
        Exception: What transformers raises on its files; see `llava.reading`.
    """
    transformers = llava.quiet_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    reader = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True, backend="pil")
    made = class_of(model_type)
    settings, _ = made.get_processor_dict(path, local_files_only=True)
    given = {key: value for key, value in settings.items() if key not in ("video_processor", "chat_template")}
    processor = made.from_args_and_dict([reader, tokenizer], given, chat_template=require_template(path))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it pads
    return processor


@lru_cache
def class_of(model_type: str) -> Any:
    """The class of the processor of a `model_type`, without its video part.

    Raises:
        UserError: transformers has none.
    """
    transformers = llava.quiet_transformers()
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(model_type)
    if name is None:
        raise UserError(
            f"transformers {transformers.__version__} has no processor of model_type '{model_type}'",
            fix="serve the model, and ask the server: openai:URL#NAME",
        )
    base = getattr(transformers, name)
    members: dict[str, Any] = {"get_attributes": classmethod(lambda cls: _ATTRIBUTES)}
    if model_type == "smolvlm":
        members["__init__"] = _smolvlm
        members["video_processor"] = _NoVideo  # it asks this one for defaults even where there is no video
    # the name is written beside a saved processor, and must be one that others load
    return type(name, (base,), {**members, "__module__": base.__module__})


class _NoVideo:
    num_frames = fps = 1


def _smolvlm(
    self: Any, image_processor: Any, tokenizer: Any, image_seq_len: int = 169, chat_template: Any = None
) -> None:
    """As `SmolVLMProcessor.__init__` of transformers 5.23, which refuses to start without num2words, for videos."""
    from transformers import ProcessorMixin

    for name, usual in (
        ("fake_image_token", "<fake_token_around_image>"),
        ("image_token", "<image>"),
        ("end_of_utterance_token", "<end_of_utterance>"),
        ("global_image_token", "<global-img>"),
        ("video_token", "<video>"),
    ):
        setattr(self, name, getattr(tokenizer, name, usual))
    self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
    self.image_seq_len = image_seq_len
    ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def require_template(where: Path | store.Artifact) -> str:
    """The chat template of a checkpoint.

    Raises:
        UserError: It has none.
    """
    template = template_of(where)
    if template is None:
        raise UserError(
            f"{where if isinstance(where, Path) else where.uri} has no chat template",
            reason="its chat format is not known, and a wrong format would silently lower every score",
            fix="copy chat_template.jinja or chat_template.json from the place where the checkpoint was published",
        )
    return template


def template_of(where: Path | store.Artifact) -> str | None:
    """The chat template of a checkpoint; of an artifact, no other files are read. None where there is none.

    The order is that of transformers: of the processor before that of the tokenizer.
    """
    for name in ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"):
        text = _text(where, name)
        if text is not None and name.endswith(".jinja"):
            return text
        with suppress(ValueError, AttributeError):
            found = json.loads(text or "{}").get("chat_template")
            if isinstance(found, list):  # of several, each with its name
                found = {one.get("name"): one.get("template") for one in found}.get("default")
            if isinstance(found, str):
                return found
    return None


def _text(where: Path | store.Artifact, name: str) -> str | None:
    if isinstance(where, Path):
        return (where / name).read_text("utf-8") if (where / name).is_file() else None
    with suppress(FileNotFoundError):
        return store.read_file(where, name).decode()
    return None
