"""Converts the weights, a piece at a time: memory holds some pieces, never a tensor or a shard.

source files -> names -> checked shapes -> bf16 -> shards of 5 GB
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import sniff
from medmim.errors import UserError
from medmim.lvlm import llava, weights
from medmim.lvlm.importing import layouts
from medmim.lvlm.importing.layouts import TOWER, Layout
from medmim.lvlm.weights import Stored, Weight

if TYPE_CHECKING:
    from transformers import LlavaConfig

DTYPE = "BF16"
_EMBEDDING, _HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
_POOLING = f"{TOWER}head."  # SigLIP's; no feature layer that we read comes after it
_CONVERT = (
    'python -c "import glob, torch, safetensors.torch as s; [s.save_file({k: v.clone() for k, v in torch.load(f, '
    "'cpu', weights_only=True).items()}, f[:-3] + 'safetensors', {'format': 'pt'}) for f in "
    "glob.glob('FOLDER/*.bin')]\""
)


@dataclass(frozen=True)
class Source:
    """The tensors of a checkpoint under their published names."""

    tensors: Mapping[str, Stored]
    folder: Path


def find(layout: Layout, folder: Path, tower: str) -> Source:
    """The tensors to convert, by their published names.

    Args:
        layout: Of the checkpoint.
        folder: The checkpoint.
        tower: `checkpoint`, or `stock`: that of `layout.clip` in place of the checkpoint's.

    Raises:
        UserError: Missing, pickled, damaged or unknown weights, each by name.
    """
    found = _tensors(folder)
    renamed, unknown = layouts.published_names(layout.name, found)
    tensors: dict[str, Stored] = {}
    for name, new in renamed.items():
        if new in tensors:
            unknown.append(f"{name}: a second {new}")
        tensors[new] = found[name]
    if layout.name == "llava_mistral" and tower == "checkpoint" and not any(n.startswith(TOWER) for n in tensors):
        named = str(layouts.read_config(folder).get("mm_vision_tower") or "")
        raise UserError(
            f"{folder} has no vision tower: none of its tensors is one's",
            reason="it was saved without, as LLaVA does where the tower was not tuned: that is stock "
            + (named or "CLIP"),
            fix="give --vision-tower stock" + ("" if layout.clip else f", and {layouts.clip_fix(named)}"),
        )
    if tower == "stock":
        assert layout.clip is not None  # noqa: S101  the caller's contract
        tensors = {name: one for name, one in tensors.items() if not name.startswith(TOWER)}
        stock = {layouts.stock_tower_name(name): one for name, one in _tensors(layout.clip).items()}
        tensors |= {name: one for name, one in stock.items() if name}
    if unknown:
        raise UserError(
            f"{folder} has {len(unknown)} tensors that the layout {layout.name} does not have",
            reason="they would be lost, and the model would answer otherwise",
            fix="give the checkpoint as it was published; adapters (LoRA) must be merged before",
            problems=sorted(unknown),
        )
    return Source(tensors, folder)


def plan(source: Source, config: "LlavaConfig", rows: int) -> list[Weight]:
    """What to write, in the order of the modules; every shape is checked against the configuration.

    Args:
        source: The tensors.
        config: Changed to what is written: embedding rows, tied embeddings, SigLIP's pooling head.
        rows: Embedding rows to write, at least as many as there are; the added ones are the mean of the others.

    Raises:
        UserError: Missing or surplus tensors, shapes that the configuration does not ask for, or no floats.
    """
    tensors = dict(source.tensors)
    if config.tie_word_embeddings:
        tensors.pop(_HEAD, None)  # transformers would not read it either
    if config.vision_config.model_type == "siglip_vision_model" and not any(n.startswith(_POOLING) for n in tensors):
        config.vision_config.vision_use_head = False
    try:
        model = llava.without_memory(config)
    except (KeyError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise layouts.unusable(source.folder, error) from None
    asked = {
        weights.published_name(name): tuple(weight.shape)
        for name, weight in model.named_parameters(remove_duplicate=False)
        if not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    problems = [f"{name}: missing" for name in asked if name not in tensors]
    problems += [f"{name}: not in a model of this configuration" for name in tensors if name not in asked]
    for name in asked.keys() & tensors.keys():
        if tensors[name].shape != asked[name]:
            problems.append(f"{name}: {list(tensors[name].shape)}, the configuration asks for {list(asked[name])}")
        elif tensors[name].dtype not in weights.SIZES:
            problems.append(f"{name}: {tensors[name].dtype}, not a float: quantized weights cannot be tuned")
    if problems:
        tower = all(problem.startswith(TOWER) for problem in problems)
        raise UserError(
            f"weights and config.json of {source.folder} do not fit: {len(problems)} tensors",
            reason="they are of two checkpoints, or a file is missing",
            fix="copy the checkpoint again, all of it"
            + (", or give --clip with the CLIP whose size its vision tower has" if tower else ""),
            problems=sorted(problems),
        )
    planned = []
    for name, shape in asked.items():
        added = rows - shape[0] if name in (_EMBEDDING, _HEAD) else 0
        read = partial(_pieces, name, tensors[name], added)
        planned.append(Weight(name, DTYPE, (shape[0] + added, *shape[1:]) if added else shape, read))
    config.text_config.vocab_size = rows
    return planned


def _pieces(name: str, stored: Stored, added: int) -> Iterator[Any]:
    """The tensor's bytes as bf16, and `added` rows that are the mean of its rows.

    With the mean an added token is no outlier: its logit is the mean of all logits, so greedy decoding never writes it,
    and nothing has to be drawn.
    """
    import torch

    width = stored.shape[-1] * weights.SIZES[stored.dtype] if stored.shape else weights.SIZES[stored.dtype]
    total = torch.zeros(stored.shape[-1], dtype=torch.float64) if added else None
    for values in weights.values(stored, max(1, weights.PIECE // max(1, width)) * max(1, width)):
        made = values.to(torch.bfloat16)
        if not torch.isfinite(made).all():
            finite = bool(torch.isfinite(values).all())
            raise UserError(
                f"{name} in {stored.file.name} holds values that are not finite{' in bf16' if finite else ''}",
                reason="training from it could only give NaN",
                fix="copy the checkpoint again; if it was published so, it is damaged",
            )
        if total is not None:
            total += values.reshape(-1, stored.shape[-1]).sum(0, dtype=torch.float64)
        yield weights.buffer(made, DTYPE)
    if total is not None:
        row = weights.buffer((total / stored.shape[0]).to(torch.float32), DTYPE)
        for _ in range(added):
            yield row


def _tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder's safetensors files."""
    files = _files(folder)
    pointers = [(file, kind) for file in files if (kind := sniff.pointer(file))]
    if pointers:
        file, kind = pointers[0]
        raise UserError(
            f"{len(pointers)} of {len(files)} weight files of {folder} were not fetched: each is {kind.name}",
            reason="the repository was cloned without them",
            fix=kind.fix_of(file),
            problems=[file.name for file, _ in pointers],
        )
    index = folder / weights.INDEX
    listed = _index(index) if index.is_file() else {}
    found: dict[str, Stored] = {}
    problems = []
    for file in files:
        try:
            for name, stored in weights.tensors(file).items():
                if listed.get(name, file.name) != file.name:
                    continue  # the index says which file's is meant
                if name in found:
                    problems.append(
                        f"{file.name}: {name} is in {found[name].file.name} too, and no index says which is meant"
                    )
                found[name] = stored
        except ValueError as error:
            problems.append(f"{file.name}: {error}")
    if problems:
        raise UserError(f"weights in {folder} are damaged", problems=problems, fix="copy these files again")
    if listed:
        absent = sorted(listed.keys() - found.keys())
        if absent:
            raise UserError(
                f"{folder} lacks {len(absent)} tensors that {index.name} lists",
                fix="copy the checkpoint again, all of it",
                problems=absent,
            )
    return found


