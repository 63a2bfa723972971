"""Which account gets which rights; tests/cluster/test_accounts.py compares the verbs with what medmim calls."""

import pytest

from medmim.recipe import names
from tests.support.chart import CHART, EXAMPLES, VALUES, named, render, rendered

FILES = ("run/step-account", "run/ray-account", "run/sweep-account", "platform/promoter", "_kfp")


@pytest.mark.parametrize("file", FILES)
def test_each_rule_keeps_its_reason(file: str) -> None:
    (path,) = (CHART / "templates").glob(f"{file}.*")
    lines = path.read_text("utf-8").splitlines()
    rules = [i for i, line in enumerate(lines) if line.startswith("  - apiGroups")]
    assert rules and not [lines[i] for i in rules if not lines[i - 1].startswith("  #")]


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_other_account_gets_a_role(example: str) -> None:
    roles = {one["metadata"]["name"] for one in rendered(example) if one["kind"] in ("Role", "ClusterRole")}
    people = {"medmim-promotion"} if VALUES[example].get("promotion", {}).get("promoters") else set()
    assert roles == {"medmim-step", "medmim-step-kfp", "medmim-ray", "medmim-sweep"} | people


def test_people_and_groups_that_the_values_name_may_promote_and_nobody_else() -> None:
    wanted = [{"kind": "Group", "name": "lead"}, {"kind": "User", "name": "anna@example.org"}]
    binding = named(render({"promotion": {"promoters": wanted}}), "RoleBinding", "medmim-promotion")
    subjects = [{key: value for key, value in one.items() if key != "apiGroup"} for one in binding["subjects"]]
    assert subjects == wanted and binding["roleRef"]["name"] == "medmim-promotion"
    assert not [one for one in rendered("default") if one["metadata"]["name"] == "medmim-promotion"]


def test_where_promoters_start_runs_kfp_finds_their_account_with_the_rights_of_a_steps() -> None:
    objects = render({"runNamespaces": [{"name": "team-a"}], "promotion": {"kfpNamespace": "promoters"}})
    there = [one for one in objects if one["metadata"].get("namespace") == "promoters"]
    kinds = ["ConfigMap", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount"]
    assert sorted(one["kind"] for one in there) == kinds and names.SETTINGS in {
        one["metadata"]["name"] for one in there
    }
    account = named(objects, "ServiceAccount", names.PROMOTER, "promoters")["metadata"]
    binding = named(objects, "RoleBinding", f"{names.PROMOTER}-kfp", "promoters")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": "promoters"}]
    roles = [
        named(objects, "Role", *at)["rules"]
        for at in ((f"{names.PROMOTER}-kfp", "promoters"), ("medmim-step-kfp", "team-a"))
    ]
    assert roles[0] == roles[1]


def test_workload_identity_reaches_each_account_and_needs_no_key() -> None:
    objects = rendered("cloud")
    places = {"mlflow": "platform", "promoter": "platform"} | dict.fromkeys(("step", "ray", "sweep"), "medmim-runs")
    for account, namespace in places.items():
        made = named(objects, "ServiceAccount", f"medmim-{account}", namespace)
        assert made["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].endswith(f"role/medmim-{account}")
    server = named(objects, "Deployment", "medmim-mlflow")["spec"]["template"]["spec"]
    assert server["serviceAccountName"] == "medmim-mlflow"
    assert not [one for one in server["containers"][0]["env"] if one["name"].startswith("AWS_ACCESS")]
