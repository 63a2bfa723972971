"""The checked-in IR is what the sources compile to.

In a process of its own: for each setting of a pod kfp asks `inspect.stack`, which looks through all modules that this
process has loaded, for half a minute.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STALE = """
import json, sys, tempfile
from pathlib import Path
from pipelines import compile as compiled
kept = compiled.stale()
with tempfile.TemporaryDirectory() as folder:
    compiled.GOAL = Path(folder)
    compiled.write(compiled.GOAL)
    (compiled.GOAL / "train.yaml").write_text("edited by hand\\n")
    (compiled.GOAL / "step-data.yaml").unlink()
    print(json.dumps({"checked in": kept, "changed": compiled.stale()}))
"""


@pytest.fixture(scope="module")
def stale() -> dict[str, list[str]]:
    """The stale files of the checked-in folder, and of one in which a file was edited and a file removed."""
    done = subprocess.run([sys.executable, "-c", STALE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_checked_in_ir_is_fresh(stale: dict[str, list[str]]) -> None:
    assert stale["checked in"] == []


def test_a_changed_file_is_named(stale: dict[str, list[str]]) -> None:
    assert stale["changed"] == ["step-data.yaml", "train.yaml"]
