"""The model is the one that the registry means, proven before it answers; what fails leaves the present one."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from medmim_inference import canary, replica
from medmim_inference.batching import Batcher
from medmim_inference.following import Following
from medmim_inference.rules import Rules

from medmim import shards, store, tracking
from medmim.bench import run as bench
from medmim.errors import Unavailable, UserError
from medmim.lvlm.ask import Question
from medmim.recipe.schema import Recipe
from medmim.registry import lookup, promote, register
from medmim.run.workspace import Workspace, sqlite_path
from medmim.terms import FILE, UNKNOWN
from tests.support import vllm_stand_in
from tests.support.bench import picture, publish, samples
from tests.support.inference import SETTINGS, promote_version
from tests.support.waiting import until

QUESTION = Question("What changed in 3?\nA: improved\nB: stable\nC: worse")


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def following(ws: Workspace, recipe: Recipe, versions: tuple[str, str], events: list[str]) -> Following:
    """The first of the two is champion, and served."""
    promote_version(ws, recipe, versions[0])
    own = Following(f"models:/{recipe.register_.model}@champion", ws, Rules(questions=4), events.append)
    own.start()
    return own


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as undo:
        yield undo


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said to be wrong."""
    return [one.message for one in caplog.records if "goes on" in one.message]


def text(following: Following) -> str:
    (reply,) = following.replica().ask([QUESTION], 4)
    return reply.text


def test_a_promotion_and_a_rollback_reach_the_server(following, ws, recipe, versions, events, monkeypatch):
    first = following.replica()
    before = text(following)
    assert not following.look() and following.replica() is first
    promote_version(ws, recipe, versions[1])
    assert following.look() and following.replica().target.version == versions[1]
    assert text(following) != before and first.target.name != following.replica().target.name
    assert first.target.alias == following.replica().target.alias == f"{recipe.register_.model}@champion"
    monkeypatch.setattr(replica, "load", lambda *_: pytest.fail("the model before is loaded still"))
    promote.rollback(ws, recipe.register_.model, "a test", "a tester")
    assert following.look() and text(following) == before and following.replica().target.digest == first.target.digest
    assert events == ["switched", "switched"]


def test_of_two_promotions_at_once_the_last_one_is_served(following, ws, recipe, versions, monkeypatch):
    promote_version(ws, recipe, versions[1])
    loading = replica.load

    def promoted_meanwhile(*given):
        promote_version(ws, recipe, versions[0])
        return loading(*given)

    with monkeypatch.context() as patch:
        patch.setattr(replica, "load", promoted_meanwhile)
        following.look()
    following.look()
    assert following.replica().target.version == versions[0]


def test_the_canary_asks_benched_questions_and_gets_the_benched_answers(following, ws):
    known = list(canary.known_answers(following.replica().target, ws, 4))
    assert len(known) == 4 and all(question.images for question, _, _ in known)
    assert canary.ask(following.replica(), ws, 4) == canary.Canary(4, 4)
    assert canary.ask(following.replica(), ws, 0) == canary.Canary(0, 0)


def test_the_canary_fetches_one_file_of_the_images_of_a_data_set_in_s3(following, ws, bucket, tmp_path):
    target = following.replica().target
    for kind in ("bench", "answers", "data"):
        for folder in (Path(ws.store) / kind).iterdir():
            store.publish(folder, f"{bucket}/store", kind, {}, {})
    there = Workspace(tmp_path / "other", f"{bucket}/store", ws.tracking)
    questions = [(question.prompt, text) for question, text, _ in canary.known_answers(target, there, 4)]
    assert questions == [(question.prompt, text) for question, text, _ in canary.known_answers(target, ws, 4)]


