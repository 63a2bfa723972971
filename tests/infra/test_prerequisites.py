"""infra/prerequisites and docs/from-zero.md: one set of versions, fields that the charts know, a key for each part.

prerequisites.json holds the fields of the charts' values and of Kueue's objects at the pinned versions.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.recipe import names
from tests.support import doc_commands, s3_policy
from tests.support.chart import EXAMPLES, containers, pods, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "prerequisites"
FIELDS: dict[str, list[str]] = json.loads(Path(__file__).with_name("prerequisites.json").read_text("utf-8"))
CHARTS = dict(key.split() for key in FIELDS if "/" not in key)
TEXT = (doc_commands.DOCS / "from-zero.md").read_text("utf-8")
COMMANDS = "\n".join(text for _, text in doc_commands.blocks("from-zero.md"))
OPEN = ("resources", "nodeSelector", "podAnnotations")  # what Kubernetes defines, and not the chart


def paths(value: Any, above: str = "") -> Iterator[str]:
    """Each field, dotted; a list's are those of its entries."""
    for one in value if isinstance(value, list) else [value]:
        for key, more in one.items() if isinstance(one, dict) else ():
            yield f"{above}{key}"
            if key not in OPEN or isinstance(more, list):
                yield from paths(more, f"{above}{key}.")


def secrets_made(namespace: str) -> dict[tuple[str, str], dict[str, str]]:
    made = subprocess.run(
        [sys.executable, str(FOLDER / "s3_keys.py"), namespace], capture_output=True, text=True, check=True
    )
    items = json.loads(made.stdout)["items"]
    return {(one["metadata"]["namespace"], one["metadata"]["name"]): one["stringData"] for one in items}


@pytest.mark.parametrize("chart", CHARTS)
def test_a_charts_values_are_fields_that_its_pinned_version_has(chart: str) -> None:
    values = yaml.safe_load((FOLDER / f"{chart}.yaml").read_text("utf-8"))
    assert set(paths(values)) <= set(FIELDS[f"{chart} {CHARTS[chart]}"])


def test_the_queues_have_fields_of_kueues_objects_and_let_jobs_of_the_run_namespace_in() -> None:
    objects = list(yaml.safe_load_all((FOLDER / "queues.yaml").read_text("utf-8")))
    for one in objects:
        allowed = set(FIELDS[f"{one['apiVersion']} {one['kind']}"]) | {"spec"}
        free = tuple(path.removesuffix("*") for path in allowed if path.endswith(".*"))
        found = set(paths({"spec": one.get("spec", {})}))
        assert {path for path in found if path not in allowed and not path.startswith(free or "-")} == set()
    flavor, queue, local = objects
    (group,) = queue["spec"]["resourceGroups"]
    (used,) = group["flavors"]
    assert used["name"] == flavor["metadata"]["name"]
    assert [one["name"] for one in used["resources"]] == group["coveredResources"], "Kueue wants one order"
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    assert list(queue["spec"]["namespaceSelector"]["matchLabels"].values()) == [local["metadata"]["namespace"]]


def test_kueue_admits_ray_jobs_that_name_a_queue_and_nothing_else() -> None:
    values = yaml.safe_load((FOLDER / "kueue.yaml").read_text("utf-8"))
    config = yaml.safe_load(values["managerConfig"]["controllerManagerConfigYaml"])
    assert config["integrations"] == {"frameworks": ["ray.io/rayjob"]}
    assert config["manageJobsWithoutQueueName"] is False, "KFP's own Jobs would wait for a quota"


def test_page_and_files_name_the_same_versions() -> None:
    installed = dict(re.findall(r"helm install \S+ (\S+)[^\n]*? --version (\S+)", COMMANDS))
    given = {
        "seaweedfs": "seaweedfs",
        "kuberay": "kuberay-operator",
        "kueue": "oci://registry.k8s.io/kueue/charts/kueue",
    }
    assert installed == {given[chart]: version for chart, version in CHARTS.items()}
    for chart, version in CHARTS.items():
        first = (FOLDER / f"{chart}.yaml").read_text("utf-8").splitlines()[0]
        assert re.search(rf"chart (\S+ )?{re.escape(version)} of ", first), first
        assert re.search(rf"\| {re.escape(version.removesuffix('.0'))} \|", TEXT), f"the table of {version}"
    kfp = [(FOLDER / "kfp" / name).read_text("utf-8") for name in ("kustomization.yaml", "cluster/kustomization.yaml")]
    assert {ref for text in kfp for ref in re.findall(r"\?ref=(\S+)", text)} == {names.KFP_VERSION}
    node = yaml.safe_load((FOLDER / "kind.yaml").read_text("utf-8"))["nodes"][0]["image"]
    version, digest = re.fullmatch(r"kindest/node:v([\d.]+)@sha256:([0-9a-f]{64})", node).groups()  # type: ignore[union-attr]
    assert f"| Kubernetes | {version} (kind" in TEXT and digest


