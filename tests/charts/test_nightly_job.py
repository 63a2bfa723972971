"""The nightly's CronJob has its recipe, KFP's address and its token where medmim reads them."""

from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kfp import access as kfp_access
from medmim.cluster.kfp.submitter import who_submits
from medmim.recipe import loading
from medmim.run.person import is_person
from tests.support.chart import ALL_ON, EXAMPLES, PLATFORM, Object, helm, named, render

CLOUD = EXAMPLES["cloud"]
RECIPE = "name: mine\ndata:\n  source: phantom\n  # {{ no template }}\n"


def nightly(**values: Any) -> tuple[list[Object], Object]:
    """All objects, and the CronJob's one container with its pod's volumes."""
    objects = render({**CLOUD, "nightly": {"enabled": True, "recipe": RECIPE}, **values})
    spec = named(objects, "CronJob", "medmim-nightly")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return objects, {**container, "volumes": {one["name"]: one for one in spec["volumes"]}}


def mounted(container: Object, volume: str) -> Path:
    (path,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume]
    return Path(path)


def test_the_recipe_of_the_values_is_the_file_that_is_named(tmp_path: Path) -> None:
    objects, container = nightly()
    files = named(objects, "ConfigMap", "medmim-nightly")["data"]
    command, sub, file, *flags = container["args"]
    assert (command, sub, flags) == ("medmim", "nightly", ["--submit", "--wait"])
    assert mounted(container, "recipe") / next(iter(files)) == Path(file)
    (tmp_path / "recipe.yaml").write_text(files["recipe.yaml"])
    assert loading.load(str(tmp_path / "recipe.yaml")).name == "mine"


def test_a_shipped_recipe_needs_no_file() -> None:
    objects, container = nightly(nightly={"enabled": True, "recipe": "demo"})
    assert container["args"] == ["medmim", "nightly", "demo", "--submit", "--wait"]
    assert "recipe" not in container["volumes"]
    assert not [one for one in objects if (one["kind"], one["metadata"]["name"]) == ("ConfigMap", "medmim-nightly")]


def test_kfp_is_called_at_its_address_with_a_token_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, container = nightly(kfp={"namespace": "ml"})
    for one in container["env"]:
        if "value" in one:
            monkeypatch.setenv(one["name"], one["value"])
    access = kfp_access.resolve()
    assert access.host == "http://ml-pipeline.ml:8888"
    assert access.namespace == CLOUD["runNamespaces"][0]["name"]
    assert str(mounted(container, "kfp-token") / "token") == kfp_access._TOKEN_OF_POD
    (source,) = container["volumes"]["kfp-token"]["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


def test_a_night_is_the_schedules_or_its_owners_and_pretends_to_be_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    access = kfp_access.Access("http://kfp", token="opaque")
    for owner, person in (("", False), ("jane@example.org", True)):
        _, container = nightly(nightly={"enabled": True, "recipe": "demo", "owner": owner})
        (given,) = [one["value"] for one in container["env"] if one["name"] == "MEDMIM_USER"]
        monkeypatch.setenv("MEDMIM_USER", given)
        assert who_submits(access) == given == (owner or "nightly of medmim") and is_person(given) is person


def test_the_account_may_submit_in_the_namespace_of_the_runs_and_nothing_else() -> None:
    objects, container = nightly()
    run = CLOUD["runNamespaces"][0]["name"]
    rules = named(objects, "Role", "medmim-nightly", run)["rules"]
    assert {group for rule in rules for group in rule["apiGroups"]} == {"pipelines.kubeflow.org"}
    assert [rule["resources"] for rule in rules if "retry" in rule["verbs"]] == [["runs"]]
    (subject,) = named(objects, "RoleBinding", "medmim-nightly", run)["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "medmim-nightly", "namespace": PLATFORM}
    bound = [one for one in objects if one["kind"] == "RoleBinding" and "medmim-nightly" in str(one["subjects"])]
    assert len(bound) == 1


def test_only_what_may_pass_is_tried_again() -> None:
    objects, _ = nightly()
    job = named(objects, "CronJob", "medmim-nightly")["spec"]["jobTemplate"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"], rule["onExitCodes"]["values"]) == (
        "FailJob",
        "In",
        [1, 2, 70],
    )
    assert job["backoffLimit"] > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nightly": {"enabled": True}}, "nightly.recipe"),
        ({"nightly": {"enabled": True, "recipe": "demo"}, "image": {"digest": ""}}, "image.digest"),
        ({"nightly": {"enabled": True, "recipe": "demo"}, "cudaImage": {"digest": ""}}, "cudaImage.digest"),
        ({"nightly": {"enabled": True, "recipe": "demo"}, "runNamespaces": []}, "nightly.namespace"),
        ({"nightly": {"enabled": True, "recipe": "demo", "namespace": "other"}}, "nightly.namespace"),
        ({"kfp": {"host": "ml-pipeline:8888"}}, "/kfp/host"),
    ],
)
def test_what_is_missing_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render({**ALL_ON, **values})
    assert message in str(refused.value)


def test_the_clouds_nightly_has_a_role_of_its_own_for_the_store() -> None:
    objects, _ = nightly()
    account = named(objects, "ServiceAccount", "medmim-nightly")["metadata"]
    assert account["annotations"] == CLOUD["accounts"]["nightly"]["annotations"] and account["annotations"]


@pytest.mark.parametrize(("given", "secret"), [("", "medmim-s3"), ("medmim-nightly-s3", "medmim-nightly-s3")])
def test_the_nightly_may_have_a_key_of_its_own_and_helm_test_checks_it(given: str, secret: str) -> None:
    values = {**EXAMPLES["laptop"], "image": {"repository": "r/medmim", "digest": f"sha256:{'1' * 64}"}}
    values["cudaImage"] = {"digest": f"sha256:{'2' * 64}"}
    objects = render({**values, "nightly": {"enabled": True, "recipe": "demo", "s3Secret": given}})
    job = named(objects, "CronJob", "medmim-nightly")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    check = named(objects, "Pod", "medmim-check-store")["spec"]
    for spec in (job, check):
        (container,), named_of = spec["containers"], "secretKeyRef"
        env = {one["name"]: one.get("valueFrom", {}) for one in container["env"]}
        assert env["AWS_ACCESS_KEY_ID"][named_of]["name"] == secret and spec["serviceAccountName"] == "medmim-nightly"
    server = named(objects, "Deployment", "medmim-mlflow")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in server if "AWS_ACCESS" in one["name"]} == {"medmim-s3"}
