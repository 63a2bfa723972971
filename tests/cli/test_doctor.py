"""The doctor reports what is wrong and its fix, one line a check, and leaves nothing behind."""

import json
import os
import socket
import sqlite3
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import medmim
from medmim.cli import doctor
from medmim.doctor import machine
from medmim.doctor.check import Check, store
from medmim.errors import Unavailable, UserError
from medmim.lvlm import checkpoint
from medmim.run.workspace import Workspace, workspace
from medmim.store import open_store
from medmim.store.folder import FolderStore
from tests.support.servers import healthy_only

NAMES = ["home", "python", "locale", "torch", "memory", "disk", "ray", "kfp", "extras", "bases", "store", "mlflow"]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    for name in ("MEDMIM_HOME", "MEDMIM_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer()
    app.command()(doctor.doctor)
    return app


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def test_this_machine_is_checked_and_left_as_it_was(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_PROBE_SECONDS", 240)  # tests may share the machine with others
    before = tree(tmp_path)
    ended = CliRunner().invoke(app, ["--home", str(tmp_path / "deep" / "home"), "--json"])
    report = json.loads(ended.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert list(found) == NAMES and report["home"] == str(tmp_path / "deep" / "home")
    for name in ("home", "python", "torch", "ray", "kfp", "store", "mlflow"):
        assert found[name]["status"] in ("ok", "warn"), found[name]
    assert found["kfp"]["found"] == "2.17.0" and "creates once" in found["store"]["found"]
    assert found["torch"]["found"].startswith(metadata.version("torch"))
    assert report["ok"] == (ended.exit_code == 0) == all(check["status"] != "fail" for check in found.values())
    assert tree(tmp_path) == before


def test_what_was_there_stays(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_import", lambda *_: {"version": "1", "threads": 1, "gpus": [], "bf16": False})
    (tmp_path / "home" / "store").mkdir(parents=True)
    (tmp_path / "home" / "notes").write_text("mine")
    before = tree(tmp_path)
    CliRunner().invoke(app, ["--home", str(tmp_path / "home")])
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("codes", "ended"), [([], 0), ([75], 75), ([2], 2), ([75, 2], 2), ([75, 75], 75), ([70, 75], 70), ([70, 2], 2)]
)
def test_the_exit_code_distinguishes_what_to_fix_from_what_may_pass(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: list[int], ended: int
) -> None:
    failures = [Check(f"c{code}", "fail", "broken", "repair it", code) for code in codes]
    monkeypatch.setattr(doctor, "check_all", lambda *_: iter([Check("fine", "warn", "so so", "buy more"), *failures]))
    run = CliRunner().invoke(app, ["--home", str(tmp_path)])
    assert run.exit_code == ended
    lines = run.stdout.splitlines()
    assert len(lines) == 2 + len(codes) and lines[1].split() == ["warn", "fine", "so", "so;", "fix:", "buy", "more"]
    assert all(line.endswith("broken; fix: repair it") for line in lines[2:])


def test_a_home_that_cannot_be_made_fails_and_the_rest_is_still_checked(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_import", lambda *_: {"version": "1", "threads": 1, "gpus": [], "bf16": False})
    (tmp_path / "file").write_text("")
    run = CliRunner().invoke(app, ["--home", str(tmp_path / "file" / "home"), "--json"])
    report = json.loads(run.stdout)
    assert run.exit_code == 2 and not report["ok"]
    assert [check["name"] for check in report["checks"]] == NAMES[:-2] and report["checks"][0]["status"] == "fail"


@pytest.mark.parametrize(
    ("encoding", "status"), [("UTF-8", "ok"), ("utf8", "ok"), ("ANSI_X3.4-1968", "warn"), ("ISO-8859-1", "warn")]
)
def test_a_locale_that_is_not_utf8_is_a_warning(encoding: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getencoding", lambda: encoding)
    monkeypatch.setenv("LC_ALL", "mine")
    found = machine._locale()
    assert (found.status, found.found) == (status, f"{encoding} (LC_ALL=mine)")
    assert ("export LC_ALL=C.UTF-8" in found.fix) == (status == "warn")


def test_a_check_that_crashes_is_a_line_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> Check:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(machine, "_import", lambda *_: {"version": "1", "threads": 1, "gpus": [], "bf16": False})
    monkeypatch.setattr(machine, "_kfp", crash)
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path))
    found = {check.name: check for check in machine.check_all(tmp_path, None)}
    (log,) = (tmp_path / "errors").iterdir()
    assert (found["kfp"].status, found["kfp"].exit_code) == ("fail", 70)
    assert "ZeroDivisionError: a bug of ours" in found["kfp"].found and str(log) in found["kfp"].found
    assert found["python"].status == "ok"


def test_a_store_that_overwrites_what_was_created_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStore, "create", lambda self, key, data: self.write(key, data) or True)
    ws = workspace(tmp_path)
    with pytest.raises(UserError, match="overwrites what was to be created once"):
        store(ws.store)
    assert list(open_store(ws.store).list()) == []


def test_a_bucket_is_checked_and_left_empty(bucket: str, tmp_path: Path) -> None:
    check = store(bucket)
    assert check.status == "ok" and list(open_store(bucket).list()) == []


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmim.store.s3 import connect

    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ):
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))
    with pytest.raises(Unavailable, match="does not answer"):
        store("s3://bucket/x")
    connect.cache_clear()


