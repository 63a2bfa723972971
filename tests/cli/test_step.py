"""The driver of a Ray job: what ends its stage is its result and its exit code, so that the step raises the same."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from medmim import store
from medmim.cli import step
from medmim.cluster import dispatch
from medmim.cluster.ray.request import Request, read_result, write_request
from medmim.errors import Refused, Unavailable, UserError
from medmim.ray_nodes import NodeLeaves
from medmim.recipe import loading
from medmim.run import step_lock
from medmim.run.stage import Outcome, outcomes, stage
from medmim.run.workspace import workspace
from tests.support.rust import panic

RECIPE = loading.load("demo").dump()


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("input_ids"), 70),
        (ZeroDivisionError("division by zero"), 70),
        (MemoryError(), 75),
        (ConnectionResetError(104, "Connection reset by peer"), 75),
        (UserError("bad rows"), 2),
        (Refused("too few"), 1),
        (Unavailable("S3 is away"), 75),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_error_of_a_stage_reaches_the_step_with_its_exit_code(
    error: Exception, code: int, within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDMIM_RUNNER", raising=False)

    def fail(recipe: object, ws: object, request: object) -> None:
        if within:
            with stage(workspace(None, run="r1"), "finetune"):
                raise error
        raise error

    monkeypatch.setitem(step._STAGES, "finetune", fail)
    uri = write_request(str(tmp_path / "home" / "store"), Request("finetune", RECIPE, "r1", {}), "job")
    assert step.main(uri) == code
    result = read_result(uri)
    assert result is not None
    with pytest.raises(UserError) as raised:
        result.uri_or_raise()
    assert raised.value.exit_code == code and (str(error) in str(raised.value) or code == 75)
    assert ("Traceback (most recent call last)" in capsys.readouterr().err) == (code == 70)
    if within:
        record = outcomes(workspace(None, run="r1"))["finetune"]
        assert (record.exit_code, record.message) == (code, str(raised.value))


def test_a_panic_of_a_rust_library_reaches_the_step_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(step._STAGES, "finetune", panic)
    uri = write_request(str(tmp_path / "home" / "store"), Request("finetune", RECIPE, "r1", {}), "job")
    assert step.main(uri) == 70
    result = read_result(uri)
    assert result is not None and result.error["exit_code"] == 70


def test_a_driver_whose_node_leaves_writes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step makes a new attempt for a head that is lost, and a queue that suspends the job starts it again."""

    def leave(*_: object) -> None:
        raise NodeLeaves("the training was told to stop")

    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(step._STAGES, "finetune", leave)
    uri = write_request(str(tmp_path / "home" / "store"), Request("finetune", RECIPE, "r1", {}), "job")
    with pytest.raises(SystemExit, match="75"):
        step.main(uri)
    assert read_result(uri) is None


@pytest.mark.parametrize(("code", "is_result"), [(0, True), (3, True), (143, False), (129, False)])
def test_an_exit_that_no_signal_asked_for_is_a_result(
    code: int, is_result: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(code)

    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(step._STAGES, "finetune", leave)
    uri = write_request(str(tmp_path / "home" / "store"), Request("finetune", RECIPE, "r1", {}), "job")
    if is_result:
        assert step.main(uri) == 70
    else:
        with pytest.raises(SystemExit, match=str(code)):
            step.main(uri)
    result = read_result(uri)
    assert (result is not None) == is_result
    assert result is None or result.error["exit_code"] == 70


@pytest.mark.parametrize("left", [None, b"{", b'{"stage": "finetune"}'], ids=["none", "cut off", "of another kind"])
def test_a_request_that_cannot_be_read_is_a_result_too(tmp_path: Path, left: bytes | None) -> None:
    """Else the step would wait for a driver that has died, and report that it said nothing."""
    if left is not None:
        (tmp_path / "order.json").write_bytes(left)
    assert step.main(str(tmp_path)) == 2
    result = read_result(str(tmp_path))
    assert result is not None
    with pytest.raises(UserError, match="there is no request at"):
        result.uri_or_raise()


def test_a_lease_that_cannot_be_watched_is_a_result_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_LEASE", "held")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    uri = write_request(str(tmp_path / "store"), Request("finetune", RECIPE, "r1", {}), "job")
    assert step.main(uri) == 2
    assert (result := read_result(uri)) is not None and "no Kubernetes cluster" in result.error["fact"]


def test_a_result_that_the_store_does_not_take_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "medmim.cli.step", str(tmp_path / "file" / "none")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_driver_renews_the_lock_of_the_step_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another run would start a second job while the step is being replaced."""
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(step_lock, "RENEW", 0.02)
    place = store.open_store(str(tmp_path / "home" / "store"))
    request = Request("finetune", RECIPE, "r1", {})
    name = dispatch.lock_name("finetune", loading.from_dump(RECIPE), {})
    lock = step_lock._acquire(place, name, step_lock.Turn(shared=request.digest))

    def train(recipe: object, ws: object, request: object) -> Outcome:
        end = time.monotonic() + 30
        while step_lock._newest(place, name).renewals < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        return Outcome("finetune", uri="s3://b/model/0")

    monkeypatch.setitem(step._STAGES, "finetune", train)
    assert step.main(write_request(place.uri, request, "job")) == 0
    newest = step_lock._newest(place, name)
    assert newest.number == lock.turn.number and not newest.ended, "the step ends it"
