"""What real trainers read of an export is what the data set holds, row by row: `make test-peers`.

Each reads in an environment of its own by `benchmarks/peers/read_rows.py`. The rows are those of the demo's drawn
patients, with questions of every ability and of none to four images, and a few with texts that tempt a reader.
"""

import hashlib
import json
import os
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from medmim import shards, store
from medmim.data import build
from medmim.data.export import run as export
from medmim.data.export.run import Choice
from medmim.recipe import loading
from medmim.run.workspace import Workspace, workspace
from medmim.sample import IMAGE, Sample
from medmim.terms import APACHE

pytestmark = pytest.mark.peers
ROOT = Path(__file__).parents[2]
READER = ROOT / "benchmarks" / "peers" / "read_rows.py"
PYTHON = {"llama-factory": ("MEDMIM_LLAMA_FACTORY_PYTHON", ".venv-llamafactory")}
OTHERS = ("MEDMIM_PEERS_PYTHON", ".venv-peers")
TEMPTING = (  # texts that a reader might strip, split, decode or take for something else
    "Is the opacity <2 cm?\n\n  Compare\tboth.",
    "Größe der Läsion: ≥ 3 mm? 病灶在哪里",
    'A "quoted" \\n question with {braces} and {{ more }}',
    "<|im_end|> [INST] </s> What is shown?",
    "2024-01-01T00:00:00",
)


class Made(NamedTuple):
    ws: Workspace
    uri: str
    rows: list[Sample]
    images: shards.Images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("peers")
    ws = workspace(place / "home")
    recipe = loading.load("demo", ["data.patients=60"])
    drawn = ws.fetch(build.run(recipe, ws).uri)
    found, images = shards.read_samples(drawn), shards.Images(drawn)
    train = [one for one in found if one.split == "train"]
    odd = [replace(one, question=text) for one, text in zip(train, TEMPTING, strict=False)]
    plain = replace(
        train[0], images=(), paths=(), question="How many ribs has a man?", options=(), gold=(), answer="24"
    )
    every = [*train, *odd, plain, replace(train[1], question=f"Where is {IMAGE}?")]
    kept = {name for one in every for name in one.images}
    shards.write(place / "data", every, ((name, "", images.stored(name)) for name in kept))
    uri = store.publish(place / "data", ws.store, "data", {}, {"parents": {}, "terms": APACHE.as_dict()}).uri
    return Made(ws, uri, every, images)


def seen(images: shards.Images, names: tuple[str, ...]) -> list[list[object]]:
    shown = [images[name] for name in names]
    return [[one.width, one.height, hashlib.sha256(one.tobytes()).hexdigest()] for one in shown]


def python_of(form: str) -> Path:
    """The trainer's own Python: one that was named must be there, else a run without a peer would be green."""
    variable, folder = PYTHON.get(form, OTHERS)
    named = os.environ.get(variable)
    python = Path(named or ROOT / folder / "bin" / "python")
    if named and not python.exists():
        pytest.fail(f"{variable} names {python}, which is not there")
    if not python.exists():
        pytest.skip(f"no {python}: make test-peers")
    return python


@pytest.mark.parametrize("form", ["trl", "llama-factory"])
def test_a_named_trainer_that_is_not_there_fails(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON.get(form, OTHERS)[0], str(tmp_path / "python"))
    with pytest.raises(pytest.fail.Exception, match="is not there"):
        python_of(form)


@pytest.mark.parametrize("form", ["trl", "ms-swift", "llama-factory", "datasets"])
def test_a_trainer_reads_what_the_data_set_holds(form: str, made: Made, tmp_path: Path) -> None:
    python = python_of(form)
    done = export.export(made.ws, made.uri, tmp_path / "out", form, Choice())
    wanted = [one for one in made.rows if form == "datasets" or IMAGE not in one.prompt]
    assert done.rows == {"train": len(wanted)}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [python, READER, "--by", form, tmp_path / "out"]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", env=kept, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(found) == len(wanted)
    differing = [
        (one.id, row)
        for row, one in zip(found, wanted, strict=True)
        if (row["asked"], row["answered"]) != (IMAGE * len(one.images) + one.prompt, one.target)
        or row["images"] != seen(made.images, one.images)
    ]
    assert differing == []
    shown = Counter(len(one.images) for one in wanted)
    print(f"\n{form} {found[0]['version']}: {len(found)} rows equal, {sum(k * n for k, n in shown.items())} images")
