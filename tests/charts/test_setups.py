"""What a set-up asks of all pods (a private registry, its own authority, an identity) reaches each of them.

Three kinds of pods: the chart's, those of Ray jobs, which a step makes, and steps, which KFP makes of the pipeline.
"""

from functools import cache
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig

from medmim.cluster import pod_templates
from medmim.cluster.kfp import compiled
from medmim.cluster.pod_templates import SETTING, PodTemplates
from medmim.cluster.ray.pods import head, submitter, worker
from medmim.recipe import names
from medmim.recipe.pods import Pods
from tests.charts.test_security import faults
from tests.support.chart import VALUES, Object, containers, named, pods, render, rendered

RUNS = [(name, run["name"]) for name in VALUES for run in VALUES[name].get("runNamespaces", [])]


def settings(name: str, namespace: str) -> dict[str, str]:
    found: dict[str, str] = named(rendered(name), "ConfigMap", "medmim", namespace)["data"]
    return found


def templates(name: str, namespace: str) -> PodTemplates:
    return pod_templates.parse(settings(name, namespace)[SETTING])


def ray_pods(name: str, namespace: str) -> dict[str, Object]:
    """The pods of a Ray job there, of a recipe that asks for GPUs."""
    asked, platform = Pods(gpus=2), templates(name, namespace)
    return {
        "head": head(asked, platform, "image", "lease"),
        "worker": worker(asked, platform, "image"),
        "submitter": submitter(asked, platform, "image"),
    }


def env(container: Object) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}


@cache
def steps(text: str) -> list[tuple[Object, KubernetesExecutorConfig]]:
    """Each step's container, and its pod as KFP's server reads it, under these templates."""
    ir = compiled.with_templates(compiled.load("train"), pod_templates.parse(text).step)
    spec, platform = yaml.load_all(ir.text, yaml.CSafeLoader)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return [
        (
            spec["deploymentSpec"]["executors"][name]["container"],
            ParseDict(one, KubernetesExecutorConfig(), ignore_unknown_fields=False),
        )
        for name, one in executors.items()
    ]


@pytest.mark.parametrize("name", VALUES)
def test_every_account_and_every_pod_pulls_with_the_registrys_secrets(name: str) -> None:
    """KFP's pods and Ray's name no pull secret: Kubernetes gives them those of their account."""
    wanted = VALUES[name].get("imagePullSecrets")
    accounts = [one for one in rendered(name) if one["kind"] == "ServiceAccount"]
    assert accounts
    assert {str(one.get("imagePullSecrets")) for one in accounts} == {str(wanted)}
    assert {str(spec.get("imagePullSecrets")) for _, _, spec in pods(rendered(name))} == {str(wanted)}


@pytest.mark.parametrize(("name", "namespace"), RUNS)
def test_ray_pods_run_as_an_account_of_the_chart_and_pass_the_restricted_standard(name: str, namespace: str) -> None:
    for role, template in ray_pods(name, namespace).items():
        account = named(rendered(name), "ServiceAccount", template["spec"]["serviceAccountName"], namespace)
        assert account.get("imagePullSecrets") == VALUES[name].get("imagePullSecrets")
        assert faults(template["spec"]) == [], role


@pytest.mark.parametrize("name", VALUES)
def test_a_user_is_named_in_every_pod_or_in_none(name: str) -> None:
    """OpenShift's admission refuses a pod that names one; elsewhere volumes need the image's."""
    free = VALUES[name].get("uidByNamespace", False)
    made = [spec for _, _, spec in pods(rendered(name))]
    made += [one["spec"] for run in RUNS if run[0] == name for one in ray_pods(*run).values()]
    for spec in made:
        named_there = {key for key in ("runAsUser", "runAsGroup", "fsGroup") if key in spec["securityContext"]}
        assert named_there == (set() if free else {"runAsUser", "runAsGroup", "fsGroup"})
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert not [one for one in containers(spec) if "runAsUser" in one["securityContext"]]
    for run in RUNS:
        if run[0] == name:
            for _, pod in steps(settings(*run)[SETTING]):
                assert pod.security_context.run_as_non_root
                assert pod.security_context.HasField("run_as_user") is not free