def test_of_several_files_of_images_the_canary_fetches_the_one_that_shows_most_questions(bucket, tmp_path, monkeypatch):
    one, png = samples(), picture(0)
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", len(png))
    monkeypatch.setattr(shards, "SHARD_BYTES", 4 * len(png))
    names = [*one[3].images, one[4].images[0], *one[0].images, *one[2].images, one[4].images[1], *one[1].images]
    shards.write(tmp_path / "data", one[:5], [(name, name, png) for name in names])
    data = store.publish(tmp_path / "data", f"{bucket}/store", "data", {}, {})
    for count, numbers in ((1, [3]), (2, [0, 2]), (3, [0, 2])):
        own = Workspace(tmp_path / f"home{count}", f"{bucket}/store", "")
        found, folder = canary._near(data, own, one[:5], count)
        assert found == [one[number] for number in numbers] and folder
        images = shards.Images(folder)
        assert len(images) == 4 and all(images[name] for sample in found for name in sample.images)


def test_a_model_that_answers_otherwise_than_benched_is_not_served(
    following, ws, recipe, versions, events, undo, tmp_path, caplog
):
    target = replica.find(f"models:/{recipe.register_.model}/{versions[1]}", ws)
    scores = bench.scores(ws, f"{ws.store}/bench/{target.bench}")
    (digest,) = {own["none"] for own in scores["answers"].values()}
    folder = shutil.copytree(Path(ws.store) / "answers" / digest, tmp_path / "answers")
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps(row | {"text": "C: something else"}) + "\n" for row in rows)
    )
    others = store.publish(folder, ws.store, "answers", {}, {}).digest
    folder = shutil.copytree(Path(ws.store) / "bench" / target.bench, tmp_path / "bench")
    (folder / "scores.json").write_text((folder / "scores.json").read_text().replace(digest, others))
    told = store.publish(folder, ws.store, "bench", {}, {}).digest
    api, name = tracking.client(ws), recipe.register_.model
    undo.callback(api.set_model_version_tag, name, versions[1], lookup.BENCH, target.bench)
    api.set_model_version_tag(name, versions[1], lookup.BENCH, told)
    before = text(following)
    promote_version(ws, recipe, versions[1])
    assert not following.look() and text(following) == before
    assert following.refused == replace(target, ref=following.ref, bench=told)
    assert "0 of 4 known answers are the same" in caplog.text
    assert not following.look() and events == ["refused"], "it is not tried again"
    promote.rollback(ws, recipe.register_.model, "a test", "a tester")
    assert not following.look() and following.refused is None
    promote_version(ws, recipe, versions[1])
    assert not following.look() and events == ["refused"] * 2 and caplog.text.count("0 of 4") == 2


def test_a_model_that_was_refused_is_tried_again_when_it_was_benched_again(
    following, ws, recipe, versions, world, undo, monkeypatch
):
    promote_version(ws, recipe, versions[1])
    with monkeypatch.context() as patch:
        patch.setattr(canary, "ask", lambda *_: canary.Canary(4, 0))
        assert not following.look()
    assert not following.look(), "nothing has changed"
    target, data = following.refused, publish(world, ws.store)
    scores, _ = bench.bench(ws, data, {"tuned": target.uri}, SETTINGS.model_copy(update={"limit": 6}))
    undo.callback(register.run, recipe, ws, data, target.uri, f"{ws.store}/bench/{target.bench}")
    register.run(recipe, ws, data, target.uri, scores.uri)
    assert following.look() and following.replica().target == replace(target, bench=scores.digest)


def _seal_again(folder: Path) -> None:
    """Let the manifest say what the files are now, as one who may write there could."""
    manifest = json.loads((folder / store.MANIFEST).read_text())
    manifest["files"] = {name: facts for name, facts in store.scan(folder).items() if name in manifest["files"]}
    (folder / store.MANIFEST).write_text(json.dumps(manifest))


def test_a_champion_that_does_not_load_leaves_the_one_before(following, ws, recipe, versions, events, undo):
    target = replica.find(f"models:/{recipe.register_.model}/{versions[1]}", ws)
    before = text(following)
    promote_version(ws, recipe, versions[1])
    weights = next(Path(target.uri).glob("*.safetensors"))
    undo.callback(weights.write_bytes, weights.read_bytes())
    weights.write_bytes(weights.read_bytes()[:100])
    assert not following.look() and text(following) == before and events == ["refused"]


