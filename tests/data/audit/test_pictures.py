"""One picture under several files is found in other splits: by its pixels, and by its look; real pictures only."""

import io
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from medmim import shards, store
from medmim.data.audit import fingerprints, pictures
from medmim.data.audit import run as audit
from medmim.data.sources.image_file import decode
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Audit, Recipe
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Sample
from medmim.store import Artifact
from medmim.terms import APACHE
from tests.support import shared_data

RADIOGRAPHS = shared_data.FOLDER / "covid-chestxray" / "images"
Save = Callable[[Image.Image], bytes]


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def drawn(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A smooth picture that no other seed resembles."""
    small = Image.frombytes("L", (24, 18), random.Random(seed).randbytes(24 * 18))
    return small.resize(size, Image.Resampling.BICUBIC)


def place(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home", run="run-1")


def published(ws: Workspace, tmp_path: Path, files: dict[str, bytes]) -> Artifact:
    """A data set of a question a picture; `train/a.png` is in the split train, and each patient has one picture."""
    samples, images = [], []
    for number, (path, data) in enumerate(files.items()):
        one = decode(data).id
        split = path.split("/")[0]
        asked = (f"What is in picture {number}?", (), "That.")
        samples.append(Sample("single", "any", "own", split, False, (f"p{number}",), (one,), (path,), *asked))
        images.append((one, path, data))
    folder = tmp_path / "made"
    shards.write(folder, samples, images)
    return store.publish(folder, ws.store, "data", {}, {"terms": APACHE.as_dict()})


def checks(ws: Workspace, artifact: Artifact) -> dict[str, dict]:
    return {check["name"]: check for check in audit.read(artifact)["checks"]}


def three_files(picture: Image.Image, other: Image.Image) -> dict[str, bytes]:
    """The issue's case: one picture as PNG in training, and saved again, as JPEG and as RGB in the benchmark."""
    return {
        "train/a.png": saved(picture, "PNG", compress_level=1),
        "test/a.png": saved(picture, "PNG", optimize=True),
        "test/rgb.png": saved(picture.convert("RGB"), "PNG"),
        "test/a.jpg": saved(picture, "JPEG", quality=95),
        "test/b.png": saved(other, "PNG"),
    }


@shared_data.needs("covid-chestxray")
def test_a_radiograph_that_was_saved_again_is_found_and_another_is_not(tmp_path: Path) -> None:
    first, second = (Image.open(path).convert("L") for path in sorted(RADIOGRAPHS.glob("*.jpeg"))[:2])
    for picture in (first, second):
        picture.thumbnail((400, 400))
    ws = place(tmp_path)
    made = published(ws, tmp_path, three_files(first, second))
    artifact, _ = audit.audit_artifact(ws, made.uri)
    found = checks(ws, artifact)
    assert (found["images"]["value"], found["pixels"]["value"], found["look-alikes"]["value"]) == (0, 3, 1)
    clean = {json.loads(line)["id"] for line in store.read_file(artifact, audit.CLEAN).splitlines()}
    rows = {sample.paths[0]: sample.id for sample in shards.read_samples(store.fetch(made, ws.cache))}
    assert clean == {rows["test/a.jpg"], rows["test/b.png"]}, (
        "a JPEG of other pixels is clean unless the recipe says so"
    )


def test_the_gate_refuses_equal_pixels_and_names_the_rows_on_both_sides(tmp_path: Path) -> None:
    ws = place(tmp_path)
    made = published(ws, tmp_path, three_files(drawn(1), drawn(2)))
    rows = {sample.paths[0]: sample.id for sample in shards.read_samples(store.fetch(made, ws.cache))}
    recipe = Recipe.model_validate({"name": "own", "data": {"source": "phantom"}})
    with pytest.raises(Refused) as caught:
        audit.run(recipe, ws, made.uri)
    assert caught.value.exit_code == 1 and "audit.max_same_pixels" in str(caught.value)
    assert f"{rows['test/a.png']} (test/single): image 1 has the pixels of image 1 of row {rows['train/a.png']}" in str(
        caught.value
    )
    allowed = recipe.model_copy(update={"audit": Audit(max_same_pixels=3)})
    assert audit.run(allowed, ws, made.uri).status == "done"


def test_a_recipe_that_limits_look_alikes_refuses_them_and_takes_them_from_the_clean_rows(tmp_path: Path) -> None:
    ws = place(tmp_path)
    made = published(ws, tmp_path, three_files(drawn(1), drawn(2)))
    strict = Recipe.model_validate(
        {"name": "own", "data": {"source": "phantom"}, "audit": {"max_same_pixels": 9, "max_look_alikes": 0}}
    )
    with pytest.raises(Refused, match="look-alikes: 1 of 5"):
        audit.run(strict, ws, made.uri)
    artifact, cached = audit.audit_artifact(ws, made.uri, strict)
    rows = {sample.paths[0]: sample.id for sample in shards.read_samples(store.fetch(made, ws.cache))}
    assert cached and store.read_file(artifact, audit.CLEAN).count(b"\n") == 1
    assert rows["test/b.png"] in store.read_file(artifact, audit.CLEAN).decode()


@pytest.mark.parametrize(
    "change",
    [
        lambda one: Image.open(io.BytesIO(saved(one, "JPEG", quality=60))),
        lambda one: one.resize((one.width // 2, one.height // 2), Image.Resampling.LANCZOS),
        lambda one: ImageEnhance.Brightness(one).enhance(0.9),
    ],
    ids=["jpeg", "half the size", "darker"],
)
def test_the_look_of_a_picture_outlives_what_exporting_does_to_it(change: Callable[[Image.Image], Image.Image]) -> None:
    for seed in range(5):
        one, other = (fingerprints.fingerprint(picture)[1] for picture in (drawn(seed), drawn(seed + 5)))
        changed = fingerprints.fingerprint(change(drawn(seed)))[1]
        assert apart(one, changed) <= Audit().look_alike_distance < apart(one, other)


def apart(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def test_pixels_are_told_apart_by_size_and_colour_and_not_by_the_mode_of_the_file() -> None:
    grey = Image.new("L", (4, 2), 7)
    assert fingerprints.fingerprint(grey)[0] == fingerprints.fingerprint(grey.convert("RGB"))[0]
    assert fingerprints.fingerprint(grey)[0] == fingerprints.fingerprint(grey.convert("P"))[0]
    others = [Image.new("L", (2, 4), 7), Image.new("L", (4, 2), 8), Image.new("RGB", (4, 2), (7, 7, 8))]
    assert len({fingerprints.fingerprint(one)[0] for one in (grey, *others)}) == 4


def test_a_data_set_without_pixels_says_so_and_passes(tmp_path: Path) -> None:
    ws = place(tmp_path)
    rows = [
        Sample("single", "any", "own", split, False, (split,), (split,), (split,), "?", (), "!")
        for split in ("train", "test")
    ]
    shards.write(tmp_path / "made", rows, ())
    made = store.publish(tmp_path / "made", ws.store, "data", {}, {"terms": APACHE.as_dict()})
    found = checks(ws, audit.audit_artifact(ws, made.uri)[0])
    assert found["pixels"]["value"] is None and "without pixels" in found["look-alikes"]["note"]


def test_an_audit_that_was_killed_goes_on_with_the_pictures_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = place(tmp_path)
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1)  # a row group a picture
    monkeypatch.setattr(shards, "_GROUPS_IN_A_PIECE", 1)
    made = published(ws, tmp_path, {f"train/{n}.png": saved(drawn(n), "PNG") for n in range(4)})
    real, done, threads = fingerprints.fingerprint, [], set()

    def killed(image: Image.Image) -> tuple[bytes, bytes]:
        threads.add(threading.get_ident())
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(image)

    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    monkeypatch.setattr(fingerprints, "fingerprint", killed)
    with pytest.raises(KeyboardInterrupt):
        fingerprints.of(ws, made)
    assert len(threads) == 1, "else more pieces are done when the run is killed"
    counted: list[int] = []

    def counting(image: Image.Image) -> tuple[bytes, bytes]:
        counted.append(1)
        return real(image)

    monkeypatch.setattr(fingerprints, "fingerprint", counting)
    found = fingerprints.of(ws, made)
    assert found is not None and len(found.places) == 4 and len(counted) == 2
    assert fingerprints.of(ws, made) is not None and len(counted) == 2, "they are in the store"


@pytest.mark.parametrize("torn", ["empty", "half", "zeros", "one byte"])
def test_a_piece_that_a_power_cut_has_torn_is_made_again(
    torn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(shards, "_GROUPS_IN_A_PIECE", 1)
    made = published(place(tmp_path), tmp_path, {f"train/{n}.png": saved(drawn(n), "PNG") for n in range(2)})
    done, folder = tmp_path / "done", tmp_path / "again"
    done.mkdir()
    folder.mkdir()
    fingerprints._write(made, done)
    piece = done / "resume" / "0.parquet"
    whole = piece.read_bytes()
    at = whole.index(fingerprints.fingerprint(drawn(0))[0])
    change = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "one byte": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
    }
    (folder / "resume").mkdir()
    (folder / "resume" / "0.parquet").write_bytes(change[torn])
    fingerprints._write(made, folder)
    expected, found = (fingerprints.read(one / fingerprints.FILE) for one in (done, folder))
    assert found.pixels_of() == expected.pixels_of() and (found.looks == expected.looks).all()


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    ws = place(tmp_path)
    rows = [Sample("single", "any", "own", "train", False, ("p",), ("x",), ("x",), "?", (), "!")]
    shards.write(tmp_path / "made", rows, [("x", "x", saved(drawn(1), "PNG")[:60])])
    made = store.publish(tmp_path / "made", ws.store, "data", {}, {"terms": APACHE.as_dict()})
    with pytest.raises(UserError, match="cannot be decoded") as caught:
        fingerprints.of(ws, made)
    assert "build the data set again" in str(caught.value)


def test_what_is_in_two_splits_by_its_bytes_is_not_told_again_by_pixels_or_look(tmp_path: Path) -> None:
    ws = place(tmp_path)
    same = saved(drawn(1), "PNG")
    samples = [
        Sample("single", "any", "own", split, False, (split,), (decode(same).id,), (split,), "?", (), "!")
        for split in ("train", "test")
    ]
    shards.write(tmp_path / "made", samples, [(decode(same).id, "x", same)])
    made = store.publish(tmp_path / "made", ws.store, "data", {}, {"terms": APACHE.as_dict()})
    prints = fingerprints.of(ws, made)
    assert prints is not None and pictures.twins(samples, prints, 24) == pictures.Twins([], [])


def prints_of(images: dict[str, tuple[bytes, bytes]]) -> fingerprints.Fingerprints:
    """Fingerprints of images: id -> pixels, look."""
    pixels = np.array([one for one, _ in images.values()], dtype="V32")
    looks = np.frombuffer(b"".join(look for _, look in images.values()), np.uint8).reshape(-1, 32)
    return fingerprints.Fingerprints({name: number for number, name in enumerate(images)}, pixels, looks)


def asks(split: str, image: str) -> Sample:
    return Sample("single", "any", "own", split, False, (f"{split}{image}",), (image,), (image,), "?", (), "!")


@pytest.mark.parametrize("shared", ["pixels", "bytes"])
def test_what_dev_has_of_a_test_image_does_not_hide_that_training_has_its_look(shared: str) -> None:
    look, near = bytes(32), bytes([1, *bytes(31)])
    images = {"t": (b"t" * 32, look), "d": (b"d" * 32, near), "x": ((b"d" if shared == "pixels" else b"x") * 32, near)}
    samples = [asks("train", "t"), asks("dev", "d"), asks("test", "x" if shared == "pixels" else "d")]
    found = pictures.twins(samples, prints_of(images), 24)
    tested = samples[2].images[0]
    assert found.leaked(Audit(max_look_alikes=5)) == {"d", tested}
    assert pictures.Twin(tested, "train", "t", 1) in found.by_look
    assert not found.leaked(Audit()), "look-alikes are not limited"


def test_the_look_of_an_image_is_told_once_even_where_dev_and_training_have_it() -> None:
    images = {name: (name.encode() * 32, bytes(32)) for name in "tdx"}
    found = pictures.twins([asks("train", "t"), asks("dev", "d"), asks("test", "x")], prints_of(images), 24)
    assert [(twin.image, twin.split) for twin in found.by_look] == [("d", "train"), ("x", "train")]


@pytest.mark.parametrize("kind", ["look", "pixels"])
def test_the_time_grows_with_the_images_and_not_with_their_square(kind: str) -> None:
    many = 10_000
    draw = np.random.default_rng(0)
    looks = [one.tobytes() for one in draw.integers(0, 256, (many, 32), np.uint8)]
    images, samples = {}, []
    for number, look in enumerate(looks):
        for split in ("train", "test"):
            pixels = bytes(32) if kind == "pixels" else f"{split}{number}".encode().ljust(32)
            images[f"{split}{number}"] = (pixels, look)
            samples.append(asks(split, f"{split}{number}"))
    begin = time.process_time()
    found = pictures.twins(samples, prints_of(images), 24)
    assert len(found.by_look) == (many if kind == "look" else 0) and len(found.leaked(Audit(max_look_alikes=0))) == many
    assert time.process_time() - begin < 2