@pytest.mark.parametrize(("name", "namespace"), RUNS)
def test_every_pod_trusts_the_authorities_of_store_and_mlflow(name: str, namespace: str) -> None:
    values = VALUES[name]
    wanted = {
        "AWS_CA_BUNDLE": ("ca.crt", values.get("store", {}).get("certificate")),
        "MLFLOW_TRACKING_SERVER_CERT_PATH": (
            "mlflow.crt",
            values.get("mlflow", {}).get("external", {}).get("certificate"),
        ),
    }
    told = settings(name, namespace)
    for key, (file, certificate) in wanted.items():
        assert told.get(key) == (f"{names.CA_FOLDER}/{file}" if certificate else None)
        if certificate:
            assert named(rendered(name), "ConfigMap", names.CA_CONFIG_MAP, namespace)["data"][file] == certificate
    made = [spec for _, metadata, spec in pods(rendered(name)) if metadata.get("namespace") == namespace]
    made += [one["spec"] for role, one in ray_pods(name, namespace).items() if role != "submitter"]  # it asks Ray alone
    for spec in made:
        (volume,) = [one for one in spec["volumes"] if one.get("configMap", {}).get("name") == names.CA_CONFIG_MAP]
        for container in spec["containers"]:
            assert {"name": volume["name"], "mountPath": names.CA_FOLDER, "readOnly": True} in container["volumeMounts"]
            for key in wanted:
                reference = {"name": names.SETTINGS, "key": key, "optional": True}
                assert env(container)[key] == {"configMapKeyRef": reference}
    for _, pod in steps(told[SETTING]):
        assert names.CA_FOLDER in {one.mount_path for one in pod.config_map_as_volume}
        assert set(wanted) <= {pair.env_var for one in pod.config_map_as_env for pair in one.key_to_env}


@pytest.mark.parametrize(("name", "namespace"), RUNS)
def test_pods_have_the_stores_key_or_an_identity_and_never_wait_for_a_secret_that_nobody_makes(
    name: str, namespace: str
) -> None:
    annotations = VALUES[name].get("accounts", {})
    for role, template in ray_pods(name, namespace).items():
        given = env(template["spec"]["containers"][0])
        needed = [
            one["secretKeyRef"]["name"]
            for one in given.values()
            if "secretKeyRef" in str(one) and "opt" not in str(one)
        ]
        assert set(needed) == (set() if annotations or role == "submitter" else {names.S3_SECRET})
    for account in ("step", "ray", "sweep"):
        made = named(rendered(name), "ServiceAccount", f"medmim-{account}", namespace)["metadata"].get("annotations")
        assert made == annotations.get(account, {}).get("annotations")


