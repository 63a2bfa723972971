"""What is missing on a cluster for a recipe, read by the real Kubernetes client from an API server with few objects."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.cluster.doctor import image
from medmim.cluster.kfp import client, pods, preflight, submit
from medmim.cluster.kube import connect
from medmim.cluster.pod_templates import PodTemplates
from medmim.doctor.check import Check, run_side_by_side
from medmim.errors import UserError
from medmim.recipe.loading import validate
from medmim.recipe.schema import Recipe
from tests.support.kfp_world import World
from tests.support.servers import healthy_only

SPACE = "/api/v1/namespaces/team-a"
MINIO = f"{SPACE}/secrets/mlpipeline-minio-artifact"
ARGO = "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap"
KEYS = {"AWS_ACCESS_KEY_ID": "eA==", "AWS_SECRET_ACCESS_KEY": "eA=="}


class Objects(dict[str, dict[str, Any]]):
    """Path -> object; an absent one is 404, one in `hidden` is 403."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()
        self["/version"] = {"gitVersion": "v1.36.0"}
        self[SPACE] = {"metadata": {"name": "team-a"}, "status": {"phase": "Active"}}
        self[f"{SPACE}/serviceaccounts/medmim-step"] = {"metadata": {"name": "medmim-step"}}
        self[f"{SPACE}/secrets/medmim-s3"] = {"data": dict(KEYS)}
        self[MINIO] = {"data": {"accesskey": "eA==", "secretkey": "eA=="}}
        self[f"{SPACE}/configmaps/kfp-launcher"] = {"data": {"defaultPipelineRoot": "minio://mlpipeline/v2/artifacts"}}
        self[f"{SPACE}/services/ml-pipeline"] = {"metadata": {"name": "ml-pipeline"}}
        self[f"{SPACE}/configmaps/medmim"] = {"data": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}}


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Iterator[Objects]:
    found = Objects()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status = 403 if path in found.hidden else 200 if path in found else 404
            body = json.dumps(
                found.get(path, {"kind": "Status", "message": f"{path} not found", "code": status})
            ).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        named = {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}, "name": "c"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [named],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield found
        server.shutdown()


def planned(world: World, image: str | None = None) -> submit.Plan:
    return submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=image)


def place(world: World, recipe: Recipe | None = None) -> preflight.Place:
    return preflight.place(client.connect(world.access), recipe or world.recipe)


KUBEFLOW = "/api/v1/namespaces/kubeflow"


def kfp_in_kubeflow(objects: Objects) -> None:
    objects[f"{KUBEFLOW}/services/ml-pipeline"] = objects.pop(f"{SPACE}/services/ml-pipeline")
    for name in [name for name in objects if name.startswith(SPACE)]:
        objects[name.replace(SPACE, KUBEFLOW)] = objects[name]


def test_a_kfp_for_one_user_is_checked_where_it_runs_pods_whatever_is_given(world: World, objects: Objects) -> None:
    kfp_in_kubeflow(objects)
    found = planned(world, world.image)
    assert submit.describe(found)["namespace"] == "kubeflow"
    (note,) = found.notes
    assert "serves one user: its pods run in kubeflow, its own, not in team-a" in note
    del objects[f"{KUBEFLOW}/serviceaccounts/medmim-step"]
    with pytest.raises(UserError) as raised:
        planned(world, world.image)
    (problem,) = raised.value.problems
    assert "no service account medmim-step in kubeflow" in problem and "runNamespaces" in problem


@pytest.mark.parametrize("way", ["absent", "hidden"])
def test_where_kfps_own_namespace_is_not_found_a_note_says_what_was_checked(
    world: World, objects: Objects, way: str
) -> None:
    del objects[f"{SPACE}/services/ml-pipeline"]
    objects.hidden |= {f"{one}/services/ml-pipeline" for one in (SPACE, KUBEFLOW) if way == "hidden"}
    (note,) = planned(world, world.image).notes
    assert "Service ml-pipeline, which was not found; checked was team-a" in note


def test_the_address_of_a_service_says_where_kfp_is() -> None:
    hosts = ("http://ml-pipeline.kfp:8888", "http://ml-pipeline.kfp.svc.cluster.local:8888", "http://localhost:8888")
    assert [pods.namespace_of_server(one, None) for one in hosts] == ["kfp", "kfp", ""]


WORKFLOWS = "/apis/argoproj.io/v1alpha1/namespaces/team-a/workflows"


