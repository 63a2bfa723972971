"""Whether the files of a checkpoint are whole: shards that open, JSON that is JSON, weights that are finite."""

from pathlib import Path
from typing import Any

from medmim import sniff
from medmim.errors import UserError, require
from medmim.lvlm import adapters, weights

WEIGHTS = "*.safetensors"
CONTENT = (  # what decides what a model answers
    WEIGHTS, "config.json", "generation_config.json", "tokenizer*", "*processor_config.json",
    "chat_template.jinja", "chat_template.json", adapters.CONFIG, adapters.BASE,
)  # fmt: skip


def check_weights(path: Path) -> None:
    """Check, before anything is loaded, that every shard opens, and that no file beside it is something else.

    Raises:
        UserError: There is no shard, one is cut off or damaged, or a file is a pointer, a web page or the like.
    """
    safetensors = require("safetensors", "finetune")
    shards = sorted(path.glob(WEIGHTS))
    if not shards:
        raise no_weights(str(path))
    refuse_other_files(path)
    problems = []
    fixes = []
    for shard in shards:
        try:
            with safetensors.safe_open(str(shard), framework="pt"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            kind = sniff.kind_of(shard) if shard.is_file() else None
            if kind == sniff.UNKNOWN:  # what is left of weights
                kind = None
            problems.append(f"{shard.name} is {kind.name}" if kind else f"{shard.name}: {error}")
            fixes.append(kind.fix_of(shard) if kind else "copy the checkpoint again")
    if problems:
        raise UserError(f"weights in {path} are damaged", problems=problems, fix="; ".join(dict.fromkeys(fixes)))


def not_finite(model: Any) -> list[str]:
    """Names of the weights that hold NaN or infinity. One pass without a copy: 2 s for 8B in fp32 on one CPU core."""
    torch = require("torch", "finetune")
    return [
        name
        for name, weight in model.state_dict().items()
        if weight.is_floating_point() and weight.numel() and not torch.stack(torch.aminmax(weight)).isfinite().all()
    ]


def not_finite_error(path: Path, whole: Path, dtype: Any) -> UserError:
    """The error for weights that are not finite, with their names in the files: of adapters, also those of the base."""
    safetensors = require("safetensors", "finetune")
    problems = []
    for file in sorted(file for folder in {path, whole} for file in folder.glob(WEIGHTS)):
        with safetensors.safe_open(str(file), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  no dict
                values = weights.get_tensor(name).float()
                nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
                if nan or infinite:
                    counts = f"{nan:,} NaN and {infinite:,} infinite of {values.numel():,} values"
                    problems.append(f"{name} in {file.name}: {counts}")
    return UserError(
        f"weights of {path} are not finite",
        reason="a model with them gives no answer, and a base with them no loss"
        if problems
        else f"the values in its files are, but {str(dtype).removeprefix('torch.')} cannot hold them",
        fix="copy the checkpoint again, or take an earlier one of the training that made it",
        problems=problems,
    )


def no_weights(where: str) -> UserError:
    """The error for a checkpoint without safetensors."""
    return UserError(
        f"{where} has no *.safetensors", fix="convert pickled weights to safetensors: loading a pickle runs code"
    )


def refuse_other_files(path: Path) -> None:
    """Raise a UserError where a file in JSON is a pointer, a web page or the like."""
    for glob in (*CONTENT[1:], weights.INDEX):
        for file in sorted(path.glob(glob)):
            if file.suffix == ".json":
                sniff.require_text(file, "a file of a checkpoint")
