"""The chart's scripts, run as its pods run them."""

import os
import subprocess
import sys
from pathlib import Path

from charts.chart import CHART

PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where `mlflow` is


def run(script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the pod does: its text after `python3 -c`."""
    command = [sys.executable, "-c", (CHART / "files" / script).read_text("utf-8"), *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": PATH, **env})
