"""Write the picture of docs/mlflow.md: the charts of a finished run of the demo, in MLflow's own pages.

python -m tests.tracking.pictures HOME
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests
from playwright.sync_api import ViewportSize, sync_playwright

from medmim import tracking
from medmim.run.workspace import workspace

FILE = Path(__file__).parents[2] / "docs" / "mlflow.png"
SIZE: ViewportSize = {"width": 1720, "height": 1850}  # px
SCALE = 0.7
_STARTING = 120.0  # s
_LONGEST, _DRAWN = 120_000, 20_000  # ms


def main(home: Path, file: Path = FILE) -> None:
    """Serve the home's MLflow on loopback, and take the page of the newest run that has a model."""
    ws = workspace(home)
    api = tracking.client(ws)
    experiments = [one.experiment_id for one in api.search_experiments()]
    run = next(one for one in api.search_runs(experiments) if one.outputs is not None and one.outputs.model_outputs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--backend-store-uri", ws.tracking, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *options], env=environment, start_new_session=True
    )
    try:
        url, last = f"http://127.0.0.1:{port}", time.monotonic() + _STARTING
        while not _answers(url):
            if time.monotonic() > last:
                raise TimeoutError(f"no MLflow at {url} after {_STARTING:g} s")
            time.sleep(0.5)
        with sync_playwright() as engine:
            browser = engine.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE)
            page.goto(f"{url}/#/experiments")
            page.get_by_text("Model training").first.click(timeout=_LONGEST)
            page.goto(f"{url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics")
            search = page.get_by_placeholder("Search metric charts")
            search.wait_for(timeout=_LONGEST)
            assistant = page.get_by_role("button", name="Close")
            if assistant.count():
                assistant.first.click()
            search.fill("held_in/(accuracy$|accuracy_base|gain)|train|eval")
            page.wait_for_timeout(_DRAWN)  # each chart is drawn once it is in view
            page.screenshot(path=file)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
