"""For tests of local copies: an artifact in a bucket, and processes that fetch it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medmim import store
from medmim.store import copies, ranges
from tests.support.s3_proxy import Proxy

RANGE = 64 << 10


LARGE, SMALL = bytes(range(256)) * (4 * RANGE // 256) + b"tail", b"small" * 1000


FETCH = (
    "import os, sys; from pathlib import Path; from medmim import errors, store; from medmim.store import ranges\n"
    f"ranges.RANGE = {RANGE}; ranges.CONNECTIONS = int(os.environ.get('CONNECTIONS', 4))\n"
    "print('ready', flush=True)\n"
    "try: print(store.fetch(store.get(sys.argv[1]), Path(sys.argv[2])), flush=True)\n"
    "except errors.UserError as error: print(error); sys.exit(error.exit_code)\n"
    "if sys.argv[3:]: sys.stdin.read()"
)


@pytest.fixture
def proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(ranges, "RANGE", RANGE)
    monkeypatch.delenv("MEDMIM_CACHE_GIB", raising=False)
    yield proxy
    copies._used.clear()


@pytest.fixture
def artifact(proxy: Proxy, bucket: str, tmp_path: Path) -> store.Artifact:
    return publish(bucket, tmp_path / "files", a_small=SMALL, large=LARGE, empty=b"")


def publish(where: str, folder: Path, kind: str = "model", **files: bytes) -> store.Artifact:
    (folder / "sub").mkdir(parents=True)
    for name, data in files.items():
        (folder / "sub" / name).write_bytes(data)
    return store.publish(folder, where, kind, {}, {})


def process(artifact: store.Artifact, cache: Path, *more: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, artifact.uri, str(cache), *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env})


def whole(artifact: store.Artifact, folder: Path) -> bool:
    return all(store.file_digest(folder / name) == facts["sha256"] for name, facts in artifact.files.items())


def size(artifact: store.Artifact) -> int:
    return sum(facts["bytes"] for facts in artifact.files.values())


def part(artifact: store.Artifact, cache: Path) -> Path:
    return cache / f".part-{artifact.digest}"
