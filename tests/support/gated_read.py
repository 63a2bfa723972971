"""A `Source.read` that says what it reads, and waits where the test wants it: for nodes of a cluster, too."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GATE, LOG = "gate", "read.log"


def read(root: Path, path: str) -> bytes:
    """Read a file below the root; one whose name starts with `late` once the gate is open."""
    with (root / LOG).open("a", encoding="utf-8") as log:
        log.write(f"{path} {Path(os.environ.get('MEDMIM_HOME', 'no-node')).name}\n")
    while path.startswith("late") and not (root / GATE).exists():
        time.sleep(0.05)
    return (root / path).read_bytes()


def seen(root: Path) -> list[tuple[str, str]]:
    """Path and home of the node of each read so far."""
    lines = (root / LOG).read_text(encoding="utf-8").splitlines() if (root / LOG).exists() else []
    return [(line.split()[0], line.split()[1]) for line in lines]


@contextmanager
def opened(root: Path) -> Iterator[None]:
    """The gate is open within the block."""
    (root / GATE).touch()
    yield
    (root / GATE).unlink()
