"""A step as a pipeline of its own: what somebody else's graph gets of it."""

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml
from kfp import compiler, components, dsl, local

from medmim.recipe.loading import load
from medmim.run.workspace import workspace

COMPILED = resources.files("medmim.shipped.pipelines")
IMAGE = "registry.example/medmim@sha256:" + "0" * 64
CUDA = "registry.example/medmim-cuda@sha256:" + "1" * 64
STEPS = sorted(entry.name for entry in COMPILED.iterdir() if entry.name.startswith("step-"))


def text(name: str) -> str:
    found = (COMPILED / name).read_text("utf-8")
    return found.replace("medmim-cpu:placeholder", IMAGE).replace("medmim-cuda:placeholder", CUDA)


def graph_of(step: str) -> str:
    return {"rebench": "nightly", "watch": "nightly", "trend": "nightly", "approve": "promote"}.get(step, "train")


def interface(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs, as the graph that `medmim submit` uploads has them."""
    step = name.removeprefix("step-").removesuffix(".yaml")
    graph = graph_of(step)
    component = next(yaml.safe_load_all((COMPILED / f"{graph}.yaml").read_text("utf-8")))["components"][f"comp-{step}"]
    inputs, outputs = component["inputDefinitions"]["parameters"], component.get("outputDefinitions", {})
    kinds = {key: one["parameterType"] for key, one in outputs.get("parameters", {}).items()}
    kinds |= {key: one["artifactType"]["schemaTitle"] for key, one in outputs.get("artifacts", {}).items()}
    return {key: one["parameterType"] for key, one in inputs.items()}, kinds


@pytest.mark.parametrize("name", STEPS)
def test_it_loads_with_the_components_own_inputs_and_outputs(name: str) -> None:
    loaded = components.load_component_from_text(text(name)).component_spec
    inputs, outputs = interface(name)
    assert loaded.inputs.keys() == inputs.keys()
    assert (loaded.outputs or {}).keys() == outputs.keys()


@pytest.mark.parametrize("name", STEPS)
def test_it_requests_what_it_requests_in_the_graph(name: str) -> None:
    step = name.removeprefix("step-").removesuffix(".yaml")
    graph = graph_of(step)
    specs = [next(yaml.safe_load_all((COMPILED / file).read_text("utf-8"))) for file in (name, f"{graph}.yaml")]
    own, theirs = (spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["resources"] for spec in specs)
    assert own == theirs


def test_in_a_graph_of_ones_own_it_keeps_its_pod_and_is_not_cached(tmp_path: Path) -> None:
    data, bench = (components.load_component_from_text(text(f"step-{name}.yaml")) for name in ("data", "bench"))

    @dsl.pipeline(name="ours")
    def ours(recipe: str, home: str, run: str, model: str) -> None:
        built = data(recipe=recipe, home=home, run=run)
        bench(recipe=recipe, home=home, run=run, data=built.output, model=model)

    compiler.Compiler().compile(ours, str(tmp_path / "ours.yaml"))
    spec, platform = yaml.safe_load_all((tmp_path / "ours.yaml").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors.keys() == spec["deploymentSpec"]["executors"].keys() and len(executors) == 2
    for one in executors.values():
        assert one["securityContext"]["runAsNonRoot"]
        assert {secret["secretName"] for secret in one["secretAsEnv"]} == {"medmim-s3", "medmim-mlflow"}
        assert "MEDMIM_STORE" in {pair["envVar"] for config in one["configMapAsEnv"] for pair in config["keyToEnv"]}
    containers = [one["container"] for one in spec["deploymentSpec"]["executors"].values()]
    assert {one["image"] for one in containers} == {IMAGE, CUDA} and all("resources" in one for one in containers)
    graphs = [one["dag"] for name, one in spec["components"].items() if "dag" in one]
    assert [task["cachingOptions"] for graph in graphs for task in graph["tasks"].values()] == [{}, {}]


def test_it_runs_on_a_laptop_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    home = tmp_path / "home"
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))
    step = components.load_component_from_text(text("step-data.yaml"))
    recipe = load("demo", ["data.patients=20"])
    uri = step(recipe=recipe.dump(), home=str(home), run="one").output
    record = json.loads((home / "store" / "runs" / "one" / "data.json").read_text())
    assert (record["uri"], record["status"]) == (uri, "done")
    assert workspace(home).fetch(uri).is_dir()
