"""Low-rank adapters (LoRA) as a model: in peft's own layout, with a record of the base that they were trained on.

    adapter_config.json, adapter_model.safetensors   what peft loads; the projector is in it where it was trained
    base.json                                        reference and digest of the base, whose weights are not copied
    config.json, tokenizer.json, ...                 as beside whole weights

A base in the same store is referenced without the address of the store, so that the digest of the adapters does not
depend on it, and a store can be moved.
"""

import copy
import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import sniff, store
from medmim.errors import UserError
from medmim.lvlm import weights

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
_NAME = "default"  # peft's, of the only adapter
_PREFIX = "base_model.model."  # of peft's names
_IN_STORE = re.compile(r"model/[0-9a-f]{64}")


def are_in(where: Path | store.Artifact) -> bool:
    """Whether a model is adapters, and needs its base."""
    return (where / CONFIG).is_file() if isinstance(where, Path) else CONFIG in where.files


def record_base(folder: Path, ref: str, digest: str, store_uri: str) -> None:
    """Write which base adapters belong to.

    Args:
        folder: Of the adapters.
        ref: The base: shipped, or the URI of a model.
        digest: Its `checkpoint.digest`.
        store_uri: Where the adapters will be published.
    """
    ref = ref.removeprefix(f"{store_uri}/")
    (folder / BASE).write_text(json.dumps({"ref": ref, "digest": digest}, indent=1) + "\n", encoding="utf-8")
    config = json.loads((folder / CONFIG).read_bytes()) | {"base_model_name_or_path": ref}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def base_of(where: Path | store.Artifact) -> tuple[str, str]:
    """(reference, `checkpoint.digest`) of the base of adapters.

    Raises:
        UserError: `base.json` is missing or damaged, or names a base in a store that is not known.
    """
    name = where if isinstance(where, Path) else where.uri
    try:
        text = (where / BASE).read_bytes() if isinstance(where, Path) else store.read_file(where, BASE)
    except FileNotFoundError:
        raise UserError(
            f"{name} holds adapters, and no {BASE}",
            reason=f"{BASE} says which base they were trained on, and is written by the stage finetune",
            fix="merge them into their base with peft's merge_and_unload, and give the whole model",
        ) from None
    try:
        record = json.loads(text)
        ref, digest = record["ref"], record["digest"]
        if not isinstance(ref, str) or not isinstance(digest, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{name}/{BASE} is not the record of a base",
            reason='it is not {"ref": ..., "digest": ...}',
            fix="copy the adapters again",
        ) from None
    if not _IN_STORE.fullmatch(ref):
        return ref, digest
    root = origin(where)[0] if isinstance(where, Path) else _root(where.uri)
    if root is None:
        raise UserError(
            f"{name} does not say in which store its base {ref} is",
            reason="it is a plain copy of adapters, without the manifest of the store",
            fix="give the URI of the adapters in the store",
        )
    return f"{root}/{ref}", digest


