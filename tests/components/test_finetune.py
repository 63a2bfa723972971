"""What the component finetune asks before it trains."""

import socket
import time
from pathlib import Path

import pytest

from components.finetune import finetune
from medmim.recipe import loading
from medmim.run.stage import outcomes
from medmim.run.workspace import Workspace
from tests.support.servers import healthy_only


@pytest.mark.parametrize("refuses", [True, False])
def test_what_mlflow_refuses_is_told_before_the_training_and_its_absence_is_not(
    refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Register, hours later, would be refused as well; a server that is away, it waits for."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = tmp_path / "store"
    with healthy_only(403 if refuses else 503, "no") as uri:
        recipe = loading.load("demo", [f"platform.store={store}", f"platform.tracking={uri}"])
        with pytest.raises(SystemExit) as ended:
            finetune.python_func(recipe.dump(), str(tmp_path / "home"), "r-1", f"{store}/data/none")
    told = outcomes(Workspace(tmp_path / "home", str(store), uri, "r-1"), ["finetune"])["finetune"].message
    assert ended.value.code == 2 and ("refuses a request (403)" in told) == refuses, told


def test_a_silent_mlflow_keeps_no_step_from_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have a Ray job to adopt, whose Lease waits for it; a pod's patience is five minutes."""
    monkeypatch.setenv("MEDMIM_PATIENCE", "300")
    store, begin = tmp_path / "store", time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        recipe = loading.load("demo", [f"platform.store={store}", f"platform.tracking={uri}"])
        with pytest.raises(SystemExit) as ended:
            finetune.python_func(recipe.dump(), str(tmp_path / "home"), "r-1", f"{store}/data/none")
    assert ended.value.code == 2 and time.monotonic() - begin < 60
