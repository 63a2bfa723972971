"""The model card of a base: what it is, what it was trained on, what it can do, measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import progress
from medmim.lvlm.checkpoint import Lvlm

if TYPE_CHECKING:
    from medmim.tiny.build import BaseRecipe

_TASKS = ("copy", "look_up", "text_reference", "text_larger", "text_same", "question")
_HEADER = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# {name}

A tiny LVLM of {chat}'s architecture ({vision} + {text}, {parameters:,} parameters, {tokens} tokens an image).
It stands for the published checkpoint where a laptop has to do. It was trained on text and on **single** drawn images
(phantoms) only, never on two images at once. It knows nothing of medicine and must not be used for any diagnosis.

Rebuild it: `medmim base build {name}`. Recipe digest `{recipe}`, weights digest `{digest}`, seed {seed}.
The decoder starts from values that let it learn look-up in minutes: `medmim/tiny/architecture.py` says which and why.

## Training
"""


def card(made: "BaseRecipe", lvlm: Lvlm, work: Path, accuracy: Callable[[str], float]) -> str:
    """Write the card.

    Args:
        made: The recipe.
        lvlm: The finished base.
        work: Folder with the `losses.jsonl` of each phase.
        accuracy: Task -> share of new questions answered with the right letter.
    """
    from medmim.lvlm.encode import tokens_per_image

    config = lvlm.model.config
    lines = [
        _HEADER.format(
            name=made.name, chat=made.chat, vision=config.vision_config.model_type, text=config.text_config.model_type,
            parameters=sum(p.numel() for p in lvlm.model.parameters()), tokens=tokens_per_image(config),
            recipe=made.digest[:16], digest=lvlm.digest[:16], seed=made.seed,
        ),
        "| phase | steps | samples | tokens | first losses | last loss | tasks |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for phase in made.phases:
        told = [json.loads(line) for line in (work / phase.name / "losses.jsonl").read_text().splitlines()]
        last = [line["loss"] for line in told[-max(1, len(told) // 20) :]]
        first = ", ".join(f"{line['loss']:.4f}" for line in told[:3])
        diet = ", ".join(f"{task} {share:g}" for task, share in phase.diet.items())
        lines.append(
            f"| {phase.name} | {phase.steps} | {phase.steps * phase.finetune.batch_size:,} | {told[-1]['tokens']:,} "
            f"| {first} | {sum(last) / len(last):.3f} | {diet} |"
        )
    lines += [
        "",
        "## What it can do",
        "",
        "Share of 200 new closed questions answered with the right letter, by greedy generation:",
        "",
        "| task | accuracy |",
        "|---|---|",
    ]
    with progress.bar("model card", len(_TASKS), "tasks") as bar:
        for task in _TASKS:
            lines.append(f"| {task} | {accuracy(task):.1%} |")
            bar.add()
    return "\n".join(lines) + "\n"
