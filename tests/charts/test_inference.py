"""The model server in the chart: off by default; its command, its end, its cache and its address are the server's."""

import ipaddress
import math
from pathlib import Path
from typing import Any

import pytest
import typer
from medmim_inference import server
from medmim_inference.cli import serve

from medmim.recipe import names
from tests.support.chart import PLATFORM, VALUES, Object, named, pods, render, rendered

MODEL = "models:/mine@champion"
OPEN = {"enabled": True, "model": MODEL, "access": {"anyone": True}}
ON = {"by-token": rendered("inference"), "by-ingress": rendered("all-on"), "anyone": render({"inference": OPEN})}
NAME = "medmim-inference"


def pod(objects: list[Object]) -> Object:
    return dict(named(objects, "Deployment", NAME)["spec"]["template"]["spec"])


def container(objects: list[Object]) -> Object:
    (found,) = pod(objects)["containers"]
    return dict(found)


def parsed(objects: list[Object]) -> dict[str, Any]:
    """The options of `medmim serve`, as its own parser reads the container's arguments; raises for those it lacks."""
    app = typer.Typer()
    app.command()(serve)
    first, second, *words = container(objects)["args"]
    assert (first, second) == ("medmim", "serve")
    return typer.main.get_command(app).make_context("serve", list(words)).params


@pytest.mark.parametrize("name", [name for name in VALUES if not VALUES[name].get("inference")])
def test_nothing_of_it_is_there_where_it_is_not_turned_on(name: str) -> None:
    assert not [one["kind"] for one in rendered(name) if one["metadata"]["name"] == NAME]


def test_its_other_switches_turn_nothing_on() -> None:
    switches = {key: {"enabled": True} for key in ("ingress", "autoscaling", "metrics")}
    off = render({"inference": {**OPEN, **switches, "enabled": False}})
    assert off == rendered("default")


