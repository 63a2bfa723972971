"""Invalid values are refused before anything is applied, by a message that names the key."""

import copy
from typing import Any

import pytest

from tests.support.chart import PLATFORM, helm, render

SERVED = {"enabled": True, "model": "models:/mine@champion"}
BY_HEADER = {"enabled": True, "identityHeader": "X-User", "promoters": ["anna"]}
OPEN = {**SERVED, "access": {"anyone": True}}

BAD: list[tuple[str, Any, str]] = [
    ("mlfow.replicas", 2, "mlfow"),
    ("mlflow.replica", 2, "replica"),
    ("mlflow.auth.enable", True, "enable"),
    ("mlflow.replicas", "two", "/mlflow/replicas"),
    ("mlflow.replicas", 0, "/mlflow/replicas"),
    ("mlflow.replicas", 2, "mlflow.replicas"),
    ("mlflow.auth.enabled", "yes", "/mlflow/auth/enabled"),
    ("mlflow.auth.defaultPermission", "ADMIN", "/mlflow/auth/defaultPermission"),
    ("mlflow.auth.existingSecret", "", "/mlflow/auth/existingSecret"),
    ("mlflow.auth.password", "hunter2", "password"),
    ("mlflow.volume.size", "five", "/mlflow/volume/size"),
    ("mlflow.ingress.enabled", True, "mlflow.ingress.host"),
    ("mlflow.ingress", {"enabled": True, "host": "mlflow.example.org"}, "networkPolicy.mlflowFrom"),
    ("mlflow.ingress.host", "https://mlflow.example.org/", "/mlflow/ingress/host"),
    ("mlflow.metrics.enabled", True, "networkPolicy.mlflowFrom"),
    ("mlflow.metrics.interval", 30, "/mlflow/metrics/interval"),
    ("mlflow.resources.limits.cpu", "one", "/mlflow/resources/limits/cpu"),
    ("mlflow.resources.limit", {}, "limit"),
    ("mlflow.tolerations", [{"key": "a", "operatr": "Exists"}], "operatr"),
    ("mlflow.extraEnv", [{"nam": "A"}], "/mlflow/extraEnv/0"),
    ("mlflow.extraEnv", [{"name": "A", "value": 1}], "/mlflow/extraEnv/0/value"),
    ("mlflow.extraVolumeMounts", [{"name": "a", "mountPath": "data"}], "/mlflow/extraVolumeMounts/0/mountPath"),
    ("mlflow.nodeSelector", ["gpu"], "/mlflow/nodeSelector"),
    ("jobs.podAnnotations.a", 1, "/jobs/podAnnotations/a"),
    ("image.digest", "latest", "/image/digest"),
    ("image.pullPolicy", "Sometimes", "/image/pullPolicy"),
    ("imagePullSecrets", ["registry"], "/imagePullSecrets/0"),
    ("runNamespaces", ["team-a"], "/runNamespaces/0"),
    ("runNamespaces", [{"name": "Team_A"}], "/runNamespaces/0/name"),
    ("runNamespaces", [{"name": PLATFORM}], "runNamespaces"),
    ("runNamespaces", [{"name": "a"}, {"name": "a"}], "runNamespaces"),
    ("store.artifacts", "/data/store", "/store/artifacts"),
    ("store.endpoint", "minio:9000", "/store/endpoint"),
    ("store.accessKey", "AKIA", "accessKey"),
    ("store.certificate", "/etc/ca.crt", "/store/certificate"),
    ("patienceSeconds", "5m", "/patienceSeconds"),
    ("cache.hostPath", "var/cache", "/cache/hostPath"),
    ("cache.existingClaim", "My_Claim", "/cache/existingClaim"),
    ("cache", {"hostPath": "/var/cache", "existingClaim": "mine"}, "cache.hostPath"),
    ("cache.sizeGi", "500Gi", "/cache/sizeGi"),
    ("cache.size", 500, "size"),
    ("accounts.steps", {}, "steps"),
    ("sweep.schedule", "0 */2 * * * *", "/sweep/schedule"),
    ("nightly.schedule", "daily", "/nightly/schedule"),
    ("promotion.autoPromote", "false", "/promotion/autoPromote"),
    ("promotion.schedule", "*/10 * * * *", "schedule"),
    ("promotion.promoters", ["anna"], "/promotion/promoters/0"),
    ("promotion.promoters", [{"kind": "ServiceAccount", "name": "ci"}], "/promotion/promoters/0/kind"),  # no person
    ("promotion.kfpNamespace", "platform", "promotion.kfpNamespace: platform is the release's own namespace"),
    ("inference.enabled", True, "inference.model: "),
    ("inference.model", "--anyone", "/inference/model"),
    ("inference.model", "models:/$(AWS_SECRET_ACCESS_KEY)", "/inference/model"),
    ("inference.engine", "tgi", "/inference/engine"),
    ("inference.replicas", -1, "/inference/replicas"),
    ("inference.token", "abc", "token"),
    ("inference.access.tokens", ["abc"], "tokens"),
    ("inference.access.proxies", ["10.0.0.1"], "/inference/access/proxies/0"),
    ("inference.access.identityHeader", "X-User: root", "/inference/access/identityHeader"),
    ("inference.requestSeconds", "2m", "/inference/requestSeconds"),
    ("inference.rollout.maxSurge", "one", "/inference/rollout/maxSurge"),
    ("inference.autoscaling.metrics", [], "/inference/autoscaling/metrics"),
    ("inference.ingress.host", "https://models.example.org", "/inference/ingress/host"),
    ("inference", SERVED, "inference.access: "),
    ("inference", {**SERVED, "access": {"identityHeader": "X-User"}}, "inference.access.proxies: "),
    ("inference", {**SERVED, "access": {"proxies": ["10.0.0.0/8"]}}, "inference.access.proxies: "),
    ("inference", {**OPEN, "engine": "vllm"}, "inference.image.repository: "),
    ("inference", {**OPEN, "ingress": {"enabled": True}}, "inference.ingress.host: "),
    ("inference", {**OPEN, "ingress": {"enabled": True, "host": "a.example.org"}}, "networkPolicy.inferenceFrom: "),
    ("inference", {**OPEN, "metrics": {"enabled": True}}, "networkPolicy.inferenceFrom: "),
    ("inference", {**OPEN, "autoscaling": {"enabled": True, "minReplicas": 9}}, "inference.autoscaling.minReplicas: "),
    ("inference", {**OPEN, "rollout": {"maxSurge": 0}}, "inference.rollout: "),
    ("console.enable", True, "enable"),
    ("console.token", "abc", "token"),
    ("console.links.mlflow", "javascript:alert(1)", "/console/links/mlflow"),
    ("console.links.mlflow", "https://me:secret@mlflow.example.org", "/console/links/mlflow"),
    ("console.cacheGib", "20Gi", "/console/cacheGib"),
    ("console.names", ["https://medmim.example.org"], "/console/names/0"),
    ("console.proxies", ["10.0.0.1"], "/console/proxies/0"),
    ("console.promotion.promoters", ["--tokens=/tmp/x"], "/console/promotion/promoters/0"),
    ("console.promotion.promoters", ["$(AWS_SECRET_ACCESS_KEY)"], "/console/promotion/promoters/0"),
    ("console.promotion.identityHeader", "X-User: root", "/console/promotion/identityHeader"),
    ("console", {"enabled": True, "promotion": {"enabled": True}}, "console.promotion: say who may promote"),
    ("console", {"enabled": True, "promotion": BY_HEADER}, "console.proxies: "),
    ("console", {"enabled": True, "promotion": {**BY_HEADER, "promoters": []}, "proxies": ["10.0.0.0/8"]},
     "console.promotion.promoters: "),
    ("console", {"enabled": True, "promotion": BY_HEADER, "proxies": ["10.0.0.0/8"]}, "networkPolicy.consoleFrom: "),
    ("console", {"enabled": True, "ingress": {"enabled": True}}, "console.ingress.host: "),
    ("console", {"enabled": True, "ingress": {"enabled": True, "host": "a.example"}}, "networkPolicy.consoleFrom: "),
    ("networkPolicy.consoleFrom", ["10.0.0.0/8"], "/networkPolicy/consoleFrom/0"),
    ("networkPolicy.inferenceFrom", ["10.0.0.0/8"], "/networkPolicy/inferenceFrom/0"),
    ("networkPolicy.objectStore", ["10.0.0.0/8"], "/networkPolicy/objectStore/0"),
    ("networkPolicy.apiServer", [{}], "/networkPolicy/apiServer/0"),
    ("networkPolicy.database", [{"ipBlock": {"cidr": "10.0.0.1"}}], "/networkPolicy/database/0/ipBlock/cidr"),
    ("networkPolicy.extraEgress", [{"from": []}], "/networkPolicy/extraEgress/0"),
]  # fmt: skip


