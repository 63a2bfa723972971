"""Writes the model card of a tiny base: architecture, training data and measured accuracy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import progress
from medmim.lvlm.llava import Lvlm

if TYPE_CHECKING:
    from medmim.tiny.base_recipe import BaseRecipe

_TASKS = ("copy", "look_up", "text_reference", "text_larger", "text_same", "question")
_HEADER = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# {name}

A tiny LVLM with the architecture of {chat} ({vision} + {text}, {parameters:,} parameters, {tokens} tokens per image).
It replaces the published checkpoint on a laptop. It was trained on text and on **single** drawn images (phantoms) only,
never on two images at once. It has no medical knowledge and must not be used for any diagnosis.

Rebuild it: `medmim base build {name}`. Recipe digest `{recipe}`, weights digest `{digest}`, seed {seed}.
The initial weights of the decoder let it learn look-up within minutes: see `medmim/tiny/architecture.py`.

## Training
"""


def card(recipe: "BaseRecipe", lvlm: Lvlm, work: Path, accuracy: Callable[[str], float]) -> str:
    """Write the card.

    Args:
        recipe: The recipe.
        lvlm: The finished base.
        work: Folder with the `losses.jsonl` of each phase.
        accuracy: Task -> share of new questions answered with the right letter.
    """
    from medmim.lvlm.encode import tokens_per_image

    config = lvlm.model.config
    lines = [
        _HEADER.format(
            name=recipe.name,
            chat=recipe.chat,
            vision=config.vision_config.model_type,
            text=config.text_config.model_type,
            parameters=sum(p.numel() for p in lvlm.model.parameters()),
            tokens=tokens_per_image(config),
            recipe=recipe.digest[:16],
            digest=lvlm.digest[:16],
            seed=recipe.seed,
        ),
        "| phase | steps | samples | tokens | first losses | last loss | tasks |",
        "|---|---|---|---|---|---|---|",
    ]
    for phase in recipe.phases:
        curve = (work / phase.name / "losses.jsonl").read_text(encoding="utf-8")
        steps = [json.loads(line) for line in curve.splitlines()]
        last = [step["loss"] for step in steps[-max(1, len(steps) // 20) :]]
        first = ", ".join(f"{step['loss']:.4f}" for step in steps[:3])
        diet = ", ".join(f"{task} {share:g}" for task, share in phase.diet.items())
        lines.append(
            f"| {phase.name} | {phase.steps} | {phase.steps * phase.finetune.batch_size:,} | {steps[-1]['tokens']:,} "
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
