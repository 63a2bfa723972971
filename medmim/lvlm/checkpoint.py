"""Model checkpoints: resolve a reference to a folder, load a model with checks, upload it to the store."""

import difflib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from medmim import __version__, hints, sniff, store, terms
from medmim.errors import Unavailable, UserError, from_os_error, require
from medmim.lvlm import adapters, memory, soundness
from medmim.lvlm.family import Family
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from medmim.progress import say
from medmim.run import provenance
from medmim.run.workspace import Workspace, cache_folder
from medmim.sample import IMAGE, digest_of
from medmim.store.paths import existing

FAMILIES = (MANTIS, LLAVA_MED)
FP32 = "float32"  # in which the batch changes no text
_SHOWN = 100  # characters of a reference that names nothing
IMAGE_BACKEND = "pil"  # torchvision resizes to other pixels
# What a machine whose GPUs torch can use has of these; `torch.cuda.is_available` needs seconds to import torch.
_GPUS = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")
_TEXT = ("*.json", "*.jinja", "*.txt", "*.model", "tokenizer*")  # all that a tokenizer of any kind may be read from


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
        return "" if self.path == Path() else digest(self.path)

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


def shipped() -> list[str]:
    """Names of the bases that are shipped with the package."""
    return sorted(e.name for e in resources.files("medmim.shipped.bases").iterdir() if (e / "config.json").is_file())


def resolve(ref: str, ws: Workspace | None = None) -> Path:
    """The local folder of a model; one in S3 is fetched.

    Args:
        ref: A shipped name, a folder, `file://` or the URI of a model artifact.
        ws: The workspace; artifacts in S3 are copied into its cache. [default: .medmim]

    Raises:
        UserError: There is no such model, or the artifact is not a model.
    """
    found = locate(ref)
    if isinstance(found, Path):
        return found
    return store.fetch(found, ws.cache if ws else cache_folder(Path(".medmim")))


def resolve_text(ref: str, ws: Workspace) -> Path:
    """The local folder of a model for `load_text`; of one in S3, no weights are fetched. Errors as `resolve`."""
    found = locate(ref)
    return found if isinstance(found, Path) else store.fetch(found, ws.cache, _TEXT)


def locate(ref: str) -> Path | store.Artifact:
    """Where a model is; nothing of it is downloaded. Arguments and errors as `resolve`."""
    names = shipped()
    if ref in names:
        return Path(str(resources.files("medmim.shipped.bases") / ref))
    path = existing(ref.removeprefix("file://"))
    is_folder = path is not None and path.is_dir()
    if path is not None and is_folder and not (path / store.MANIFEST).is_file():
        return path
    if is_folder or "://" in ref:
        artifact = store.get(ref)
        if artifact.kind != "model":
            raise UserError(f"{ref} is not a model", reason=f"it is an artifact of kind '{artifact.kind}'")
        return artifact
    similar = difflib.get_close_matches(ref, names, 1)
    raise UserError(
        f"no model '{ref if len(ref) <= _SHOWN else ref[:_SHOWN] + '...'}'",
        reason="it is neither a folder, nor the URI of a model, nor a shipped base",
        fix=(f"did you mean '{similar[0]}'? " if similar else "") + f"shipped bases: {', '.join(names) or 'none'}",
    )


def upload_if_local(ref: str, ws: Workspace) -> str:
    """A reference to the model that is valid on every machine with this store; a local folder is uploaded to the store.

    Args:
        ref: As for `resolve`.
        ws: The workspace, for its store.

    Returns:
        `ref` itself where it is a shipped base or the URI of a model in S3, else the URI of the copy in the store.

    Raises:
        UserError: As `resolve` does, or its weights are damaged, or the store refuses.
    """
    found = locate(ref)
    if ref in shipped():
        return ref
    if "://" in ref and not ref.startswith("file://"):
        return ref
    path = found if isinstance(found, Path) else resolve(ref, ws)
    known = store.find(str(path))
    if known is not None and known.uri.startswith(f"{ws.store}/"):
        return known.uri
    soundness.check_weights(path)  # before it is copied for minutes, and refused by each worker
    if adapters.are_in(path):
        upload_if_local(base_of(path)[0], ws)
    say(f"copying the model {path} to the store")
    made_from = {"medmim": __version__, "step": "copy of a folder", "terms": terms_of(ref).as_dict()}
    return store.publish(path, ws.store, "model", known.counts if known else {}, made_from).uri


def terms_of(ref: str) -> terms.Terms:
    """The terms of a model; unknown where nothing states them.

    Args:
        ref: As for `resolve`.

    Raises:
        UserError: As `resolve` does, or its `terms.json` is not a record of terms.
    """
    found = locate(ref)
    if not isinstance(found, Path):
        return provenance.terms_of(found)
    file = found / terms.FILE
    return terms.parse(file.read_bytes(), str(file)) if file.is_file() else terms.UNKNOWN