NO_RECIPE = {
    "": "give the recipe to run",
    " \n \n": "give the recipe to run",
    "mine.yaml": "'mine.yaml' is no shipped recipe's name",
    "/home/me/mine": "--set-file",
    "name: mine": "--set-file",
    "demo --home /tmp": "is no shipped recipe's name",
    "data:\n  source: phantom\n": "has no line name:",
    "data:\n  name: phantom\n": "has no line name:",
}

DIGEST = {"digest": f"sha256:{'0' * 64}"}


@pytest.mark.parametrize("recipe", NO_RECIPE, ids=repr)
def test_what_is_no_recipe_for_the_nightly_is_refused(recipe: str) -> None:
    values = {"image": DIGEST, "cudaImage": DIGEST, "runNamespaces": [{"name": "team-a"}]}
    with pytest.raises(helm.HelmError) as refused:
        render({**values, "nightly": {"enabled": True, "recipe": recipe}})
    assert "nightly.recipe: " in str(refused.value) and NO_RECIPE[recipe] in str(refused.value)


@pytest.mark.parametrize("recipe", ["demo", "\n name: in-a-block\n data: {}\n", '{"name": "mine",\n "data": {}}'])
def test_what_may_be_a_recipe_is_not(recipe: str) -> None:
    values = {"image": DIGEST, "cudaImage": DIGEST, "runNamespaces": [{"name": "team-a"}]}
    assert render({**values, "nightly": {"enabled": True, "recipe": recipe}})


