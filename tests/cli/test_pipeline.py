"""`medmim run` as a user types it: the compiled pipeline, small, on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medmim.run.stage import BENCHING, STAGES
from tests.support.servers import healthy_only

SMALL = [
    *("--set", "data.patients=120", "--set", "data.test_fraction=0.3", "--set", "finetune.steps=3"),
    *("--set", "finetune.save_every=2", "--set", "bench.limit=20"),
]


def command(recipe: str, home: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "medmim.cli.main", "run", recipe, "--home", str(home), "--json", *more]


# What Python reads when it starts: the steps of the image without torch find none of what only the other image has.
AS_IN_THE_IMAGES = """
import sys
from importlib.machinery import PathFinder

absent = ("torch", "transformers", "deepspeed", "peft", "accelerate", "safetensors", "tokenizers", "triton")
found = PathFinder.find_spec
words = sys.orig_argv
if "--function_to_execute" in words and words[-1] not in ("finetune", "bench", "rebench"):
    PathFinder.find_spec = staticmethod(lambda name, *more: None if name in absent else found(name, *more))
"""


def run(recipe: str, home: Path, *more: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    words = command(recipe, home, *more)
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=280)
    lines = done.stdout.strip().splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


def test_an_mlflow_that_refuses_ends_a_run_before_anything_is_done(tmp_path: Path) -> None:
    with healthy_only(403, "RBAC: access denied") as uri:
        code, printed, screen = run("demo", tmp_path, *SMALL, "--set", f"platform.tracking={uri}")
    assert (code, printed) == (2, {}) and f"MLflow at {uri} refuses a request (403)" in screen and "fix: " in screen
    assert not (tmp_path / "runs").exists() and not (tmp_path / "store").exists()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def first(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("started")
    (folder / "sitecustomize.py").write_text(AS_IN_THE_IMAGES)
    return run("demo", home, *SMALL, PYTHONPATH=f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_every_stage_runs_and_an_incomparable_bench_is_refused(first: tuple[int, dict[str, Any], str]) -> None:
    code, printed, screen = first
    assert code == 1, screen  # bench.limit makes the result not comparable, so the gate must say no
    assert printed["decision"] == "refused"
    assert set(printed["seconds"]) == set(STAGES)
    assert set(printed["digests"]) >= {"data", "audit", "finetune", "bench", "gate", "report"}
    assert any("comparable" in reason for reason in printed["reasons"])
    assert Path(printed["report"]).read_text().startswith("<!")


def test_the_outputs_of_each_component_are_what_a_kfp_server_takes(
    first: tuple[int, dict[str, Any], str], home: Path
) -> None:
    """Flat strings, and artifacts where the launcher put them: anything else fails the task after it succeeded."""
    outputs = {path.parent.name: json.loads(path.read_text()) for path in home.rglob("kfp/*/*/executor_output.json")}
    assert outputs.keys() >= {"data", "audit", "finetune", "bench", "register", "gate", "report"}, first
    for step, output in outputs.items():
        assert output.keys() <= {"parameterValues", "artifacts"}
        for value in output.get("parameterValues", {}).values():
            assert isinstance(value, str) and len(value) < 4096
        for name, artifacts in output.get("artifacts", {}).items():
            (artifact,) = artifacts["artifacts"]
            assert Path(artifact["uri"]).parts[-2:] == (step, name) and artifact["metadata"] == {}
            assert 0 < Path(artifact["uri"]).stat().st_size < 32 << 20


def test_nothing_on_the_screen_is_a_librarys(first: tuple[int, dict[str, Any], str]) -> None:
    _, _, screen = first
    foreign = ("Warning", "INFO", "Traceback", "[KFP", "raylet", "INFO mlflow", "alembic", "warnings.warn")
    assert not [line for line in screen.splitlines() if any(word in line for word in foreign)]


@pytest.mark.long  # what each stage finds again is in its own tests
def test_run_again_does_no_work_and_a_changed_value_only_what_depends_on_it(
    first: tuple[int, dict[str, Any], str], home: Path
) -> None:
    _, before, _ = first
    _, again, screen = run("demo", home, *SMALL)
    assert {k: v for k, v in again["digests"].items() if k != "report"} == {
        k: v for k, v in before["digests"].items() if k != "report"
    }, screen
    assert [again["seconds"][stage] for stage in ("data", "audit", "finetune", "bench")] == [0, 0, 0, 0]
    assert again["decision"] == before["decision"]

    _, after, screen = run("demo", home, *SMALL, "--set", "bench.limit=15")
    assert [after["seconds"][stage] for stage in ("data", "audit", "finetune")] == [0, 0, 0], screen
    assert after["seconds"]["bench"] > 0
    assert after["digests"]["finetune"] == before["digests"]["finetune"]
    assert after["digests"]["bench"] != before["digests"]["bench"]


def test_a_night_asks_the_canary_alone_anew_and_can_be_run_again(
    first: tuple[int, dict[str, Any], str], home: Path
) -> None:
    typed = [sys.executable, "-m", "medmim.cli.main", "nightly", "demo", "--home", str(home), "--json", *SMALL]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.strip().splitlines()[-1])
    assert (printed["verdict"], printed["alarms"], printed["seconds"]["data"]) == ("quiet", [], 0)
    assert set(printed["canary"]) == {"challenger", "base"}, "the model that the gate refused is benched too"
    assert {(one["asked"], one["changed"]) for one in printed["canary"].values()} == {(20, 0)}
    asked = [line for line in done.stderr.splitlines() if "answers" in line and "questions" in line]
    assert asked and all("canary" in line for line in asked), "both had answered in the run before"
    assert Path(printed["page"]).read_text().startswith("<!")


def kill_at(recipe: str, home: Path, mark: str, *more: str) -> None:
    """Kill the command, and only it, with SIGKILL when its screen shows `mark`."""
    child = subprocess.Popen(command(recipe, home, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if mark in line:
            os.kill(child.pid, signal.SIGKILL)
            break
    else:
        pytest.fail(f"never saw {mark!r}")
    child.wait()
    time.sleep(3)  # its runner and its step end within a second


@pytest.mark.long
def test_a_recipe_that_trains_nothing_asks_the_models_that_it_names(
    first: tuple[int, dict[str, Any], str], home: Path, tmp_path: Path
) -> None:
    asked = {"limit": 20, "max_new_tokens": 16, "models": {"known": "tiny-llava-med", "new": "tiny-mantis"}}
    data = {"source": "phantom", "patients": 120, "test_fraction": 0.3}
    values = {"name": "c", "pipeline": "bench", "data": data, "bench": asked}
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    code, printed, screen = run(str(tmp_path / "c.yaml"), home)
    assert code == 0, screen
    assert set(printed["seconds"]) == set(BENCHING)
    assert all(printed["digests"][name] == first[1]["digests"][name] for name in ("data", "audit"))
    assert "new answers" in screen and "known answers" not in screen  # those are found: the base of the first run
    assert {row["model"] for row in printed["scores"]} == set(asked["models"])


@pytest.mark.long
def test_killed_in_a_bucket_and_run_again_gives_the_digests_of_a_folder(
    first: tuple[int, dict[str, Any], str], bucket: str, tmp_path: Path
) -> None:
    _, before, _ = first
    there = [*SMALL, "--set", f"platform.store={bucket}/demo"]
    kill_at("demo", tmp_path, "images:", *there)
    _, again, screen = run("demo", tmp_path, *there)
    for stage in ("data", "audit", "finetune", "bench"):
        assert again["digests"][stage] == before["digests"][stage], screen


def test_a_recipe_that_does_not_fit_stops_before_anything_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        command("demo", tmp_path / "home", "--set", "data.patiens=3", "--set", "bench.limit=many"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "data.patiens" in done.stderr and "data.patients" in done.stderr and "bench.limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.slow  # `make eight`, but for its sizes
def test_the_comparison_of_eight_runs_on_a_laptop_over_stand_ins(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medmim.cli.main", "zoo", "tiny", "--json", "--home", str(tmp_path)]
    printed_alone = subprocess.run(command, capture_output=True, check=True).stdout  # no log of a library before it
    assert len(json.loads(printed_alone)) == 10
    small = ("data.patients=60", "bench.limit=10", "bench.probes=[]")
    code, printed, screen = run("eight-tiny", tmp_path, *(word for value in small for word in ("--set", value)))
    assert code == 0, screen
    assert len({row["model"] for row in printed["scores"]}) == 8
    assert "Compared: 8 models" in Path(printed["report"]).read_text()
    assert "random weights that medmim drew" in Path(printed["models"]).read_text()


def test_a_policy_that_cannot_be_read_is_told_before_anything_is_built(tmp_path: Path) -> None:
    code, _, screen = run("demo", tmp_path, "--set", "gate.policy=missing.yaml")
    assert code == 2 and "no gate policy 'missing.yaml'" in screen
    assert not list(tmp_path.rglob("data/*"))