def test_page_and_example_name_the_same_images() -> None:
    example = EXAMPLES["from-zero"]["image"]
    for kind in ("", "-cuda"):
        name = f"{example['repository']}{kind}:{example['tag']}"
        assert f"IMAGE={name}\n" in COMMANDS and f"docker push {name}\n" in COMMANDS
        assert f"_IMAGE={name}" in COMMANDS


def test_each_key_that_a_pod_of_the_example_asks_for_is_made_with_a_policy_of_its_own() -> None:
    made = secrets_made("kubeflow")
    values = {
        **EXAMPLES["from-zero"],
        "image": {"repository": "r/medmim", "digest": f"sha256:{'0' * 64}"},
        "cudaImage": {"digest": f"sha256:{'1' * 64}"},
        "nightly": {**EXAMPLES["from-zero"]["nightly"], "enabled": True, "recipe": "demo"},
    }
    asked = {
        (one["metadata"]["namespace"], env["valueFrom"]["secretKeyRef"]["name"])
        for one in render(values, "medmim")
        for _, _, spec in pods([one])
        for container in containers(spec)
        for env in container.get("env", [])
        if env["name"] in names.S3_KEYS
    }
    assert asked and asked <= made.keys()
    assert ("kubeflow", names.S3_SECRET) in made, "of the steps, by the compiled pipelines"
    config = json.loads(made["seaweedfs", "seaweedfs-users"]["seaweedfs_s3_config"])
    policies = {one["name"]: json.loads(one["content"]) for one in config["policies"]}
    for name, policy in policies.items():
        assert policy == json.loads((ROOT / "infra" / "s3" / f"{name}.json").read_text("utf-8"))
    known = {
        (one["name"], one["credentials"][0]["accessKey"], one["credentials"][0]["secretKey"])
        for one in config["identities"]
    }
    assert {len({key[at] for key in known}) for at in range(3)} == {len(made) - 1}, "no key is shared"
    for (_, name), data in made.items():
        if name != "seaweedfs-users":
            assert (name, data["AWS_ACCESS_KEY_ID"], data["AWS_SECRET_ACCESS_KEY"]) in known
    assert all(policies.keys() >= set(one["policyNames"]) and one["policyNames"] for one in config["identities"])


def test_no_two_installs_have_the_same_key() -> None:
    assert secrets_made("kubeflow") != secrets_made("kubeflow")


def test_other_pods_reach_the_stores_s3_port_alone() -> None:
    policy = yaml.safe_load((FOLDER / "seaweedfs-access.yaml").read_text("utf-8"))
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 8333}]}], "the filer asks for no key"
    assert ":8333" in EXAMPLES["from-zero"]["store"]["endpoint"]


def test_each_block_of_the_page_is_a_script_and_each_file_that_it_names_is_there() -> None:
    found = doc_commands.blocks("from-zero.md")
    assert [run for run, _ in found].count(True) >= 6
    for _, text in found:
        checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, f"{text}\n{checked.stderr}"
        for path in re.findall(r"(?<![\w/])(?:infra|charts)/[\w./-]+", text):
            assert (ROOT / path).exists(), path
    scripts = [path.name for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    unused = [name for name in scripts if name != "kustomization.yaml" and name not in TEXT and name != "s3_keys.py"]
    assert not unused, "the page installs all of infra/prerequisites"


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", "/medmim/mlflow/1/a", True),
        ("GET", "/medmim/mlflow/1/a", True),
        ("DELETE", "/medmim/mlflow/1/a", True),
        ("PUT", "/medmim/store/decisions/1.json", False),
        ("GET", "/medmim/store/data/a/manifest.json", False),
        ("DELETE", "/medmim/store/data/a/manifest.json", False),
    ],
)
def test_mlflows_key_is_for_its_artifacts_alone(method: str, target: str, allowed: bool) -> None:
    assert s3_policy.evaluated(s3_policy.load("mlflow", "medmim"))(method, target, {}) is allowed
