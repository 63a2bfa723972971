"""A PostgreSQL server of the test's own, where there is one on PATH."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import chown, rmtree, which

import pytest


@contextmanager
def postgres(host: str = "127.0.0.1", clients: str = "127.0.0.1/32") -> Iterator[str]:
    """Its URI; it listens on `host`, to the network `clients`."""
    if which("initdb") is None:
        pytest.skip("no PostgreSQL: initdb is not on PATH")
    folder = Path(tempfile.mkdtemp(prefix="medmim-postgres-"))
    chown(folder, "nobody")  # it refuses to run as root
    (folder / "password").write_text("a-password")
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]

    def call(*words: str) -> None:
        # its server keeps the pipe of what it prints open
        done = subprocess.run(words, user="nobody", cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert done.returncode == 0, (folder / "log").read_text() if (folder / "log").exists() else words

    data, log = str(folder / "data"), str(folder / "log")
    settings = f"-c listen_addresses={host} -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    call("initdb", "-D", data, "-U", "medmim", "--pwfile=password", "--auth=scram-sha-256")
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {clients} scram-sha-256\n")
    try:
        call("pg_ctl", "-D", data, "-l", log, "-o", settings, "-w", "start")
        yield f"postgresql://medmim:a-password@{host}:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        rmtree(folder)
