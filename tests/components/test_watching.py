"""A step that only watches a Ray job reads addresses and small files of its models and data, and downloads neither."""

from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import components.bench
import components.finetune
import components.rebench
from medmim import store
from medmim.bench.engines import engine
from medmim.cluster.ray import runner
from medmim.cluster.ray.request import Request
from medmim.lvlm import checkpoint
from medmim.recipe import loading
from medmim.run.workspace import workspace
from tests.support.s3_proxy import Proxy

SMALL = {"manifest.json", "config.json", "terms.json", "provenance.json", "00000001.json"}  # the last: of its lock


@pytest.fixture
def base(bucket: str, proxy: Proxy) -> store.Artifact:
    """A model in S3, as whole as a shipped one."""
    with resources.as_file(resources.files("medmim.shipped.bases") / "tiny-mantis") as folder:
        return store.publish(folder, bucket, "model", {}, {})


@pytest.fixture
def data(bucket: str, proxy: Proxy, tmp_path: Path) -> store.Artifact:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"rows")
    return store.publish(tmp_path / "data", bucket, "data", {}, {})


@pytest.mark.parametrize("stage", ["finetune", "bench", "rebench"])
def test_a_step_that_watches_downloads_no_model_and_no_data(
    stage: str,
    base: store.Artifact,
    data: store.Artifact,
    proxy: Proxy,
    bucket: str,
    tmp_path: Path,
    mlflow_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, requests = tmp_path / "home", []
    home.mkdir()
    (home / "mlflow.db").write_bytes(mlflow_database.read_bytes())

    def watch(request: Request, *_: Any) -> str:
        requests.append(request)
        return base.uri

    monkeypatch.setattr(runner, "run", watch)  # the job itself needs a cluster
    sets = ["platform.ray=rayjob", f"platform.store={bucket}", f"finetune.base={base.uri}"]
    arguments: dict[str, Any] = {"recipe": loading.load("demo", sets).dump(), "home": str(home), "run": "r1"}
    arguments["data"] = data.uri
    if stage == "bench":
        arguments["model"] = base.uri
    step = {"finetune": components.finetune.finetune, "bench": components.bench.bench}
    step["rebench"] = components.rebench.rebench
    assert step[stage].python_func(**arguments) == base.uri
    assert base.uri in str(requests[0].arguments) and data.uri == requests[0].arguments["data"]
    assert proxy.names() <= SMALL and not (home / "cache").exists()


def test_what_is_asked_of_a_model_in_s3_is_what_its_folder_says(
    base: store.Artifact, proxy: Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDMIM_STORE", bucket)
    ws = workspace(tmp_path / "home")
    there = checkpoint.locate(base.uri)
    found = (checkpoint.digest(there), checkpoint.family_of(there), checkpoint.terms_of(base.uri))
    asked = engine(base.uri, ws)
    assert checkpoint.upload_if_local(base.uri, ws) == base.uri
    assert proxy.names() <= SMALL and not (tmp_path / "home" / "cache").exists()
    folder = checkpoint.resolve(base.uri, ws)
    assert "model.safetensors" in proxy.names()
    terms = checkpoint.terms_of(str(checkpoint.resolve("tiny-mantis")))
    assert found == (checkpoint.digest(folder), checkpoint.family_of(folder), terms)
    assert (asked.digest, asked.terms) == (base.digest, terms)


def test_one_file_of_an_artifact_is_read_and_checked_alone(
    data: store.Artifact, proxy: Proxy, bucket: str, tmp_path: Path
) -> None:
    from medmim.errors import UserError

    assert store.read_file(data, "train.parquet") == b"rows"
    with pytest.raises(FileNotFoundError, match=f"{data.uri}/none"):
        store.read_file(data, "none")
    place = store.open_store(bucket)
    for change in (lambda key: place.write(key, b"bows"), place.delete):
        change(f"data/{data.digest}/train.parquet")
        with pytest.raises(UserError, match="is damaged") as caught:
            store.read_file(data, "train.parquet")
        assert caught.value.problems == ("train.parquet",)
