"""A partial pod template in the words of KFP: the server knows every field, and what has no word is refused."""

import json
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

from medmim.cluster.kfp import compiled
from medmim.errors import UserError

FULL: dict[str, Any] = {
    "metadata": {"labels": {"sidecar.istio.io/inject": "false"}, "annotations": {"a": "b"}},
    "spec": {
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}],
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "trust", "configMap": {"name": "bundle"}},
            {"name": "login", "secret": {"secretName": "netrc", "optional": True}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
        "containers": [
            {
                "name": "main",
                "imagePullPolicy": "Never",
                "env": [
                    {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                    {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "own", "key": "id"}}},
                    {
                        "name": "NO_PROXY",
                        "valueFrom": {"configMapKeyRef": {"name": "net", "key": "no", "optional": True}},
                    },
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                ],
                "volumeMounts": [
                    {"name": "shared", "mountPath": "/models", "subPath": "team"},
                    {"name": "trust", "mountPath": "/trust"},
                    {"name": "login", "mountPath": "/login"},
                    {"name": "scratch", "mountPath": "/scratch"},
                ],
            }
        ],
    },
}


def steps(ir: compiled.Ir) -> dict[str, tuple[dict[str, Any], KubernetesExecutorConfig]]:
    """Each step's container, and its platform spec as the server reads it, strictly."""
    spec, platform = yaml.load_all(ir.text, yaml.CSafeLoader)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {
        name: (
            spec["deploymentSpec"]["executors"][name]["container"],
            ParseDict(one, KubernetesExecutorConfig(), ignore_unknown_fields=False),
        )
        for name, one in executors.items()
    }


def test_every_step_gets_all_of_a_template_in_fields_that_the_server_knows() -> None:
    found = steps(compiled.with_templates(compiled.load("train"), [FULL]))
    assert len(found) > 5
    for container, pod in found.values():
        assert pod.pod_metadata.labels["sidecar.istio.io/inject"] == "false"
        assert pod.pod_metadata.labels["app.kubernetes.io/component"] == "step", "ours stay"
        assert pod.pod_metadata.annotations["a"] == "b"
        assert pod.node_selector.labels == {"pool": "cpu"}
        assert [(one.key, one.effect) for one in pod.tolerations] == [("k", "NoSchedule")]
        assert [one.secret_name for one in pod.image_pull_secret] == ["registry"]
        assert pod.image_pull_policy == "Never"
        assert pod.security_context.run_as_non_root
        assert not pod.security_context.HasField("run_as_user") and not pod.security_context.HasField("run_as_group")
        assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"]
        secrets = {
            pair.env_var: (one.secret_name, pair.secret_key) for one in pod.secret_as_env for pair in one.key_to_env
        }
        assert secrets["AWS_ACCESS_KEY_ID"] == ("own", "id"), "once: the platform's in place of ours"
        assert secrets["AWS_SECRET_ACCESS_KEY"][0] == "medmim-s3"
        named = [pair.env_var for one in pod.secret_as_env for pair in one.key_to_env]
        assert len(named) == len(set(named))
        assert "NODE" in {one.name for one in pod.field_path_as_env}
        assert {one.mount_path: (one.constant, one.sub_path) for one in pod.pvc_mount} == {
            "/models": ("models", "team")
        }
        assert {one.mount_path: one.optional for one in pod.secret_as_volume} == {"/login": True}
        assert {"/trust", "/etc/medmim/ca"} == {one.mount_path for one in pod.config_map_as_volume}
        assert {"/scratch", "/tmp"} <= {one.mount_path for one in pod.empty_dir_mounts}


def test_a_later_template_replaces_the_variables_and_mounts_of_an_earlier_one() -> None:
    """As `pod_templates.merge` does for Ray's pods: two of one name or path are no pod, or not the later one."""
    later: dict[str, Any] = {
        "spec": {
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "faster"}}],
            "containers": [
                {
                    "name": "main",
                    "env": [{"name": "NODE", "value": "any"}],
                    "volumeMounts": [
                        {"name": "shared", "mountPath": "/models"},
                        {"name": "shared", "mountPath": "/login"},
                    ],
                }
            ],
        }
    }
    for container, pod in steps(compiled.with_templates(compiled.load("train"), [FULL, later])).values():
        assert {"name": "NODE", "value": "any"} in container["env"]
        assert "NODE" not in [one.name for one in pod.field_path_as_env]
        assert {one.mount_path: one.constant for one in pod.pvc_mount} == {"/models": "faster", "/login": "faster"}
        assert not pod.secret_as_volume


def test_a_step_mounts_a_volume_that_an_earlier_template_names_for_all_pods() -> None:
    named = {"spec": {"volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": "models"}}]}}
    mounted = {"spec": {"containers": [{"name": "main", "volumeMounts": [{"name": "shared", "mountPath": "/m"}]}]}}
    for _, pod in steps(compiled.with_templates(compiled.load("train"), [named, mounted])).values():
        assert [(one.constant, one.mount_path) for one in pod.pvc_mount] == [("models", "/m")]


def test_a_platform_that_wants_nothing_leaves_the_pipeline_as_it_is() -> None:
    """The version of a pipeline is the digest of its text."""
    ir = compiled.load("train")
    assert compiled.with_templates(ir, []).text == compiled.with_templates(ir, [{}]).text == ir.text


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"runtimeClassName": "nvidia"}, "spec.runtimeClassName"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume v"),
        ({"containers": [{"name": "proxy", "image": "i"}]}, "container proxy"),
        ({"containers": [{"name": "main", "resources": {}}]}, "container main: resources"),
        ({"containers": [{"name": "main", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}, "no volume x"),
        (
            {"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "a", "path": "b"}]}}]},
            "volume v: configMap.items",
        ),
        (
            {
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
                "containers": [
                    {"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}]},
                ],
            },
            "mount /v: readOnly",
        ),
        (
            {"containers": [{"name": "main", "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}]}]},
            "variable A",
        ),
    ],
)
def test_what_kfp_has_no_word_for_is_refused_before_a_run(spec: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as raised:
        compiled.with_templates(compiled.load("train"), [json.loads(json.dumps({"spec": spec}))])
    assert any(named in one for one in raised.value.problems)
    assert "runPods.worker" in raised.value.fix
