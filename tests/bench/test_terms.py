"""Answers and scores carry the strictest terms of the data set and the models."""

import shutil
from pathlib import Path

from medmim import store
from medmim.bench import run
from medmim.recipe.schema import Bench
from medmim.run.provenance import terms_of
from medmim.run.workspace import workspace
from medmim.terms import UNKNOWN, Terms, combine
from tests.support.bench import World

SETTINGS = Bench(max_new_tokens=1, resamples=50, probes=(), limit=4)
DATA = Terms(serve=True, commercial_use=True, text=("of the data",))
ONE = Terms(serve=True, release_weights=True, text=("of the first model",))


def test_answers_have_the_terms_of_data_and_model_and_scores_those_of_all(world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    data = store.publish(world.data, ws.store, "data", {}, {"terms": DATA.as_dict()}).uri
    first = shutil.copytree(world.models[0], tmp_path / "first")
    (first / "terms.json").write_text(ONE.dump())
    alone, _ = run.bench(ws, data, {"tuned": str(first)}, SETTINGS)
    assert terms_of(alone) == combine([DATA, ONE])
    both, _ = run.bench(ws, data, {"tuned": str(first), "base": str(world.models[1])}, SETTINGS)
    assert terms_of(both) == combine([DATA, ONE, UNKNOWN])
    found = run.scores(ws, both.uri)["answers"]
    by_role = {role: terms_of(store.get(f"{ws.store}/answers/{probes['none']}")) for role, probes in found.items()}
    assert by_role == {"tuned": combine([DATA, ONE]), "base": combine([DATA, UNKNOWN])}
