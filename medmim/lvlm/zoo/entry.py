"""The models of the zoo, a declarative file each in `models/`, and how the checkpoints of a class are asked."""

import difflib
import re
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from medmim.errors import UserError
from medmim.lvlm.zoo.adapter import Adapter, Asking
from medmim.lvlm.zoo.gemma3 import GEMMA3
from medmim.lvlm.zoo.idefics3 import IDEFICS3
from medmim.lvlm.zoo.internvl import INTERNVL
from medmim.lvlm.zoo.llava import LLAVA
from medmim.lvlm.zoo.llava_onevision import LLAVA_ONEVISION
from medmim.lvlm.zoo.qwen_vl import QWEN_VL
from medmim.recipe.yaml_text import parse_yaml

ADAPTERS = (LLAVA, QWEN_VL, INTERNVL, GEMMA3, LLAVA_ONEVISION, IDEFICS3)


class Images(BaseModel):
    """What is written around each of several images; see `adapter.Asking`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: str = ""
    after: str = ""
    most: int | None = None


class Entry(BaseModel):
    """A model of the zoo, as its file declares it.

    Attributes:
        name: Of the file.
        title: As its makers write it.
        hub: Its name on the Hugging Face Hub.
        classes: `model_type`s of config.json that are asked as it is; the first is its own.
        format: The family whose chat format is written to the byte instead of a chat template.
        medical: Whether it was tuned on medical images.
        sibling: The model beside which it stands: the general one of a medical one, and the other way round.
        terms: A name of `terms.PUBLISHED`, or `unknown`, which allows nothing.
        licence: What its licence is and where that was read.
        gated: Whether the Hub asks to accept terms first.
        template: SHA-256 of its chat template, written by `zoo check --write` on the real weights; null until then.
        pixels: The pixel budget, in the words of its adapter.
        backend: What decodes and resizes its images.
        images: What is written around each of several images.
        stop: Tokens that end an answer.
        tokens: How many tokens an image takes, in words.
        tokens_at: (height x width) -> tokens of an image of that size that is alone in its question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    title: str
    hub: str
    classes: tuple[str, ...]
    format: Literal["mantis", "llava-med"] | None = None
    medical: bool
    sibling: str
    terms: str
    licence: str
    gated: bool = False
    template: str | None
    pixels: dict[str, int | bool]
    backend: Literal["pil"]
    images: Images
    stop: tuple[str, ...]
    tokens: str
    tokens_at: dict[str, int]

    @property
    def asking(self) -> Asking:
        """How it is asked."""
        shown = self.images
        return Asking(self.pixels, shown.before, shown.after, shown.most, self.stop, self.backend)

    def with_template(self, sha256: str) -> str:
        """The text of its file with another digest of the chat template."""
        text = _file(self.name).read_text("utf-8")
        return re.sub(r"^template: .*$", f"template: {sha256}", text, flags=re.MULTILINE)

    @property
    def adapter(self) -> Adapter:
        """How it is given images."""
        found = adapter_of(self.classes[0])
        assert found is not None  # tests/lvlm/zoo holds the files to this
        return found


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """The models of the zoo, in the order of their names."""
    names = (file.name for file in (resources.files("medmim.lvlm.zoo") / "models").iterdir())
    found = []
    for name in sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")):
        values: Any = parse_yaml(_file(name).read_text("utf-8"), f"the zoo's {name}.yaml")
        found.append(Entry(**values, name=name))
    return tuple(found)


def _file(name: str) -> Traversable:
    return resources.files("medmim.lvlm.zoo") / "models" / f"{name}.yaml"


def named(name: str) -> Entry | None:
    """The model of a name; None where there is none."""
    return next((entry for entry in entries() if entry.name == name), None)


def find(name: str) -> Entry:
    """The model of a name.

    Raises:
        UserError: There is none; the closest name is in the message.
    """
    if found := named(name):
        return found
    names = [entry.name for entry in entries()]
    similar = difflib.get_close_matches(name.lower(), names, 1, 0.5)
    raise UserError(
        f"no model '{name[:100]}' in the zoo",
        fix=(f"did you mean '{similar[0]}'? " if similar else "") + f"it has: {', '.join(names)}",
    )


def refuse_similar(name: str) -> None:
    """Raise the error of `find` for what looks like a name of the zoo."""
    if difflib.get_close_matches(name.lower(), [entry.name for entry in entries()], 1, 0.5):
        find(name)


def adapter_of(model_type: str) -> Adapter | None:
    """The adapter of a class; None for one that no adapter is proven for."""
    return next((one for one in ADAPTERS if model_type in one.types), None)


def asking_of(model_type: str) -> Asking:
    """How a checkpoint of a class is asked: as the zoo's model of that class; else by the processor's own settings.

    Models of one class are asked alike, so that a tuned one can be compared with the one it was tuned from.
    """
    for entry in entries():
        if model_type in entry.classes and entry.format is None:
            return entry.asking
    return Asking()
