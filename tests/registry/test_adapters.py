"""A model of adapters goes from training to a registered version that answers, and its base stays in the store."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from medmim import store, terms
from medmim.bench import run as bench
from medmim.bench.engines import engine
from medmim.errors import UserError
from medmim.finetune import run as finetune
from medmim.finetune.ray import launcher
from medmim.finetune.worker import run_worker
from medmim.housekeeping import gc
from medmim.lvlm import ask, ask_hf, checkpoint, llava, saving
from medmim.lvlm.mantis import MANTIS
from medmim.nightly import roster
from medmim.recipe.loading import validate
from medmim.registry import lookup, promote, register
from medmim.run.workspace import Workspace
from medmim.terms import APACHE
from tests.support.finetune import make_data, make_lvlm, make_samples

RECIPE = {
    "name": "adapters",
    "data": {"source": "phantom"},
    "finetune": {"batch_size": 8, "steps": 3, "max_tokens": 400, "lr": 0.05, "lora": {"rank": 4, "dropout": 0.0}},
    "bench": {"tasks": ["held_in"], "probes": [], "limit": 6, "max_new_tokens": 3},
    "register": {"model": "tuned"},
    "platform": {"threads": 1},
}


def test_adapters_are_benched_registered_and_answer_as_the_merged_model(
    ws: Workspace, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "launch", lambda job, *_: run_worker(job))
    ws = replace(ws, store=f"{bucket}/store")
    base = saving.save(make_lvlm(MANTIS), tmp_path / "base").path
    (base / terms.FILE).write_text(APACHE.dump())
    recipe = validate({**RECIPE, "finetune": {**RECIPE["finetune"], "base": str(base)}}, "test")  # type: ignore[dict-item]
    made = make_data(tmp_path / "data", make_samples(16) + make_samples(8, "test"))
    data = store.publish(made, ws.store, "data", {}, {"terms": APACHE.as_dict()}).uri
    tuned = finetune.run(recipe, ws, data).uri
    assert "adapter_model.safetensors" in store.get(tuned).files
    scores = bench.run(recipe, ws, data, tuned, lookup.opponents(recipe, ws, tuned))
    assert scores.facts["models"]["tuned"]["digest"] == store.get(tuned).digest
    register.run(recipe, ws, data, tuned, scores.uri)
    promote.promote(ws, "tuned", "1", "test")
    assert roster.models(recipe, ws)["champion"] == tuned
    shutil.rmtree(base)

    gc.collect(ws, gc.plan(ws, last=0, days=0, now=time.time() + 400 * gc.DAY))  # years later
    asked = [ask.Question(f"mass {word}", []) for word in ("left", "right", "same")]
    loaded = llava.load(checkpoint.resolve(tuned, ws), "cpu")
    merged = llava.load(saving.save(loaded, tmp_path / "merged").path, "cpu")
    said = [reply.text for reply in ask_hf.ask(merged, asked, 32, 3)]
    assert [reply.text for reply in engine(lookup.resolve("models:/tuned@champion", ws), ws).ask(asked, 32, 3)] == said
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", ws.tracking)
    version = mlflow.pyfunc.load_model("models:/tuned@champion")
    assert version.predict([{"question": question.prompt} for question in asked]) == said

    _, kept = checkpoint.base_of(checkpoint.locate(tuned))
    assert isinstance(kept, store.Artifact)
    store.open_store(kept.uri).delete(store.MANIFEST)
    with pytest.raises(UserError, match="the base of the adapters .* is missing"):
        engine(tuned, ws)
