"""Loads a LLaVA checkpoint: the model with checks, its text side alone, or its configuration; see `zoo` for others."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medmim import store
from medmim.errors import UserError, from_os_error, require
from medmim.lvlm import adapters, checkpoint, memory, soundness
from medmim.lvlm.family import Family
from medmim.run.workspace import cache_folder
from medmim.sample import IMAGE, digest_of

FP32 = "float32"  # in which the batch changes no text
IMAGE_BACKEND = "pil"  # torchvision resizes to other pixels
# What a machine whose GPUs torch can use has of these; `torch.cuda.is_available` needs seconds to import torch.
_GPUS = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")


@dataclass(frozen=True)
class Lvlm:
    """A loaded model with everything that training and inference need.

    Attributes:
        model: `LlavaForConditionalGeneration`, in eval mode.
        tokenizer: Fast tokenizer.
        image_processor: PIL images to `pixel_values`.
        family: Its chat format.
        path: Folder that it was loaded from; `Path()` for a model not yet saved.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    family: Family
    path: Path

    @cached_property
    def digest(self) -> str:
        """Content digest of its folder; empty for a model not yet saved. Read when asked for: training needs none."""
        return "" if self.path == Path() else checkpoint.digest(self.path)

    @property
    def config(self) -> Any:
        """The `LlavaConfig` of the model."""
        return self.model.config

    @cached_property
    def inference(self) -> tuple[str, ...]:
        """What decides an answer beside weights and question, as parts of its key.

        Kind of device, dtype, image processor with its settings (which give the pixels that the model sees), and chat
        format.
        """
        processor = self.image_processor
        settings = digest_of([json.dumps(processor.to_dict(), sort_keys=True, default=str)])
        return (
            kind_of(self.model.device),
            dtype_name(self.model.dtype),
            f"{type(processor).__name__} {settings}",
            self.family.template_digest,
        )


@dataclass(frozen=True)
class Text:
    """A checkpoint without its weights: what rendering and tokenizing need, however large the model is.

    Attributes:
        config: A `LlavaConfig`.
        tokenizer: Fast tokenizer.
        family: Its chat format.
        path: Folder that it was loaded from.
    """

    config: Any
    tokenizer: Any
    family: Family
    path: Path


def load(path: Path, device: str = "auto", dtype: Any = None, cache: Path | None = None) -> Lvlm:
    """Load a LLaVA checkpoint of a known family; adapters are added to the weights of their base.

    Args:
        path: Folder with config, safetensors, tokenizer and processor.
        device: `auto` is the GPU where there is one.
        dtype: Torch dtype of the weights; by default bf16 on a GPU and fp32 on a CPU.
        cache: Where a base of adapters that is in S3 is copied to. [default: beside the adapters where these are such
            a copy, else that of .medmim]

    Raises:
        UserError: A missing or damaged file, an unsupported family, weights that are missing, cut off, not finite or
            do not match, or do not fit into the memory; of adapters, the base is missing or another one.
        Unavailable: A file cannot be read for now.
    """
    family = checkpoint.family_of(path)
    soundness.check_weights(path)
    whole = _whole_weights(path, cache)
    transformers = quiet_transformers()
    device, dtype = device_and_dtype(device, dtype)
    # adapters are added on the CPU: one sum of one model, whatever loads it
    placed = placement(device) if whole == path else {}
    with reading(whole, family.name):
        model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
            whole, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **placed
        )
    with reading(path, family.name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        processor = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True, backend=IMAGE_BACKEND)
        missing = sorted(report["missing_keys"])
        if missing:
            raise UserError(f"{whole} lacks {len(missing)} weights", problems=missing, fix="give a whole checkpoint")
        _check_image_token(path, tokenizer, model.config)
        _check_image_size(path, processor, model.config)
        if whole != path:
            model = adapters.merge(model, path)
    with memory.reporting(*in_words(path)):
        model = model.to(device).eval()
    if soundness.not_finite(model):
        raise soundness.not_finite_error(path, whole, dtype)
    return Lvlm(model, tokenizer, processor, family, path)


def inference() -> dict[str, str]:
    """How `load` makes a model answer on this machine by default: kind of device, dtype, backend of the images."""
    device = _device()
    dtype = dtype_name(_dtype_on(device)) if device == "cuda" else FP32
    return {"device": kind_of(device), "dtype": dtype, "images": IMAGE_BACKEND}


def dtype_name(dtype: Any) -> str:
    """A torch dtype without its module: `float32`, `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def device_and_dtype(device: str, dtype: Any = None) -> tuple[str, Any]:
    """Device and torch dtype of a model: `auto` is the GPU where there is one; bf16 on a GPU and fp32 on a CPU."""
    device = _device() if device == "auto" else device
    return device, dtype or _dtype_on(device)


def _device() -> str:
    """The device that `auto` is."""
    if "torch" not in sys.modules and not any(found for glob in _GPUS for found in Path("/dev").glob(glob)):
        return "cpu"
    return "cuda" if require("torch", "finetune").cuda.is_available() else "cpu"


def _dtype_on(device: str) -> Any:
    torch = require("torch", "finetune")
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def kind_of(device: Any) -> str:
    """`cpu`, or the name of the GPU: kinds differ in the last bits of a sum."""
    if str(device) == "cpu":
        return "cpu"
    return str(require("torch", "finetune").cuda.get_device_name(device))


def placement(device: str) -> dict[str, Any]:
    """Arguments with which transformers reads each weight straight into a GPU, and host memory never holds a model.

    Where DeepSpeed splits the weights as they are read, it also places them.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    straight = device.startswith("cuda") and not is_deepspeed_zero3_enabled()
    return {"device_map": {"": device}} if straight else {}


