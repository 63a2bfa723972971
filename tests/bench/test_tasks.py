"""Tasks: which questions belong to each, what identifies them, and how they are scored."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmim import shards, store
from medmim.bench import clean, item_lists, rescore, run, tasks
from medmim.data.audit import run as audit
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Bench, Data, Recipe
from medmim.run.provenance import provenance_of
from medmim.run.workspace import workspace
from medmim.sample import ABILITIES, Sample
from medmim.store import removal
from tests.support.bench import World, picture, publish, samples


def written(folder: Path, rows: list[Sample]) -> Path:
    names = sorted({name for row in rows for name in row.images})
    shards.write(folder, rows, [(name, name, picture(i)) for i, name in enumerate(names)])
    return folder


def task_file(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def asked(folder: Path, *refs: str, **given: object) -> list[str]:
    return [sample.id for sample in tasks.select(folder, refs, **given).samples]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", tasks.NAMES)
def test_the_groups_of_every_benchmark_choose_what_they_always_chose(name: str, tmp_path: Path) -> None:
    rows = [
        replace(one, ability=ABILITIES[i % 6], split=("test", "dev")[i % 7 == 0]) for i, one in enumerate(samples())
    ]
    folder = written(tmp_path, [*rows, rows[3]])
    expected = [
        one.id for one in rows if one.split == "test" and name in (one.ability, ("held_in", "held_out")[one.held_out])
    ]
    found = tasks.select(folder, [name])
    assert [one.id for one in found.samples] == expected
    assert found.groups == tuple(map(tasks.groups, found.samples))
    assert found.clusters == tuple((f"phantom/{one.patients[0]}",) for one in found.samples)
    assert not found.limited and found.repeated == (rows[3].id in expected)


def test_their_names_alone_are_in_keys_and_scores() -> None:
    assert tasks.identities(tasks.NAMES) == tasks.described(tasks.NAMES) == list(tasks.NAMES)
    assert tasks.digests(tasks.NAMES) == {} and tasks.resolved(tasks.NAMES) == tasks.NAMES


def test_every_shipped_task_is_sound_and_no_two_mean_the_same() -> None:
    found = [tasks.load(name) for name in tasks.shipped()]
    assert [name for name, _ in found][:8] == list(tasks.NAMES)
    assert {"published", "clean", "strict", "medframeqa"} <= {name for name, _ in found}
    assert len({task.digest for _, task in found}) == len(found)


def test_a_file_means_what_it_says_wherever_it_lies_and_however_it_is_written(tmp_path: Path) -> None:
    first = task_file(tmp_path, "description: one\nabilities: [temporal]\ndomain: held_in\n")
    (tmp_path / "b").mkdir()
    same = task_file(tmp_path / "b", "domain: held_in # a comment\ndescription: another\nabilities:\n- temporal\n")
    other = task_file(tmp_path, "description: one\nabilities: [temporal]\n", "other.yaml")
    assert tasks.identities([first]) == tasks.identities([same]) != tasks.identities([other])
    assert tasks.described([first]) == tasks.described([same])
    (inline,) = tasks.resolved([first])
    assert str(tmp_path) not in inline
    Path(first).unlink()
    assert tasks.identities([inline]) == tasks.identities([same]) and tasks.names_of([inline]) == ["mine"]


def _rows() -> Iterator[Sample]:
    for i, one in enumerate(samples()):
        yield replace(one, source=("MS_CXR_T", "phantom-chest", "medframeqa")[i % 3], family=("larger", "order")[i % 2])


@pytest.mark.parametrize(
    ("text", "belongs"),
    [
        ("domain: held_out", lambda s: s.held_out),
        ("abilities: [temporal, comparison]", lambda s: s.ability in ("temporal", "comparison")),
        ("sources: [medframeqa, 'phantom-*']", lambda s: s.source != "MS_CXR_T"),
        ("families: ['ord?r']", lambda s: s.family == "order"),
        ("answers: open", lambda s: not s.options),
        ("answers: closed", lambda s: bool(s.options)),
        ("images: [3, 8]", lambda s: len(s.images) >= 3),
        ("images: [1, 2]\ndomain: held_in", lambda s: len(s.images) <= 2 and not s.held_out),
    ],
)
def test_all_that_a_task_gives_must_hold(text, belongs, tmp_path) -> None:
    rows = list(_rows())
    expected = [one.id for one in rows if belongs(one)]
    assert 0 < len(expected) < len(rows)
    ref = task_file(tmp_path, f"description: d\n{text}\n")
    folder = written(tmp_path / "data", rows)
    assert asked(folder, ref) == expected
    assert tasks.count(folder, [ref, "held_in"])["mine"] == len(expected)


def test_several_tasks_ask_each_question_once_and_score_own_ones_apart(tmp_path: Path) -> None:
    own = task_file(tmp_path, "description: d\nanswers: open\n")
    found = tasks.select(written(tmp_path / "data", samples()), ["temporal", own])
    expected = [one for one in samples() if one.ability == "temporal" or not one.options]
    assert list(found.samples) == expected
    for sample, groups in zip(found.samples, found.groups, strict=True):
        assert ("task:mine" in groups) == (not sample.options)
        assert "task:temporal" not in groups


def test_a_question_in_two_rows_is_scored_in_the_tasks_of_both_as_they_are_counted(tmp_path: Path) -> None:
    rows = samples()
    folder = written(tmp_path / "data", [*rows, replace(rows[0], source="other")])
    texts = {"mine.yaml": f"sources: ['{rows[0].source}']", "other.yaml": "sources: [other]"}
    own = [task_file(tmp_path, f"description: d\n{text}\n", name) for name, text in texts.items()]
    found = tasks.select(folder, own)
    assert found.repeated == 1 and found.groups[0][-2:] == ("task:mine", "task:other")
    scored = {name: sum(f"task:{name}" in groups for groups in found.groups) for name in ("mine", "other")}
    assert scored == tasks.count(folder, own) and scored["other"] == 1


def test_the_split_of_a_task_comes_before_that_of_the_recipe(tmp_path: Path) -> None:
    rows = [replace(one, split=("dev", "test")[i % 2]) for i, one in enumerate(samples())]
    folder = written(tmp_path / "data", rows)
    own = task_file(tmp_path, "description: d\nsplit: dev\n")
    found = tasks.select(folder, [own])
    assert [one.split for one in found.samples] == ["dev"] * 24 and found.limited
    both = tasks.select(folder, [own, "held_in"])
    assert {one.split for one in both.samples} == {"dev", "test"} and both.limited


def noise(seed: int) -> bytes:
    """A PNG like no other: plain ones look alike."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8), np.uint8)).resize((64, 64)).save(out, "PNG")
    return out.getvalue()


