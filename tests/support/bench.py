"""For tests of benchmarks: a data set of 24 patients and two tiny models, small but complete."""

import io
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from medmim import shards, store
from medmim.sample import Sample


@dataclass(frozen=True)
class World:
    """The data set and the models; each test has its own home."""

    data: Path
    models: tuple[Path, Path]


def picture(number: int) -> bytes:
    out = io.BytesIO()
    rng = random.Random(number)
    Image.new("RGB", (48, 48), tuple(rng.randrange(256) for _ in range(3))).save(out, "PNG")
    return out.getvalue()


def samples() -> list[Sample]:
    made = []
    for i in range(48):
        patient, count = f"p{i % 24}", 2 + i % 2
        images = tuple(f"sha256:{i % 24:02}{k}" for k in range(count))
        ability = ("temporal", "comparison", "coreference")[i % 3]
        closed = i % 6 != 5
        options = ("improved", "stable", "worse") if closed else ()
        source = "phantom-fundus" if i % 8 == 7 else "phantom-chest"
        made.append(
            Sample(
                ability,
                "change",
                source,
                "test",
                i % 8 == 7,
                (patient,),
                images,
                images,
                f"What changed in {i}?",
                options,
                options[i % 3] if closed else "the mass grew",
                (i % 3,) if closed else (),
                ((2,), (), (0,))[i % 3] if closed else (),
            )  # fmt: skip
        )
    return made


def publish(world: World, uri: str) -> str:
    """Publish the data set; returns its URI."""
    return publish_data(world.data, uri)


def publish_data(folder: Path, uri: str) -> str:
    return store.publish(folder, uri, "data", {}, {"time": "2026-01-01T00:00:00+00:00"}).uri


def write_data(folder: Path) -> None:
    """Write the data set into a new folder."""
    asked = samples()
    names = sorted({name for sample in asked for name in sample.images})
    shards.write(folder, asked, [(name, name, picture(i)) for i, name in enumerate(names)])
    (folder / "quarantine.jsonl").touch()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The data set and the models, created once."""
    from medmim.lvlm import llava, saving
    from medmim.lvlm.mantis import MANTIS
    from medmim.tiny import architecture

    root = tmp_path_factory.mktemp("world")
    write_data(root / "data")
    asked = samples()
    tokenizer = architecture.train_tokenizer([f"{s.prompt}\n{s.target}" for s in asked], MANTIS, 400)
    models = []
    for seed in (0, 1):
        model = llava.Lvlm(
            architecture.build(MANTIS, tokenizer, seed),
            tokenizer,
            architecture.image_processor(MANTIS),
            MANTIS,
            root,
        )
        models.append(saving.save(model, root / f"model{seed}").path)
    return World(root / "data", (models[0], models[1]))
