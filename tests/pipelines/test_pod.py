"""The platform spec of the IR: a server drops what it does not know without a word, so it is read strictly here."""

import copy
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict, ParseError
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

from medmim.recipe import names
from medmim.run.stage import STAGES

ROOT = Path(__file__).parents[2]
IR, PLATFORM = yaml.load_all((ROOT / "medmim/shipped/pipelines/train.yaml").read_text(), yaml.CSafeLoader)
CONFIGS: dict[str, Any] = PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
RESOURCES = {name: executor["container"]["resources"] for name, executor in IR["deploymentSpec"]["executors"].items()}
SECRETS = {names.S3_SECRET: names.S3_KEYS, names.TRACKING_SECRET: names.TRACKING_KEYS}
UNITS = {"m": 0.001, "Mi": 2**20, "Gi": 2**30, "": 1}


def parsed(name: str) -> KubernetesExecutorConfig:
    return ParseDict(CONFIGS[f"exec-{name}"], KubernetesExecutorConfig(), ignore_unknown_fields=False)


def amount(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", text).groups()
    return float(number) * UNITS[unit]


def test_every_step_has_a_platform_spec_and_nothing_else_has() -> None:
    assert set(CONFIGS) == {f"exec-{name}" for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_the_server_knows_every_field(name: str) -> None:
    parsed(name)
    broken = copy.deepcopy(CONFIGS[f"exec-{name}"])
    broken["securityContext"]["readOnlyRootFilesystem"] = True  # which 2.17 does not have
    with pytest.raises(ParseError):
        ParseDict(broken, KubernetesExecutorConfig(), ignore_unknown_fields=False)


def test_it_is_compiled_by_the_version_that_the_pipeline_is_of() -> None:
    assert version("kfp-kubernetes") == version("kfp") == IR["sdkVersion"].removeprefix("kfp-") == names.KFP_VERSION


@pytest.mark.parametrize("name", STAGES)
def test_a_step_is_the_images_user_and_may_write_where_the_image_writes(name: str) -> None:
    context = parsed(name).security_context
    assert context.run_as_non_root
    assert (context.run_as_user, context.run_as_group) == (names.USER, names.USER)
    assert {"/tmp", names.HOME} <= {mount.mount_path for mount in parsed(name).empty_dir_mounts}


@pytest.mark.parametrize("name", STAGES)
def test_a_step_asks_for_no_more_than_its_limit_and_says_both(name: str) -> None:
    found = RESOURCES[f"exec-{name}"]
    for kind in ("Cpu", "Memory"):
        assert 0 < amount(found[f"resource{kind}Request"]) <= amount(found[f"resource{kind}Limit"])


def test_what_trains_and_answers_asks_for_more() -> None:
    asked = {name: amount(RESOURCES[f"exec-{name}"]["resourceMemoryRequest"]) for name in STAGES}
    small = {asked[name] for name in STAGES if name not in ("finetune", "bench")}
    assert min(asked["finetune"], asked["bench"]) > max(small)


@pytest.mark.parametrize("name", STAGES)
def test_no_autoscaler_empties_the_node_of_a_step(name: str) -> None:
    """The keys as cluster-autoscaler and Karpenter document them: nobody starts an evicted step again."""
    annotations = dict(parsed(name).pod_metadata.annotations)
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


@pytest.mark.parametrize("name", STAGES)
def test_secrets_are_named_and_never_written(name: str) -> None:
    found = parsed(name)
    named = {s.secret_name: [pair.env_var for pair in s.key_to_env] for s in found.secret_as_env}
    assert named == {secret: list(keys) for secret, keys in SECRETS.items()}
    assert all(one.optional for one in (*found.secret_as_env, *found.config_map_as_env, *found.config_map_as_volume))
    assert "env" not in IR["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def test_a_step_learns_what_its_ray_pods_shall_learn() -> None:
    """What `medmim.cluster.ray.pods` hands on, a step must have been told: the address of store and MLflow."""
    told = {pair.env_var for one in parsed("finetune").config_map_as_env for pair in one.key_to_env}
    assert told >= {"AWS_ENDPOINT_URL", "AWS_REGION", "MLFLOW_TRACKING_URI", "MEDMIM_PATIENCE", "MEDMIM_IMAGE"}