@pytest.mark.parametrize("how", ON)
def test_the_server_takes_its_arguments_and_knows_who_may_ask(how: str, tmp_path: Path) -> None:
    options = parsed(ON[how])
    assert options["model"] == (MODEL if how != "by-token" else "models:/med-mim@champion")
    assert options["engine"] == ("vllm" if how == "by-ingress" else "transformers")
    tokens = None
    if options["tokens"]:
        tokens = tmp_path / "tokens"
        tokens.write_text("a-token-of-a-program\n")
    access = server.access(
        options["host"], tokens, options["identity_header"], options["proxy"] or (), options["anyone"]
    )
    assert access.is_open == (how == "anyone")
    if how == "by-ingress":
        assert access.header == "X-Forwarded-User"
        assert access.proxies == (ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd00::/8"))
        assert options["max_images"] == 8


def test_a_token_that_is_taken_out_of_its_secret_is_gone_in_the_pod() -> None:
    objects = ON["by-token"]
    (volume,) = [one for one in pod(objects)["volumes"] if "secret" in one]
    (mount,) = [one for one in container(objects)["volumeMounts"] if one["name"] == volume["name"]]
    assert "subPath" not in mount and mount["readOnly"], "a file by subPath is never written again"
    (item,) = volume["secret"]["items"]
    assert parsed(objects)["tokens"] == Path(mount["mountPath"]) / item["path"]
    assert volume["secret"]["secretName"] == VALUES["inference"]["inference"]["access"]["tokensSecret"]


@pytest.mark.parametrize("seconds", [1, 120, 3600])
def test_a_pod_that_ends_has_the_time_to_answer_what_it_accepted(seconds: int) -> None:
    objects = render({"inference": {**OPEN, "requestSeconds": seconds}})
    sleep = container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = parsed(objects)["seconds"]
    assert longest == seconds and sleep >= 5
    # the server waits 5 s more than the longest request, then for the batch that is under way
    assert pod(objects)["terminationGracePeriodSeconds"] >= sleep + longest + 5 + 20


@pytest.mark.parametrize("seconds", [11, 1800, 7201])
def test_a_replica_has_the_time_to_load_its_model_before_anything_ends_it(seconds: int) -> None:
    objects = render({"inference": {**OPEN, "startupSeconds": seconds}})
    probe = container(objects)["startupProbe"]
    assert probe["httpGet"]["path"] == "/ready"
    assert math.ceil(seconds / probe["periodSeconds"]) == probe["failureThreshold"]
    assert named(objects, "Deployment", NAME)["spec"]["progressDeadlineSeconds"] > seconds


def test_probes_ask_what_the_server_has_on_the_port_that_it_listens_on() -> None:
    for objects in ON.values():
        one = container(objects)
        probed = {kind: one[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
        assert {kind: get["path"] for kind, get in probed.items()} == {
            "startup": "/ready", "readiness": "/ready", "liveness": "/health",
        }  # fmt: skip
        (port,) = one["ports"]
        assert {get["port"] for get in probed.values()} == {port["name"]}
        assert port["containerPort"] == parsed(objects)["port"]
        (service,) = named(objects, "Service", NAME)["spec"]["ports"]
        assert service["targetPort"] == port["name"]
        labels = named(objects, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
        assert named(objects, "Service", NAME)["spec"]["selector"].items() <= labels.items()
        assert named(objects, "PodDisruptionBudget", NAME)["spec"]["selector"]["matchLabels"].items() <= labels.items()
        monitors = [one for one in objects if (one["kind"], one["metadata"]["name"]) == ("ServiceMonitor", NAME)]
        for monitor in monitors:
            chosen = monitor["spec"]["selector"]["matchLabels"].items()
            assert chosen <= named(objects, "Service", NAME)["metadata"]["labels"].items()
            assert monitor["spec"]["endpoints"][0]["port"] == service["name"]


def test_a_new_replica_answers_before_an_old_one_ends() -> None:
    for objects in ON.values():
        rolling = named(objects, "Deployment", NAME)["spec"]["strategy"]["rollingUpdate"]
        assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_replicas_are_the_autoscalers_where_there_is_one() -> None:
    spec = named(ON["by-token"], "Deployment", NAME)["spec"]
    target = named(ON["by-token"], "HorizontalPodAutoscaler", NAME)["spec"]
    assert "replicas" not in spec, "an upgrade would set them back"
    assert target["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    assert (target["minReplicas"], target["maxReplicas"]) == (2, 6)
    assert named(render({"inference": {**OPEN, "replicas": 3}}), "Deployment", NAME)["spec"]["replicas"] == 3
    on = render({"inference": {**OPEN, "autoscaling": {"enabled": True}}})
    (metric,) = named(on, "HorizontalPodAutoscaler", NAME)["spec"]["metrics"]
    assert metric["resource"]["name"] in container(on)["resources"]["requests"], "utilization is of the request"


def test_the_ingress_shows_the_api_and_nothing_else() -> None:
    (rule,) = named(ON["by-token"], "Ingress", NAME)["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/v1", "Prefix")
    (port,) = named(ON["by-token"], "Service", NAME)["spec"]["ports"]
    assert path["backend"]["service"] == {"name": NAME, "port": {"name": port["name"]}}


def test_its_account_has_no_token_and_its_keys_are_its_own() -> None:
    for objects in ON.values():
        assert named(objects, "ServiceAccount", NAME)["automountServiceAccountToken"] is False
        assert pod(objects)["serviceAccountName"] == NAME
        refs = [one["valueFrom"].get("secretKeyRef", {}) for one in container(objects)["env"] if "valueFrom" in one]
        own = {one["name"] for one in refs if one}
        assert own == {"medmim-inference-s3", "medmim-inference-mlflow"}
        others = [spec for at, _, spec in pods(objects) if at != f"Deployment/{NAME}"]
        assert others and not [one for one in others if "medmim-inference" in str(one)]
    identity = render({"inference": {**OPEN, "s3Secret": "", "mlflowSecret": ""}})
    assert "secretKeyRef" not in str(container(identity))


def test_its_copies_are_in_the_claim_of_its_namespace() -> None:
    for how in ("by-token", "by-ingress"):
        objects = ON[how]
        (volume,) = [one for one in pod(objects)["volumes"] if "persistentVolumeClaim" in one]
        settings = named(objects, "ConfigMap", names.SETTINGS, PLATFORM)["data"]
        assert volume["persistentVolumeClaim"]["claimName"] == settings["MEDMIM_CACHE_CLAIM"]
        one = container(objects)
        env = {entry["name"]: entry for entry in one["env"]}
        (mount,) = [entry for entry in one["volumeMounts"] if entry["name"] == volume["name"]]
        assert mount["mountPath"] == env["MEDMIM_CACHE"]["value"] == names.CACHE_FOLDER
        assert env["MEDMIM_CACHE_GIB"]["valueFrom"]["configMapKeyRef"] == {
            "name": names.SETTINGS, "key": "MEDMIM_CACHE_GIB",
        }  # fmt: skip
    claim = named(ON["by-token"], "PersistentVolumeClaim", names.SETTINGS + "-cache", PLATFORM)
    (disk,) = [one for one in ON["by-token"] if one["metadata"]["name"] == claim["spec"]["volumeName"]]
    assert disk["spec"]["hostPath"]["path"].endswith(f"/{PLATFORM}"), "no namespace reads another's"
    assert disk["spec"]["claimRef"] == {"namespace": PLATFORM, "name": claim["metadata"]["name"]}
    assert "persistentVolumeClaim" not in str(pod(ON["anyone"])) and "MEDMIM_CACHE_GIB" not in str(pod(ON["anyone"]))


def test_its_image_is_the_one_beside_medmims_or_the_one_that_is_named() -> None:
    def image(values: Object, **own: Any) -> str:
        return str(container(render({"image": values, "inference": {**OPEN, "image": own}}))["image"])

    digest = "sha256:" + "1" * 64
    assert image({"repository": "r.example/medmim", "tag": "7"}) == "r.example/medmim-inference:7"
    assert image({"repository": "r.example/medmim", "digest": "sha256:" + "0" * 64}, digest=digest) == (
        f"r.example/medmim-inference@{digest}"
    )
    assert image({"tag": "7"}, repository="own/server", tag="8") == "own/server:8"


def test_a_new_address_of_the_store_is_a_new_pod() -> None:
    def annotations(**values: Any) -> Object:
        found = named(render({"inference": OPEN, **values}), "Deployment", NAME)
        return dict(found["spec"]["template"]["metadata"]["annotations"])

    assert annotations() != annotations(store={"endpoint": "https://s3.example.org"})
    assert annotations() == annotations(sweep={"enabled": False})
