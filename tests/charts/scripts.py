"""The chart's scripts, run as its pods run them."""

import os
import subprocess
import sys
from pathlib import Path

from tests.charts.chart import CHART

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where `mlflow` is


def command_of(script: str, *words: str, **env: str) -> tuple[list[str], dict[str, str]]:
    """What the pod does, its text after `python3 -c`, and its environment."""
    command = [sys.executable, "-c", (CHART / "files" / script).read_text("utf-8"), *words]
    return command, {**os.environ, "PATH": PATH, **env}


def run(script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the pod does."""
    command, environment = command_of(script, *words, **env)
    return subprocess.run(command, capture_output=True, text=True, env=environment)