def _whole_weights(path: Path, cache: Path | None) -> Path:
    """The folder with the whole weights of a model: of adapters that of their base, else its own."""
    if not adapters.are_in(path):
        return path
    _, found = checkpoint.base_of(path)
    if not isinstance(found, Path):
        _, copy_of = adapters.origin(path)
        found = store.fetch(found, cache or (path.parent if copy_of else cache_folder(Path(".medmim"))))
    adapters.refuse_as_base(found)
    soundness.check_weights(found)
    return found


def load_text(path: Path) -> Text:
    """Load what tokenizing needs of a checkpoint: its configuration and its tokenizer, not its weights.

    Raises:
        UserError: A missing or damaged config or tokenizer, or an unsupported family.
        Unavailable: A file cannot be read for now.
    """
    family = checkpoint.family_of(path)
    soundness.refuse_other_files(path)
    transformers = quiet_transformers()
    with reading(path, family.name):
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        _check_image_token(path, tokenizer, config)
    return Text(config, tokenizer, family, path)


def load_config(where: Path | store.Artifact) -> Any:
    """The `LlavaConfig` of a checkpoint; of an artifact, no other file is read. Errors as `load_text`."""
    family = checkpoint.family_of(where)
    path = where if isinstance(where, Path) else Path(where.uri)
    with reading(path, family.name):
        return quiet_transformers().LlavaConfig.from_dict(json.loads(checkpoint.config_text(where) or "{}"))


def check_settings(path: Path) -> None:
    """Check that all but the weights of a checkpoint loads and fits together, before hours of writing them.

    Raises:
        UserError: As `load` does.
        Unavailable: A file cannot be read for now.
    """
    text = load_text(path)
    transformers = quiet_transformers()
    with reading(path, text.family.name):
        processor = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True, backend=IMAGE_BACKEND)
        _check_image_size(path, processor, text.config)


def without_memory(config: Any) -> Any:
    """The modules of a `LlavaConfig` with names and shapes of their parameters, but no values: on torch's `meta`."""
    import torch

    with torch.device("meta"):
        return quiet_transformers().LlavaForConditionalGeneration(config)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Report what others' parsers, in Python and Rust, raise on files that may hold anything: no fault of medmim's.

    Args:
        path: The checkpoint.
        kind: As what it is read, as in "does not load as a KIND model".

    Raises:
        UserError: Whatever they raise, but for
        Unavailable: a file that cannot be read for now.
    """
    try:
        with memory.reporting(*in_words(path)):
            yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # also a panic of a Rust library
        if isinstance(error, OSError) and error.errno:  # transformers' own have no number
            raise from_os_error(error, "reading the model") from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
        raise UserError(
            f"{path} does not load as a {kind} model",
            reason=f"{type(error).__name__}: {said}" if said else type(error).__name__,
            fix="give a whole checkpoint: config.json, *.safetensors, tokenizer.json and the processor's config",
        ) from None


def in_words(path: Path) -> tuple[str, str]:
    """(what was done, fix) where loading a model uses up the memory."""
    return f"while {path} was loaded", "end what else uses it (`nvidia-smi`, `top`), or take a larger one"


def _check_image_token(path: Path, tokenizer: Any, config: Any) -> None:
    if tokenizer.convert_tokens_to_ids(IMAGE) != config.image_token_id:
        raise UserError(
            f"{path}: '{IMAGE}' is token {tokenizer.convert_tokens_to_ids(IMAGE)} of the tokenizer, "
            f"but the model expects {config.image_token_id}",
            fix="take tokenizer and config.json from the same checkpoint",
        )


def _check_image_size(path: Path, processor: Any, config: Any) -> None:
    """Check that the processor makes pictures of the size that the vision tower has positions for."""
    from PIL import Image

    made = tuple(processor([Image.new("RGB", (8, 8))], return_tensors="pt")["pixel_values"].shape[-2:])
    size = config.vision_config.image_size
    if made != (size, size):
        raise UserError(
            f"{path}: its processor makes pictures of {' x '.join(map(str, made))} pixels, "
            f"but the vision tower reads {size} x {size}",
            fix="take config.json and the processor's config from the same checkpoint",
        )


def stop_tokens(tokenizer: Any, family: Family) -> list[int]:
    """Ids of the tokens that end an answer."""
    known = tokenizer.get_vocab()
    return [known[token] for token in family.stop if token in known]


def quiet_transformers() -> Any:
    """Import transformers, with its warnings and progress bars off and the Hub offline."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = require("transformers", "finetune")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # peft 0.21 asks for the old name
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    return transformers
