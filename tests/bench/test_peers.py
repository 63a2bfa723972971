"""The comparison with lmms-eval: our side, and what counts as equal; the other side runs by hand (`make peers`)."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from medmim.bench import run
from medmim.recipe.schema import Bench
from medmim.run.workspace import workspace
from tests.support.bench import World, publish

FOLDER = Path(__file__).parents[2] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    found = importlib.util.spec_from_file_location("peers_run", FOLDER / "run.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_our_side_asks_as_a_benchmark_does(
    peers: ModuleType,
    world: World,
    tmp_path: Path,
) -> None:
    ws = workspace(tmp_path / "home")
    uri, model = publish(world, ws.store), str(world.models[0])
    mine = peers.ours(model, ws, uri, 12, tmp_path / "fresh")
    settings = Bench(tasks=(peers.TASK,), limit=12, max_new_tokens=peers.TOKENS, probes=())
    artifact, _ = run.bench(ws, uri, {"model": model}, settings)
    rows = run.predictions(ws, artifact.uri)
    assert mine["answers"] == [row["answers"]["model"]["none"]["text"] for row in rows]
    board = {
        row["metric"]: row["value"]
        for row in run.scores(ws, artifact.uri)["leaderboard"]
        if row["group"] == peers.TASK and row["metric"] in ("accuracy", "token_f1")
    }
    assert mine["scores"] == pytest.approx(board) and set(board) == {"accuracy", "token_f1"}


@pytest.mark.parametrize(
    ("answers", "accuracy", "equal"),
    [([" A ", "B"], 0.5, True), (["A", "C"], 0.5, False), (["A", "B"], 0.5 + 1e-6, False), (["A", "B"], None, False)],
)
def test_equal_answers_and_equal_scores_are_both_needed(
    answers: list[str], accuracy: float | None, equal: bool, peers: ModuleType
) -> None:
    mine = {"answers": ["A", "B "], "scores": {"accuracy": 0.5}, "rate": 2.0, "cpu_seconds": 1.0}
    theirs = {
        "answers": answers, "scores": {} if accuracy is None else {"accuracy": accuracy}, "rate": 1.0,
        "cpu_seconds": 2.0, "version": "v",
    }  # fmt: skip
    assert peers.agree(peers.row("m", mine, theirs)) == equal


def test_without_the_environment_the_command_names_what_makes_it(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "lmms_eval.py", "--model", "m", "--export", tmp_path, "--python", "/absent"]
    (tmp_path / "medmim_held_in.yaml").touch()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "make peers" in done.stderr and "Traceback" not in done.stderr