@pytest.mark.parametrize(("name", "namespace"), RUNS)
def test_what_the_cluster_wants_is_in_steps_and_ray_pods(name: str, namespace: str) -> None:
    wanted = VALUES[name].get("runPods", {})
    for role, template in ray_pods(name, namespace).items():
        spec, (container, *_) = template["spec"], template["spec"]["containers"]
        assert wanted.get("labels", {}).items() <= template["metadata"]["labels"].items()
        assert template["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "medmim"
        assert wanted.get("annotations", {}).items() <= template["metadata"].get("annotations", {}).items()
        assert spec.get("tolerations", []) == wanted.get("tolerations", [])
        assert {one["name"]: one["value"] for one in wanted.get("env", [])}.items() <= env(container).items()
        own = wanted.get(role, {}).get("spec", {})
        assert own.items() <= spec.items()
    gpu = wanted.get("gpu", {}).get("resource", "nvidia.com/gpu")
    (container,) = ray_pods(name, namespace)["worker"]["spec"]["containers"]
    assert container["resources"]["limits"][gpu] == container["resources"]["requests"][gpu] == "2"
    queue = next((run.get("queue") for run in VALUES[name]["runNamespaces"] if run["name"] == namespace), None)
    told = templates(name, namespace)
    assert told.job == ({"kueue.x-k8s.io/queue-name": queue} if queue else {})
    never = VALUES[name].get("image", {}).get("pullPolicy") == "Never"
    assert told.never_pulled is never and (container["imagePullPolicy"] == "Never") is never
    for container, pod in steps(settings(name, namespace)[SETTING]):
        assert wanted.get("labels", {}).items() <= dict(pod.pod_metadata.labels).items()
        assert len(pod.tolerations) == len(wanted.get("tolerations", []))
        assert {one["name"]: one["value"] for one in wanted.get("env", [])}.items() <= env(container).items()
        assert pod.image_pull_policy == ("Never" if never else "")


@pytest.mark.parametrize("name", [name for name in VALUES if not VALUES[name].get("mlflow", {}).get("enabled", True)])
def test_an_mlflow_that_is_there_takes_the_place_of_the_charts_in_every_pod(name: str) -> None:
    objects, external = rendered(name), VALUES[name]["mlflow"]["external"]
    assert not [one for one in objects if "mlflow" in one["metadata"]["name"] and one["kind"] != "Pod"]
    configured = [one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"] == names.SETTINGS]
    assert {one["data"]["MLFLOW_TRACKING_URI"] for one in configured} == {external["uri"]}
    assert not [one for one in configured if "MLFLOW_ARTIFACTS" in one["data"]]
    for _, _, spec in pods(objects):
        account = spec["serviceAccountName"]
        assert [one for one in objects if one["kind"] == "ServiceAccount" and one["metadata"]["name"] == account], (
            account
        )
    for namespace in (run["name"] for run in VALUES[name]["runNamespaces"]):
        told = env(ray_pods(name, namespace)["head"]["spec"]["containers"][0])
        assert told["MLFLOW_TRACKING_TOKEN"]["secretKeyRef"] == {
            "name": names.TRACKING_SECRET, "key": "MLFLOW_TRACKING_TOKEN", "optional": True,
        }  # fmt: skip
        policy = named(objects, "NetworkPolicy", "medmim-step", namespace)["spec"]["egress"]
        ports = [
            rule["ports"][0]["port"] for rule in policy if rule.get("to") == VALUES[name]["networkPolicy"]["mlflow"]
        ]
        assert ports == [443]


def test_a_server_gets_its_own_app_arguments_and_workers() -> None:
    """OIDC, for instance, in an image that has such an app."""
    own = {"appName": "oidc-auth", "extraArgs": ["--static-prefix=/mlflow"], "workers": 3}
    (container,) = named(render({"mlflow": own}), "Deployment", "medmim-mlflow")["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"--app-name=oidc-auth", "--static-prefix=/mlflow", "--workers=3"} <= set(container["args"])


@pytest.mark.parametrize(
    ("values", "named_there"),
    [
        ({"mlflow": {"enabled": False}}, "mlflow.external.uri"),
        ({"mlflow": {"external": {"uri": "https://m"}}}, "mlflow.enabled: false"),
        ({"mlflow": {"enabled": False, "external": {"uri": "https://bob:pw@m"}}}, "external"),
        ({"mlflow": {"auth": {"enabled": True}, "appName": "oidc-auth"}}, "mlflow.appName"),
        ({"runPods": {"labels": {"app.kubernetes.io/name": "mine"}}}, "app.kubernetes.io/name"),
        ({"runPods": {"worker": {"kind": "Pod"}}}, "worker"),
        ({"runPods": {"worker": {"spec": {"containers": [{"image": "i"}]}}}}, "name"),
    ],
)
def test_a_set_up_that_cannot_be_is_refused_with_its_key(values: Object, named_there: str) -> None:
    with pytest.raises(Exception, match=named_there):
        render(values)
