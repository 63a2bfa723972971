"""A server's key, with `infra/s3/inference.json`, is enough to follow the champion, and changes nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from medmim_inference.following import Following
from medmim_inference.rules import Rules

from medmim.errors import UserError
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace, sqlite_uri
from medmim.store import open_store
from medmim.store.s3 import connect
from tests.support.bench import World, publish
from tests.support.inference import promote_version, register_model

READ = ("model", "bench", "answers", "data", "decisions")


@pytest.mark.long
def test_a_server_follows_the_champion_with_a_key_that_only_reads(
    bucket: str,
    s3_server: dict[str, str],
    as_user: Callable[[str], str],
    recipe: Recipe,
    world: World,
    mlflow_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    ws = Workspace(tmp_path / "ours", f"{bucket}/store", sqlite_uri(tmp_path / "mlflow.db"))
    data = publish(world, ws.store)
    numbers = [register_model(ws, recipe, data, folder) for folder in world.models]
    promote_version(ws, recipe, numbers[0])
    open_store(ws.store).write("runs/demo-1/recipe.json", b"{}")
    places = {key.partition("/")[0] for key in open_store(ws.store).list()}
    assert {*READ, "runs"} <= places

    as_user("inference")
    place = open_store(ws.store)
    one = Following(
        f"models:/{recipe.register_.model}@champion",
        Workspace(tmp_path / "server", ws.store, ws.tracking),
        Rules(questions=2),
    )
    one.start()
    assert one.replica().target.version == numbers[0]
    with monkeypatch.context() as root:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            root.setenv(name, s3_server[name])
        connect.cache_clear()
        promote_version(ws, recipe, numbers[1])
    connect.cache_clear()
    assert one.look() and one.replica().target.version == numbers[1] and one.refused is None

    keys = {key.partition("/")[0]: key for key in place.list()}
    for top in places:
        for change in (
            lambda top=top: place.write(f"{top}/x", b"x"),
            lambda top=top: place.create(f"{top}/y", b"y"),
            lambda top=top: place.delete(keys[top]),
        ):
            with pytest.raises(UserError, match="AccessDenied|may not|not allowed"):
                change()
        if top in READ:
            assert place.read(keys[top]) is not None
        else:
            with pytest.raises(UserError, match="AccessDenied|may not|not allowed"):
                place.read(keys[top])
