"""Helm 3 renders what Helm 4 renders. MEDMIM_HELM3 or PATH names the program:

go install helm.sh/helm/v3/cmd/helm@v3.19.5
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, PLATFORM, VALUES, Object, rendered


@pytest.fixture(scope="module")
def helm3() -> str:
    found = os.environ.get("MEDMIM_HELM3") or shutil.which("helm")
    if found is None:
        pytest.skip("no Helm 3: neither MEDMIM_HELM3 nor helm on PATH")
    version = subprocess.run([found, "version", "--short"], capture_output=True, text=True).stdout
    if not version.startswith("v3."):
        pytest.skip(f"no Helm 3: {found} is {version.strip()}")
    return found


def sorted_json(objects: list[Object]) -> list[str]:
    return sorted(json.dumps(one, sort_keys=True) for one in objects)


@pytest.mark.parametrize("name", VALUES)
def test_it_renders_the_same_objects(helm3: str, name: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES[name]))
    command = [
        helm3,
        "template",
        "medmim",
        CHART,
        "--namespace",
        PLATFORM,
        "--kube-version",
        "1.36",
        "--values",
        values,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in objects:
        if one["kind"] != "Namespace":
            one["metadata"].setdefault("namespace", PLATFORM)
    assert sorted_json(objects) == sorted_json(rendered(name))


def test_it_refuses_what_helm_4_refuses(helm3: str) -> None:
    command = [helm3, "template", "medmim", CHART, "--kube-version", "1.36", "--set", "mlflow.replica=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "replica" in done.stderr
