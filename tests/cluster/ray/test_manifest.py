"""How a job is named, and that every pod of it keeps within the restricted Pod Security Standard."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.cluster.dispatch import is_remote
from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray import manifest
from medmim.cluster.ray.request import Request
from medmim.errors import UserError
from medmim.ray_nodes import pre_stop
from medmim.recipe import names
from medmim.recipe.loading import load, validate
from medmim.recipe.schema import Platform

NOTHING = PodTemplates()  # that the platform wants of pods
REQUEST = Request("finetune", "{}", "demo-1", {"data": "s3://b/data/1", "base": "tiny-mantis"})


def platform(**pods: Any) -> Platform:
    return Platform.model_validate_json(json.dumps({"ray": "rayjob", "workers": 2, "pods": pods}))


@given(st.sampled_from(["finetune", "bench"]), st.text(), st.integers(1, 9999))
def test_a_name_is_a_dns_label_that_kuberay_takes(stage: str, run: str, attempt: int) -> None:
    job = manifest.identity(Request(stage, "{}", run, {}), "image")
    name = manifest.name(stage, job, attempt)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47


@given(st.text(st.characters(codec="ascii"), max_size=80))
def test_a_run_of_any_name_makes_a_label(run: str) -> None:
    body = manifest.rayjob(Request("bench", "{}", run, {}), "s3://b/x", platform(), NOTHING, "image", "0" * 64, 1)
    for value in body["metadata"]["labels"].values():
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value)
        assert len(value) <= 63


def test_another_stage_run_argument_recipe_or_image_is_another_job() -> None:
    others = [
        replace(REQUEST, stage="bench"),
        replace(REQUEST, run="demo-2"),
        replace(REQUEST, arguments={**REQUEST.arguments, "data": "s3://b/data/2"}),
        *(replace(REQUEST, recipe=load("demo", [f"platform.pods.{one}"]).dump()) for one in ("gpus=1", "memory=5Gi")),
    ]
    jobs = {manifest.identity(one, "image") for one in [REQUEST, *others]} | {manifest.identity(REQUEST, "another")}
    assert len(jobs) == len(others) + 2


def test_the_identity_leaves_out_what_changes_with_an_attempt() -> None:
    one = manifest.rayjob(REQUEST, "s3://b/x-1", platform(), NOTHING, "image", manifest.identity(REQUEST, "image"), 1)
    two = manifest.rayjob(REQUEST, "s3://b/x-2", platform(), NOTHING, "image", manifest.identity(REQUEST, "image"), 2)
    assert one["metadata"]["annotations"][manifest.SPEC] == two["metadata"]["annotations"][manifest.SPEC]
    assert one["metadata"]["name"] != two["metadata"]["name"]


def test_every_container_has_what_restricted_and_a_quota_require() -> None:
    spec = manifest.spec(platform(gpus=1), NOTHING, "image", "s3://b/x", "lease")
    cluster = spec["rayClusterSpec"]
    head, worker = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]
    for template in (head, worker, spec["submitterPodTemplate"]):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys()
    tokens = [
        template["spec"]["automountServiceAccountToken"] for template in (head, worker, spec["submitterPodTemplate"])
    ]
    assert tokens == [True, False, False], "only the head reads its Lease"
    assert cluster["authOptions"] == {"mode": "token"}
    assert (spec["backoffLimit"], spec["submitterConfig"]) == (0, {"backoffLimit": 0})


def test_what_a_recipe_asks_for_is_in_the_job() -> None:
    asked = platform(
        gpus=8,
        cpus=12.5,
        memory="64Gi",
        accelerator="NVIDIA-H100",
        shared_memory="16Gi",
        deadline_minutes=5,
    )
    asked = asked.model_copy(update={"workers": 20})
    body = manifest.rayjob(REQUEST, "s3://b/x", asked, NOTHING, "image", "0" * 64, 1)
    group = body["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    pod = group["template"]["spec"]
    assert group["replicas"] == 3, "twenty workers of a GPU each, eight in a pod"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["containers"][0]["resources"]["requests"]["cpu"] == "12500m"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100"}
    assert body["spec"]["activeDeadlineSeconds"] == 300
    assert not body["spec"].get("suspend"), "Kueue's webhook does that: without Kueue nobody would ever resume it"


@pytest.mark.parametrize("seconds", [10, 30, 600])
def test_a_pod_that_is_preempted_waits_for_its_training_and_ray_ends_within_the_rest(seconds: int) -> None:
    spec = manifest.spec(platform(grace_seconds=seconds), NOTHING, "image", "s3://b/x", "lease")
    cluster = spec["rayClusterSpec"]
    for template in (cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]):
        assert template["spec"]["terminationGracePeriodSeconds"] == seconds
        (container,) = template["spec"]["containers"]
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sh", "-c", pre_stop(seconds)]
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < 10
        assert 0 < int(env["RAY_JOB_STOP_WAIT_TIME_S"]) < seconds
    submitter = spec["submitterPodTemplate"]["spec"]
    assert submitter["terminationGracePeriodSeconds"] == 15, "it has nothing to save"
    assert "lifecycle" not in submitter["containers"][0]


@pytest.mark.parametrize(
    ("recipe", "seconds"),
    [("demo", 30), *((f"{name}{kind}", 600) for name in ("med-mantis", "mim-llava-med") for kind in ("", "-lora"))],
)
def test_pods_that_train_a_large_model_have_the_time_to_save_it(recipe: str, seconds: int) -> None:
    assert load(recipe, []).platform.pods.grace_seconds == seconds


def test_a_cache_claim_is_mounted_into_head_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDMIM_CACHE_CLAIM", raising=False)
    assert "cache" not in json.dumps(manifest.spec(platform(), NOTHING, "image", "s3://b/x", "lease"))
    monkeypatch.setenv("MEDMIM_CACHE_CLAIM", "medmim-cache")
    monkeypatch.setenv("MEDMIM_CACHE_GIB", "500")
    spec = manifest.spec(platform(), NOTHING, "image", "s3://b/x", "lease")
    cluster = spec["rayClusterSpec"]
    for template in (cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]):
        (container,) = template["spec"]["containers"]
        volumes = {one["name"]: one for one in template["spec"]["volumes"]}
        assert volumes["cache"]["persistentVolumeClaim"] == {"claimName": "medmim-cache"}
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "cache"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert env["MEDMIM_CACHE"] == mount["mountPath"] == names.CACHE_FOLDER and env["MEDMIM_CACHE_GIB"] == "500"
    assert "cache" not in json.dumps(spec["submitterPodTemplate"]), "it fetches nothing"


def a_build(**data: Any) -> Request:
    return Request("data", validate({"name": "b", "data": data}, "test").dump(), "demo-1", {})


def test_a_build_mounts_the_claim_that_its_roots_are_in_for_reading_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_RAW_CLAIM", "patients")
    inside = {"sources": [{"name": "odir", "root": f"{names.RAW_FOLDER}/odir"}, {"name": "phantom"}]}
    spec = manifest.rayjob(a_build(**inside), "s3://b/x", platform(), NOTHING, "image", "0" * 64, 1)["spec"]
    cluster = spec["rayClusterSpec"]
    for template in (cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]):
        (container,) = template["spec"]["containers"]
        (volume,) = [one for one in template["spec"]["volumes"] if one["name"] == "raw"]
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "raw"]
        assert volume["persistentVolumeClaim"] == {"claimName": "patients", "readOnly": True}
        assert mount == {"name": "raw", "mountPath": names.RAW_FOLDER, "readOnly": True}
    assert "patients" not in json.dumps(spec["submitterPodTemplate"]), "it reads nothing"
    for other in (a_build(source="phantom"), a_build(source="odir", root="s3://raw/odir"), REQUEST):
        assert "patients" not in json.dumps(
            manifest.rayjob(other, "s3://b/x", platform(), NOTHING, "image", "0" * 64, 1)
        )


def test_a_build_asks_for_the_pods_of_a_training_without_their_gpus() -> None:
    asked = platform(gpus=8, cpus=32, accelerator="NVIDIA-H100")
    asked = asked.model_copy(update={"workers": 20})
    jobs = [
        manifest.rayjob(one, "s3://b/x", asked, NOTHING, "image", "0" * 64, 1)
        for one in (a_build(source="phantom"), REQUEST)
    ]
    build, training = (one["spec"]["rayClusterSpec"]["workerGroupSpecs"][0] for one in jobs)
    assert build["replicas"] == training["replicas"] == 3
    assert "nvidia" not in json.dumps(build["template"]["spec"])
    for key in ("cpu", "memory"):
        limits = [one["template"]["spec"]["containers"][0]["resources"]["limits"][key] for one in (build, training)]
        assert limits[0] == limits[1]


def test_no_value_of_a_secret_is_in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-that-nobody-may-see")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-that-nobody-may-see")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    text = json.dumps(manifest.rayjob(REQUEST, "s3://b/x", platform(), NOTHING, "image", "0" * 64, 1))
    assert "nobody-may-see" not in text
    assert "http://minio:9000" in text
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"):
        assert f'"key": "{key}"' in text


@pytest.mark.parametrize(
    ("ray", "remote"),
    [("local", False), ("auto", False), ("head:6379", False), ("rayjob", True), ("https://h:8265", True)],
)
def test_a_cluster_is_remote_where_this_process_is_not_part_of_it(ray: str, remote: bool) -> None:
    assert is_remote(load("demo", [f"platform.ray={ray}"])) is remote


@pytest.mark.parametrize(
    "line",
    [
        "platform.ray=ray://head:10001",
        "platform.pods.gpus=-1",
        "platform.pods.memory=0Gi",
        "platform.pods.memory=4 Gi",
        "platform.pods.lease_seconds=5",
        "platform.pods.grace_seconds=5",
    ],
)
def test_what_kubernetes_would_refuse_the_recipe_refuses(line: str) -> None:
    with pytest.raises(UserError, match="problem") as raised:
        load("demo", [line])
    assert line.partition("=")[0] in str(raised.value)


SERVING = {
    "ray": "rayjob",
    "pods": {
        "image": "r/medmim@sha256:1",
        "cuda_image": "r/medmim-cuda@sha256:3",
        "vllm_image": "r/medmim-vllm@sha256:2",
    },
}


@pytest.mark.parametrize(
    ("stage", "engine", "image"),
    [
        ("bench", "vllm", "r/medmim-vllm@sha256:2"),
        ("rebench", "vllm", "r/medmim-vllm@sha256:2"),
        ("bench", "transformers", "r/medmim-cuda@sha256:3"),
        ("finetune", "vllm", "r/medmim-cuda@sha256:3"),
        ("data", "vllm", "r/medmim@sha256:1"),
    ],
)
def test_the_pods_of_a_job_have_the_image_with_what_it_needs(stage: str, engine: str, image: str) -> None:
    recipe = validate(
        {"name": "b", "data": {"source": "phantom"}, "bench": {"engine": engine}, "platform": SERVING}, "test"
    )
    request = Request(stage, recipe.dump(), "r", {})
    found = manifest.image(request, recipe.platform)
    assert found == image
    spec = manifest.spec(recipe.platform, NOTHING, found, "s3://b/x", "lease")
    cluster = spec["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
    assert {pod["spec"]["containers"][0]["image"] for pod in templates} == {image}


def test_a_recipe_of_pods_that_serve_names_their_image() -> None:
    own = {"name": "b", "data": {"source": "phantom"}, "bench": {"engine": "vllm"}}
    with pytest.raises(UserError, match="platform.pods.vllm_image"):
        validate({**own, "platform": {"ray": "rayjob"}}, "test")
    validate({**own, "platform": {"ray": "local"}}, "test")
