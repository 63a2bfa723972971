"""The chart on the real node: installed, upgraded while a run trains, rolled back; and the commands of the docs."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from medmim import tracking
from medmim.run.workspace import Workspace
from tests.charts.old_mlflow import KEPT, fill, rewind
from tests.node.conftest import BRIDGE
from tests.node.ray_jobs import a_run
from tests.node.world import Namespace
from tests.support import workflows
from tests.support.chart import CHART, LAST
from tests.support.postgres import postgres

pytestmark = [pytest.mark.node, pytest.mark.timeout(1800)]

DOCS = Path(__file__).parents[2] / "docs"
WAIT = {"wait": "watcher", "timeout": 300}


@pytest.fixture
def database_uri() -> Iterator[str]:
    """The URI of a real PostgreSQL where pods reach it."""
    with postgres(BRIDGE, "10.244.0.0/16") as uri:
        yield uri


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_an_upgrade_migrates_mlflow_while_a_run_trains_and_can_be_rolled_back(
    empty_namespace: Namespace, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """From the last packaged chart, with MLflow's previous schema and data in it."""
    place, values = empty_namespace, empty_namespace.values()
    uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    if database == "postgresql":
        uri = request.getfixturevalue("database_uri")
        place.kubectl("-n", place.platform, "create", "secret", "generic", "database", f"--from-literal=uri={uri}")
        values["mlflow"]["database"] = {"existingSecret": "database"}
    server = ("-n", place.platform, "scale", "deployment/medmim-mlflow")
    with place.release() as release:
        release.install(LAST, "medmim", values, namespace=place.platform, **WAIT)
        place.key(place.name)
        with place.forwarded("medmim-mlflow", 5000) as address:
            fill(address)
        place.kubectl(*server, "--replicas=0")
        place.kubectl("-n", place.platform, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=mlflow")
        before, newest = rewind(uri)
        assert schema(uri) == before

        run = a_run(place, "upgraded", tmp_path)
        run.steps = 300  # it must still train at the end of all that follows
        run.step()
        run.wait_for_step(4)
        job = run.ray("rayjobs")[0]["metadata"]
        release.upgrade(CHART, "medmim", values, namespace=place.platform, **WAIT)
        assert schema(uri) == newest
        assert registered_models(place, tmp_path) == KEPT
        release.test("medmim", timeout=300)
        release.rollback("medmim", version=1, **WAIT)
        assert registered_models(place, tmp_path) == KEPT
        now = run.ray("rayjobs")[0]["metadata"]
        assert (now["uid"], now["generation"]) == (job["uid"], job["generation"])
        model = run.end()
        assert [step for step, _ in run.losses(model, tmp_path)] == list(range(1, run.steps + 1))
        release.uninstall("medmim", **WAIT)
    left = json.loads(place.kubectl("-n", place.platform, "get", "pvc,deployments,cronjobs", "-o", "json"))["items"]
    assert [one["kind"] for one in left] == ["PersistentVolumeClaim"] * (database == "sqlite")


def schema(uri: str) -> str:
    """The revision of MLflow's database."""
    from sqlalchemy import create_engine, text

    engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar())
    finally:
        engine.dispose()


def registered_models(place: Namespace, home: Path) -> dict[str, dict[str, str]]:
    """Models and their aliases."""
    with place.forwarded("medmim-mlflow", 5000) as address:
        known = tracking.registered(Workspace(home, place.store, address))
    return {name: dict(model.aliases) for name, model in known.items()}


def code_block(document: str, heading: str, number: int = 0) -> str:
    """A code block below a heading of the docs."""
    text = (DOCS / document).read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)[number]


def run_commands(place: Namespace, commands: str, folder: Path) -> None:
    """Run commands of the docs, with the names of this cluster."""
    script = commands.replace("-n P ", f"-n {place.platform} ").replace("IMAGE", place.image)
    kubectl = place.kubectl.command  # type: ignore[attr-defined]
    path = f"{Path(kubectl[0]).parent}:{os.environ['PATH']}"
    environment = os.environ | {"KUBECONFIG": str(place.kubeconfig), "PATH": path}
    done = subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_backup_and_restore_of_mlflow_as_the_runbook_says(namespace: Namespace, tmp_path: Path) -> None:
    with namespace.forwarded("medmim-mlflow", 5000) as address:
        fill(address)
    run_commands(namespace, code_block("runbook.md", "Back up MLflow"), tmp_path)
    (backup,) = tmp_path.glob("mlflow-*.db")
    with namespace.forwarded("medmim-mlflow", 5000) as address:
        tracking.client(Workspace(tmp_path, namespace.store, address)).create_registered_model("after-the-backup")
    assert "after-the-backup" in registered_models(namespace, tmp_path)
    backup.rename(tmp_path / "mlflow-DATE.db")
    run_commands(namespace, code_block("runbook.md", "Restore MLflow"), tmp_path)
    namespace.kubectl("-n", namespace.platform, "rollout", "status", "deployment/medmim-mlflow", "--timeout=180s")
    assert registered_models(namespace, tmp_path) == KEPT


def test_the_doctor_in_a_steps_pod_passes_all_checks_but_kfp(namespace: Namespace, tmp_path: Path) -> None:
    """As docs/cluster.md writes it; no KFP server is here."""
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(workflows.CRD))
    manifest = code_block("cluster.md", "Is everything there?", 1).split("<<END\n")[1].split("END\n")[0]
    pod = yaml.safe_load(manifest.replace("$IMAGE", namespace.image))
    pod["spec"]["containers"][0]["args"].append("--json")
    pod["spec"]["nodeSelector"] = {"type": "real"}
    namespace.run(pod, 300)
    found = json.loads(namespace.call("logs", "medmim-doctor").strip().splitlines()[-1])["checks"]
    assert {one["name"] for one in found if one["status"] == "fail"} == {"kfp"}, found
