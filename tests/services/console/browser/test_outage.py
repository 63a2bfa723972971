"""A store and an MLflow that go away, and come back."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from tests.services.console.browser.conftest import Reader
from tests.support.bench import World, publish
from tests.support.console import TOKEN, serving, wait_for_mlflow
from tests.support.inference import register_model
from tests.support.relay import Relay, relay
from tests.support.servers import mlflow_server

pytestmark = pytest.mark.browser


@dataclass
class Away:
    """A console whose servers can be cut off.

    Attributes:
        url: Of the console.
        store: The way to its S3.
        mlflow: The way to its MLflow.
    """

    url: str
    store: Relay
    mlflow: Relay


@pytest.fixture
def away(
    bucket: str, mlflow_database: Path, world: World, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Away]:
    (tmp_path / "mlflow").mkdir()
    database = tmp_path / "mlflow.db"
    database.write_bytes(mlflow_database.read_bytes())
    s3 = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    assert s3
    with mlflow_server(tmp_path / "mlflow", database) as port, relay(s3) as to_store, relay(port) as to_mlflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{port}")
        monkeypatch.setenv("MEDMIM_STORE", f"{bucket}/store")
        ws = workspace(tmp_path / "home")
        register_model(ws, recipe, publish(world, ws.store), world.models[0])
        tokens = tmp_path / "tokens"
        tokens.write_text(f"ann {TOKEN}\n", encoding="utf-8")
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{to_store.port}",
            "MLFLOW_TRACKING_URI": f"http://localhost:{to_mlflow.port}",
        }
        with serving(ws, tokens, **environment) as url:
            wait_for_mlflow(url)
            yield Away(url, to_store, to_mlflow)


def test_pages_say_that_a_server_is_away_and_work_again_once_it_is_back(
    reader: Callable[..., Reader], away: Away, recipe: Recipe
) -> None:
    page = reader(away.url).page
    name = recipe.register_.model

    def status(path: str) -> int:
        answer = page.goto(away.url + path, timeout=60_000)
        assert answer is not None
        assert "Traceback" not in page.content()
        return answer.status

    assert [status(path) for path in ("/leaderboard", f"/models/{name}", "/items", "/runs")] == [200] * 4

    away.mlflow.down()
    assert status(f"/models/{name}") == 503
    assert "MLflow" in page.inner_text("main")
    assert [status(path) for path in ("/leaderboard", "/items", "/runs", "/data")] == [200] * 4
    away.mlflow.up()
    assert status(f"/models/{name}") == 200

    away.store.down()
    assert status("/leaderboard") == 503
    assert "does not answer" in page.inner_text("main")
    assert status("/health") == 200
    away.store.up()
    assert [status(path) for path in ("/leaderboard", f"/models/{name}", "/items", "/runs")] == [200] * 4
