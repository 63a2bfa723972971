"""Each compiled pipeline, whichever there are, avoids the traps of a real KFP 2.17 server; those of one step, too."""

import re
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from medmim import __version__
from medmim.cluster.kfp import compiled
from medmim.recipe import names

COMPILED = Path(str(resources.files("medmim.shipped.pipelines")))
FILES = {
    path.stem: tuple(yaml.load_all(path.read_text(), yaml.CSafeLoader)) for path in sorted(COMPILED.glob("*.yaml"))
}
PIPELINES = {name: documents for name, documents in FILES.items() if not name.startswith("step-")}
SECRET = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|[Pp]assword\s*[:=]\s*\S|://[^/\s:@]+:[^/\s@]+@")
LARGEST = 128 << 10  # bytes of one argument: MAX_ARG_STRLEN of Linux

every_file = pytest.mark.parametrize("name", FILES)
every_pipeline = pytest.mark.parametrize("name", PIPELINES)
of_runs = pytest.mark.parametrize("name", sorted(PIPELINES.keys() - {"promote"}))  # a person starts that one in KFP


def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    dags = [spec["root"]["dag"], *(one["dag"] for one in spec["components"].values() if "dag" in one)]
    return {name: task for dag in dags for name, task in dag["tasks"].items()}


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    return {name: one["container"] for name, one in spec["deploymentSpec"]["executors"].items()}


def test_there_are_pipelines_and_each_of_their_steps_is_a_file_of_its_own() -> None:
    steps = {step for name in PIPELINES for step in compiled.parse((COMPILED / f"{name}.yaml").read_text(), name).steps}
    assert "train" in PIPELINES and {f"step-{step}" for step in steps} == FILES.keys() - PIPELINES.keys()


@every_file
def test_the_server_knows_every_field_and_the_schema(name: str) -> None:
    spec = FILES[name][0]
    ParseDict(spec, PipelineSpec(), ignore_unknown_fields=False)
    assert spec["schemaVersion"] == "2.1.0" and spec["sdkVersion"] == f"kfp-{version('kfp')}"
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", spec["pipelineInfo"]["name"])


@every_file
def test_two_placeholder_images_and_the_one_with_torch_for_what_trains_or_asks(name: str) -> None:
    torch = {f"exec-{step}" for step in ("finetune", "bench", "rebench")}
    images = {step: one["image"] for step, one in containers(FILES[name][0]).items()}
    assert images == {step: compiled.CUDA if step in torch else compiled.CPU for step in images}


@every_file
def test_no_secret_and_no_environment_is_written(name: str) -> None:
    assert not [one for one in containers(FILES[name][0]).values() if "env" in one]
    assert not SECRET.search((COMPILED / f"{name}.yaml").read_text())


@every_file
def test_components_take_and_give_strings_or_pages_for_people(name: str) -> None:
    for one in FILES[name][0]["components"].values():
        if "executorLabel" not in one:
            continue
        inputs, outputs = one.get("inputDefinitions", {}), one.get("outputDefinitions", {})
        assert "artifacts" not in inputs, "an artifact of an unknown scheme fails a step before it begins"
        kinds = [*inputs.get("parameters", {}).values(), *outputs.get("parameters", {}).values()]
        assert {kind["parameterType"] for kind in kinds} == {"STRING"}
        shown = {artifact["artifactType"]["schemaTitle"] for artifact in outputs.get("artifacts", {}).values()}
        assert shown <= {"system.HTML", "system.Markdown", "system.Metrics"}


@every_file
def test_what_a_process_is_given_fits_into_an_argument(name: str) -> None:
    for one in containers(FILES[name][0]).values():
        assert all(len(argument.encode()) < LARGEST // 2 for argument in [*one["command"], *one["args"]])


@every_pipeline
def test_it_has_its_name_and_known_steps(name: str) -> None:
    parsed = compiled.parse((COMPILED / f"{name}.yaml").read_text(), name)
    assert parsed.name == f"medmim-{name}"
    assert set(parsed.steps) <= set(compiled.step_names())


def test_who_promotes_in_kfp_types_what_is_recorded_and_nothing_else() -> None:
    spec, platform = FILES["promote"]
    assert spec["root"]["inputDefinitions"]["parameters"].keys() == {"name", "version", "why", "who"}
    assert not [one for one in spec["root"]["inputDefinitions"]["parameters"].values() if "defaultValue" in one]
    (executor,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert {secret["secretName"] for secret in executor["secretAsEnv"]} == {"medmim-s3", "medmim-mlflow"}


@of_runs
def test_it_is_what_submit_starts(name: str) -> None:
    assert FILES[name][0]["root"]["inputDefinitions"]["parameters"].keys() == {"recipe", "home", "run"}


@every_file
def test_each_pod_knows_kfps_id_of_its_run(name: str) -> None:
    """KFP labels each pod of a run; a clone has the parameters of another run, its name among them."""
    executors = FILES[name][1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    known = [one.get("fieldPathAsEnv") for one in executors.values()]
    assert known == [[{"name": names.RUN_ID, "fieldPath": "metadata.labels['pipeline/runid']"}]] * len(known)


@every_file
def test_caching_is_off_and_nothing_is_tried_again(name: str) -> None:
    """The store is the cache. A retry of KFP's knows no exit codes: bad input and a gate's no would be tried again."""
    found = tasks(FILES[name][0])
    assert found
    assert [one for one, task in found.items() if task.get("cachingOptions", {}).get("enableCache")] == []
    assert [one for one, task in found.items() if "retryPolicy" in task] == []


@every_file
def test_every_container_says_what_it_asks_for_and_its_limit(name: str) -> None:
    for one in containers(FILES[name][0]).values():
        asked = one["resources"]
        assert {f"resource{what}{kind}" for what in ("Cpu", "Memory") for kind in ("Request", "Limit")} <= asked.keys()


@every_file
def test_the_platform_spec_parses_strictly_and_covers_every_step(name: str) -> None:
    spec, platform = FILES[name]
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert configs.keys() == containers(spec).keys()
    for one in configs.values():
        parsed = ParseDict(one, KubernetesExecutorConfig(), ignore_unknown_fields=False)
        assert parsed.security_context.run_as_non_root
        assert all(secret.optional and secret.key_to_env for secret in parsed.secret_as_env)


@every_file
def test_every_pod_says_which_medmim_compiled_it(name: str) -> None:
    """Argo's template of a pod is chosen by the number of labels alone, so they must be the same names everywhere."""
    configs = FILES[name][1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    labels = [one["podMetadata"]["labels"] for one in configs]
    assert {tuple(sorted(one)) for one in labels} == {tuple(sorted(labels[0]))}
    assert {one[compiled.VERSION_LABEL] for one in labels} == {__version__}


@of_runs
def test_one_step_runs_on_every_way_out(name: str) -> None:
    last = [one for one, task in tasks(FILES[name][0]).items() if "triggerPolicy" in task]
    assert len(last) == 1
    strategy = tasks(FILES[name][0])[last[0]]["triggerPolicy"]["strategy"]
    assert strategy == "ALL_UPSTREAM_TASKS_COMPLETED"
