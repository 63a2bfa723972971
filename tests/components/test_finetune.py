"""What the component finetune asks before it trains."""

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