def resaved(png: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def as_jpeg(png: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("limit", [None, 0])
def test_clean_is_the_list_of_the_audit_by_patients_bytes_pixels_and_look_alikes_where_limited(
    tmp_path: Path, limit: int | None
) -> None:
    own = samples()
    names = sorted({name for one in own for name in one.images})
    images = {name: noise(i) for i, name in enumerate(names)}
    twin, alike = own[20].images[0], own[21].images[0]
    images[twin] = resaved(images[own[1].images[0]])  # other bytes, the pixels of a training image
    images[alike] = as_jpeg(images[own[2].images[0]])
    rows = [replace(one, split="train" if i % 24 < 12 else "test") for i, one in enumerate(own)]
    rows.append(replace(own[15], question="?", images=own[2].images, paths=own[2].paths))  # its image is trained on
    rows.append(replace(own[2], question="?", images=("sha256:99",), paths=("sha256:99",), split="test"))  # its patient
    folder = tmp_path / "data"
    shards.write(folder, rows, [(name, name, data) for name, data in images.items()])
    ws = workspace(tmp_path / "home")
    recipe = {"name": "own", "audit": {"max_look_alikes": limit}}
    source = store.publish(folder, ws.store, "data", {}, {"recipe": recipe})
    assert "clean" not in tasks.count(folder, clean.resolved(ws, source, ["clean", "held_in"], make=False))

    refs = clean.resolved(ws, source, ["clean", "held_in"])
    found, _ = audit.audit_artifact(ws, source.uri)
    expected = [json.loads(line)["id"] for line in store.read_file(found, audit.CLEAN).splitlines()]
    dirty = [twin, *([alike] if limit == 0 else [])]
    by_hand = [one.id for one in rows[:48] if one.split == "test" and not set(dirty) & set(one.images)]
    assert sorted(expected) == sorted(by_hand) and len(by_hand) == (20 if limit == 0 else 22)

    shown = store.fetch(source, ws.cache)
    assert [one for one in asked(shown, refs[0])] == by_hand
    assert tasks.count(shown, refs)["clean"] == len(by_hand) and refs[1] == "held_in"
    assert tasks.lists(refs) == {"clean": {"items": len(by_hand), "digest": item_lists.digest(by_hand)}}
    assert clean.resolved(ws, source, ["clean", "held_in"], make=False) == refs == clean.resolved(ws, source, refs)


def test_nothing_is_clean_where_no_training_is_known(world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    source = store.get(publish(world, ws.store))
    with pytest.raises(UserError, match="no training questions"):
        clean.resolved(ws, source, ["clean"])
    assert "clean" not in tasks.count(world.data, clean.resolved(ws, source, ["clean", "held_in"], make=False))


def list_file(folder: Path, ids: list[str], version: int = item_lists.VERSION, name: str = "listed.json") -> str:
    rows = [[number, "0" * 16, one] for number, one in enumerate(ids, 1)]
    return task_file(folder, json.dumps({"version": version, "files": {"a.json": {"clean": rows}}}), name)


def test_a_list_is_asked_alone_whether_it_names_images_by_content_or_by_path(tmp_path: Path) -> None:
    rows = [replace(one, paths=tuple(f"{one.patients[0]}/{k}.png" for k in range(len(one.paths)))) for one in samples()]
    folder = written(tmp_path / "data", rows)
    wanted = [rows[3], rows[7], rows[30]]
    by_path = list_file(tmp_path, [replace(one, images=one.paths).id for one in wanted])
    by_content = list_file(tmp_path, [one.id for one in reversed(wanted)], name="other.json")
    for ref in (by_path, by_content, *tasks.resolved([by_path])):
        assert asked(folder, ref) == [one.id for one in wanted]
    own = task_file(tmp_path, "description: d\nitems: listed.json\nabilities: [temporal]\n")
    assert asked(folder, own) == [one.id for one in wanted if one.ability == "temporal"] != []
    (name,) = tasks.names_of([by_path])
    ids = [replace(one, images=one.paths).id for one in wanted]
    assert tasks.lists([by_path]) == {name: {"items": 3, "digest": item_lists.digest(ids)}}
    (inline,) = tasks.resolved([own])
    assert str(tmp_path) not in inline and tasks.identities([inline]) == tasks.identities([own])


def test_a_list_of_another_data_set_or_version_is_refused(tmp_path: Path) -> None:
    rows = samples()
    folder = written(tmp_path / "data", rows)
    with pytest.raises(UserError, match="of another data set") as caught:
        asked(folder, list_file(tmp_path, [rows[0].id, "ab" * 10]))
    assert "1 of its 2 questions" in caught.value.reason and "ab" * 10 in caught.value.reason
    for text, found in (
        (json.dumps({"version": 1, "files": {}}), "version"),
        (json.dumps([1]), "all of it"),
        ("{", "all of it"),
        (json.dumps({"version": 2, "files": {"a": {"clean": [[1, "x"]]}}}), "files.a.clean.0"),
    ):
        with pytest.raises(UserError, match="no list of questions of version 2") as caught:
            tasks.load(task_file(tmp_path, text, "bad.json"))
        assert found in caught.value.reason
    with pytest.raises(UserError, match="lists no question"):
        tasks.load(list_file(tmp_path, [], name="empty.json"))
    with pytest.raises(UserError, match="is incomplete"):
        tasks.load(json.dumps({"mine": {"description": "d", "items": "listed.json"}}))
    with pytest.raises(UserError, match="problem") as caught:
        tasks.load(task_file(tmp_path, "description: d\nclean: true\nitems: listed.json\n"))
    assert "give one" in str(caught.value)
    with pytest.raises(UserError, match="problem") as caught:
        tasks.load(task_file(tmp_path, "description: d\nclean: true\nsplit: dev\n"))
    assert "clean is a list of test questions" in str(caught.value)


def recipe_of(ref: str) -> Recipe:
    return Recipe(name="a", data=Data(source="phantom"), bench=Bench(tasks=(ref,)))


def test_a_list_that_no_pod_could_be_given_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    long = list_file(tmp_path, [f"{number:020x}" for number in range(6_000)])
    with pytest.raises(UserError, match="too long to go with a recipe"):
        tasks.in_recipe(recipe_of(long))
    short = list_file(tmp_path, [f"{number:020x}" for number in range(2_084)])  # as the published one
    assert str(tmp_path) not in tasks.in_recipe(recipe_of(short)).bench.tasks[0]


def test_an_interval_is_by_what_the_task_says(tmp_path: Path) -> None:
    rows = samples()
    folder = written(tmp_path / "data", rows)
    own = task_file(tmp_path, "description: d\nclusters: image\n")
    found = tasks.select(folder, [own])
    assert found.clusters == tuple(tuple(f"image/{name}" for name in one.images) for one in rows)
    with pytest.raises(UserError, match="cannot be asked together"):
        tasks.check([own, "held_in"])


def test_without_patients_questions_on_one_image_are_one_cluster() -> None:
    named, nameless = samples()[0], replace(samples()[0], patients=())
    assert tasks.patient_keys(named) == ("phantom/p0",)
    assert tasks.patient_keys(nameless) == tuple(f"image/{name}" for name in named.images)
    text = replace(nameless, images=(), paths=())
    assert tasks.patient_keys(text) == (f"question/{text.id}",)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("abilites: [x]\n", ["abilites: unknown key; did you mean 'abilities'?", "description: missing"]),
        (
            "description: d\nabilities: [temporel]\ndomain: held\nimages: [3, 2]\n",
            ["did you mean 'temporal'", "domain: ", "the fewest images come first"],
        ),
        ("- a\n", ["is not a mapping"]),
        ("description: [\n", ["not valid YAML at line"]),
        ("description: d\nclean: 1\n", ["clean: "]),
    ],
)
def test_all_problems_of_a_file_are_told_at_once(text, problems, tmp_path) -> None:
    with pytest.raises(UserError) as raised:
        tasks.load(task_file(tmp_path, text))
    assert all(problem in str(raised.value) for problem in problems)
    assert "mine.yaml" in str(raised.value)


def test_unknown_tasks_are_told_together_with_the_closest_names(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        tasks.check(["held-in", "temporal", "absent.yaml", "publishd"])
    said = str(raised.value)
    assert "no such task: held-in, absent.yaml, publishd" in said
    assert "'held_in' for 'held-in'" in said and "'published' for 'publishd'" in said
    assert "no file absent.yaml" in said


def test_an_own_file_cannot_take_the_name_of_another_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="named as the shipped task clean"):
        tasks.load(task_file(tmp_path, "description: d\n", "clean.yaml"))
    (tmp_path / "b").mkdir()
    two = [task_file(folder, f"description: d\nanswers: {kind}\n") for folder, kind in
           ((tmp_path, "open"), (tmp_path / "b", "closed"))]  # fmt: skip
    with pytest.raises(UserError, match="two tasks are named mine"):
        tasks.check(two)


def test_a_recipe_carries_its_own_tasks_to_other_machines(tmp_path: Path) -> None:
    own = task_file(tmp_path, "description: d\nanswers: open\n")
    made = Recipe.model_validate({"name": "r", "data": {"source": "phantom"}, "bench": {"tasks": ("held_in", own)}})
    carried = Recipe.model_validate_json(tasks.in_recipe(made).dump())
    Path(own).unlink()
    assert tasks.names_of(carried.bench.tasks) == ["held_in", "mine"]
    wrong = made.model_copy(update={"bench": Bench(tasks=("held_im",))})
    with pytest.raises(UserError, match="did you mean 'held_in'"):
        tasks.in_recipe(wrong)


def test_an_own_task_is_benched_under_its_name_and_found_again(world: World, tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    uri = store.publish(world.data, ws.store, "data", {}, {"time": ""}).uri
    own = task_file(tmp_path, "description: d\nabilities: [temporal]\ndomain: held_in\nclusters: image\n")
    settings = Bench(tasks=(own,), probes=(), max_new_tokens=2)
    artifact, cached = run.bench(ws, uri, {"model": str(world.models[0])}, settings)
    scores = run.scores(ws, artifact.uri)
    expected = [one for one in samples() if one.ability == "temporal" and not one.held_out]
    assert not cached and scores["tasks"] == ["mine"] and scores["items"] == len(expected)
    assert scores["task_digests"] == {"mine": tasks.identities([own])[0]}
    row = next(r for r in scores["leaderboard"] if (r["group"], r["metric"]) == ("task:mine", "accuracy"))
    closed = [one for one in expected if one.options]
    assert (row["n"], row["patients"]) == (len(closed), len({name for one in closed for name in one.images}))
    assert all("task:mine" in row["groups"] for row in run.predictions(ws, artifact.uri))
    (tmp_path / "b").mkdir()
    again = task_file(tmp_path / "b", Path(own).read_text("utf-8").replace("description: d", "description: e"))
    settings = settings.model_copy(update={"tasks": (again,)})
    assert run.bench(ws, uri, {"model": str(world.models[0])}, settings) == (artifact, True)


def test_the_command_lists_and_counts(world: World, tmp_path: Path, monkeypatch) -> None:
    from typer.testing import CliRunner

    from medmim.cli import bench

    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    home = ["--home", str(tmp_path / "home")]
    empty = CliRunner().invoke(bench.app, ["tasks", "--json", *home])
    assert json.loads(empty.stdout)["data"] is None
    store.publish(world.data, workspace(tmp_path / "home").store, "data", {}, {"time": ""})
    own = task_file(tmp_path, "description: open ones\nanswers: open\n")
    found = CliRunner().invoke(bench.app, ["tasks", "--json", "--task", own, *home])
    rows = {row["name"]: row for row in json.loads(found.stdout)["tasks"]}
    assert rows["held_out"]["questions"] == 6 and rows["single"]["questions"] == 0
    assert rows["mine"]["questions"] == sum(not one.options for one in samples())
    assert rows["mine"]["content"] == {"answers": "open"}
    shown = CliRunner().invoke(bench.app, ["tasks", *home]).stdout
    assert len(shown.splitlines()) == len(tasks.shipped())


def test_scores_of_the_clean_questions_name_their_list_and_are_computed_again_from_it(
    world: World, tmp_path: Path
) -> None:
    own = samples()
    images = {name: noise(i) for i, name in enumerate(sorted({name for one in own for name in one.images}))}
    images[own[20].images[0]] = resaved(images[own[1].images[0]])
    rows = [replace(one, split="train" if i % 24 < 20 else "test") for i, one in enumerate(own)]
    shards.write(tmp_path / "data", rows, [(name, name, data) for name, data in images.items()])
    ws = workspace(tmp_path / "home")
    source = store.publish(tmp_path / "data", ws.store, "data", {}, {"time": ""})
    settings = Bench(tasks=("held_in", "held_out", "clean"), probes=(), max_new_tokens=2)
    artifact, _ = run.bench(ws, source.uri, {"tuned": str(world.models[0])}, settings)
    scores = run.scores(ws, artifact.uri)
    clean_ones = [one.id for one in rows if one.split == "test" and own[20].images[0] not in one.images]
    assert scores["items"] == 8 and len(clean_ones) == 6
    assert scores["lists"] == {"clean": {"items": 6, "digest": item_lists.digest(clean_ones)}}
    scored = [row["id"] for row in run.predictions(ws, artifact.uri) if "task:clean" in row["groups"]]
    assert scored == clean_ones
    computed = rescore.rescore(ws, artifact)
    assert {key: scores[key] for key in computed} == computed
    found, cached = audit.audit_artifact(ws, source.uri)
    assert cached and provenance_of(artifact)["audit"] == found.digest, "gc keeps what a record names"
    removal.remove(store.open_store(ws.store), f"audit/{found.digest}")
    with pytest.raises(Refused, match="nothing tells which questions"):
        rescore.rescore(ws, artifact)
    assert store.find(found.uri) is None, "whoever checks evidence may write no artifact"
