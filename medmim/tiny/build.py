"""Builds a base: the recipe's phases through the very loop that fine-tunes. Here, as it ties two rooms together."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from medmim import progress
from medmim.data.seeds import fraction, stream
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.checkpoint import Lvlm
from medmim.lvlm.encode import IGNORED, Encoded, encode
from medmim.lvlm.family import Family
from medmim.recipe.keys import Positive, Section
from medmim.recipe.schema import Finetune
from medmim.recipe.yaml_text import parse_yaml
from medmim.sample import LETTERS, digest_of
from medmim.tiny import corpus
from medmim.tiny.corpus_text import Item

if TYPE_CHECKING:
    from medmim.finetune.batch import Batch
    from medmim.tiny.pool import Pool

_CORPUS = 2000  # texts of each task that the tokenizer is trained on
FIRST = 20  # steps whose losses are shipped with a base, to check its recipe by
FIRST_LOSSES = "first_losses.json"
TOLERANCE = 1e-4  # of the loss; rounding of another machine stays far below it
_ASKED = 200  # questions of each task behind a figure of the model card


class Phase(Section):
    """One training with its own mixture of tasks."""

    name: str
    steps: Positive
    diet: dict[str, float]
    finetune: Finetune


class BaseRecipe(Section):
    """How a base is made. `chat` is its family."""

    name: str
    chat: Literal["mantis", "llava-med"]
    seed: int
    vocabulary: Positive = Field(1024, description="most tokens of the tokenizer")
    drawings: Positive = Field(250, description="drawings of every class of phantom")
    phases: tuple[Phase, ...]

    @property
    def digest(self) -> str:
        """Digest of every setting."""
        return digest_of([self.model_dump_json()])

    @property
    def family(self) -> Family:
        """The family it is made in."""
        return next(family for family in checkpoint.FAMILIES if family.name == self.chat)


def load(name: str) -> BaseRecipe:
    """A shipped base recipe.

    Raises:
        UserError: No such recipe, or one that does not fit.
    """
    folder = resources.files("medmim.shipped.bases") / "recipes"
    known = sorted(e.name.removesuffix(".yaml") for e in folder.iterdir() if e.name.endswith(".yaml"))
    if name not in known:
        raise UserError(f"no base recipe '{name}'", fix=f"shipped ones: {', '.join(known)}")
    values = parse_yaml((folder / f"{name}.yaml").read_text(), f"base recipe {name}")
    try:
        return BaseRecipe.model_validate_json(json.dumps({"name": name, **values}))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError(f"base recipe {name} does not fit", problems=problems) from None


def build(made: BaseRecipe, work: Path, goal: Path) -> Lvlm:
    """Train phase after phase, then write the base with its card.

    Args:
        made: The recipe.
        work: Each phase keeps its checkpoints and its result here; a killed build goes on from them.
        goal: Gets the base, whole.

    Raises:
        UserError: The disk is full, or a loss is not a number.
    """
    from medmim.finetune import loop
    from medmim.finetune.record import LOSSES
    from medmim.lvlm.ask_hf import pixels
    from medmim.tiny.pool import Pool

    lvlm = _start(made)
    pool = Pool(made.drawings, made.seed, lambda images: pixels(lvlm, images))
    for phase in made.phases:
        folder = work / phase.name
        if (folder / "done").is_file():
            lvlm = checkpoint.load(folder, device="cpu")
            continue
        progress.say(f"phase {phase.name}: {phase.steps} steps of {phase.finetune.batch_size} samples")
        loop.train(lvlm, _batches(lvlm, made, phase, pool), phase.steps, phase.finetune, folder)
        lvlm = checkpoint.load(folder, device="cpu")
        (folder / "done").touch()
        shutil.rmtree(folder / "resume", ignore_errors=True)
    from medmim.tiny import card

    part = work / "whole"
    shutil.rmtree(part, ignore_errors=True)
    lvlm = checkpoint.save(lvlm, part)
    (part / "README.md").write_text(card.card(made, lvlm, work, lambda task: accuracy(lvlm, made, task)))
    losses = (work / made.phases[0].name / LOSSES).read_text().splitlines()[:FIRST]
    (part / FIRST_LOSSES).write_text(json.dumps([json.loads(line)["loss"] for line in losses]) + "\n")
    goal.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        shutil.copyfile(file, goal / file.name)
    return checkpoint.load(goal, device="cpu")


class _Enough(Exception):
    pass


def first_losses(made: BaseRecipe, folder: Path, count: int = FIRST) -> list[float]:
    """Losses of the recipe's first steps, trained anew: equal on one machine, within 1e-4 of the shipped ones anywhere.

    Args:
        made: The recipe; its first phase is of text alone.
        folder: Scratch; must be empty.
        count: How many steps.
    """
    from medmim.finetune import loop

    lvlm, phase, losses = _start(made), made.phases[0], list[float]()

    def note(line: Mapping[str, Any]) -> None:
        losses.append(line["loss"])
        if len(losses) == count:
            raise _Enough

    with suppress(_Enough):  # the schedule is the whole phase's, so the phase is begun and left
        loop.train(lvlm, _batches(lvlm, made, phase, None), phase.steps, phase.finetune, folder, on_step=note)
    return losses


def shipped_losses(name: str) -> list[float]:
    """The first losses that were recorded when a shipped base was made.

    Raises:
        UserError: The record is missing or damaged.
    """
    file = checkpoint.resolve(name) / FIRST_LOSSES
    try:
        losses = json.loads(file.read_text())
    except (OSError, ValueError):
        losses = None
    if not isinstance(losses, list) or len(losses) != FIRST or not all(isinstance(loss, float) for loss in losses):
        raise UserError(
            f"{file} is not the record of {FIRST} losses",
            reason="it is missing, damaged or cut short",
            fix=f"install medmim again, or make the base anew: medmim base build {name}",
        )
    return losses


def _start(made: BaseRecipe) -> Lvlm:
    from medmim.tiny import architecture

    checkpoint.quiet_transformers()
    tokenizer = architecture.train_tokenizer(_texts(made), made.family, made.vocabulary)
    model = architecture.build(made.family, tokenizer, made.seed)
    return Lvlm(model, tokenizer, architecture.image_processor(made.family), made.family, Path(), "")


def _texts(made: BaseRecipe) -> Iterator[str]:
    for name, task in corpus.TASKS.items():
        for i in range(_CORPUS):
            for turn in task(stream(made.seed, "corpus", name, i), made.family).turns:
                yield turn.question
                yield from (str(turn.answer), f" {turn.answer}")  # a format may put a space before answers
    yield from corpus.phrases()


def _batches(lvlm: Lvlm, made: BaseRecipe, phase: Phase, pool: "Pool | None") -> "Callable[[int], Batch]":
    from medmim.finetune import batch

    keys = corpus.key_tokens(lvlm.tokenizer)
    size = phase.finetune.batch_size

    def batch_at(step: int) -> "Batch":
        numbers = range(step * size, (step + 1) * size)
        items = [corpus.item(phase.diet, made.family, made.seed, phase.name, i) for i in numbers]

        def image(i: int) -> Any:
            scene = items[i].scene
            if scene is None:
                return None
            assert pool is not None  # noqa: S101  only a phase of text alone goes without
            return pool.pick(scene, int(fraction(made.seed, "drawing", phase.name, numbers[i]) * pool.each))

        encoded = [_encode(lvlm, item, keys) for item in items]
        return batch.build(encoded, image, max_tokens=phase.finetune.max_tokens, packed=phase.finetune.packing)

    return batch_at


def _encode(lvlm: Lvlm, item: Item, tokens: Mapping[str, int]) -> Encoded:
    encoded = encode(lvlm, item.turns, int(item.scene is not None))
    if not item.keys:
        return encoded
    kept = {tokens[key] for key in item.keys}
    return Encoded(encoded.ids, [y if y in kept else IGNORED for y in encoded.labels], encoded.images)


def accuracy(lvlm: Lvlm, made: BaseRecipe, task: str, count: int = _ASKED) -> float:
    """Share of a task's closed questions that the model answers with the right letter, on drawings it never saw."""
    from PIL import Image

    from medmim.data.seeds import pixels
    from medmim.data.sources.phantom_draw import draw
    from medmim.lvlm import ask_hf
    from medmim.lvlm.ask import Question

    questions: list[Question] = []
    letters: list[str] = []
    i = 0
    while len(questions) < count:
        item = corpus.TASKS[task](stream(made.seed, "figures", task, i), made.family)
        i += 1
        answer = item.turns[-1].answer or ""
        if len(item.turns) > 1 or answer[:1] not in LETTERS or answer[1:2] != ":":
            continue
        drawn = [] if item.scene is None else [draw(item.scene, pixels("figures", made.seed, task, i))]
        questions.append(Question(item.turns[0].question, [Image.fromarray(d, "L").convert("RGB") for d in drawn]))
        letters.append(answer[:2])
    replies = ask_hf.ask(lvlm, questions, batch_size=50, max_new_tokens=8)
    return sum(reply.text.startswith(letter) for reply, letter in zip(replies, letters, strict=True)) / count
