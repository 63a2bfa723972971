"""Nights over the real code: two real tiny models, a server over HTTP, the store, the decision log and MLflow.

The questions are made for the two models: what the second one, as champion, loses against the first is exact.
"""

import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from PIL import Image

from medmim import shards, store, tracking
from medmim.bench import metrics
from medmim.errors import Refused
from medmim.nightly import rebench, records, roster, watch
from medmim.nightly.records import Night
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.registry import decisions
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace
from medmim.sample import Sample, digest_of
from tests.support.openai_server import Server

PATIENTS, QUESTIONS, WORSE = 60, 240, 16  # 7.3 points of the held-in questions
WINDOW = 7  # nights that are compared with
FIRST = date(2026, 6, 7)
NAME = "weeks"


@dataclass
class World:
    """A workspace, its recipe, its data set, its two models and its server."""

    ws: Workspace
    recipe: Recipe
    data: str
    models: tuple[str, str]
    server: Server

    def promote(self, model: int) -> None:
        """Make one of the models champion, by the decision log."""
        uri = self.models[model]
        entry = Decision("promoted", str(model + 1), store.get(uri).digest, uri, why="a test")
        decisions.append(self.ws, self.recipe.register_.model, lambda _: entry)

    def on(self, night: int, **settings: object) -> tuple[Recipe, Workspace]:
        """The recipe and the workspace of the night of that number."""
        day = (FIRST + timedelta(days=night - 1)).isoformat()
        own = self.recipe.nightly.model_copy(update={"date": day, **settings})
        run = records.run_name(NAME, day, "1")
        return self.recipe.model_copy(update={"nightly": own}), replace(self.ws, run=run)

    def night(self, night: int, **settings: object) -> Night:
        """The stages of a night, as its components run them; an alarm is in the record."""
        recipe, ws = self.on(night, **settings)
        seen = rebench.run(recipe, ws, self.data, roster.models(recipe, ws))
        try:
            watch.run(recipe, ws, seen.uri)
        except Refused as alarm:
            assert alarm.exit_code == 1
        found = records.find(ws, NAME, str(recipe.nightly.date))
        assert found is not None
        return found


@contextmanager
def world(home: Path, database: Path) -> Iterator[World]:
    """Made in a home of its own.

    Args:
        home: Is made.
        database: A migrated MLflow database, copied.
    """
    home.mkdir(parents=True)
    shutil.copy(database, home / "mlflow.db")
    ws = Workspace(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}")
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.say = lambda text: _word(text)
        models = _models(home / "models")
        data, uris = _data(home / "data", ws, models)
        tracking.client(ws).create_registered_model("weeks-model")  # whose MLflow this is
        recipe = loading.validate(
            {
                "name": NAME,
                "data": {"source": "phantom"},
                "finetune": {"base": uris[0]},
                "bench": {"probes": [], "max_new_tokens": 2, "batch_size": 80},
                "register": {"model": "weeks-model"},
                "nightly": {"references": [f"openai:{server.url}#other"], "canary": 12, "nights": WINDOW},
            },
            "the test",
        )
        yield World(ws, recipe, data, uris, server)
        server.shutdown()


def drift(server: Server, share: int) -> None:
    """From now on the server answers one question in `share` differently."""
    server.say = lambda text: _word(text + "!" * (int(digest_of([text])[:8], 16) % share == 0))


def _word(text: str) -> str:
    return ("mass", "nodule", "effusion")[int(digest_of([text])[-8:], 16) % 3]


def _models(root: Path) -> tuple[Path, Path]:
    from medmim.lvlm import llava, saving
    from medmim.lvlm.mantis import MANTIS
    from medmim.tiny import architecture

    tokenizer = architecture.train_tokenizer(
        [f"What is new in {i}?\nthe mass grew" for i in range(QUESTIONS)], MANTIS, 400
    )
    made = []
    for seed in (0, 1):
        model = llava.Lvlm(
            architecture.build(MANTIS, tokenizer, seed),
            tokenizer,
            architecture.image_processor(MANTIS),
            MANTIS,
            root,
        )
        made.append(saving.save(model, root / str(seed)).path)
    return made[0], made[1]


def _data(folder: Path, ws: Workspace, models: tuple[Path, Path]) -> tuple[str, tuple[str, str]]:
    """Published, the right answers such that the first model gives WORSE more of them than the second."""
    from medmim.lvlm import ask_hf, llava
    from medmim.lvlm.ask import Question

    out = io.BytesIO()
    picture = Image.new("RGB", (16, 16), (9, 9, 200))
    picture.save(out, "PNG")
    asked = [_question(i) for i in range(QUESTIONS)]
    questions = [Question(sample.prompt, [picture]) for sample in asked]
    said = [[reply.text for reply in ask_hf.ask(llava.load(path), questions, 80, 2)] for path in models]
    differing = [i for i, (a, b) in enumerate(zip(*said, strict=True)) if metrics.token_f1(b, a) == 0][:WORSE]
    assert len({asked[i].patients for i in differing if not asked[i].held_out}) == WORSE
    made = [replace(one, answer=said[0][i] if i in differing else "none of it") for i, one in enumerate(asked)]
    shards.write(folder, made, [(f"sha256:{p:02}", f"sha256:{p:02}", out.getvalue()) for p in range(PATIENTS)])
    (folder / "quarantine.jsonl").touch()
    data = store.publish(folder, ws.store, "data", {}, {"time": "2026-06-01T00:00:00+00:00"}).uri
    uris = [store.publish(path, ws.store, "model", {}, {}).uri for path in models]
    return data, (uris[0], uris[1])


def _question(i: int) -> Sample:
    patient, image = f"p{i % PATIENTS}", f"sha256:{i % PATIENTS:02}"
    held_out = i >= QUESTIONS - PATIENTS // 3
    return Sample(
        "temporal", "change", "phantom-fundus" if held_out else "phantom-chest", "test", held_out, (patient,),
        (image,), (image,), f"What is new in {i}?", (), "", (), (),
    )  # fmt: skip
