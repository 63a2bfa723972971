"""Scores with a data set and answers behind them: models that see which of two pictures is brighter, on 24 patients.

`good` always sees it, `fair` but for a quarter of the questions, `blind` never: it says A. Each beats the next.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from medmim import shards, store
from medmim.bench import run
from medmim.bench.engines import Engine
from medmim.lvlm.ask import Question, Reply
from medmim.recipe.schema import Bench, Recipe
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim.store import Artifact
from medmim.terms import APACHE
from tests.support.registry import model

ASKED = Bench(probes=("blind", "swap"))


def samples() -> list[Sample]:
    """Two questions a patient: once the first picture is brighter, once the second."""
    made = []
    for i in range(48):
        images = (f"bright-{i % 24}", f"dark-{i % 24}")[:: 1 if i < 24 else -1]
        made.append(
            Sample(
                "comparison", "brighter", "phantom-chest", "test", False, (f"p{i % 24}",), images, images,
                f"Which is brighter? Question {i}", ("the first", "the second"), "", (i // 24,), (1 - i // 24,),
            )
        )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set."""
    folder = tmp_path_factory.mktemp("pictures") / "data"
    encoded = []
    for i in range(24):
        for name, shade in (("bright", 200 + i), ("dark", i)):
            out = io.BytesIO()
            Image.new("RGB", (16, 16), (shade, shade, shade)).save(out, "PNG")
            encoded.append((f"{name}-{i}", f"{name}-{i}", out.getvalue()))
    shards.write(folder, samples(), encoded)
    return folder


def says(name: str, question: Question) -> int:
    """Index of the option that a model gives."""
    number = int(re.findall(r"Question (\d+)", question.prompt)[0])
    if name == "blind" or not question.images:
        return 0
    first, second = (picture.getpixel((0, 0))[0] for picture in question.images)
    wrong = name == "fair" and number < 24 and number % 2 == 0
    return int((second > first) != wrong)


def engine(ref: str, *_: object) -> Engine:
    """A model, by the name in its file."""
    artifact = store.get(ref)
    name = store.read_file(artifact, "weights.txt").decode()

    def ask(questions: Iterable[Question], batch_size: int, max_new_tokens: int) -> Iterator[Reply]:
        yield from (Reply("AB"[says(name, question)], f"{name} {question.prompt}") for question in questions)

    def compare(questions: Iterable[Question], batch_size: int) -> Iterator[Reply]:
        for question in questions:
            letters = (-0.1, -3.0)[:: 1 if says(name, question) == 0 else -1]
            yield Reply("", f"{name} {question.prompt}", letters=letters, texts=letters, tokens=(1, 2))

    return Engine(ref, artifact.digest, ask, compare, terms=APACHE)


@pytest.fixture
def scored(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Artifact]:
    """Bench a model against the base, and against the champion where one is named."""

    def scored(
        ws: Workspace, tuned: str, champion: str = "", settings: Bench = ASKED, recipe: Recipe | None = None
    ) -> Artifact:
        monkeypatch.setattr(run, "engine", engine)
        data = store.publish(pictures, ws.store, "data", {}, {"terms": APACHE.as_dict()})
        roles = {"tuned": tuned, "base": "blind"} | ({"champion": champion} if champion else {})
        models = {role: model(ws, name).uri for role, name in roles.items()}
        used = recipe and recipe.model_copy(update={"bench": settings})
        return run.bench(ws, data.uri, models, settings, used)[0]

    return scored
