"""The chart calls things as `medmim.recipe.names` does, which steps, Ray pods and doctors go by."""

import pytest

from medmim.recipe import names
from tests.support.chart import VALUES as ALL
from tests.support.chart import containers, named, pods, render, rendered

VALUES = ("default", "all-on")
MLFLOW_ARTIFACTS = "MLFLOW_ARTIFACTS"  # for MLflow's own server


@pytest.mark.parametrize("values", VALUES)
def test_pods_are_the_images_user_and_find_home_and_certificate(values: str) -> None:
    found = list(pods(rendered(values)))
    assert found
    for _, _, spec in found:
        context = spec["securityContext"]
        assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {names.USER}
        assert names.CA_CONFIG_MAP in {one.get("configMap", {}).get("name") for one in spec["volumes"]}
        for container in containers(spec):
            mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
            assert (mounts["home"], mounts["ca"]) == (names.HOME, names.CA_FOLDER)


@pytest.mark.parametrize("values", VALUES)
def test_settings_and_secrets_are_read_by_their_names(values: str) -> None:
    read: dict[str, set[str]] = {}
    for _, _, spec in pods(rendered(values)):
        for container in containers(spec):
            for one in container.get("env", []):
                source = one.get("valueFrom", {})
                for reference in (source.get("configMapKeyRef"), source.get("secretKeyRef")):
                    if reference and reference["key"] == one["name"]:
                        read.setdefault(reference["name"], set()).add(one["name"])
    assert read[names.SETTINGS] <= {*names.SETTINGS_KEYS, MLFLOW_ARTIFACTS}
    assert read[names.S3_SECRET] == set(names.S3_KEYS)
    assert read[names.TRACKING_SECRET] == set(names.TRACKING_KEYS)


@pytest.mark.parametrize("values", VALUES)
def test_the_settings_of_a_run_namespace_are_those_that_steps_read(values: str) -> None:
    written = [
        one["data"]
        for one in rendered(values)
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == names.SETTINGS
    ]
    assert written and all(one.keys() <= {*names.SETTINGS_KEYS, MLFLOW_ARTIFACTS} for one in written)


def test_a_cache_on_the_nodes_is_a_claim_of_each_run_namespace_with_a_folder_of_its_own() -> None:
    objects = render({**ALL["onprem-gpu"], "cache": {"hostPath": "/var/lib/medmim", "sizeGi": 7}})
    paths = set()
    for run in ("radiology", "research"):
        settings = named(objects, "ConfigMap", names.SETTINGS, run)["data"]
        assert settings["MEDMIM_CACHE_GIB"] == "7"
        claim = named(objects, "PersistentVolumeClaim", settings["MEDMIM_CACHE_CLAIM"], run)
        (volume,) = [one for one in objects if one["metadata"]["name"] == claim["spec"]["volumeName"]]
        assert volume["kind"] == "PersistentVolume"
        assert volume["spec"]["claimRef"] == {"namespace": run, "name": claim["metadata"]["name"]}
        assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
        assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadWriteMany"]
        paths.add(volume["spec"]["hostPath"]["path"])
    assert paths == {"/var/lib/medmim/radiology", "/var/lib/medmim/research"}


def test_a_claim_of_raw_data_is_named_where_there_is_one() -> None:
    runs = {"runNamespaces": [{"name": "team-a"}]}
    with_claim = render({**runs, "rawData": {"existingClaim": "patients"}})
    assert named(with_claim, "ConfigMap", names.SETTINGS, "team-a")["data"]["MEDMIM_RAW_CLAIM"] == "patients"
    assert "MEDMIM_RAW_CLAIM" not in named(render(runs), "ConfigMap", names.SETTINGS, "team-a")["data"]


def test_a_claim_that_is_there_is_only_named_and_no_cache_is_the_default() -> None:
    runs = {"runNamespaces": [{"name": "team-a"}]}
    objects = render({**runs, "cache": {"existingClaim": "mine"}})
    assert named(objects, "ConfigMap", names.SETTINGS, "team-a")["data"]["MEDMIM_CACHE_CLAIM"] == "mine"
    kinds = {one["kind"] for one in objects if one["metadata"]["name"].startswith("medmim-cache")}
    assert kinds == set()
    settings = named(render(runs), "ConfigMap", names.SETTINGS, "team-a")["data"]
    assert not {key for key in settings if "CACHE" in key}


def test_every_account_that_runs_use_is_made() -> None:
    accounts = {one["metadata"]["name"] for one in rendered("all-on") if one["kind"] == "ServiceAccount"}
    assert {names.STEP_ACCOUNT, names.RAY_ACCOUNT, names.SWEEP_ACCOUNT} <= accounts


def test_the_promoters_template_has_the_platforms_policy_and_the_promoters_secrets() -> None:
    values = {"promotion": {"s3Secret": "promoter-s3", "mlflowSecret": "promoter-mlflow"}}
    template = named(render(values), "PodTemplate", names.PROMOTER)["template"]["spec"]
    (container,) = template["containers"]
    env = {one["name"]: one["valueFrom"] for one in container["env"]}
    assert template["serviceAccountName"] == names.PROMOTER
    for key in ("MEDMIM_GATE_POLICY", "MEDMIM_PROMOTER_NAMESPACE"):  # the latter for the commands in its messages
        assert env[key]["configMapKeyRef"]["name"] == names.SETTINGS
    assert {env[key]["secretKeyRef"]["name"] for key in names.S3_KEYS} == {"promoter-s3"}
    assert {env[key]["secretKeyRef"]["name"] for key in names.TRACKING_KEYS} == {"promoter-mlflow"}


def test_the_ports_of_ray_and_the_address_of_kfp_are_those_that_medmim_uses() -> None:
    (ray,) = (
        one
        for one in rendered("all-on")
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "medmim-ray" and "ingress" in one["spec"]
    )
    opened = {port["port"] for rule in ray["spec"]["ingress"] for port in rule.get("ports", [])}
    assert names.RAY_PORTS["dashboard"] in opened
    addresses = [
        one["value"]
        for _, _, spec in pods(rendered("all-on"))
        for container in containers(spec)
        for one in container.get("env", [])
        if one["name"] == "KFP_ENDPOINT"
    ]
    service, port = names.KFP_ENDPOINT.removeprefix("http://").split(":")
    assert addresses and all(
        one.startswith(f"http://{service.partition('.')[0]}.") and one.endswith(f":{port}") for one in addresses
    )
