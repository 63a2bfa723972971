"""Who submits and who decides is a person: not the image's user, not a variable that nobody filled in."""

import json
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.run.cache import cached_step
from medmim.run.person import UNKNOWN, current_user, person
from medmim.run.provenance import provenance_of
from medmim.run.stage import component
from medmim.store import open_store

NOBODY = ("medmim", "MEDMIM", "root", "nobody", "jovyan", "uid 10001", "$(WHO)", "${USER}", "by $(WHO)",
          UNKNOWN, "a\nb", "nightly of medmim",
          "system:serviceaccount:radiology:medmim-step", "a clone of demo-1")  # fmt: skip


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """What KFP gives each step's pod; the process is the image's user."""
    monkeypatch.setenv("KFP_POD_NAME", "train-x7-system-container-impl-1")
    monkeypatch.setattr("getpass.getuser", lambda: "medmim")
    monkeypatch.setenv("MEDMIM_USER", "")


@pytest.mark.parametrize("who", NOBODY)
def test_what_is_no_person_decides_nothing(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMIM_USER", "jane")
    with pytest.raises(UserError, match="no person"):
        person(who)
    monkeypatch.setenv("MEDMIM_USER", who)
    with pytest.raises(UserError, match="no person"):
        person()
    assert person("jane@example.org") == "jane@example.org"


def test_on_a_laptop_the_user_decides_and_the_images_user_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDMIM_USER", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: "jane")
    assert person() == current_user() == "jane"
    for image in ("medmim", "root"):
        monkeypatch.setattr("getpass.getuser", lambda image=image: image)
        with pytest.raises(UserError, match=f"'{image}' is no person") as raised:
            person()
        assert "export MEDMIM_USER=" in raised.value.fix


def who_made(tmp_path: Path, recipe: str, run: str) -> str:
    """Who a step says that it works for, in the provenance of what it makes."""

    def fill(work: Path) -> dict[str, int]:
        return {"characters": (work / "made").write_text(tmp_path.name)}

    (folder := tmp_path / run).mkdir(parents=True)
    with component("data", recipe, str(folder), run) as (parsed, ws):
        made, _ = cached_step(ws, "data", 1, tmp_path.name, {}, fill, recipe=parsed)
    return str(provenance_of(made)["who"])


@pytest.mark.usefixtures("pod")
def test_in_a_pod_a_step_works_for_who_submitted_its_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    place, recipe = open_store(str(store)), f"{store}/runs/demo-1/recipe.json"
    assert current_user() == UNKNOWN  # not medmim, whom the image runs as
    place.write("runs/demo-1/recipe.json", loading.load("demo", [f"platform.store={store}"]).dump().encode())
    assert who_made(tmp_path / "a", recipe, "demo-1") == UNKNOWN
    place.write("runs/demo-1/submitted.json", json.dumps({"who": "jane@example.org"}).encode())
    assert who_made(tmp_path / "b", recipe, "demo-1") == "jane@example.org"
    assert who_made(tmp_path / "c", recipe, "demo-2") == "a clone of demo-1"  # KFP does not say who cloned it
