"""Looking up versions: by digest, number and alias, and the models that a run is benched against."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medmim import store, terms, tracking
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.registry import decisions, lookup, promote, register
from medmim.run.workspace import Workspace
from medmim.store import Artifact

Publish = Callable[..., Artifact]


@pytest.fixture
def made(publish: Publish, bench: Publish) -> tuple[Artifact, Artifact, Artifact]:
    model = publish("model", weights__txt="w")
    return publish("data", rows__txt="r"), model, bench(model.digest)


def test_references_resolve_to_the_store(ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...]) -> None:
    data, model, scores = made
    assert lookup.resolve("tiny-mantis", ws) == "tiny-mantis"
    assert lookup.champion(ws, "medmim-demo") is None
    register.run(recipe, ws, data.uri, model.uri, scores.uri)
    assert lookup.resolve("models:/medmim-demo/1", ws) == model.uri
    with pytest.raises(UserError, match="no alias 'champion'"):
        lookup.resolve("models:/medmim-demo@champion", ws)
    promote.promote(ws, "medmim-demo", "1", "test")
    assert lookup.resolve("models:/medmim-demo@champion", ws) == model.uri
    tracking.client(ws).set_registered_model_alias("medmim-demo", "mine", "1")
    assert lookup.resolve("models:/medmim-demo@mine", ws) == model.uri


def test_a_family_names_its_one_imported_base(ws: Workspace, publish: Publish, tmp_path: Path) -> None:
    publish("model", weights__txt="tuned, not imported")
    with pytest.raises(UserError, match="no base of this family was imported") as raised:
        lookup.resolve("imported:mantis", ws)
    assert "base import" in raised.value.fix
    found = {}
    for name, family in (("a", "mantis"), ("b", "llava-med"), ("c", "llava-med")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.txt").write_text(name)
        found[name] = store.publish(
            tmp_path / name, ws.store, "model", {"layout": "any", "family": family}, {"terms": terms.UNKNOWN.as_dict()}
        ).uri
    assert lookup.resolve("imported:mantis", ws) == found["a"]
    with pytest.raises(UserError, match="2 bases of this family") as raised:
        lookup.resolve("imported:llava-med", ws)
    assert sorted(raised.value.problems) == sorted([found["b"], found["c"]])
    with pytest.raises(UserError, match="imported:mantiss names no family"):
        lookup.resolve("imported:mantiss", ws)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("models:/medmim-dem@champion", "did you mean 'medmim-demo'"),
        ("models:/medmim-demo/7", "has no version 7"),
        ("models:/medmim-demo/x", "has no version x"),
        ("models:/medmim-demo", "names no model version"),
        ("models:/medmim-demo@", "no alias ''"),
        ("models:/other/1", "was not registered by medmim"),
    ],
)
def test_a_wrong_reference_is_an_error_that_names_it(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...], ref: str, message: str
) -> None:
    register.run(recipe, ws, *(artifact.uri for artifact in made))
    api = tracking.client(ws)
    api.create_registered_model("other")
    api.create_model_version("other", source=ws.home.as_uri())
    with pytest.raises(UserError) as error:
        lookup.resolve(ref, ws)
    assert message in str(error.value)


def test_the_alias_of_a_role_resolves_by_the_log_even_when_set_by_hand(
    ws: Workspace, recipe: Recipe, publish: Publish, bench: Publish
) -> None:
    data = publish("data", rows__txt="r")
    first, second = (publish("model", weights__txt=text) for text in "ab")
    for model in (first, second):
        register.run(recipe, ws, data.uri, model.uri, bench(model.digest).uri)
    promote.promote(ws, "medmim-demo", "1", "test")
    tracking.client(ws).set_registered_model_alias("medmim-demo", "champion", "2")
    assert lookup.resolve("models:/medmim-demo@champion", ws) == first.uri


def test_a_champion_keeps_the_opponent_it_was_promoted_against(
    ws: Workspace, recipe: Recipe, publish: Publish, bench: Publish
) -> None:
    data = publish("data", rows__txt="r")
    first, second, third = (publish("model", weights__txt=text) for text in "abc")
    for model in (first, second, third):
        register.run(recipe, ws, data.uri, model.uri, bench(model.digest).uri)
    base = {"base": "tiny-llava-med"}
    assert lookup.opponents(recipe, ws, first.uri) == base
    promote.promote(ws, "medmim-demo", "1", "test")
    assert lookup.opponents(recipe, ws, first.uri) == base
    assert lookup.opponents(recipe, ws, second.uri) == base | {"champion": first.uri}
    promote.promote(ws, "medmim-demo", "2", "test")
    assert lookup.opponents(recipe, ws, second.uri) == base | {"champion": first.uri}
    assert lookup.opponents(recipe, ws, third.uri) == base | {"champion": second.uri}
    promote.rollback(ws, "medmim-demo", "test")
    assert lookup.opponents(recipe, ws, first.uri) == base
    assert decisions.read(ws, "medmim-demo")[-1].verdict == "rolled-back"


def test_further_models_are_asked_beside_the_tuned_one_and_alone_without_it(ws: Workspace, publish: Publish) -> None:
    tuned, other = (publish("model", weights__txt=text).uri for text in "ab")
    models = {"z": other, "mantis": "tiny-mantis"}
    recipe = loading.load("demo", [f"bench.models={json.dumps(models)}"])
    found = lookup.opponents(recipe, ws, tuned)
    assert found == {"base": "tiny-llava-med", "z": other, "mantis": "tiny-mantis"}
    assert list(lookup.opponents(recipe, ws).items()) == list(models.items())


def test_all_further_models_that_are_missing_are_named_at_once(ws: Workspace) -> None:
    models = {"a": "models:/nobody@champion", "b": "imported:mantis", "c": "tiny-mantis", "d": "lingshu"}
    servers = {"e": "openai:http://127.0.0.1:1/v1#m", "f": "openai:http://127.0.0.1:1/v1", "g": "openai:localhost#m"}
    recipe = loading.load("demo", [f"bench.models={json.dumps(models | servers)}"])
    with pytest.raises(UserError, match="5 of the 7 models of bench.models") as raised:
        lookup.opponents(recipe, ws)
    assert [text.split(":")[0] for text in raised.value.problems] == ["a", "b", "d", "f", "g"]
    assert "base import" in raised.value.problems[1] and "did you mean 'lingshu-7b'" in raised.value.problems[2]


def test_pods_reach_what_is_shipped_stored_imported_or_served_elsewhere(tmp_path: Path) -> None:
    reached = ("tiny-mantis", "s3://b/model/x", "models:/m@champion", "imported:mantis", "zoo:my-own", "lingshu-7b")
    servers = ("openai:http://vllm:8000/v1#m", "openai:http://[::1#m")  # the latter is no address
    assert not any(map(lookup.is_local, reached + servers))
    assert all(map(lookup.is_local, (str(tmp_path), "openai:http://localhost:1/v1#m", "openai:http://0.0.0.0:1#m")))


def test_no_consumer_reads_what_lies_at_another_digest_than_mlflow_or_the_log_says(
    ws: Workspace, recipe: Recipe, made: tuple[Artifact, ...], publish: Publish
) -> None:
    data, model, scores = made
    other = publish("model", weights__txt="another")
    register.run(recipe, ws, data.uri, model.uri, scores.uri)
    promote.promote(ws, "medmim-demo", "1", "test")
    api = tracking.client(ws)
    api.set_model_version_tag("medmim-demo", "1", lookup.URI, other.uri)
    for ref in ("models:/medmim-demo/1", "models:/medmim-demo@champion"):
        with pytest.raises(UserError, match="names two models"):
            lookup.resolve(ref, ws)
    with pytest.raises(UserError, match="names two models"):
        promote.promote(ws, "medmim-demo", "1", "again")
    entry = store.open_store(ws.store).read("decisions/medmim-demo/1.json")
    store.open_store(ws.store).write(
        "decisions/medmim-demo/1.json", entry.replace(model.uri.encode(), other.uri.encode())
    )
    for read in (lambda: lookup.champion(ws, "medmim-demo"), lambda: lookup.opponents(recipe, ws, other.uri)):
        with pytest.raises(UserError, match="decision 1 of medmim-demo names two models"):
            read()
    for name in ("weights.txt", "manifest.json"):  # files and manifest of the one at the address of the other
        shutil.copy(Path(other.uri) / name, Path(model.uri) / name)
    api.set_model_version_tag("medmim-demo", "1", lookup.URI, model.uri)
    with pytest.raises(UserError, match="holds another artifact than its address says"):
        checkpoint.resolve(lookup.resolve("models:/medmim-demo@champion", ws), ws)
