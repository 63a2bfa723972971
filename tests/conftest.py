"""What tests of several packages share: an S3 server on loopback, a bucket of one's own, a migrated MLflow database."""

import gc
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from medmim import hints, tracking
from medmim.run.workspace import Workspace
from tests.support import s3_policy
from tests.support.s3_proxy import Proxy, counting

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
os.environ.setdefault("MEDMIM_USER", "tester")  # of whoever runs this as root, who is nobody
# No deadline: a busy machine is no bug. Equal inputs in each run, so that a commit that has passed passes again; as
# they never change, half as many as Hypothesis draws by itself.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Begun first, whatever their names: each takes half a minute of a worker, which would else be alone with it at the end.
LONGEST = {
    "tests/cli/test_pipeline.py",
    "tests/finetune/engines/test_engines.py",
    "tests/finetune/test_run.py",
    "tests/finetune/test_distributed.py",
    "tests/finetune/test_memory_plan.py",
    "tests/services/inference/test_following.py",
    "tests/tracking/test_tracking.py",
}
assert not (missing := [name for name in LONGEST if not (ROOT / name).is_file()]), missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files before all others, each group in its own order."""
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in LONGEST)


def pytest_collection_finish() -> None:
    """Keep what is imported out of every garbage collection: a million objects, 0.7 s each time a model is released."""
    _freeze()


def _freeze() -> None:
    gc.collect()
    gc.freeze()
    _frozen.append(len(sys.modules))


_frozen: list[int] = []


@pytest.fixture(autouse=True)
def _neither_command_nor_step() -> Iterator[None]:
    """A command or a step that a test runs here leaves the next test neither its --home, its name nor its handlers."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        if handler is not None:  # not one of C, as Ray's core has it
            signal.signal(number, handler)
    hints.forget()
    os.environ.pop("MEDMIM_STAGE", None)
    if len(sys.modules) > _frozen[-1] + 200:  # a library that a function imports
        _freeze()


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """The system's Chromium, for tests of pages: `.ci/run` installs it. A process can have one Playwright."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a MinIO where the cluster kit is at hand, else of moto's server."""
    kit = Path(os.environ.get("MEDMIM_CLUSTER_KIT", ROOT.parent / "shared" / "cluster")) / "minio"
    key = {"AWS_ACCESS_KEY_ID": "medmim", "AWS_SECRET_ACCESS_KEY": "medmim-secret", "AWS_REGION": "us-east-1"}
    if kit.is_file():
        folder = tmp_path_factory.mktemp("minio")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = {**os.environ, "PORT": str(port), "MINIO_SITE_REGION": key["AWS_REGION"]}  # else it takes any
        subprocess.run(["bash", kit, folder], env=settings, check=True, capture_output=True)
        yield {**key, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        os.kill(int((folder / "minio.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)
    else:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield {**key, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        server.stop()


@pytest.fixture
def bucket(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`s3://` address of a new bucket; the environment leads to its server."""
    from minio import Minio

    from medmim.store.s3 import connect

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    client = Minio(
        s3_server["AWS_ENDPOINT_URL"].removeprefix("http://"),
        s3_server["AWS_ACCESS_KEY_ID"],
        s3_server["AWS_SECRET_ACCESS_KEY"],
        secure=False,
        region=s3_server["AWS_REGION"],
    )
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.make_bucket(name)
    connect.cache_clear()
    yield f"s3://{name}"
    connect.cache_clear()


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Counts what is read of the bucket."""
    from medmim.store.s3 import connect

    with counting(os.environ["AWS_ENDPOINT_URL"]) as it:
        monkeypatch.setenv("AWS_ENDPOINT_URL", it.url)
        connect.cache_clear()
        yield it


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty MLflow database, migrated once (seconds). Copy it, do not use it."""
    home = tmp_path_factory.mktemp("mlflow")
    tracking.client(Workspace(home, str(home / "store"), f"sqlite:///{home}/mlflow.db"))
    from mlflow.store.db import utils

    with pytest.MonkeyPatch.context() as patch:  # it reads 67 files each time
        patch.setattr(utils, "_get_latest_schema_revision", cache(utils._get_latest_schema_revision))
        yield home / "mlflow.db"


@pytest.fixture
def as_user(bucket: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Act with a policy of infra/s3 on a store in the bucket, which keeps versions; gives its URI. Needs MinIO."""
    from minio import Minio, MinioAdmin
    from minio.commonconfig import ENABLED
    from minio.credentials import StaticProvider
    from minio.error import MinioAdminException
    from minio.versioningconfig import VersioningConfig

    from medmim.store.s3 import connect

    address, name = s3_server["AWS_ENDPOINT_URL"].removeprefix("http://"), bucket.removeprefix("s3://")
    root = StaticProvider(s3_server["AWS_ACCESS_KEY_ID"], s3_server["AWS_SECRET_ACCESS_KEY"])
    admin = MinioAdmin(endpoint=address, credentials=root, secure=False)
    Minio(address, credentials=root, secure=False).set_bucket_versioning(name, VersioningConfig(ENABLED))

    def as_user(role: str) -> str:
        user = f"{role}-{name}"
        try:
            admin.policy_add(user, policy=s3_policy.load(role, name))
        except MinioAdminException as error:
            assert "Malformed" not in str(error), error
            pytest.skip("the S3 server keeps no users: only MinIO is asked")
        admin.user_add(user, "secret-of-this-user")
        admin.policy_set(user, user=user)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-this-user")
        connect.cache_clear()
        return f"{bucket}/store"

    return as_user
