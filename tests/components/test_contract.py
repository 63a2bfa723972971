"""What a real KFP 2.17 server does to components that `kfp.local` forgives: each rule guards one trap."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from medmim.run.stage import STAGES

ROOT = Path(__file__).parent.parent.parent
IR = next(yaml.load_all((ROOT / "medmim/shipped/pipelines/train.yaml").read_text(), yaml.CSafeLoader))
SOURCES = {path.stem: path.read_text() for path in (ROOT / "components").glob("*.py") if path.stem in STAGES}


def test_every_stage_is_a_component_and_a_task_of_the_graph() -> None:
    inner = IR["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    outer = set(IR["root"]["dag"]["tasks"]) - {"exit-handler-1"}
    assert set(inner) | outer == set(STAGES) == set(SOURCES)


def test_the_report_runs_on_every_way_out() -> None:
    assert IR["root"]["dag"]["tasks"]["report"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


ALL_SOURCES = {path.stem: path.read_text() for path in (ROOT / "components").glob("*.py")}


@pytest.mark.parametrize("name", ALL_SOURCES)
def test_no_component_touches_an_artifacts_uri_or_metadata(name: str) -> None:
    """Another uri fails a task after it succeeded; metadata that is no flat string fails it, or becomes a float."""
    touched = [
        node.lineno
        for node in ast.walk(ast.parse(ALL_SOURCES[name]))
        if isinstance(node, ast.Attribute)
        and (node.attr in ("metadata", "log_metric") or (node.attr == "uri" and isinstance(node.ctx, ast.Store)))
    ]
    assert touched == []


def test_caching_is_off_on_every_task() -> None:
    tasks = {**IR["root"]["dag"]["tasks"], **IR["components"]["comp-exit-handler-1"]["dag"]["tasks"]}
    assert [n for n, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")] == []


def test_steps_hand_on_strings_only() -> None:
    for name in STAGES:
        ports = IR["components"][f"comp-{name}"]
        assert "artifacts" not in ports["inputDefinitions"]
        kinds = {p["parameterType"] for p in ports["inputDefinitions"]["parameters"].values()}
        assert kinds == {"STRING"}


def test_only_what_trains_or_asks_a_model_runs_in_the_image_with_torch() -> None:
    executors = IR["deploymentSpec"]["executors"].items()
    images = {name.removeprefix("exec-"): executor["container"]["image"] for name, executor in executors}
    torch = {"finetune", "bench"}
    assert images == {name: f"medmim-{'cuda' if name in torch else 'cpu'}:placeholder" for name in images}
    assert torch < images.keys()


def test_names_fit_what_the_server_accepts() -> None:
    assert IR["schemaVersion"] == "2.1.0"
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", IR["pipelineInfo"]["name"])


@pytest.mark.parametrize("name", STAGES)
def test_a_component_stays_thin(name: str) -> None:
    assert SOURCES[name].count("\n") < 60


def test_the_recipes_fit_into_a_parameter() -> None:
    from medmim.recipe import loading

    for name in loading.shipped():
        text = loading.load(name).dump()
        assert len(text) < 50 * 1024 and "{{" not in text and "[[" not in text
