"""What the chart's pods run, run here: its script, and medmim's checks as `helm test` starts them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.chart import CHART, Object

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where `mlflow` is


def command_of(script: str, **env: str) -> tuple[list[str], dict[str, str]]:
    """What the pod runs, its text after `python3 -c`, and its environment."""
    command = [sys.executable, "-c", (CHART / "files" / script).read_text("utf-8")]
    return command, {**os.environ, "PATH": PATH, **env}


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the pod does."""
    command, environment = command_of(script, **env)
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def helm_test(pod: Object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a pod of `helm test`."""
    (container,) = pod["spec"]["containers"]
    python, *words = container["args"]
    assert python == "python3"
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ, **env})
