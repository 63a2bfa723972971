"""The model is the one that the registry means, proven before it answers; what fails leaves the present one."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from medmim_inference import canary, replica
from medmim_inference.following import Following, Rules

from medmim import store
from medmim.errors import Unavailable, UserError
from medmim.lvlm.ask import Question
from medmim.recipe.schema import Recipe
from medmim.registry import promote
from medmim.run.workspace import Workspace
from medmim.terms import FILE, UNKNOWN
from tests.support.inference import promote_version

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


def test_a_model_that_answers_otherwise_than_benched_is_not_served(
    following, ws, recipe, versions, events, undo, tmp_path
):
    target = replica.find(f"models:/{recipe.register_.model}/{versions[1]}", ws)
    scores = json.loads((Path(ws.store) / "bench" / target.bench / "scores.json").read_text())
    (digest,) = {own["none"] for own in scores["answers"].values()}
    answers = Path(ws.store) / "answers" / digest / "answers.jsonl"
    undo.callback(
        shutil.copytree, shutil.copytree(answers.parent, tmp_path / "whole"), answers.parent, dirs_exist_ok=True
    )
    rows = [json.loads(line) | {"text": "C: something else"} for line in answers.read_text().splitlines()]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _seal_again(answers.parent)
    before = text(following)
    promote_version(ws, recipe, versions[1])
    assert not following.look() and text(following) == before
    assert following.refused and following.refused[0].digest == target.digest
    assert not following.look() and events == ["refused"], "it is not tried again"
    promote.rollback(ws, recipe.register_.model, "a test", "a tester")
    assert not following.look() and following.refused is None


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


def test_a_model_that_nobody_may_serve_is_not_served(ws, world, tmp_path):
    folder = shutil.copytree(world.models[0], tmp_path / "model")
    (folder / FILE).write_text(UNKNOWN.dump())
    with pytest.raises(UserError, match="must not answer users"):
        Following(str(folder), ws).start()


def test_a_registry_that_is_away_changes_nothing(following, ws, recipe, versions, events, monkeypatch):
    before = text(following)
    promote_version(ws, recipe, versions[1])
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise Unavailable("MLflow does not answer")

        patch.setattr(replica, "find", away)
        assert not following.look()
    assert text(following) == before and events == ["unreachable"]
    assert following.look()


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
