"""A console's key, with `infra/s3/console.json`, is enough for every page, and reads no weights and changes nothing."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from medmim.data import erased
from medmim.errors import UserError
from medmim.nightly import records
from medmim.page.page import publish as publish_page
from medmim.recipe.schema import Recipe
from medmim.run.stage import stage
from medmim.run.workspace import Workspace, sqlite_uri
from medmim.store import open_store
from tests.nightly.test_records import night
from tests.support.bench import World, publish
from tests.support.console import browser
from tests.support.inference import promote_version, register_model
from tests.support.waiting import until

DENIED = re.compile("refuses access|Access ?Denied")


def made(client: TestClient, path: str) -> Response | None:
    """A page, once what it needs is indexed."""
    answer = client.get(path)
    return None if answer.status_code == 202 else answer


def walked(client: TestClient) -> dict[str, tuple[int, str]]:
    """Path -> status and page, of all that links lead to from the first page on, one of each shape."""
    found, waiting = (
        dict[str, tuple[int, str]](),
        ["/", "/leaderboard", "/items", "/data", "/models", "/nights", "/runs"],
    )
    seen = set[str]()
    while waiting:
        path = waiting.pop()
        shape = re.sub(r"[0-9a-f]{16,}|\d+|=[^&]*", "N", path)
        if shape in seen:
            continue
        seen.add(shape)
        answer = until(lambda: made(client, path), 60)  # noqa: B023  called at once
        found[path] = (answer.status_code, answer.text)
        waiting += [link for link in re.findall(r'href="(/[^"]*)"', answer.text) if not link.startswith("/static")]
    return found


@pytest.mark.long
def test_every_page_is_shown_with_a_key_that_only_reads(
    bucket: str,
    as_user: Callable[[str], str],
    recipe: Recipe,
    world: World,
    mlflow_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    ws = Workspace(
        tmp_path / "ours", f"{bucket}/store", sqlite_uri(tmp_path / "mlflow.db"), "demo-20260601-020000-ab12"
    )
    ws.home.mkdir()
    data = publish(world, ws.store)
    promote_version(ws, recipe, register_model(ws, recipe, data, world.models[0]))
    records.record(ws, "demo", night())
    with stage(ws, "report") as outcome:
        publish_page(ws, "<h1>page</h1>", ws.home / "r.html", {}, outcome)
    erased.add(ws.store, ["somebody"])
    for key in ("resume/finetune-1/step-00000001/g/a", "used/data/x"):
        open_store(ws.store).write(key, b"secret")

    as_user("console")
    (tmp_path / "console").mkdir()
    seen = walked(browser(Workspace(tmp_path / "console", ws.store, ws.tracking)))
    assert {"/runs", "/nights/demo", f"/runs/{ws.run}", f"/reports/{outcome.digest}"} <= set(seen)
    assert len([path for path in seen if path.startswith(("/leaderboard/", "/items/", "/images/"))]) > 2
    assert not [path for path, (_, html) in seen.items() if DENIED.search(html)]
    gone = {path: status for path, (status, _) in seen.items() if status != 200}
    assert gone == {f"/runs/{night().run}": 404}, "this night's run has left nothing in the store"

    place = open_store(ws.store)
    keys = list(place.list())
    weights = next(key for key in keys if key.endswith(".safetensors"))
    for key in (weights, "resume/finetune-1/step-00000001/g/a", "used/data/x"):
        with pytest.raises(UserError, match=DENIED):
            place.read(key)
    for top in {key.partition("/")[0]: key for key in keys}.items():
        for change in (
            lambda top=top: place.write(f"{top[0]}/x", b"x"),
            lambda top=top: place.create(f"{top[0]}/y", b"y"),
            lambda top=top: place.delete(top[1]),
        ):
            with pytest.raises(UserError, match=DENIED):
                change()