def _files(folder: Path) -> list[Path]:
    """The weight files of a folder: those of its index, else all.

    Raises:
        UserError: One is missing, or all are pickles.
    """
    index = folder / weights.INDEX
    there = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        names = sorted(set(_index(index).values()))
    else:
        names = [file.name for file in there]
        for name in list(names):
            part = re.fullmatch(r"(.*)-(\d+)-of-(\d+)\.safetensors", name)
            if part:
                of = int(part[3])
                names += [f"{part[1]}-{i:0{len(part[2])}d}-of-{part[3]}.safetensors" for i in range(1, of + 1)]
    missing = sorted({name for name in names if not (folder / name).is_file()})
    refuse_pickled(str(folder), (file.name for file in folder.iterdir()), str(folder))
    if not names:
        raise UserError(f"{folder} has no weights: no *.safetensors", fix="copy the checkpoint again, all of it")
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(set(names))} weight files",
            fix="copy these files again: `hf download` goes on where it stopped",
            problems=missing,
        )
    return [folder / name for name in sorted(set(names))]


def refuse_pickled(ref: str, names: Iterable[str], folder: str, before: str = "", then: str = "import again") -> None:
    """Refuse weights that are only there as pickles.

    Args:
        ref: Where they are.
        names: Of all files there.
        folder: Where the user converts them.
        before: What the user does before that, ending in a comma.
        then: And after it.

    Raises:
        UserError: There are pickles, and no safetensors.
    """
    names = sorted(name for name in names if "/" not in name)
    pickled = [name for name in names if name.endswith((".bin", ".pth", ".pt"))]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"the weights of {ref} are pickled: {', '.join(pickled)}",
            reason="loading a pickle can run code that somebody hid in it",
            fix=f"{before}convert them without running code, then {then}: {_CONVERT.replace('FOLDER', folder)}",
        )


def _index(file: Path) -> Mapping[str, str]:
    try:
        found = json.loads(sniff.read_text(file, "an index of weights in JSON"))["weight_map"]
        if not all("/" not in name and name.endswith(".safetensors") for name in found.values()):
            raise ValueError("it names files outside of its folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not an index of weights", reason=str(error), fix="copy the file again") from None
    return dict(found)