@pytest.mark.parametrize(("status", "code"), [(403, 2), (503, 75)])
def test_an_mlflow_whose_health_alone_is_open_fails_as_every_command_would(
    status: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with healthy_only(status, "RBAC: access denied") as uri, pytest.raises(UserError) as caught:
        machine._mlflow(Workspace(tmp_path, "", uri))
    assert caught.value.exit_code == code and caught.value.fix
    assert ("docs/security.md" in caught.value.fix) is (status == 403)


def test_an_mlflow_that_answers_passes_and_one_that_is_away_fails_at_once(tmp_path: Path) -> None:
    with healthy_only(200, "{}") as uri:
        assert machine._mlflow(Workspace(tmp_path, "", uri)).found.endswith("answers")
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        machine._mlflow(Workspace(tmp_path, "", "http://127.0.0.1:1"))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="does not answer"):
        machine._mlflow(Workspace(tmp_path, "", f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert time.monotonic() - begin < 30


def test_a_database_is_opened_and_an_absent_one_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    ws = Workspace(tmp_path, "", f"sqlite:///{path}")
    assert machine._mlflow(ws).found.endswith("(made on first use)") and not path.exists()
    with sqlite3.connect(path) as database:
        database.execute("create table t (x)")
    assert machine._mlflow(ws).found.endswith(str(path))
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="not a database that can be read"):
        machine._mlflow(ws)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ImportError('libcuda.so: wrong ELF class')", "ImportError: libcuda.so: wrong ELF class"),
        ("import os; os.kill(os.getpid(), 11)", "it ended with -11"),
    ],
)
def test_a_library_that_does_not_load_is_reported_with_the_real_reason(code: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        machine._import("torch", code, "finetune")
    assert caught.value.reason == reason and "medmim[finetune]" in caught.value.fix


def test_a_library_that_hangs_is_reported_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROBE_SECONDS", 1)
    with pytest.raises(UserError, match="takes over 1 s"):
        machine._import("torch", "import time; time.sleep(30)", "finetune")


def test_what_a_library_prints_while_it_loads_is_ignored() -> None:
    code = "import json, sys; print('WARNING: noise'); print('more', file=sys.stderr); print(json.dumps({'a': 1}))"
    assert machine._import("x", code, "finetune") == {"a": 1}


def test_a_gpu_is_reported_with_its_memory_and_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"version": "2", "threads": 8, "build": "13.0", "gpus": [["H100", 80 << 30]], "bf16": True}
    monkeypatch.setattr(machine, "_import", lambda *_: found)
    assert machine._torch().found == "2, 8 threads, H100 (80 GiB), bf16"


def test_no_place_for_the_sockets_of_ray_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_import", lambda *_: {"version": "1"})
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("d" * 60)))
    assert machine._ray().status == "ok", "the launcher falls back on /tmp"
    monkeypatch.setattr("os.access", lambda place, mode: str(place) != "/tmp")
    with pytest.raises(UserError, match="no place for Ray's sockets") as caught:
        machine._ray()
    assert "TMPDIR" in caught.value.fix


@pytest.mark.parametrize(("gib", "status"), [(0.5, "fail"), (3, "warn"), (50, "ok")])
def test_a_disk_that_is_nearly_full_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, status: str
) -> None:
    usage = type("usage", (), {"free": int(gib * (1 << 30))})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    if status == "fail":
        with pytest.raises(Unavailable):
            machine._disk(tmp_path / "not" / "yet")
    else:
        assert machine._disk(tmp_path / "not" / "yet").status == status


def without(monkeypatch: pytest.MonkeyPatch, *absent: str, **other: str) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in absent:
            raise metadata.PackageNotFoundError(name)
        return other.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_another_kfp_than_the_compiled_one_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, kfp="2.14.0")
    with pytest.raises(UserError, match="2.14.0") as caught:
        machine._kfp()
    assert caught.value.fix == "pip install kfp==2.17.0"


def test_a_missing_extra_is_reported_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "kubernetes")
    check = machine._extras()
    assert check.status == "warn" and "cluster lacks kubernetes" in check.found
    assert check.fix == "pip install 'medmim[cluster]'"
    without(monkeypatch, "torch")
    with pytest.raises(UserError, match="finetune lacks torch") as caught:
        machine._extras()
    assert "medmim[" in caught.value.fix and "bench" in caught.value.fix
    without(monkeypatch, "minio")
    with pytest.raises(UserError, match="every command needs"):
        machine._extras()


def test_tools_of_development_are_for_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ruff")
    assert "dev lacks ruff" in machine._extras().found
    monkeypatch.setattr(medmim, "__file__", str(tmp_path / "site-packages" / "medmim" / "__init__.py"))
    check = machine._extras()
    found = set(check.found.split(", "))
    assert check.status == "ok" and {"bench", "finetune", "ocr"} <= found and "dev" not in found


def test_an_image_without_torch_does_not_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_EXTRAS", "data cluster")
    without(monkeypatch, "torch", "peft")
    assert machine._extras() == Check("extras", "ok", "cluster, data")
    assert (machine._torch().status, machine._torch().found[:8]) == ("ok", "left out")
    without(monkeypatch, "kubernetes")
    assert "cluster lacks kubernetes" in machine._extras().found


def test_a_base_is_compared_with_its_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(checkpoint, "shipped", lambda: ["tiny"])
    monkeypatch.setattr(checkpoint, "resolve", lambda name: tmp_path)
    (tmp_path / "README.md").write_text(f"digest: {checkpoint.digest(tmp_path)}\n")
    assert machine._bases() == Check("bases", "ok", "tiny")
    (tmp_path / "config.json").write_text("{ }")
    with pytest.raises(UserError, match="tiny: not the weights that the model card names"):
        machine._bases()
    monkeypatch.setattr(checkpoint, "shipped", lambda: [])
    with pytest.raises(UserError, match="no base checkpoint"):
        machine._bases()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_database_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        machine._mlflow(Workspace(tmp_path, "", f"sqlite:///{tmp_path}/mlflow.db"))
