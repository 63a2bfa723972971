"""Where a run reads and writes: recipe, then environment, then the defaults in the home."""

from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.run.workspace import Workspace, workspace


def test_the_recipe_comes_before_the_environment_and_that_before_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEDMIM_STORE", "MEDMIM_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    plain = workspace(None)
    assert (plain.home, plain.store) == (tmp_path / ".medmim", str(tmp_path / ".medmim" / "store"))
    assert plain.tracking == f"sqlite:///{tmp_path}/.medmim/mlflow.db"
    monkeypatch.setenv("MEDMIM_STORE", str(tmp_path / "env"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path / "envhome"))
    assert workspace(None).store == str(tmp_path / "env") and workspace(None).home == tmp_path / "envhome"
    said = loading.load("demo", [f"platform.store={tmp_path}/said", "platform.tracking=http://said"])
    assert workspace(tmp_path / "h", said) == Workspace(tmp_path / "h", str(tmp_path / "said"), "http://said")


def test_a_home_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="while creating the home"):
        workspace(tmp_path / "file" / "home")


def test_a_store_that_is_none_leaves_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_STORE", "hdfs://cluster/x")
    with pytest.raises(UserError, match="hdfs://cluster/x is not the address of a store"):
        workspace(tmp_path / "home")
    assert not list(tmp_path.iterdir())
