"""`bench run --engine vllm` of a tiny LLaVA-Med gives the scores of this process, by letters and by likelihoods.

By hand, as `test_served.py`: `make test-vllm`.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.bench import answers, run
from medmim.data import build
from medmim.recipe.loading import validate
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """Workspace and the URI of a data set of phantoms."""
    if not os.environ.get("MEDMIM_VLLM_PYTHON"):
        pytest.skip("MEDMIM_VLLM_PYTHON is not set: make test-vllm")
    ws = workspace(tmp_path_factory.mktemp("bench"), run="r")
    recipe = validate({"name": "served", "data": {"source": "phantom", "patients": 400}}, "test")
    return ws, build.run(recipe, ws).uri


def benched(ws: Workspace, data: str, engine: str) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    """The scores, and (protocol, probe) -> sample -> answer."""
    settings = Bench(tasks=("held_in",), engine=engine, protocol="both", limit=200)  # type: ignore[arg-type]
    artifact, _ = run.bench(ws, data, {"model": "tiny-llava-med"}, settings)
    scores = run.scores(ws, artifact.uri)
    found = {}
    for protocol, name in (("generate", "answers"), ("likelihood", "likelihoods")):
        for probe, digest in scores[name]["model"].items():
            given = answers.load(store.fetch(store.get(f"{ws.store}/answers/{digest}"), ws.cache))
            found[protocol, probe] = {answer.sample: answer for answer in given}
    return scores, found


def test_vllm_gives_the_scores_of_this_process(world: tuple[Workspace, str]) -> None:
    ws, data = world
    ours, of_us = benched(ws, data, "transformers")
    theirs, of_vllm = benched(ws, data, "vllm")
    left = subprocess.run(["pgrep", "-fc", str(ws.home / "vllm")], capture_output=True, text=True).stdout.strip()
    same, compared, gaps = {"generate": 0, "likelihood": 0}, {"generate": 0, "likelihood": 0}, []
    for one, answers_of_us in of_us.items():
        for name, answer in answers_of_us.items():
            other = of_vllm[one][name]
            compared[one[0]] += 1
            same[one[0]] += (answer.text, answer.choice) == (other.text, other.choice)
            if answer.letters and other.letters:
                best = max(range(len(answer.letters)), key=answer.letters.__getitem__)
                gaps.append(abs(answer.letters[best] - other.letters[best]))
    gaps.sort()
    print(f"\nequal answers: {same} of {compared}; log-likelihood of the likeliest letter differs by", end=" ")
    print(f"{gaps[len(gaps) // 2]:.1e} (median), {gaps[len(gaps) * 9 // 10]:.1e} (nine of ten), {gaps[-1]:.1e} (most)")
    rows = {(r["group"], r["metric"]): r for r in theirs["leaderboard"]}
    for row in ours["leaderboard"]:
        if (row["group"], row["metric"]) in rows:  # of texts, a server tells no likelihood
            other = rows[row["group"], row["metric"]]
            print(row["group"], row["metric"], *([r[k] for k in ("value", "swap", "blind")] for r in (row, other)))
            assert row["metric"] == "likelihood" or row["value"] == pytest.approx(other["value"], abs=0.01)
    assert left == "0" and same["generate"] >= 0.99 * compared["generate"]
    assert same["likelihood"] >= 0.95 * compared["likelihood"]
    provenance = Path(ws.store, "answers", theirs["answers"]["model"]["none"], "provenance.json")
    assert json.loads(provenance.read_text("utf-8"))["inference"]["engine"].startswith("vllm ")
