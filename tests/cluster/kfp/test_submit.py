"""Submitting a recipe: checked, pinned, uploaded once, started. The real kfp.Client on the contract server."""

import json
import re
import threading
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim import __version__
from medmim.cluster.doctor import setup
from medmim.cluster.kfp import client, compiled, get_or_create, preflight, submit
from medmim.cluster.kfp.access import resolve
from medmim.errors import Unavailable, UserError
from medmim.recipe import names
from medmim.recipe.parameter import from_parameter
from medmim.recipe.schema import Data, Recipe
from medmim.run.person import submitter
from medmim.store import open_store
from tests.support.kfp_world import World, a_world
from tests.support.waiting import until


def submitted(world: World, run: str = "demo-1", recipe: Recipe | None = None, **more: Any) -> submit.Submitted:
    options = {"image": world.image, **more}
    return submit.start(submit.plan("train", recipe or world.recipe, run, access=lambda: world.access, **options))


def error_of(world: World, exit_code: int = 2, **changed: Any) -> UserError:
    """The error of a submission that fails; nothing may be left behind."""
    before = world.left()
    with pytest.raises(UserError) as raised:
        submitted(world, **changed)
    assert raised.value.exit_code == exit_code and raised.value.fix, raised.value
    assert world.left() == before and not world.kfp.state.runs
    return raised.value


def test_a_run_is_started_with_the_uri_of_its_recipe_and_nothing_secret(world: World) -> None:
    made = submitted(world)
    run = world.kfp.state.runs[made.run_id]
    assert run["runtime_config"]["parameters"] == {
        "recipe": f"{world.store}/runs/demo-1/recipe.json",
        "home": "/home/medmim/.medmim",
        "run": "demo-1",
    }
    assert run["service_account"] == "medmim-step"
    assert made.link == "", "only KFP's API is known"
    text = open_store(f"{world.store}/runs/demo-1").read("recipe.json").decode()
    assert "medmim-secret" not in text + str(run) + str(world.kfp.state.specs)


def token(**claims: str) -> str:
    """A JSON Web Token as an identity provider gives it; KFP checks its signature, and we do not."""
    return ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in (b"{}", json.dumps(claims).encode(), b"s"))