def base_of(where: Path | store.Artifact) -> tuple[str, Path | store.Artifact]:
    """The base of adapters: a reference, and where it is; nothing of it is downloaded.

    Raises:
        UserError: It is not there, or is another one than the adapters were trained on.
        Unavailable: The store does not answer.
    """
    name = where if isinstance(where, Path) else where.uri
    ref, wanted = adapters.base_of(where)
    merge = "or run the adapters' recipe again with `finetune.lora.merge: true`, whose model needs no base"
    try:
        found = locate(ref)
    except Unavailable:
        raise
    except UserError as error:
        raise UserError(
            f"the base of the adapters {name} is missing: {ref}",
            reason=f"{error.fact}; the adapters were trained on the base with digest {wanted}",
            fix=f"restore it there, from a backup or with the import or training that made it, {merge}",
        ) from None
    if (given := digest(found)) != wanted:
        raise UserError(
            f"{ref} is not the base of the adapters {name}",
            reason=f"its digest is {given}, and the adapters were trained on the base with digest {wanted}",
            fix=f"restore that base there, {merge}",
        )
    return ref, found


def digest(where: Path | store.Artifact) -> str:
    """Content digest of the files that decide what a model answers; a README beside them does not count.

    Of adapters, one of the files names the digest of the base. Of an artifact, it is read from the manifest: neither
    downloaded nor hashed.
    """
    if isinstance(where, Path):
        files = {
            file.name: {"sha256": store.file_digest(file)} for glob in soundness.CONTENT for file in where.glob(glob)
        }
        return store.content_digest(files)
    wanted = [
        name for name in where.files if "/" not in name and any(fnmatchcase(name, glob) for glob in soundness.CONTENT)
    ]
    return store.content_digest({name: where.files[name] for name in wanted})


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
    family = family_of(path)
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
    with memory.reporting(*loading(path)):
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
    _, found = base_of(path)
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
    family = family_of(path)
    soundness.refuse_other_files(path)
    transformers = quiet_transformers()
    with reading(path, family.name):
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        _check_image_token(path, tokenizer, config)
    return Text(config, tokenizer, family, path)


def load_config(where: Path | store.Artifact) -> Any:
    """The `LlavaConfig` of a checkpoint; of an artifact, no other file is read. Errors as `load_text`."""
    family = family_of(where)
    path = where if isinstance(where, Path) else Path(where.uri)
    with reading(path, family.name):
        return quiet_transformers().LlavaConfig.from_dict(json.loads(config_text(where) or "{}"))


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
        with memory.reporting(*loading(path)):
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


def loading(path: Path) -> tuple[str, str]:
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


def family_of(where: Path | store.Artifact) -> Family:
    """The family of a checkpoint, read from its config.json; of an artifact, no other file is read.

    Raises:
        UserError: A missing or broken config, or an architecture of no supported family.
    """
    path = where if isinstance(where, Path) else where.uri
    text = config_text(where)
    if text is None:
        raise UserError(
            f"{path} is not a model: it has no config.json",
            fix="give the folder of a LLaVA checkpoint in the Hugging Face layout",
        )
    try:
        config = json.loads(text)
        kinds = (config["vision_config"]["model_type"], config["text_config"]["model_type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        kind = "an unreadable file"
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            kind = f"of model_type '{json.loads(text)['model_type']}'"
        raise UserError(f"{path}/config.json is {kind}, not a LLaVA configuration", fix=supported()) from None
    for family in FAMILIES:
        if kinds == (family.vision, family.text):
            return family
    raise UserError(
        f"{path} is a checkpoint of another family: {kinds[0]} + {kinds[1]}",
        reason="its chat format is not known, and a wrong format would silently lower every score",
        fix=supported(),
    )


def config_text(where: Path | store.Artifact) -> str | bytes | None:
    """The text of its config.json; None where there is none."""
    if not isinstance(where, Path):
        with suppress(FileNotFoundError):
            return store.read_file(where, "config.json")
        return None
    file = where / "config.json"
    try:
        found = file.exists()
    except OSError as error:
        raise from_os_error(error, "reading the model") from None
    return sniff.read_text(file, "a LLaVA configuration in JSON") if found else None


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


def supported() -> str:
    """The families, for the fix of an error."""
    known = ", ".join(f"{f.name} ({f.vision} + {f.text})" for f in FAMILIES)
    return f"give a checkpoint of: {known}; what `{hints.command('zoo', 'list')}` shows can be asked, not fine-tuned"


def check_weights_of(ref: str, folder: Path) -> None:
    """Check what can be known of a model's weights without fetching them; arguments and folder of `resolve_text`.

    Raises:
        UserError: As `check_weights`, where the weights are on this disk; else if the model has none.
    """
    found = locate(ref)
    if isinstance(found, Path) or any(folder.glob(soundness.WEIGHTS)):
        soundness.check_weights(folder)
    elif not any(fnmatchcase(name, soundness.WEIGHTS) for name in found.files):
        raise soundness.no_weights(found.uri)
