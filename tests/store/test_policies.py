"""What a step's S3 policy protects of others: finished artifacts, the index of finished steps, records, decisions.

MinIO knows no condition on If-None-Match, so there the bucket keeps versions, and what was written over is not read.
AWS knows it; its evaluation is played by a proxy in front of the server.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.commonconfig import ENABLED, CopySource, Filter
from minio.error import S3Error
from minio.versioningconfig import SUSPENDED, VersioningConfig

from medmim import store
from medmim.doctor import check
from medmim.errors import UserError
from medmim.housekeeping import gc
from medmim.nightly import records
from medmim.recipe import loading
from medmim.recipe.parameter import from_parameter
from medmim.run.cache import cached_step, finished, remember
from medmim.run.provenance import provenance_of
from medmim.run.stage import stage
from medmim.run.workspace import Workspace
from medmim.store import Artifact, open_store, s3
from medmim.store.s3 import S3Store, connect
from tests.nightly.test_records import night
from tests.support import s3_policy
from tests.support.s3_proxy import Proxy

RECIPE = "runs/demo-1/recipe.json"
LARGE = (16 << 20) + 1  # bytes: two parts


def made(folder: Path) -> Mapping[str, Any]:
    (folder / "rows").write_text("honest")
    return {"rows": 1}


def make(ws: Workspace) -> Artifact:
    """What a step leaves: an artifact, its entry in the index, its record; and what the submitter left before it."""
    open_store(ws.store).create(RECIPE, loading.load("demo").dump().encode())
    with stage(ws, "data") as outcome:
        artifact, found = cached_step(ws, "data", 1, {}, {}, made)
        outcome.of(artifact, found)
    records.record(ws, "demo", night())
    return artifact


def forgeries(artifact: Artifact) -> dict[str, bytes]:
    """Key -> what somebody else would like to be read there."""
    folder = f"data/{artifact.digest}"
    manifest = {"digest": artifact.digest, "kind": "data", "files": artifact.files, "counts": {"rows": 99}}
    return {
        f"{folder}/manifest.json": json.dumps(manifest).encode(),
        f"{folder}/provenance.json": b'{"who": "somebody", "terms": {}}',
        f"{folder}/rows": b"forged",
        index(artifact): json.dumps({"digest": "f" * 64}).encode(),
        RECIPE: loading.load("demo", ["register.model=another"]).dump().encode(),
        f"nights/demo/{night().date}.json": b"{}",
    }


def index(artifact: Artifact) -> str:
    (key,) = open_store(artifact.uri.rsplit("/", 2)[0]).list("steps/data/")
    return key


def readers(ws: Workspace, artifact: Artifact) -> dict[str, Callable[[], Any]]:
    """Key -> what reads it."""
    entry, folder = index(artifact), f"data/{artifact.digest}"
    return {
        f"{folder}/manifest.json": lambda: store.find(artifact.uri),
        f"{folder}/provenance.json": lambda: provenance_of(artifact),
        f"{folder}/rows": lambda: store.read_file(artifact, "rows"),
        entry: lambda: finished(ws, "data", entry.rpartition("/")[2].removesuffix(".json")),
        RECIPE: lambda: from_parameter(f"{ws.store}/{RECIPE}"),
        f"nights/demo/{night().date}.json": lambda: records.read(ws, "demo"),
    }


def what_is_read(ws: Workspace, artifact: Artifact) -> list[Any]:
    return [read() for read in readers(ws, artifact).values()]


@pytest.fixture
def raw(bucket: str, as_user: Callable[[str], str]) -> Callable[[], Minio]:
    """A client of the user that is acted as, for what medmim itself never asks."""

    def raw() -> Minio:
        place = open_store(f"{bucket}/store")
        assert isinstance(place, S3Store)
        return place._client

    return raw


@pytest.mark.parametrize("dated", [None, "2001-01-01T00:00:00Z"])  # MinIO believes a writer's date
def test_on_minio_what_a_step_wrote_over_is_not_read_and_nothing_can_be_deleted(
    as_user: Callable[[str], str], raw: Callable[[], Minio], tmp_path: Path, dated: str | None
) -> None:
    ws = Workspace(tmp_path / "one", as_user("step"), "", "demo-1")
    artifact = make(ws)
    before, reading, client = what_is_read(ws, artifact), readers(ws, artifact), raw()
    bucket = ws.store.removeprefix("s3://").partition("/")[0]
    for key, data in forgeries(artifact).items():
        name = f"store/{key}"
        (first,) = [v for v in client.list_objects(bucket, name, include_version=True) if v.object_name == name]
        own = {"uploadId": "1", "versionId": first.version_id}
        denied: dict[str, Callable[[], Any]] = {
            "delete": lambda name=name: client.remove_object(bucket, name),
            "delete the version": lambda first=first: client.remove_object(bucket, first.object_name, first.version_id),
            "replace the version": lambda name=name, own=own: client._execute(
                "PUT", bucket, name, b"x", query_params={"versionId": own["versionId"]}
            ),
            "replace it by parts": lambda name=name, own=own: client._execute(
                "POST", bucket, name, query_params={"uploads": "", "versionId": own["versionId"]}
            ),
            "join parts to it": lambda name=name, own=own: client._execute(
                "POST", bucket, name, b"x", query_params=own
            ),
            "the version of no name": lambda name=name: client._execute(
                "PUT", bucket, name, b"x", query_params={"versionId": "null"}
            ),
        }
        for what, call in denied.items():
            with pytest.raises(S3Error) as error:
                call()
            assert error.value.code == "AccessDenied", f"{key}: {what}"
        client._execute("PUT", bucket, name, data, headers={"X-Minio-Source-Mtime": dated} if dated else {})
        assert client.get_object(bucket, name, version_id=first.version_id).data != data
        if dated is None or not key.endswith("/rows"):  # one that is dated back is an old version, and never read
            with pytest.raises(UserError, match="was written over|is damaged"):
                reading[key]()
    with pytest.raises(S3Error, match="AccessDenied"):
        client.set_bucket_versioning(bucket, VersioningConfig(SUSPENDED))
    with pytest.raises(S3Error, match="AccessDenied"):
        client.set_bucket_lifecycle(bucket, expire_everything())

    as_user("promoter")
    for key in reading:
        open_store(ws.store).delete(key)
    as_user("step")
    assert make(ws) == artifact  # deleted by who may, it is made again, and read
    again = what_is_read(ws, artifact)
    assert again[0] == before[0] and again[2:] == before[2:]  # all but when it was made


def test_a_version_that_minio_lets_a_step_replace_in_place_is_refused_by_its_digest(
    as_user: Callable[[str], str], raw: Callable[[], Minio], tmp_path: Path
) -> None:
    """The header hides the version's id from MinIO's policy; the decision log is denied whatever the request says."""
    ws = Workspace(tmp_path / "one", as_user("step"), "", "demo-1")
    artifact, client = make(ws), raw()
    bucket, files = ws.store.removeprefix("s3://").partition("/")[0], {"rows": {"sha256": "f" * 64, "bytes": 6}}
    other = {"digest": store.content_digest(files), "kind": "data", "files": files, "counts": {}}
    folder = f"store/data/{artifact.digest}"
    for name, data, read in (
        (f"{folder}/rows", b"forged", lambda: store.read_file(artifact, "rows")),
        (f"{folder}/manifest.json", json.dumps(other).encode(), lambda: store.find(artifact.uri)),
    ):
        (first,) = client.list_objects(bucket, name, include_version=True)
        version = {"versionId": first.version_id or ""}
        client._execute("PUT", bucket, name, data, headers={"Versionid": ""}, query_params=version)
        assert client.get_object(bucket, name).data == data and len(list(client.list_objects(bucket, name))) == 1
        with pytest.raises(UserError, match="is damaged|another artifact than its address says"):
            read()
        with pytest.raises(S3Error, match="AccessDenied"):
            log = "store/decisions/medmim/1.json"
            client._execute("PUT", bucket, log, data, headers={"Versionid": ""}, query_params=version)


def expire_everything() -> Any:
    from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

    rule = Rule(status="Enabled", rule_filter=Filter(prefix=""), rule_id="all", expiration=Expiration(days=1))
    return LifecycleConfig([rule])


def test_a_steps_user_may_neither_write_over_nor_delete_nor_add_decisions(as_user: Callable[[str], str]) -> None:
    place = open_store(as_user("promoter"))
    assert place.create("decisions/medmim/1.json", b"{}")
    place = open_store(as_user("step"))
    denied: dict[str, Callable[[], Any]] = {
        "write": lambda: place.write("decisions/medmim/1.json", b"forged"),
        "delete": lambda: place.delete("decisions/medmim/1.json"),
        "create": lambda: place.create("decisions/medmim/2.json", b"{}"),
        "another": lambda: place.create("decisions/other/1.json", b"{}"),
    }
    for what, call in denied.items():
        with pytest.raises(UserError, match="AccessDenied"):
            call()
            pytest.fail(what)
    assert place.read("decisions/medmim/1.json") == b"{}"


def test_the_key_of_gc_removes_what_it_plans_and_no_decision_and_publishes_nothing(
    as_user: Callable[[str], str], tmp_path: Path
) -> None:
    ws = Workspace(tmp_path / "one", as_user("promoter"), f"sqlite:///{tmp_path}/mlflow.db")
    artifact, promoter = make(ws), open_store(ws.store)
    promoter.write("runs/demo-20260101-000000-aa/report.json", b"{}")
    for key in ("decisions/medmim/made.json", "erased/key", "nights/demo/2026-01-01.claim-1"):
        promoter.create(key, b"{}")
    kept = {key for key in promoter.list() if key.split("/")[0] in ("decisions", "erased", "nights")}
    place = open_store(as_user("gc"))
    gone = gc.collect(ws, gc.plan(ws, last=0, days=0, now=time.time() + 100 * gc.DAY))
    assert f"data/{artifact.digest}" in {item.name for item in gone}
    assert set(place.list()) == kept | {"removing/lock/00000001.json"}
    promoter.create("store.json", b"{}")  # afterwards: a store with an id wants an MLflow that knows it
    kept.add("store.json")
    for key in kept:
        with pytest.raises(UserError, match="AccessDenied"):
            place.delete(key)
    for key in (*kept, "model/x", f"used/data/{artifact.digest}", "steps/data/1.json"):
        with pytest.raises(UserError, match="AccessDenied"):
            place.write(key, b"forged")


@pytest.fixture
def on_aws(bucket: str, proxy: Proxy) -> str:
    """A store behind AWS' evaluation of a step's two policies; gives its URI."""
    name = bucket.removeprefix("s3://")
    proxy.allows = s3_policy.evaluated(*(s3_policy.load(role, name) for role in ("step", "step-write-once")))
    return f"{bucket}/store"


def test_on_aws_a_step_does_all_its_work_and_writes_over_nothing_of_others(on_aws: str, tmp_path: Path) -> None:
    def large(folder: Path) -> Mapping[str, Any]:
        (folder / "weights").write_bytes(bytes(LARGE))
        return {}

    ws = Workspace(tmp_path / "one", on_aws, "", "demo-1")
    artifact, place = make(ws), open_store(on_aws)
    assert make(ws) == artifact and check.store(on_aws).status == "ok"
    weights, _ = cached_step(ws, "finetune", 1, {}, {}, large, kind="model")
    for key in ("resume/finetune-1/state", "runs/demo-1/log", "locks/data", f"used/data/{artifact.digest}"):
        place.write(key, b"1")
        place.write(key, b"2")
        assert place.read(key) == b"2"
    before = what_is_read(ws, artifact)
    (own := tmp_path / "own").write_bytes(b"x" * LARGE)
    bucket, client = on_aws.removeprefix("s3://").partition("/")[0], connect(on_aws)._client
    others = {**forgeries(artifact), f"model/{weights.digest}/weights": b"", "model/new/weights": b""}
    for key, data in others.items():
        name = f"store/{key}"
        denied: dict[str, Callable[[], Any]] = {
            "write": lambda name=name, data=data: client.put_object(bucket, name, BytesIO(data), len(data)),
            "parts": lambda name=name: client.fput_object(bucket, name, str(own), part_size=16 << 20),
            "copy": lambda name=name: client.copy_object(bucket, name, CopySource(bucket, "store/runs/demo-1/log")),
            "delete": lambda name=name: client.remove_object(bucket, name),
        }
        for what, call in denied.items():
            with pytest.raises(S3Error) as error:
                call()
            assert error.value.code == "AccessDenied", f"{key}: {what}"
        assert key.startswith("model/new") or not place.create(key, data), key
    assert what_is_read(ws, artifact) == before
    assert store.verify(artifact) == []


@pytest.mark.parametrize("page", [1, 2, 1000])  # however many versions somebody writes over it
def test_in_a_bucket_that_keeps_versions_what_was_written_over_is_not_read_until_it_is_deleted(
    bucket: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_LISTED", page)
    place = connect(f"{bucket}/store")
    place.write("k", b"zero")
    place._client.set_bucket_versioning(place.bucket, VersioningConfig(ENABLED))
    assert place.read_unchanged("k") == b"zero"  # from before the bucket kept versions
    for created in (b"one", b"two"):
        for key in ("k", "k-sibling"):
            for over in (created, created, created + b"!"):
                place.write(key, over)
        with pytest.raises(UserError, match="store/k was written over"):
            place.read_unchanged("k")
        place.delete("k")
        with pytest.raises(FileNotFoundError):
            place.read_unchanged("k")
        assert place.create("k", created) and not place.create("k", b"z")
        place.write("k", created)  # the same again is no other
        assert place.read_unchanged("k") == created


@pytest.mark.parametrize("gone", [False, True])
def test_the_first_of_two_that_made_a_step_stays_in_the_index_while_it_exists(
    on_aws: str, gone: bool, tmp_path: Path, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two trainings of one key on other machines need not give the same bytes."""
    ws, other = Workspace(tmp_path / "one", on_aws, ""), tmp_path / "other"
    first = make(replace(ws, run="demo-1"))
    key = index(first).rpartition("/")[2].removesuffix(".json")
    (other / "made").mkdir(parents=True)
    (other / "made" / "rows").write_text("another machine's")
    second = store.publish(other / "made", on_aws, "data", {}, {})
    allowed, proxy.allows = proxy.allows, lambda *request: True
    if gone:
        open_store(on_aws).delete(f"data/{first.digest}/manifest.json")
    proxy.allows = allowed
    remember(ws, "data", key, second)
    assert finished(ws, "data", key) == (None if gone else first)
    assert ("until `medmim gc` removes it" in capfd.readouterr().err) is gone
    proxy.allows = lambda *request: True  # who may delete replaces what names nothing
    remember(ws, "data", key, second)
    assert finished(ws, "data", key) == (second if gone else first)


def test_what_lies_at_an_artifacts_address_and_is_another_content_is_not_published_over(
    bucket: str, tmp_path: Path
) -> None:
    made(tmp_path)
    honest = store.content_digest(store.scan(tmp_path))
    for planted in (b"forged", b"forge"):  # of the same size, and of another
        place = open_store(f"{bucket}/{len(planted)}")
        place.write(f"data/{honest}/rows", planted)
        with pytest.raises(UserError, match="another content than its address says"):
            store.publish(tmp_path, place.uri, "data", {}, {})
        assert store.find(f"{place.uri}/data/{honest}") is None and place.read(f"data/{honest}/rows") == planted
        place.write(f"data/{honest}/rows", b"honest")
        assert store.publish(tmp_path, place.uri, "data", {}, {}).digest == honest