@pytest.mark.parametrize(("key", "value", "message"), BAD, ids=[f"{key}={value}" for key, value, _ in BAD])
def test_it_is_refused_and_its_key_is_named(key: str, value: Any, message: str) -> None:
    values: dict[str, Any] = {}
    *path, last = key.split(".")
    at = values
    for part in path:
        at = at.setdefault(part, {})
    at[last] = copy.deepcopy(value)
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    assert message in str(refused.value)


def test_all_that_the_schema_finds_is_reported_at_once() -> None:
    with pytest.raises(helm.HelmError) as refused:
        render({"patienceSeconds": "5m", "store": {"endpoint": "minio"}, "imge": {}})
    assert all(key in str(refused.value) for key in ("/patienceSeconds", "/store/endpoint", "imge"))


@pytest.mark.parametrize(
    ("artifacts", "mlflow", "fine"),
    [
        ("s3://mine/store", "s3://mine/store/mlflow", False),
        ("s3://mine/store", "s3://mine/store", False),
        ("s3://mine", "s3://mine/mlflow", False),
        ("s3://mine/store", "s3://mine/store-mlflow", True),
    ],
)
def test_where_mlflow_has_users_its_files_lie_where_no_step_may_write(artifacts: str, mlflow: str, fine: bool) -> None:
    values = {"mlflow": {"auth": {"enabled": True}}, "store": {"artifacts": artifacts, "mlflow": mlflow}}
    if fine:
        assert render(values)
        return
    with pytest.raises(helm.HelmError, match="store.mlflow: "):
        render(values)


def test_no_pod_but_the_ingress_may_say_who_asks_the_console() -> None:
    console = {"enabled": True, "promotion": BY_HEADER, "proxies": ["10.244.0.0/16"]}
    ingress = [{"podSelector": {"matchLabels": {"app": "ingress"}}}]
    assert render({"console": console, "networkPolicy": {"consoleFrom": ingress}})
    with pytest.raises(helm.HelmError, match="networkPolicy.consoleFrom: .* leave networkPolicy.enabled on"):
        render({"console": console, "networkPolicy": {"consoleFrom": ingress, "enabled": False}})


def test_metrics_behind_users_need_a_user() -> None:
    values = {"mlflow": {"auth": {"enabled": True}, "metrics": {"enabled": True}}, "networkPolicy": {"enabled": False}}
    with pytest.raises(helm.HelmError, match="mlflow.metrics.existingSecret"):
        render(values)


def test_promoters_start_no_runs_where_others_do() -> None:
    values = {"runNamespaces": [{"name": "team-a"}], "promotion": {"kfpNamespace": "team-a"}}
    with pytest.raises(helm.HelmError, match="promotion.kfpNamespace: team-a is one of runNamespaces"):
        render(values)
