"""Trains a tiny base from its recipe, phase by phase, with the training loop of `finetune`, and writes its card."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmim import hints, progress, terms
from medmim.data.seeds import fraction, stream
from medmim.errors import UserError
from medmim.lvlm import checkpoint, llava, saving
from medmim.lvlm.encode import Encoded, encode
from medmim.lvlm.llava import Lvlm
from medmim.sample import LETTERS
from medmim.tiny import corpus
from medmim.tiny.base_recipe import BaseRecipe, Phase
from medmim.tiny.corpus_text import Item

if TYPE_CHECKING:
    from medmim.finetune.batch import Batch
    from medmim.tiny.pool import Pool

_CORPUS = 2000  # texts of each task on which the tokenizer is trained
FIRST = 20  # steps whose losses are shipped with a base, to check its recipe
FIRST_LOSSES = "first_losses.json"
TOLERANCE = 1e-4  # of the loss; the rounding of another machine differs by far less
_ASKED = 200  # questions of each task for the accuracies of the model card


def build(recipe: BaseRecipe, work: Path, destination: Path) -> Lvlm:
    """Train phase by phase, then write the base with its card.

    Args:
        recipe: The recipe.
        work: Folder for the checkpoints and the result of each phase; a killed build resumes from them.
        destination: Folder that receives the finished base.

    Raises:
        UserError: The disk is full, or a loss is not a number.
    """
    from medmim.finetune import loop
    from medmim.finetune.record import LOSSES
    from medmim.lvlm.features import pixels
    from medmim.tiny.pool import Pool

    lvlm = _untrained(recipe)
    pool = Pool(recipe.drawings, recipe.seed, lambda images: pixels(lvlm, images))
    for phase in recipe.phases:
        folder = work / phase.name
        if (folder / "done").is_file():
            lvlm = llava.load(folder, device="cpu")
            continue
        progress.say(f"phase {phase.name}: {phase.steps} steps of {phase.finetune.batch_size} samples")
        loop.train(lvlm, _batches(lvlm, recipe, phase, pool), phase.steps, phase.finetune, folder)
        lvlm = llava.load(folder, device="cpu")
        (folder / "done").touch()
        shutil.rmtree(folder / "resume", ignore_errors=True)
    from medmim.tiny import card

    part = work / "base"
    shutil.rmtree(part, ignore_errors=True)
    lvlm = saving.save(lvlm, part)
    readme = card.card(recipe, lvlm, work, lambda task: accuracy(lvlm, recipe, task))
    (part / "README.md").write_text(readme, encoding="utf-8")
    losses = (work / recipe.phases[0].name / LOSSES).read_text(encoding="utf-8").splitlines()[:FIRST]
    (part / terms.FILE).write_text(terms.APACHE.dump(), encoding="utf-8")
    (part / FIRST_LOSSES).write_text(json.dumps([json.loads(line)["loss"] for line in losses]) + "\n", encoding="utf-8")
    destination.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        shutil.copyfile(file, destination / file.name)
    return llava.load(destination, device="cpu")


class _StopTraining(Exception):
    pass


def first_losses(recipe: BaseRecipe, folder: Path, count: int = FIRST) -> list[float]:
    """Train the first steps of a recipe; losses are equal on one machine, within 1e-4 of the shipped ones on others.

    Args:
        recipe: The recipe; its first phase is text only.
        folder: Scratch folder; must be empty.
        count: Number of steps.
    """
    from medmim.finetune import loop

    lvlm, phase, losses = _untrained(recipe), recipe.phases[0], list[float]()

    def record(line: Mapping[str, Any]) -> None:
        losses.append(line["loss"])
        if len(losses) == count:
            raise _StopTraining

    with suppress(_StopTraining):  # the schedule depends on all steps of the phase, so it is started and then stopped
        loop.train(lvlm, _batches(lvlm, recipe, phase, None), phase.steps, phase.finetune, folder, on_step=record)
    return losses


def shipped_losses(name: str) -> list[float]:
    """The first losses that were recorded when a shipped base was trained.

    Raises:
        UserError: The record is missing or damaged.
    """
    file = checkpoint.resolve(name) / FIRST_LOSSES
    try:
        losses = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        losses = None
    if not isinstance(losses, list) or len(losses) != FIRST or not all(isinstance(loss, float) for loss in losses):
        raise UserError(
            f"{file} is not the record of {FIRST} losses",
            reason="it is missing, damaged or cut short",
            fix=f"install medmim again, or build the base again: {hints.command('base', 'build', name)}",
        )
    return losses


def _untrained(recipe: BaseRecipe) -> Lvlm:
    from medmim.tiny import architecture

    llava.quiet_transformers()
    tokenizer = architecture.train_tokenizer(_texts(recipe), recipe.family, recipe.vocabulary)
    model = architecture.build(recipe.family, tokenizer, recipe.seed)
    return Lvlm(model, tokenizer, architecture.image_processor(recipe.family), recipe.family, Path())


def _texts(recipe: BaseRecipe) -> Iterator[str]:
    """The texts on which the tokenizer is trained."""
    for name, task in corpus.TASKS.items():
        for i in range(_CORPUS):
            for turn in task(stream(recipe.seed, "corpus", name, i), recipe.family).turns:
                yield turn.question
                yield from (str(turn.answer), f" {turn.answer}")  # a format may put a space before answers
    yield from corpus.phrases()


def _batches(lvlm: Lvlm, recipe: BaseRecipe, phase: Phase, pool: "Pool | None") -> "Callable[[int], Batch]":
    """Step -> batch of a phase; `pool` may be None for a phase of text only."""
    from medmim.finetune import batch

    keys = corpus.key_tokens(lvlm.tokenizer)
    size = phase.finetune.batch_size

    def batch_at(step: int) -> "Batch":
        numbers = range(step * size, (step + 1) * size)
        items = [corpus.item(phase.diet, recipe.family, recipe.seed, phase.name, i) for i in numbers]

        def image(i: int) -> Any:
            scene = items[i].scene
            if scene is None:
                return None
            assert pool is not None  # noqa: S101  the caller's contract
            return pool.pick(scene, int(fraction(recipe.seed, "drawing", phase.name, numbers[i]) * pool.each))

        encoded = [_encode(lvlm, item, keys) for item in items]
        return batch.build(encoded, image, max_tokens=phase.finetune.max_tokens, packed=phase.finetune.packing)

    return batch_at


def _encode(lvlm: Lvlm, item: Item, tokens: Mapping[str, int]) -> Encoded:
    encoded = encode(lvlm, item.turns, int(item.scene is not None))
    if not item.keys:
        return encoded
    keys = np.isin(encoded.tokens, [tokens[key] for key in item.keys])
    return replace(encoded, trained=encoded.trained & keys)


def accuracy(lvlm: Lvlm, recipe: BaseRecipe, task: str, count: int = _ASKED) -> float:
    """Share of a task's closed questions answered with the right letter, on drawings that are not in the training."""
    from PIL import Image

    from medmim.data.seeds import pixels
    from medmim.data.sources.phantom_draw import draw
    from medmim.lvlm import ask_hf
    from medmim.lvlm.ask import Question

    questions: list[Question] = []
    letters: list[str] = []
    i = 0
    while len(questions) < count:
        item = corpus.TASKS[task](stream(recipe.seed, "figures", task, i), recipe.family)
        i += 1
        answer = item.turns[-1].answer or ""
        if len(item.turns) > 1 or answer[:1] not in LETTERS or answer[1:2] != ":":
            continue
        drawn = [] if item.scene is None else [draw(item.scene, pixels("figures", recipe.seed, task, i))]
        questions.append(Question(item.turns[0].question, [Image.fromarray(d, "L").convert("RGB") for d in drawn]))
        letters.append(answer[:2])
    replies = ask_hf.ask(lvlm, questions, batch_size=50, max_new_tokens=8)
    return sum(reply.text.startswith(letter) for reply, letter in zip(replies, letters, strict=True)) / count