class Panic(BaseException):
    """As what a Rust library raises, no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        ImportError("libcudart.so.13: cannot open shared object file"),
        MemoryError(),
        Panic("called `Option::unwrap()` on a `None` value"),
    ],
    ids=repr,
)
def test_a_library_that_fails_in_its_own_way_refuses_the_model_and_frees_its_memory(
    following, ws, recipe, versions, events, monkeypatch, caplog, error
):
    tried, released, before = [], [], text(following)
    promote_version(ws, recipe, versions[1])
    with monkeypatch.context() as patch:
        patch.setattr(replica, "engine", broken(error, tried, released))
        assert not following.look() and text(following) == before
        assert not following.look(), "it is not tried again"
    assert len(tried) == len(released) == 1 and events == ["refused"] and len(troubles(caplog)) == 1
    assert following.refused and following.refused.version == versions[1]


def broken(error: BaseException, tried: list[int], released: list[int]):
    """As `replica.engine`, of a model that cannot be asked."""
    real = replica.engine

    def failing(*_):
        tried.append(1)
        raise error

    return lambda *given, **more: replace(real(*given, **more), ask=failing, release=lambda: released.append(1))


def test_the_thread_that_follows_outlives_whatever_a_model_fails_with(following, ws, recipe, versions, monkeypatch):
    following.rules = replace(following.rules, every=0.1)
    thread = threading.Thread(target=following.run, daemon=True)

    def wait_for(what):
        until(lambda: what() or not thread.is_alive(), 60)
        assert thread.is_alive()

    with monkeypatch.context() as patch:
        patch.setattr(replica, "engine", broken(Panic("x"), [], []))
        promote_version(ws, recipe, versions[1])
        thread.start()
        wait_for(lambda: following.refused)
    promote_version(ws, recipe, versions[0])
    wait_for(lambda: not following.refused)
    promote_version(ws, recipe, versions[1])
    wait_for(lambda: following.replica().target.version == versions[1])
    following.end()
    thread.join(30)
    assert not thread.is_alive()


def test_a_model_that_nobody_may_serve_is_not_served(ws, world, tmp_path):
    folder = shutil.copytree(world.models[0], tmp_path / "model")
    (folder / FILE).write_text(UNKNOWN.dump())
    with pytest.raises(UserError, match="must not answer users"):
        Following(str(folder), ws).start()


def test_a_registry_that_is_away_changes_nothing_and_is_said_once(following, ws, recipe, versions, events, caplog):
    before, database = text(following), sqlite_path(ws.tracking)
    for times in (1, 2):
        database.rename(database.with_suffix(".away"))
        try:
            for _ in range(3):
                assert not following.look() and text(following) == before
        finally:
            database.with_suffix(".away").rename(database)
        assert events == ["unreachable"] * 3 * times
        assert len(troubles(caplog)) == times, "once each time, since it has been well in between"
        assert not following.look() and following.trouble == ""
    promote_version(ws, recipe, versions[1])
    assert following.look()


def test_a_store_that_is_away_while_a_model_is_loaded_is_waited_for(
    following, ws, recipe, versions, events, monkeypatch, caplog
):
    promote_version(ws, recipe, versions[1])
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise Unavailable("S3 does not answer")

        patch.setattr(canary, "ask", away)
        assert not following.look() and not following.look()
    assert events == ["unreachable"] * 2 and len(troubles(caplog)) == 1 and following.refused is None
    assert following.look() and following.trouble == ""


@pytest.mark.parametrize("error", [KeyError("x"), Panic("x"), ValueError("x")], ids=repr)
def test_whatever_the_registry_fails_with_is_said_once_with_one_traceback(
    following, ws, events, monkeypatch, caplog, error
):
    logs = set((ws.home / "errors").glob("*"))
    with monkeypatch.context() as patch:

        def failing(*_: object) -> None:
            raise error

        patch.setattr(replica, "find", failing)
        assert not following.look() and not following.look()
    (log,) = set((ws.home / "errors").glob("*")) - logs
    assert events == ["unreachable"] * 2 and len(troubles(caplog)) == 1 and str(log) in troubles(caplog)[0]
    assert type(error).__name__ in log.read_text("utf-8")


def test_an_alias_that_is_removed_leaves_the_model_and_is_followed_again_when_it_is_back(
    ws, recipe, versions, events, caplog
):
    api, name = tracking.client(ws), recipe.register_.model
    api.set_registered_model_alias(name, "mine", versions[0])
    own = Following(f"models:/{name}@mine", ws, Rules(questions=2), events.append)
    own.start()
    first = own.replica()
    api.delete_registered_model_alias(name, "mine")
    assert not own.look() and not own.look() and own.replica() is first
    assert events == ["unreachable"] * 2 and len(troubles(caplog)) == 1
    assert f"{name} has no alias 'mine'" in troubles(caplog)[0]
    api.set_registered_model_alias(name, "mine", versions[1])
    assert own.look() and own.replica().target.version == versions[1]


def test_a_folder_of_the_registered_digest_without_a_manifest_is_not_the_registered_model(
    following, ws, recipe, versions, world, events, tmp_path, undo
):
    target = replica.find(f"models:/{recipe.register_.model}/{versions[1]}", ws)
    other = shutil.copytree(world.models[0], tmp_path / target.digest)
    api, name = tracking.client(ws), recipe.register_.model
    undo.callback(api.set_model_version_tag, name, versions[1], lookup.URI, target.uri)
    promote_version(ws, recipe, versions[1])
    api.set_model_version_tag(name, versions[1], lookup.URI, str(other))
    assert not following.look() and events == ["refused"]
    assert following.refused == replace(following.refused, uri=str(other), digest=target.digest)


@pytest.mark.parametrize("ref", ["a/folder", "/home/me@work/model", "models:/name/3", "s3://b/model/x", "zoo:mine"])
def test_what_can_mean_no_other_model_is_not_looked_up_again(ws, ref: str, monkeypatch):
    monkeypatch.setattr(replica, "find", lambda *_: pytest.fail("a folder would be hashed every ten seconds"))
    Following(ref, ws, Rules(every=0.0)).run()


def test_a_model_that_vllm_runs_is_asked_many_questions_at_once_and_ended_with_the_server(
    ws, recipe, versions, tmp_path, monkeypatch
):
    log = vllm_stand_in.install(tmp_path, monkeypatch, "slow")
    ref, here = f"models:/{recipe.register_.model}/{versions[0]}", Workspace(tmp_path / "home", ws.store, ws.tracking)
    own = Following(ref, here, Rules("vllm", questions=0))
    own.start()
    batcher = Batcher(own.replica, 1, 8, 100)
    begun = time.monotonic()
    asked = [batcher.ask(Question(f"number {number}"), 3) for number in range(8)]
    assert {one.result(60)[0].text for one in asked} == {"B"}
    assert time.monotonic() - begun < 6, "one after the other they take eight seconds"
    batcher.end()
    own.end()
    (started,) = [json.loads(line) for line in log.read_text().splitlines()]
    until(lambda: not Path(f"/proc/{started['helper']}").exists(), 30)


def test_there_are_never_three_models_in_memory(following, ws, recipe, versions, monkeypatch):
    freed = []
    following.free = lambda one: freed.append(one.target.version)
    promote_version(ws, recipe, versions[1])
    assert following.look() and not freed
    third = replace(following.replica().target, version="3", digest="3" * 64, bench="")
    monkeypatch.setattr(replica, "find", lambda *_: third)
    monkeypatch.setattr(replica, "load", lambda *_: freed.append("load") or replace(following.replica(), target=third))
    assert following.look() and freed == [versions[0], "load"]


@pytest.mark.parametrize("ref", ["models:/nobody@champion", "models:/x", "openai:http://127.0.0.1/v1#m", "nothing"])
def test_what_cannot_be_served_is_told_at_the_start(ws: Workspace, ref: str):
    with pytest.raises(UserError) as caught:
        Following(ref, ws).start()
    assert caught.value.fix