@pytest.mark.parametrize(
    ("claims", "given", "expected"),
    [
        ({"sub": "8f2e", "email": "jane@example.org"}, "somebody-else", "jane@example.org"),
        ({"sub": "8f2e"}, "", "8f2e"),
        ({"sub": "system:serviceaccount:jane:default-editor"}, "", "system:serviceaccount:jane:default-editor"),
        ({"sub": "system:serviceaccount:medmim:medmim-nightly"}, "nightly of medmim", "nightly of medmim"),
        (None, "jane", "jane"),
    ],
)
def test_a_run_records_who_submitted_it_and_its_steps_read_that(
    world: World, claims: dict[str, str] | None, given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_USER", given)
    access = replace(world.access, token=token(**claims) if claims else "opaque.token.x")
    planned = submit.plan("train", world.recipe, "demo-1", access=lambda: access, image=world.image)
    assert submit.describe(planned)["who"] == expected and world.left() == []
    made = submit.start(planned)
    assert submitter(made.recipe, made.run) == expected


@pytest.mark.parametrize("who", ["medmim", "root", "$(WHO)", "uid 10001"])
def test_nobody_submits_nothing(world: World, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDMIM_USER", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: who)
    assert "set MEDMIM_USER" in error_of(world).fix
    monkeypatch.setenv("MEDMIM_USER", who)
    assert who in str(error_of(world))


def test_steps_read_the_recipe_with_the_store_and_the_image_that_were_resolved(world: World) -> None:
    made = submitted(world)
    read = from_parameter(made.recipe)
    assert read.platform.store == world.store
    assert read.platform.pods.image == f"{world.registry.address}/medmim@{world.registry.push('v1')}"
    assert read.data == world.recipe.data and read.finetune == world.recipe.finetune


def test_every_container_is_the_image_by_its_digest(world: World) -> None:
    made = submitted(world)
    (spec,) = world.kfp.state.specs.values()
    pinned = f"{world.registry.address}/medmim@{world.registry.push('v1')}"
    executors = next(iter(yaml.safe_load_all(spec)))["deploymentSpec"]["executors"].values()
    assert {one["container"]["image"] for one in executors} == {pinned}
    assert made.version == compiled.pinned(compiled.load("train"), pinned, pinned).digest


def test_what_trains_or_asks_runs_in_the_image_with_torch_unless_rays_pods_do_so(world: World) -> None:
    digest, address = world.registry.push("v1"), world.registry.address
    cpu, cuda = f"{address}/medmim@{digest}", f"{address}/medmim-cuda@{digest}"
    remote = world.recipe.model_copy(update={"platform": world.recipe.platform.model_copy(update={"ray": "rayjob"})})

    def images(recipe: Recipe) -> dict[str, str]:
        planned = submit.plan("train", recipe, "r-1", access=lambda: world.access, image=cpu, cuda_image=cuda)
        pods = planned.recipe.platform.pods
        assert (planned.image, planned.cuda_image, pods.image, pods.cuda_image) == (cpu, cuda, cpu, cuda)
        executors = next(yaml.safe_load_all(planned.ir.text))["deploymentSpec"]["executors"].items()
        return {name.removeprefix("exec-"): one["container"]["image"] for name, one in executors}

    here = images(world.recipe)
    assert {name for name, image in here.items() if image == cuda} == {"finetune", "bench"}
    assert set(here.values()) == {cpu, cuda}
    assert set(images(remote).values()) == {cpu}


def test_a_step_whose_work_is_in_rays_pods_is_small(world: World) -> None:
    def asked(recipe: Recipe) -> dict[str, Any]:
        planned = submit.plan("train", recipe, "demo-1", access=lambda: world.access, image=world.image)
        spec = next(yaml.safe_load_all(planned.ir.text))
        executors = spec["deploymentSpec"]["executors"].items()
        return {name: one["container"]["resources"]["resourceMemoryRequest"] for name, one in executors}

    here = asked(world.recipe)
    there = asked(
        world.recipe.model_copy(update={"platform": world.recipe.platform.model_copy(update={"ray": "rayjob"})})
    )
    assert (here["exec-finetune"], here["exec-gate"]) == ("3Gi", "1Gi") and set(there.values()) == {"1Gi"}


def test_a_cache_claim_is_mounted_into_every_step_and_changes_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_CACHE_CLAIM", "medmim-cache")
    submitted(world)
    spec, platform = yaml.safe_load_all(next(iter(world.kfp.state.specs.values())))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    for executor in executors:
        (mount,) = executor.pop("pvcMount")
        assert mount["mountPath"] == names.CACHE_FOLDER
        assert mount["pvcNameParameter"] == {"runtimeValue": {"constant": "medmim-cache"}}
    for executor in spec["deploymentSpec"]["executors"].values():
        assert executor["container"].pop("env") == [{"name": "MEDMIM_CACHE", "value": names.CACHE_FOLDER}]
    plain = f"{world.registry.address}/medmim@{world.registry.push('v1')}"
    assert [spec, platform] == list(yaml.safe_load_all(compiled.pinned(compiled.load("train"), plain, plain).text))
    assert len(executors) == len(spec["deploymentSpec"]["executors"]) > 5


def test_a_claim_of_raw_data_is_mounted_into_the_data_step_alone_and_allows_its_folders(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [{"name": "odir", "root": "odir"}, {"name": "vqa_rad", "root": "s3://raw/vqa"}]
    data = Data.model_validate({"sources": sources, "root": names.RAW_FOLDER}, strict=False)
    recipe = world.recipe.model_copy(update={"data": data})
    (told, below) = error_of(world, recipe=recipe).problems
    assert told.startswith("data.root:") and below.startswith("data.sources.0.root:") and "rawData" in told
    monkeypatch.setenv("MEDMIM_RAW_CLAIM", "raw")
    submitted(world, recipe=recipe)
    _, platform = yaml.safe_load_all(next(iter(world.kfp.state.specs.values())))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = {name: one["pvcMount"] for name, one in executors.items() if "pvcMount" in one}
    assert list(mounted) == ["exec-data"]
    assert [(one["mountPath"], one["constant"]) for one in mounted["exec-data"]] == [(names.RAW_FOLDER, "raw")]


def test_what_the_platform_wants_of_pods_is_in_the_pipeline_that_is_uploaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = {"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}, "spec": {"nodeSelector": {"pool": "cpu"}}}
    monkeypatch.setenv("MEDMIM_PODS", yaml.safe_dump({"step": [template]}))
    submitted(world)
    _, platform = yaml.safe_load_all(next(iter(world.kfp.state.specs.values())))
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert executor["nodeSelector"] == {"labels": {"pool": "cpu"}}
        assert executor["podMetadata"]["labels"]["sidecar.istio.io/inject"] == "false"


def test_what_the_platform_wants_and_kfp_cannot_say_is_refused_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_PODS", yaml.safe_dump({"step": [{"spec": {"runtimeClassName": "nvidia"}}]}))
    error = error_of(world)
    assert error.exit_code == 2 and "spec.runtimeClassName" in error.problems
    assert not world.kfp.state.specs


def test_an_image_that_nodes_have_and_no_registry_is_submitted_as_it_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `kind load` brings it; the world's registry knows no such image."""
    never = [{"spec": {"containers": [{"name": "main", "imagePullPolicy": "Never"}]}}]
    monkeypatch.setenv("MEDMIM_PODS", yaml.safe_dump({"step": never}))
    planned = submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image="localhost/medmim:dev")
    assert planned.image == planned.recipe.platform.pods.image == "localhost/medmim:dev"
    assert any("localhost/medmim:dev" in note and "registry" in note for note in planned.notes)
    spec, platform = yaml.safe_load_all(planned.ir.text)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert {one["imagePullPolicy"] for one in executors} == {"Never"}
    assert {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values()} == {
        "localhost/medmim:dev"
    }


def test_the_same_content_twice_is_one_version_and_two_runs(world: World) -> None:
    first = submitted(world)
    world.kfp.end(world.kfp.run("demo-1"), "SUCCEEDED")
    second = submitted(world, "demo-2")
    assert (first.new_version, second.new_version) == (True, False) and first.version == second.version
    assert len(world.kfp.state.versions) == len(world.kfp.state.pipelines) == len(world.kfp.state.experiments) == 1
    assert len(world.kfp.state.runs) == 2


def test_another_image_is_another_version_of_the_same_pipeline(world: World) -> None:
    submitted(world)
    world.kfp.end(world.kfp.run("demo-1"), "FAILED")
    world.registry.content.clear()
    world.registry.push("v1", version=None)
    assert submitted(world, "demo-2").new_version
    assert (len(world.kfp.state.versions), len(world.kfp.state.pipelines)) == (2, 1)


def test_two_submitters_at_once_make_one_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have found none, then both upload."""
    both, original = threading.Barrier(2, timeout=30), get_or_create._get_or_create

    def at_once(find: Any, create: Any) -> Any:
        def create_together() -> str:
            both.wait()
            return str(create())

        return original(find, create_together)

    monkeypatch.setattr(get_or_create, "_get_or_create", at_once)
    recipes = [world.recipe, world.recipe.model_copy(update={"name": "other"})]
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda pair: submitted(world, *pair), zip(("a-1", "b-1"), recipes, strict=True)))
    assert sorted(one.new_version for one in made) == [False, True]
    assert len(world.kfp.state.versions) == len(world.kfp.state.pipelines) == len(world.kfp.state.experiments) == 1
    assert len(world.kfp.state.runs) == 2


def test_a_recipe_whose_run_has_not_ended_is_refused_with_its_name(world: World) -> None:
    submitted(world)
    for state in ("PENDING", "RUNNING", "PAUSED", "CANCELING", "RUNTIME_STATE_UNSPECIFIED"):
        shown = "PENDING" if state.endswith("UNSPECIFIED") else state
        world.kfp.run("demo-1")["state"] = state
        with pytest.raises(UserError, match=f"run demo-1 of recipe demo is running .{shown}.") as raised:
            submitted(world, "demo-2")
        assert ("submit again when" if state == "CANCELING" else "medmim runs cancel demo-1") in raised.value.fix
    assert len(world.kfp.state.runs) == 1 and not [key for key in world.left() if "demo-2" in key]
    submitted(world, "demo-3", world.recipe.model_copy(update={"name": "other"}))


def test_an_existing_run_of_that_name_is_not_overwritten(world: World) -> None:
    open_store(world.store).write("runs/demo-1/recipe.json", b"mine")
    assert "there is a run demo-1" in error_of(world).fact
    assert open_store(world.store).read("runs/demo-1/recipe.json") == b"mine"


def test_a_plan_changes_nothing(world: World) -> None:
    planned = submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image)
    assert submit.describe(planned)["new_version"] and world.left() == []
    assert world.kfp.changes() == [] and not world.kfp.state.pipelines


def test_all_that_is_wrong_with_a_recipe_is_reported_at_once(world: World, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("{}")
    wrong = {
        "data": {"root": str(tmp_path), "annotations": "here"},
        "finetune": {"base": str(tmp_path)},
        "gate": {"policy": str(tmp_path / "policy.yaml")},
        "platform": {"ray": "auto", "store": str(tmp_path / "store"), "tracking": "sqlite:///mlflow.db"},
    }
    recipe = world.recipe
    for section, values in wrong.items():
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})
    error = error_of(world, run="Demo_1", recipe=recipe, experiment="x" * 129, image=None)
    keys = [problem.partition(":")[0].partition(" '")[0] for problem in error.problems]
    assert keys == [
        "data.root", "data.annotations", "finetune.base", "gate.policy", "platform.ray", "platform.store",
        "platform.tracking", "run", "experiment", "image",
    ]  # fmt: skip
    assert world.kfp.changes() == []


@pytest.mark.parametrize("host", [None, "http://127.0.0.1:1"])
def test_without_kfp_all_else_that_is_wrong_is_reported_too(
    world: World, host: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = world.recipe.platform.model_copy(update={"store": "s3://no-such-bucket/store"})
    platform = platform.model_copy(update={"pods": platform.pods.model_copy(update={"vllm_image": "no image"})})
    recipe = world.recipe.model_copy(update={"platform": platform})
    monkeypatch.setenv("MEDMIM_USER", "medmim")
    with pytest.raises(UserError, match="recipe demo cannot run on this cluster") as raised:
        submit.plan(
            "train", recipe, "Demo_1", access=lambda: resolve(host), image=f"{world.registry.address}/medmim:no"
        )
    told = [problem.partition(";")[0] for problem in raised.value.problems]
    kfp = f"KFP at {host} does not answer" if host else "KFP's address is not configured"
    assert told[0].startswith("run 'Demo_1'") and told[1:3] == [
        kfp,
        "who submits this run is not known: 'medmim' is no person",
    ]
    assert (
        "no-such-bucket" in told[3]
        and "has no image" in told[4]
        and "'no image' is no name" in told[5]
        and len(told) == 6
    )
    assert raised.value.exit_code == 2 and all("; fix: " in problem for problem in raised.value.problems[1:])


def test_where_nothing_but_servers_is_away_the_exit_code_says_try_again(world: World) -> None:
    world.registry.down = True
    with pytest.raises(UserError) as raised:
        submit.plan("train", world.recipe, "demo-1", access=lambda: resolve("http://127.0.0.1:1"), image=world.image)
    assert raised.value.exit_code == 75 and len(raised.value.problems) == 2


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("platform", "ray", "http://localhost:8265"), ("platform", "ray", "10.0.0.1:6379"),
        ("platform", "tracking", "http://127.0.0.1:5000"), ("finetune", "base", "no-such-base"),
    ],
)  # fmt: skip
def test_what_only_this_machine_has_is_refused(world: World, section: str, key: str, value: str) -> None:
    changed = getattr(world.recipe, section).model_copy(update={key: value})
    error = error_of(world, recipe=world.recipe.model_copy(update={section: changed}))
    assert [problem.startswith(f"{section}.{key}: {value}") for problem in error.problems] == [True]


@pytest.mark.parametrize("mark", ["{{", "[["])
def test_what_kfp_would_expand_as_a_template_is_refused(mark: str) -> None:
    (problem,) = preflight.invalid_names("run", "medmim", "", f"s3://bucket/{mark}x/runs/run/recipe.json")
    assert mark in problem


@pytest.mark.parametrize("ray", ["local", "rayjob", "http://ray-head.team-a:8265"])
@pytest.mark.parametrize("base", ["tiny-mantis", "s3://b/model/1", "models:/medmim@champion"])
def test_what_pods_can_reach_is_accepted(world: World, ray: str, base: str) -> None:
    recipe = world.recipe
    recipe = recipe.model_copy(
        update={
            "platform": recipe.platform.model_copy(update={"ray": ray}),
            "finetune": recipe.finetune.model_copy(update={"base": base}),
        }
    )
    assert preflight.unsupported(recipe, setup.resolve(None, recipe.platform)) == []


def test_a_cluster_that_was_not_checked_is_a_note(world: World) -> None:
    notes = submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image).notes
    assert [note for note in notes if note.startswith("the Kubernetes cluster was not checked: no Kubernetes cluster")]


def test_an_ir_of_another_version_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "__version__", "9.9.9")
    assert f"was made by medmim {__version__}, and this is 9.9.9" in error_of(world).fact


def test_an_ir_that_was_cut_off_is_refused(world: World) -> None:
    text = compiled.load("train").text
    for cut in (0, len(text) // 3, len(text) // 2, len(text) * 3 // 4):
        with pytest.raises(UserError) as raised:
            compiled.parse(text[:cut], "train")
        assert raised.value.exit_code == 2 and raised.value.fix


def test_an_image_of_another_version_is_refused(world: World) -> None:
    world.registry.push("v1", version="0.0.1")
    assert "holds medmim 0.0.1" in error_of(world).fact


def test_an_image_without_a_version_is_a_note(world: World) -> None:
    world.registry.push("v1", version=None)
    notes = submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image).notes
    assert [note for note in notes if note.startswith("the version of medmim in the image is not known")]


def test_a_tag_that_does_not_exist_is_refused(world: World) -> None:
    assert "has no image" in error_of(world, image=f"{world.registry.address}/medmim:none").fact


@pytest.mark.parametrize(
    ("pattern", "status"), [("POST .*/pipelines$", 503), ("upload_version", 503), ("POST .*/experiments$", 500)]
)
def test_a_short_outage_of_the_server_is_outlasted(world: World, pattern: str, status: int) -> None:
    world.kfp.front.fail.append((pattern, status))
    assert submitted(world).new_version and world.kfp.front.fail == []


def test_an_answer_that_is_lost_starts_no_second_run(world: World) -> None:
    world.kfp.front.lose += ["POST .*/pipelines$", "upload_version", "POST .*/experiments$", "POST .*/runs$"]
    made = submitted(world)
    assert list(world.kfp.state.runs) == [made.run_id] and world.kfp.front.lose == []
    assert len(world.kfp.state.versions) == len(world.kfp.state.pipelines) == len(world.kfp.state.experiments) == 1


def test_a_run_that_does_not_start_leaves_no_recipe(world: World) -> None:
    world.kfp.front.fail.append(("POST .*/runs$", 503))
    error = error_of(world, exit_code=75)
    assert isinstance(error, Unavailable) and "503" in error.fact


def test_a_server_that_refuses_the_run_leaves_no_recipe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_HOME", 7)
    assert "requires type string" in error_of(world).reason


def test_an_interrupt_after_the_start_leaves_the_run_its_recipe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "Submitted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submitted(world)
    assert world.kfp.run("demo-1") and world.left() == ["runs/demo-1/recipe.json", "runs/demo-1/submitted.json"]


def test_names_in_other_alphabets_and_with_quotes_are_found(world: World) -> None:
    for name in ("50 % + more", "naïve", 'say "x"'):
        get_or_create.experiment(submit.client.connect(world.access), name)
        assert get_or_create.experiment(submit.client.connect(world.access), name)
    assert len(world.kfp.state.experiments) == 3


def test_on_a_multi_user_server_everything_is_in_the_users_namespace(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_world(tmp_path, f"{bucket}/store", monkeypatch, multi_user=True) as world:
        submitted(world)
        assert {one["namespace"] for one in world.kfp.state.pipelines.values()} == {"team-a"}
        assert {one["namespace"] for one in world.kfp.state.experiments.values()} == {"team-a"}
        assert re.search("'team-a'", str(world.kfp.state.runs))


def test_a_run_that_a_slow_server_starts_later_has_its_recipe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image)
    monkeypatch.setattr(client, "_SECONDS", (5, 1))
    world.kfp.front.slow.append(("POST .*/runs$", 2.5))
    with pytest.raises(Unavailable, match="whether the run demo-1 was started is not known") as raised:
        submit.start(planned)
    assert "medmim runs show demo-1" in raised.value.fix and not world.kfp.state.runs
    until(lambda: world.kfp.state.runs)
    assert from_parameter(f"{world.store}/runs/demo-1/recipe.json").name == "demo"


def test_where_it_is_unknown_whether_the_run_exists_its_recipe_stays(world: World) -> None:
    planned = submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image)
    world.kfp.front.lose.append("POST .*/runs$")
    world.kfp.front.fail += [("GET .*/runs$", 503)] * 10
    with pytest.raises(Unavailable, match="is not known") as raised:
        submit.start(planned)
    assert "medmim runs show demo-1" in raised.value.fix
    assert len(world.kfp.state.runs) == 1
    assert from_parameter(f"{world.store}/runs/demo-1/recipe.json").name == "demo"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("platform.tracking", "http://bob:hunter2@mlflow:5000"),
        ("platform.store", "s3://key:hunter2@bucket/store"),
        ("nightly.references", ["openai:http://bob:hunter2@host:1/v1#m"]),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(world: World, key: str, value: Any) -> None:
    section, name = key.split(".")
    values = world.recipe.model_dump(mode="json", by_alias=True)
    values[section][name] = value
    error = error_of(world, recipe=Recipe.model_validate_json(json.dumps(values)))
    assert f"{key}: an address with a password" in str(error) and "hunter2" not in str(error)


def test_a_bucket_that_does_not_exist_is_reported_before_anything_is_done(world: World) -> None:
    platform = world.recipe.platform.model_copy(update={"store": "s3://no-such-bucket/store"})
    error_of(world, recipe=world.recipe.model_copy(update={"platform": platform}))


def test_an_image_that_the_registry_lacks_is_refused_by_digest_too(world: World) -> None:
    error = error_of(world, image=f"{world.registry.address}/medmim@sha256:{'1' * 64}")
    assert "has no image" in error.fact


def test_models_that_are_not_in_the_store_are_named_before_anything_starts(world: World) -> None:
    models = {"a": "zoo:medgemma-4b", "b": "imported:mantis", "c": "tiny-mantis", "d": "models:/x@champion"}
    bench = world.recipe.bench.model_copy(update={"models": models})
    with pytest.raises(UserError, match="2 of the 3 models of bench.models") as raised:
        submitted(world, recipe=world.recipe.model_copy(update={"bench": bench}))
    assert f"MEDMIM_STORE={world.store} medmim zoo import medgemma-4b --hub" in raised.value.problems[0]
    assert world.left() == []
