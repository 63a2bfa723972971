"""Where a data set is built: here, in a Ray job, or nowhere, since it is found; and what no other cluster can read."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import components.data
from medmim import store
from medmim.cluster import dispatch, raw_data
from medmim.cluster.ray import jobs_api, runner
from medmim.cluster.ray.request import Request
from medmim.data import build
from medmim.errors import UserError
from medmim.recipe import names
from medmim.recipe.loading import from_dump, validate
from medmim.recipe.schema import Recipe
from medmim.run import step_lock
from medmim.run.stage import outcomes
from medmim.run.workspace import workspace


def recipe(where: str, ray: str = "rayjob", **data: Any) -> Recipe:
    data = data or {"source": "phantom", "patients": 12, "rows_only": True}
    return validate({"name": "t", "data": data, "platform": {"store": where, "ray": ray}}, "test")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Request]:
    """What was asked of a cluster, whose driver builds in this process."""
    made: list[Request] = []

    def serve(request: Request, *_: Any) -> str:
        made.append(request)
        plain = from_dump(request.recipe)
        plain = plain.model_copy(update={"platform": plain.platform.model_copy(update={"ray": "local"})})
        return build.run(plain, workspace(tmp_path / "driver", plain, request.run), **request.arguments).uri

    monkeypatch.setattr(runner, "run", serve)  # the job itself needs a cluster
    monkeypatch.setattr(jobs_api, "run", serve)
    return made


@pytest.mark.parametrize("ray", ["rayjob", "http://ray-head.team-a:8265"])
def test_a_step_sends_what_is_not_built_and_starts_no_job_for_what_is(
    bucket: str, requests: list[Request], tmp_path: Path, ray: str
) -> None:
    made = recipe(bucket, ray)
    uris = [components.data.data.python_func(made.dump(), str(tmp_path / home), f"r-{home}") for home in ("a", "b")]
    (request,) = requests
    assert (request.stage, request.run, request.arguments) == ("data", "r-a", {})
    assert from_dump(request.recipe).platform.ray == "auto"
    alone = build.run(
        recipe(str(tmp_path / "store"), "local"), workspace(tmp_path / "c", recipe(str(tmp_path / "store")))
    )
    assert uris == [f"{bucket}/data/{alone.digest}"] * 2
    records = [outcomes(workspace(tmp_path / "a", made, run))["data"] for run in ("r-a", "r-b")]
    assert [(one.uri, one.cached) for one in records] == [(uris[0], False), (uris[0], True)]
    assert records[0].facts == records[1].facts


@pytest.mark.parametrize("ray", ["rayjob", "http://ray-head.team-a:8265"])
def test_the_second_of_two_equal_runs_waits_without_a_job_and_finds_what_the_first_made(
    bucket: str, requests: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: str
) -> None:
    goes_on, waits = threading.Event(), threading.Event()
    runs = {"r-a": recipe(bucket, ray), "r-b": recipe(bucket, ray).model_copy(update={"name": "another"})}
    serve = runner.run

    def slow(request: Request, *arguments: Any) -> str:
        assert goes_on.wait(60)
        return serve(request, *arguments)

    monkeypatch.setattr(runner, "run", slow)
    monkeypatch.setattr(jobs_api, "run", slow)
    monkeypatch.setattr(step_lock, "say", lambda text: waits.set() if text.startswith("waiting for run r-") else None)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(dispatch.data_set, one, workspace(tmp_path / run, one, run)) for run, one in runs.items()]
        assert waits.wait(60)
        goes_on.set()
        uris = {one.result().uri for one in found}
    assert len(uris) == len(requests) == 1


@pytest.mark.parametrize("section", ["name", "data", "finetune", "bench", "nightly"])
def test_what_decides_a_stage_decides_its_lock(section: str) -> None:
    """Runs that differ elsewhere wait for each other, others do not."""
    change: dict[str, Any] = {
        "name": {"name": "u"},
        "data": {"data": {"source": "phantom", "patients": 13}},
        "finetune": {"finetune": {"epochs": 7}},
        "bench": {"bench": {"limit": 3}},
        "nightly": {"nightly": {"date": "2026-01-01"}},
    }
    made = {"name": "t", "data": {"source": "phantom", "patients": 12}}
    one, other = validate(made, "test"), validate(made | change[section], "test")
    decides = {"data": ["data", "finetune"], "finetune": ["finetune"], "bench": ["bench", "rebench"]}
    for stage in ("data", "finetune", "bench", "rebench"):
        names = {dispatch.lock_name(stage, made, {"data": "s3://b/d"}) for made in (one, other)}
        expected = stage in decides.get(section, ["rebench"] if section == "nightly" else [])
        assert (len(names) == 2) is expected, stage
        assert names.isdisjoint({dispatch.lock_name(stage, one, {"data": "s3://b/e"})})


@pytest.mark.parametrize("ray", ["rayjob", "http://ray-head.team-a:8265"])
def test_a_folder_of_this_machine_is_refused_before_anything_starts(
    bucket: str, requests: list[Request], tmp_path: Path, ray: str
) -> None:
    for root in (tmp_path, "raw/odir"):
        made = recipe(bucket, ray, sources=[{"name": "covid_chestxray", "root": str(root)}])
        with pytest.raises(UserError, match="cannot be built on the Ray cluster") as caught:
            dispatch.data_set(made, workspace(tmp_path / "home", made))
        (problem,) = caught.value.problems
        assert problem.startswith(f"data.sources.0.root: {root} is a folder of this machine")
        assert "platform.ray: local" in caught.value.fix
    assert requests == []


def test_what_is_wrong_with_an_address_in_s3_is_told_before_anything_starts(
    bucket: str, requests: list[Request], tmp_path: Path
) -> None:
    made = recipe(bucket, source="odir", root=f"{bucket}/raw")
    with pytest.raises(UserError, match="there is no "):
        dispatch.data_set(made, workspace(tmp_path / "home", made))
    assert requests == []


def test_what_was_built_here_is_found_for_another_cluster(bucket: str, requests: list[Request], tmp_path: Path) -> None:
    """As the error for a folder of this machine says."""
    from tests.support import med_mim_files as files

    data = {"source": "covid_chestxray", "root": str(files.write_covid(tmp_path / "raw", files.covid_rows(8)))}
    here = build.run(recipe(bucket, "local", **data), workspace(tmp_path / "home", recipe(bucket)))
    found = dispatch.data_set(recipe(bucket, **data), workspace(tmp_path / "other", recipe(bucket)))
    assert (found.uri, found.cached, requests) == (here.uri, True, [])


@pytest.mark.parametrize(
    ("root", "claim", "mounts", "in_pod", "refused"),
    [
        ("s3://raw/odir", "", True, False, False),
        ("/nowhere/odir", "", True, False, False),
        ("odir", "", True, True, True),
        ("~/odir", "", True, False, True),
        ("/usr", "", True, False, True),
        ("/usr", "", True, True, False),
        (f"{names.RAW_FOLDER}/odir", "", True, True, True),
        (f"{names.RAW_FOLDER}/odir", "patients", True, False, False),
        (f"{names.RAW_FOLDER}/odir", "", False, True, False),
        (f"{names.RAW_FOLDER}-2/odir", "patients", True, False, False),
    ],
)
def test_which_roots_another_cluster_can_read(root: str, claim: str, mounts: bool, in_pod: bool, refused: bool) -> None:
    data = recipe("s3://b/x", source="odir", root=root).data
    assert bool(list(raw_data.unreadable(data, claim, mounts, in_pod))) is refused
    assert raw_data.needs_claim(data) is root.startswith(f"{names.RAW_FOLDER}/")


def test_no_password_of_the_tracking_uri_reaches_the_store(
    bucket: str, requests: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:XQZJXQ@127.0.0.1:9")
    made = recipe(bucket)
    dispatch.data_set(made, workspace(tmp_path / "home", made))
    (request,) = requests
    assert "XQZ" not in request.recipe and "http://127.0.0.1:9" in request.recipe
    place = store.open_store(bucket)
    assert not [key for key in place.list() if b"XQZ" in place.read(key)]


def test_a_store_in_a_folder_is_refused(tmp_path: Path) -> None:
    made = recipe(str(tmp_path))
    with pytest.raises(UserError, match="and the store is"):
        dispatch.data_set(made, workspace(tmp_path / "home", made))
    assert not list(store.open_store(str(tmp_path)).list("data/"))