@pytest.mark.parametrize(
    ("workflows", "refused"),
    [([], False), ([{"metadata": {"name": "w"}}], True), (None, True), ("hidden", True), ("elsewhere", True)],
)
def test_a_run_whose_workflow_is_gone_does_not_hold_its_recipe(
    world: World, objects: Objects, workflows: Any, refused: bool
) -> None:
    objects.hidden |= {WORKFLOWS} if workflows == "hidden" else set()
    objects |= {WORKFLOWS: {"items": workflows}} if isinstance(workflows, list) else {}
    if workflows == "elsewhere":  # in this cluster is Argo, but not this KFP
        objects[WORKFLOWS] = {"items": []}
        del objects[f"{SPACE}/services/ml-pipeline"]
    submit.start(planned(world, world.image))
    world.kfp.run("demo-1")["state"] = "CANCELING"
    try:
        (note,) = submit.plan("train", world.recipe, "demo-2", access=lambda: world.access, image=world.image).notes
    except UserError as error:
        assert refused and "medmim runs delete demo-1" in error.fix and "Workflow" in error.fix
    else:
        assert not refused and "demo-1" in note and "its Workflow is gone; `medmim runs delete demo-1`" in note


def test_a_cluster_that_has_everything_is_checked_without_a_note(world: World, objects: Objects) -> None:
    assert planned(world, world.image).notes == ()


def test_settings_come_from_the_cluster(world: World, objects: Objects) -> None:
    objects[f"{SPACE}/configmaps/medmim"]["data"] |= {"MEDMIM_IMAGE": world.image, "MEDMIM_STORE": f"{world.store}2"}
    platform = world.recipe.platform.model_copy(update={"store": None, "tracking": None})
    recipe = world.recipe.model_copy(update={"platform": platform})
    plan = submit.plan("train", recipe, "demo-1", access=lambda: world.access, image=None)
    assert plan.image.startswith(f"{world.registry.address}/medmim@sha256:") and plan.store == f"{world.store}2"
    assert plan.recipe.platform.tracking is None, "pods read MLflow's address from the cluster's settings"


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        (SPACE, "namespace: namespace team-a does not exist"),
        (f"{SPACE}/serviceaccounts/medmim-step", "account: no service account medmim-step"),
        (f"{SPACE}/secrets/medmim-s3", "secrets: no secret medmim-s3"),
        (MINIO, "launcher: no secret mlpipeline-minio-artifact"),
    ],
)
def test_what_is_missing_is_reported_with_its_fix(world: World, objects: Objects, missing: str, problem: str) -> None:
    del objects[missing]
    with pytest.raises(UserError, match="cannot run on this cluster") as raised:
        planned(world, world.image)
    (reported,) = raised.value.problems
    assert reported.startswith(problem) and "; fix: " in reported and world.kfp.changes() == []


def test_a_secret_without_a_key_and_all_else_are_reported_at_once(world: World, objects: Objects) -> None:
    del objects[f"{SPACE}/secrets/medmim-s3"]["data"]["AWS_ACCESS_KEY_ID"]
    del objects[f"{SPACE}/serviceaccounts/medmim-step"]
    with pytest.raises(UserError) as raised:
        planned(world)
    text = " ".join(raised.value.problems)
    assert len(raised.value.problems) == 3 and "has no key AWS_ACCESS_KEY_ID" in text
    assert "image: not configured" in text


def test_a_ray_job_needs_its_crd_and_accounts(world: World, objects: Objects) -> None:
    platform = world.recipe.platform.model_copy(update={"ray": "rayjob"})
    kube = place(world).kube
    assert kube is not None
    problems = preflight.missing(
        kube, world.recipe.model_copy(update={"platform": platform}), PodTemplates(), world.kfp.address
    )
    assert [problem.partition(":")[0] for problem in problems] == ["crds", "accounts"]
    assert "no RayJob of ray.io/v1" in problems[0]


def archive(secret: str) -> str:
    """How Argo's settings name the store of its log archive; as in KFP's workflow-controller-configmap."""
    named = {"accessKeySecret": {"name": secret, "key": "id"}, "secretKeySecret": {"name": secret, "key": "password"}}
    return yaml.safe_dump({"archiveLogs": True, "s3": {"endpoint": "s3:9000", "bucket": "b", **named}})


def launcher(kfp: str = "http://localhost:8888") -> Check:
    kube = connect("team-a")
    found = next(iter(run_side_by_side({"launcher": lambda: image.launcher(kube, kfp)})))
    assert found.status == "ok" or "kubectl -n team-a create" in found.fix
    return found


def test_what_kfps_own_containers_read_is_named_with_how_to_copy_it(objects: Objects) -> None:
    assert launcher().status == "ok"
    del objects[MINIO]["data"]["secretkey"]
    assert (launcher().status, launcher().found.partition(";")[0]) == (
        "fail",
        "secret mlpipeline-minio-artifact has no key secretkey",
    )
    del objects[MINIO]
    assert "no secret mlpipeline-minio-artifact" in launcher().found
    assert "kubectl -n ml get secret mlpipeline-minio-artifact" in launcher("http://ml-pipeline.ml:8888").fix


def test_a_namespace_without_kfp_launcher_is_a_warning(objects: Objects) -> None:
    del objects[f"{SPACE}/configmaps/kfp-launcher"]
    assert launcher().status == "warn" and "minio://mlpipeline/v2/artifacts" in launcher().found


