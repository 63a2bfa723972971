"""Where a run reads and writes: recipe, then environment, then the defaults in the home."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.redact import shown
from medmim.run.workspace import Workspace, absolute, sqlite_path, sqlite_uri, workspace


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


@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize("name", ["x" * 300, "\u00fc" * 200, "a/" + "y" * 256 + "/b", "d/" * 1800])
def test_a_store_whose_path_is_too_long_is_an_error_of_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    address = form.format(tmp_path / name)
    said = loading.load("demo", [f"platform.store={address}"])
    with pytest.raises(UserError, match="platform.store: .* is too long") as caught:
        workspace(tmp_path / "home", said)
    assert len(caught.value.fact) < 150 and caught.value.exit_code == 2
    monkeypatch.setenv("MEDMIM_STORE", address)
    with pytest.raises(UserError, match="MEDMIM_STORE: .* is too long"):
        workspace(tmp_path / "home")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\tb", "a\x1b[31mb", "a\udcffb", "a\x7fb"])
def test_a_home_that_no_record_could_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be the home") as caught:
        workspace(tmp_path / name)
    assert caught.value.exit_code == 2 and str(caught.value).isprintable() or "\n" in str(caught.value)
    str(caught.value).encode()
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_a_users_home_and_that_of_nobody_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert workspace(Path("~/x")).home == tmp_path / "me" / "x"
    recipe = loading.load("demo", ["platform.store=~/s"])
    assert workspace(Path("~/x"), recipe).store == str(tmp_path / "me" / "s")
    for name in ("~no-such-user", "~0", "~~", "a~"):
        assert workspace(Path(name)).home == tmp_path / name


def test_a_home_whose_files_would_be_too_deep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is 3,6.. bytes long"):
        workspace(tmp_path / "/".join(["d" * 200] * 18))
    assert not list(tmp_path.iterdir())


ANY = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/")
NAMES = st.text(st.one_of(st.sampled_from("%?#&=+:;@ '\"\\[]{}~"), ANY), min_size=1, max_size=12)


@given(st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4))
def test_sqlalchemy_reads_the_path_that_is_written_and_mlflow_makes_no_folder_beside_it(names: list[str]) -> None:
    path = Path("/tmp", *names, "mlflow.db")
    uri = sqlite_uri(path)
    url = make_url(uri)
    assert (url.database, dict(url.query)) == (str(path), {})
    assert sqlite_path(uri) == path and absolute(uri) == uri
    made = Path(uri.removeprefix("sqlite:///")).parent  # what MLflow 3 makes, with its parents
    assert made in path.parents


@pytest.mark.parametrize(
    ("tracking", "becomes"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{0}/mlflow.db"),
        ("sqlite:///./mlflow.db", "sqlite:///{0}/mlflow.db"),
        ("sqlite:///sub/mlflow.db?timeout=30", "sqlite:///{0}/sub/mlflow.db?timeout=30"),
        ("sqlite:///../first/mlflow.db", "sqlite:///{0}/mlflow.db"),
        ("sqlite+pysqlite:///mlflow.db", "sqlite:///{0}/mlflow.db"),
        ("sqlite:///50%25/mlflow.db", "sqlite:///{0}/50%25%2Fmlflow.db"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("./mlruns", "file://{0}/mlruns"),
        ("file:mlruns", "file://{0}/mlruns"),
        ("file:///data/mlruns", "file:///data/mlruns"),
        ("http://host:5000/a", "http://host:5000/a"),
        ("sqlite:///~/a/mlflow.db?timeout=30", "sqlite:////srv/me/a/mlflow.db?timeout=30"),
        ("~/mlruns", "file:///srv/me/mlruns"),
        ("file:~/mlruns", "file:///srv/me/mlruns"),
        ("~no-such-user/mlruns", "file://{0}/~no-such-user/mlruns"),
        ("postgresql://me:p%40ss@host/db", "postgresql://me:p%40ss@host/db"),
        ("databricks", "databricks"),
    ],
)
def test_a_tracking_uri_means_the_same_in_every_folder(
    tracking: str, becomes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.setenv("HOME", "/srv/me")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.chdir(first)
    found = workspace(tmp_path / "home")
    monkeypatch.chdir(second)
    assert found.tracking == absolute(found.tracking) == becomes.format(first)


def test_an_address_is_shown_without_its_password() -> None:
    assert shown("postgresql://me:secret@host:5432/db") == "postgresql://host:5432/db"
    assert shown("sqlite:////a@b/mlflow.db") == "sqlite:////a@b/mlflow.db"
