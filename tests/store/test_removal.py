"""Removing an artifact while other processes use, publish or remove the same content."""

import random
import threading
import time
from pathlib import Path

import pytest

from medmim import store
from medmim.errors import TRY_AGAIN, Unavailable
from medmim.store import Artifact, open_store, removal


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else f"{request.getfixturevalue('bucket')}/store"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}").write_text(str(number))
    return folder


def publish(files: Path, uri: str) -> Artifact:
    return store.publish(files, uri, "data", {}, {})


def name(artifact: Artifact) -> str:
    return f"{artifact.kind}/{artifact.digest}"


def test_a_removed_artifact_leaves_nothing_and_can_be_published_again(uri: str, files: Path, tmp_path: Path) -> None:
    made = publish(files, uri)
    place = open_store(uri)
    place.write("data/else", b"stays")
    if (tmp_path / "store").is_dir():
        (tmp_path / "store" / name(made) / ".part-left").write_text("by a kill")
    assert removal.remove(place, name(made))
    assert list(place.ages()) == ["data/else"]
    assert removal.remove(place, name(made))  # removing what does not exist is no error
    assert publish(files, uri) == made and store.verify(made) == []


def test_an_artifact_that_was_claimed_since_is_spared(uri: str, files: Path) -> None:
    made, place = publish(files, uri), open_store(uri)
    used, _ = place.ages(f"used/{name(made)}")[f"used/{name(made)}"]
    before = set(place.list())
    assert not removal.remove(place, name(made), used)
    assert set(place.list()) == before
    assert removal.remove(place, name(made), used + 0.001)


def test_a_removal_that_was_killed_is_finished_or_undone(uri: str, files: Path) -> None:
    made, place = publish(files, uri), open_store(uri)
    place.write(f"removing/{name(made)}", b"")
    removal.finish(place)
    assert store.find(made.uri) and not list(place.list("removing/"))  # it had lost nothing
    place.write(f"removing/{name(made)}", b"")
    place.delete(f"{name(made)}/manifest.json")
    place.write(f"{removal.LOCK}/00000001.json", b"{}")
    removal.finish(place)
    assert list(place.list()) == [f"{removal.LOCK}/00000001.json"]


def test_a_publisher_waits_for_a_removal_of_the_same_content_and_fails_when_it_does_not_end(
    uri: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, place = publish(files, uri), open_store(uri)
    place.write(f"removing/{name(made)}", b"")
    monkeypatch.setattr(removal, "_REMOVAL", 0.1)
    with pytest.raises(Unavailable, match="is being removed") as error:
        publish(files, uri)
    assert error.value.exit_code == TRY_AGAIN and "medmim gc --yes" in str(error.value)
    monkeypatch.setattr(removal, "_REMOVAL", 60.0)
    again: list[Artifact] = []
    publisher = threading.Thread(target=lambda: again.append(publish(files, uri)))
    publisher.start()
    time.sleep(0.2)
    assert publisher.is_alive()
    assert removal.remove(place, name(made))
    publisher.join(20)
    assert again == [made] and all(place.exists(f"{name(made)}/{file}") for file in made.files)


def test_a_removal_beside_publishers_never_leaves_half_an_artifact(files: Path, tmp_path: Path) -> None:
    uri, grace, until = str(tmp_path / "store"), 2.0, time.monotonic() + 10
    made, place, pauses = publish(files, uri), open_store(uri), random.Random(0)
    removed = found = 0

    def publisher() -> None:
        while time.monotonic() < until:
            publish(files, uri)
            time.sleep(pauses.uniform(0.9 * grace, 1.4 * grace))  # just before, within and after the grace period

    def remover() -> None:
        nonlocal removed
        while time.monotonic() < until:
            removed += removal.remove(place, name(made), time.time() - grace)

    threads = [threading.Thread(target=work) for work in (publisher, remover)]
    for thread in threads:
        thread.start()

    def half() -> bool:
        nonlocal found
        whole = store.find(made.uri) is not None
        found += whole
        return whole and not all(place.exists(f"{name(made)}/{file}") for file in made.files)

    while time.monotonic() < until:
        assert not half() or not half()  # it may be removed, and even published again, between two checks
    for thread in threads:
        thread.join()
    assert store.verify(publish(files, uri)) == []
    assert removed > 0 and found > 0