def test_the_secret_is_the_one_that_argo_is_set_to(objects: Objects) -> None:
    del objects[MINIO]
    objects[ARGO] = {"data": {"artifactRepository": archive("ours")}}
    assert launcher().found.startswith("no secret ours")
    objects[f"{SPACE}/secrets/ours"] = {"data": {"id": "eA==", "password": "eA=="}}
    assert launcher().status == "ok"
    annotations = {"workflows.argoproj.io/default-artifact-repository": "default-namespaced"}
    own = {"metadata": {"annotations": annotations}, "data": {"default-namespaced": archive("the-teams")}}
    objects[f"{SPACE}/configmaps/artifact-repositories"] = own
    assert launcher().found.startswith("no secret the-teams")
    objects[ARGO]["data"]["artifactRepository"] = "s3: {useSDKCreds: true}"
    del objects[f"{SPACE}/configmaps/artifact-repositories"]
    assert launcher().status == "ok", "a role of the nodes needs no Secret"


def test_where_argos_settings_cannot_be_read_a_missing_secret_is_a_warning(world: World, objects: Objects) -> None:
    del objects[MINIO]
    objects.hidden.add(ARGO)
    assert launcher().status == "warn" and "KFP's own settings" in launcher().found
    assert planned(world, world.image).notes == ()


def test_what_this_account_may_not_read_is_no_problem(world: World, objects: Objects) -> None:
    objects.hidden |= {f"{SPACE}/secrets/medmim-s3", f"{SPACE}/secrets/medmim-mlflow"}
    assert planned(world, world.image).notes == ()


def test_a_cluster_without_mlflow_in_its_settings_is_reported(world: World, objects: Objects) -> None:
    platform = world.recipe.platform.model_copy(update={"tracking": None})
    recipe = world.recipe.model_copy(update={"platform": platform})
    del objects[f"{SPACE}/configmaps/medmim"]
    (problem,) = preflight.unsupported(recipe, place(world, recipe).setup)
    assert problem.startswith("platform.tracking: not configured, nor MLFLOW_TRACKING_URI in ConfigMap medmim")


def test_models_to_compare_with_that_pods_cannot_reach_are_named(world: World) -> None:
    values = json.loads(world.recipe.dump())
    models = {
        "here": "/a/folder", "server": "openai:http://127.0.0.1:8000/v1#m", "there": "openai:http://vllm:8000/v1#m",
        "mine": "models:/demo@champion", "shipped": "tiny-mantis", "stored": "s3://bucket/model/1",
        "torn": "openai:http://[::1/v1#m",
    }  # fmt: skip
    kept = {name: values[name] for name in ("data", "platform")}
    recipe = validate({"name": "c", "pipeline": "bench", "bench": {"models": models}, **kept}, "c")
    problems = preflight.unsupported(recipe, place(world).setup)
    assert [problem.partition(":")[0] for problem in problems] == ["bench.models.here", "bench.models.server"]
    with pytest.raises(UserError, match="cannot be found") as raised:
        preflight.refuse_missing_models(recipe, world.store)
    assert any(problem.startswith("torn: ") and "IPv6" in problem for problem in raised.value.problems)


def test_pods_that_are_too_small_for_a_worker_are_reported_with_what_it_needs(world: World) -> None:
    def problems(memory: str) -> list[str]:
        small = world.recipe.platform.pods.model_copy(update={"memory": memory})
        platform = world.recipe.platform.model_copy(update={"ray": "rayjob", "pods": small})
        recipe = world.recipe.model_copy(update={"platform": platform})
        return preflight.unsupported(recipe, place(world, recipe).setup)

    assert problems("4Gi") == []
    (problem,) = problems("512Mi")
    assert problem.startswith("platform.pods: this training does not fit: a worker needs")
    assert "memory 512Mi" in problem and "libraries: " in problem


@pytest.mark.parametrize("login", ["none", "secret", "unknown"])
def test_an_mlflow_that_requires_a_login_is_refused_where_pods_have_none(
    world: World, objects: Objects, login: str
) -> None:
    secret = f"{SPACE}/secrets/medmim-mlflow"
    if login == "secret":
        objects[secret] = {"data": {"MLFLOW_TRACKING_USERNAME": "eA==", "MLFLOW_TRACKING_PASSWORD": "eA=="}}
    objects.hidden |= {secret} if login == "unknown" else set()
    with healthy_only(401, "You are not authenticated.") as uri:
        recipe = world.recipe.model_copy(
            update={"platform": world.recipe.platform.model_copy(update={"tracking": uri})}
        )
        found = place(world, recipe)
        if login == "none":
            with pytest.raises(UserError, match="requires a login: 401") as raised:
                preflight.mlflow_notes(found.kube, found.setup)
            assert raised.value.exit_code == 2 and "Secret medmim-mlflow" in raised.value.reason + raised.value.fix
        else:
            (note,) = preflight.mlflow_notes(found.kube, found.setup)
            assert "requires a login: 401; that is what this environment gets" in note