def origin(folder: Path) -> tuple[str | None, bool]:
    """The store that a folder is of, None for a plain folder; and whether it is a copy of what lies there."""
    try:
        manifest = json.loads((folder / store.MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None, False
    copied = manifest.get("uri")
    return _root(copied or str(folder.resolve())), bool(copied)


def _root(uri: str) -> str:
    """The store of `STORE/model/DIGEST`."""
    return uri.rsplit("/", 2)[0]


def of_training(adapted: Any, whole: "Callable[[str], Tensor] | None" = None) -> list[weights.Weight]:
    """What was trained, adapters and projector, under peft's names.

    Args:
        adapted: A `PeftModel`.
        whole: The name of a weight in the model that peft has changed -> all its values, where these are split over
            several workers.
    """
    import peft

    named = adapted.state_dict(keep_vars=True)
    own = {id(tensor): name.removeprefix(_PREFIX) for name, tensor in named.items()}
    chosen = peft.get_peft_model_state_dict(adapted, named, save_embedding_layers=False)
    return [
        weights.of_tensor(name, tensor, partial(whole, own[id(tensor)]) if whole else None)
        for name, tensor in sorted(chosen.items())
    ]


def write(adapted: Any, folder: Path, written: list[weights.Weight]) -> None:
    """Write adapters as `PeftModel.save_pretrained` does, one tensor in memory at a time; without `base.json`.

    Args:
        adapted: A `PeftModel`.
        folder: Exists.
        written: See `of_training`.

    Raises:
        OSError: The disk is full.
    """
    config = copy.deepcopy(adapted.peft_config[_NAME])
    config.inference_mode = True
    config.base_model_name_or_path = None  # peft has put the folder of this machine there
    kind = type(adapted.get_base_model())
    library = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    config.save_pretrained(str(folder), auto_mapping_dict=library)
    weights.write_file(folder / WEIGHTS, written)


def merged(adapted: Any, whole: "Callable[[str], Tensor] | None" = None, bf16: bool = False) -> list[weights.Weight]:
    """The weights of the model with the adapters added, under their published names; each is computed when written.

    Args:
        adapted: A `PeftModel`.
        whole: As for `of_training`.
        bf16: Write all of them as bf16, rounded once after the addition. [default: as the model holds them]
    """
    from peft.tuners.lora import LoraLayer

    model = adapted.get_base_model()
    named = model.state_dict(keep_vars=True)
    scales = {name: module.scaling[_NAME] for name, module in model.named_modules() if isinstance(module, LoraLayer)}

    def read(name: str) -> "Tensor":
        if whole is not None:
            return whole(name)
        tensor: Tensor = named[name].detach()
        return tensor

    def sum_of(name: str, layer: str) -> "Tensor":
        a, b = (read(f"{layer}.lora_{which}.{_NAME}.weight").float() for which in "AB")
        total: Tensor = read(name).float() + scales[layer] * (b @ a)
        return total

    found: dict[int, weights.Weight] = {}
    for name, tensor in named.items():
        if ".lora_A." in name or ".lora_B." in name or ".original_module." in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        values = partial(sum_of, name, layer) if layer in scales else partial(read, name)
        plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{_NAME}.", ".")
        dtype = "BF16" if bf16 else None
        found.setdefault(id(tensor), weights.of_tensor(weights.published_name(plain), tensor, values, dtype))
    return list(found.values())


def merge(model: Any, folder: Path) -> Any:
    """Add the adapters in a folder to the weights of their base, in place.

    Args:
        model: The base: `LlavaForConditionalGeneration`.
        folder: Of the adapters.

    Returns:
        The same model, without peft's modules and in the dtype that it had.

    Raises:
        UserError: The adapters are not LoRA, or some are missing.
    """
    import peft

    sniff.require_text(folder / CONFIG, "the configuration of adapters")
    dtype = model.dtype
    config = peft.PeftConfig.from_pretrained(str(folder))
    if config.peft_type != peft.PeftType.LORA:
        raise UserError(f"{folder} holds adapters of type {config.peft_type.value}", fix="give LoRA adapters")
    # peft would look for a pickle if it were not there
    stored = weights.tensors(folder / WEIGHTS)
    with warnings.catch_warnings(category=UserWarning, action="ignore"):  # of missing ones, which we refuse
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
    missing = sorted({weight.name for weight in of_training(adapted)} - stored.keys())
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} weights of its adapters", problems=missing, fix="copy the adapters again"
        )
    return adapted.merge_and_unload().to(dtype)


def refuse_as_base(where: Path | store.Artifact) -> None:
    """Refuse to train from adapters: the result would need them, and their base.

    Raises:
        UserError: The model is adapters.
    """
    if are_in(where):
        name = where if isinstance(where, Path) else where.uri
        raise UserError(
            f"{name} holds LoRA adapters, and finetune.base must be a whole model",
            reason="what is trained on top would be adapters of adapters, which no other tool loads",
            fix="take the model of a training with `finetune.lora.merge: true`, or merge these: docs/finetune.md",
        )
