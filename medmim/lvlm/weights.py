"""Weight files: safetensors read and written piece by piece, so that memory does not grow with the model.

A file is a length (8 bytes, little-endian), a header in JSON and the tensors' bytes, one after another.
https://huggingface.co/docs/safetensors/index#format. Files are read, not mapped: mapped pages would count as memory.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # of one file: what transformers writes, and S3 takes in one piece
ONE_FILE = 2**63  # bytes: no limit
PIECE = 64 * 2**20  # bytes of a tensor in memory at once
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NAMES = (  # a state dict's names -> those of published checkpoints, which vLLM wants and every transformers loads
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


@dataclass(frozen=True)
class Weight:
    """A tensor to write.

    Attributes:
        name: Its name in the file.
        dtype: `F32`, `F16` or `BF16`.
        shape: Its shape.
        pieces: Its bytes, row-major, as a call that reads them only now.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Any]]

    @property
    def bytes(self) -> int:
        """Its size."""
        count = SIZES[self.dtype]
        for length in self.shape:
            count *= length
        return count


def published_name(name: str) -> str:
    """The name of a parameter of `LlavaForConditionalGeneration` as published checkpoints have it.

    transformers 5 dropped a level of the vision tower and saves without it; vLLM and transformers 4 need it.

    Raises:
        KeyError: It is no parameter of a LLaVA model.
    """
    for ours, theirs in _NAMES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def of_model(model: Any, whole: "Callable[[str], Tensor] | None" = None, bf16: bool = False) -> list[Weight]:
    """The weights of a loaded model under their published names; a tied weight once.

    Args:
        model: `LlavaForConditionalGeneration`.
        whole: Its name -> a weight with all its values, where they are split over several workers.
        bf16: Write all of them as bf16. [default: as the model holds them]
    """
    found: dict[int, Weight] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        read = partial(whole, name) if whole else tensor.detach
        found.setdefault(id(tensor), of_tensor(published_name(name), tensor, read, "BF16" if bf16 else None))
    return list(found.values())


def of_tensor(
    name: str, tensor: "Tensor", read: "Callable[[], Tensor] | None" = None, dtype: str | None = None
) -> Weight:
    """A tensor as a weight to write.

    Args:
        name: Its name in the file.
        tensor: Dtype and shape; of a tensor that DeepSpeed has split, the shape of the whole.
        read: Gives the values. [default: those of the tensor]
        dtype: As safetensors calls it. [default: that of the tensor]
    """
    dtype = dtype or _DTYPES[str(tensor.dtype).removeprefix("torch.")]
    return Weight(
        name,
        dtype,
        tuple(getattr(tensor, "ds_shape", tensor.shape)),
        lambda: [buffer(read() if read else tensor, dtype)],
    )


def write(
    folder: Path, weights: Sequence[Weight], limit: int = SHARD_BYTES, done: Callable[[int], None] | None = None
) -> None:
    """Write `model.safetensors`, or shards with their index where that is larger than `limit`.

    Args:
        folder: Exists.
        weights: In the order in which they are written.
        limit: Bytes of a shard; a larger tensor gets a shard of its own.
        done: Called with the bytes of each piece that was written.

    Raises:
        OSError: The disk is full.
        ValueError: A weight gave more or fewer bytes than its shape has.
    """
    shards = _split(weights, limit)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        index = {
            "metadata": {"total_size": sum(weight.bytes for weight in weights)},
            "weight_map": {w.name: name for name, shard in zip(names, shards, strict=True) for w in shard},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, done)


def take(weights: Sequence[Weight], limit: int = SHARD_BYTES) -> None:
    """Read all weights in the order of `write`, and drop them: what the other workers do while the first one writes.

    Args:
        weights: As for `write`.
        limit: As for `write`; `ONE_FILE` is the order of `write_file`.
    """
    for shard in _split(weights, limit):
        for weight in _ordered(shard):
            for _ in weight.pieces():
                pass


def _split(weights: Sequence[Weight], limit: int) -> list[list[Weight]]:
    shards: list[list[Weight]] = [[]]
    size = 0
    for weight in weights:
        if shards[-1] and size + weight.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(weight)
        size += weight.bytes
    return shards


def _ordered(weights: Sequence[Weight]) -> list[Weight]:
    """The widest type first, so that every tensor starts at a multiple of its own width."""
    return sorted(weights, key=lambda weight: -SIZES[weight.dtype])


def write_file(path: Path, weights: Sequence[Weight], done: Callable[[int], None] | None = None) -> None:
    """Write one file, however large. Arguments and errors as `write`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers wants to know of which library
    end = 0
    ordered = _ordered(weights)
    for weight in ordered:
        begin, end = end, end + weight.bytes
        header[weight.name] = {"dtype": weight.dtype, "shape": list(weight.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in ordered:
            size = 0
            for piece in weight.pieces():
                file.write(piece)
                size += len(piece)
                if done is not None:
                    done(len(piece))
            if size != weight.bytes:
                raise ValueError(f"{weight.name} has {size:,} bytes, its shape {list(weight.shape)} {weight.bytes:,}")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: The safetensors file.
        dtype: As safetensors calls it.
        shape: Its shape.
        begin: Offset of its first byte in the file.
        end: Offset behind its last.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensors(file: Path) -> Mapping[str, Stored]:
    """The tensors of a file, from its header.

    safetensors checks the header: offsets that leave out no byte, share none and fit the shape and the dtype.

    Raises:
        ValueError: It is no safetensors file, damaged, or cut off.
    """
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    with file.open("rb") as source:
        start = source.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise ValueError("it is cut off, or no safetensors file")
        header = source.read(length)
    try:
        with safe_open(str(file), framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"it is cut off, or its header is damaged: {error}") from None
    found = {}
    for name, entry in json.loads(header).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            found[name] = Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, 8 + length + end)
    return found


def values(stored: Stored, piece: int = PIECE) -> Iterator["Tensor"]:
    """A stored tensor's values, flat, `piece` bytes of the file at a time.

    Raises:
        ValueError: The file became shorter.
    """
    import torch

    with stored.file.open("rb") as source:
        source.seek(stored.begin)
        left = stored.end - stored.begin
        while left:
            data = bytearray(source.read(min(piece, left)))
            if not data:
                raise ValueError(f"{stored.file.name} became shorter while it was read")
            left -= len(data)
            yield torch.frombuffer(data, dtype=kind(stored.dtype))


def buffer(tensor: "Tensor", dtype: str) -> memoryview:
    """A tensor's bytes, row-major, as that dtype."""
    import torch

    return tensor.detach().cpu().to(kind(dtype)).contiguous().reshape(-1).view(torch.uint8).numpy().data


def kind(dtype: str) -> Any:
    """The torch dtype of a dtype as safetensors calls it."""
    import torch

    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
