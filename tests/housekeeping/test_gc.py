"""What garbage collection removes and keeps, whatever references what, and wherever it is killed."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from medmim import shards, store, tracking
from medmim.data import gallery, kept_pixels
from medmim.data.words import ask, book
from medmim.errors import UserError
from medmim.housekeeping import gc
from medmim.lvlm import adapters
from medmim.registry import decisions, lookup, register, retired, store_id
from medmim.registry.decisions import Decision
from medmim.run import step_lock
from medmim.run.cache import cached_step
from medmim.run.workspace import Workspace
from medmim.store import Artifact, open_store
from medmim.store.removal import LOCK, USED
from tests.support.bench import samples
from tests.support.killing import killed_at
from tests.support.registry import artifacts

NOW = time.time()
DAY = gc.DAY


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Artifact]:
    def put(ws: Workspace, kind: str, text: str, parents: tuple[str, ...] = (), recipe: str = "demo") -> Artifact:
        folder = tmp_path / "put"
        folder.mkdir(exist_ok=True)
        (folder / "a").write_text(text)
        (folder / "b").write_text("b")
        made = {"parents": {str(i): digest for i, digest in enumerate(parents)}, "recipe": {"name": recipe}}
        artifact = store.publish(folder, ws.store, kind, {}, made)
        index = json.dumps({"digest": artifact.digest}).encode()
        open_store(ws.store).write(f"steps/{kind}/{artifact.digest}.json", index)
        return artifact

    return put


def age(ws: Workspace, prefix: str, days: float) -> None:
    """Make everything below a prefix so old, in a folder."""
    for key in open_store(ws.store).ages(prefix):
        os.utime(Path(ws.store) / key, (NOW - days * DAY,) * 2)


def name(artifact: Artifact) -> str:
    return f"{artifact.kind}/{artifact.digest}"


def collected(ws: Workspace, **options: Any) -> list[str]:
    done = gc.collect(ws, gc.plan(ws, **({"now": NOW + 100 * DAY} | options)))
    return sorted(item.name for item in done)


GRAPH = st.lists(
    st.tuples(
        st.sampled_from(["data", "model", "answers"]),
        st.sampled_from(["one", "two"]),
        st.integers(0, 60),  # days
        st.sets(st.integers(0, 7), max_size=2),  # parents, of those before it
        st.sampled_from(["", "", "", "decision", "version", "run"]),  # what references it
    ),
    min_size=1,
    max_size=8,
)


UNSHRUNK = [Phase.generate]  # each example costs a second


@settings(max_examples=8, deadline=None, phases=UNSHRUNK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GRAPH, st.integers(1, 2), st.sampled_from([0, 20, 45]))
def test_what_is_referenced_stays_with_all_its_ancestors_and_of_the_rest_only_what_retention_keeps(
    ws: Workspace, put: Callable[..., Artifact], graph: list[Any], last: int, days: int
) -> None:
    ws = replace(ws, store=f"{ws.store}-{time.monotonic_ns()}")
    api, model, made = tracking.client(ws), f"m{time.monotonic_ns()}", []
    for number, (kind, recipe, old, parents, named) in enumerate(graph):
        own = put(ws, kind, f"{model} {number}", tuple(made[p].digest for p in sorted(parents) if p < number), recipe)
        made.append(own)
        for prefix in (name(own), f"used/{name(own)}", f"steps/{kind}/{own.digest}"):
            age(ws, prefix, old)
        if named == "decision":
            decisions.append(ws, "chest", lambda log, own=own: Decision("promoted", "1", own.digest, own.uri))
        if named == "version":
            if model not in tracking.registered(ws):
                api.create_registered_model(model)
            api.create_model_version(model, source="file:///x", tags={lookup.URI: own.uri})
        if named == "run":
            open_store(ws.store).write(f"runs/r{number}/data.json", json.dumps({"digest": own.digest}).encode())
    if any(named == "decision" for *_, named in graph) and "chest" not in tracking.registered(ws):
        api.create_registered_model("chest")
    if known := list(tracking.registered(ws)):
        store_id.adopt(ws, known)

    order: dict[Any, list[int]] = {}
    for number, (kind, recipe, *_) in enumerate(graph):
        order.setdefault((kind, recipe), []).append(number)
    stay = {n for n, row in enumerate(graph) if row[4] or row[2] <= max(days, gc.GRACE)}
    for group in order.values():
        stay |= set(sorted(group, key=lambda n: (graph[n][2], name(made[n])))[:last])
    while True:  # ancestors
        more = {p for n in stay for p in graph[n][3] if p < n} - stay
        if not more:
            break
        stay |= more
    before = artifacts(ws)
    planned = gc.plan(ws, last, days, now=NOW)
    assert artifacts(ws) == before  # a plan removes nothing
    gc.collect(ws, planned)
    assert artifacts(ws) == {name(made[n]) for n in stay}
    assert {key for key in open_store(ws.store).list("steps/")} == {
        f"steps/{made[n].kind}/{made[n].digest}.json" for n in stay
    }
    assert not [key for key in _left(ws) if key.startswith("removing/")]
    assert gc.plan(ws, last, days, now=NOW).items == ()


def _left(ws: Workspace) -> list[str]:
    """All but the turns of the lock, whose numbers grow."""
    return [key for key in open_store(ws.store).list() if not key.startswith(LOCK)]


def _fill(ws: Workspace, put: Callable[..., Artifact]) -> None:
    base = put(ws, "model", "base")
    for number in range(3):
        put(ws, "data", str(number), (base.digest,))
    target = open_store(ws.store)
    target.write(f"model/{'0' * 64}/half", b"x")  # a publisher was killed
    target.write("resume/finetune-1/step-00000100/ab/manifest.json", b"{}")
    for run in ("demo-20260101-000000-aa", "demo-20260102-000000-bb", "demo-20260103-000000-cc"):
        for stage in ("data", "report"):
            target.write(f"runs/{run}/{stage}.json", b"{}")


@pytest.mark.long
def test_killed_at_any_deletion_the_next_collection_ends_the_same_and_no_artifact_is_ever_incomplete(
    place: Workspace, put: Callable[..., Artifact]
) -> None:
    def filled(folder: str) -> Workspace:
        own = replace(place, store=f"{place.store}/{folder}")
        _fill(own, put)
        return own

    whole = filled("whole")
    removed = collected(whole, last=1)
    goal = {*_left(whole)}
    assert {text.partition("/")[0] for text in removed} == {"data", "model", "resume", "runs", "steps"}
    for number in count():
        own = filled(f"killed{number}")
        if not killed_at(
            number, type(open_store(place.store)), ("delete", "write"), lambda own=own: collected(own, last=1)
        ):
            break
        artifacts(own)
        collected(own, last=1)
        # which of the equally old ones stays depends on the name alone, so both stores end alike
        assert {*_left(own)} == goal, f"killed at call {number}"
    assert number > 20


def test_a_running_run_and_what_it_references_stays(ws: Workspace, put: Callable[..., Artifact]) -> None:
    own = [put(ws, "data", str(number)) for number in range(3)]
    target = open_store(ws.store)
    for number, (run, report) in enumerate([("r-20260101-000000-a", False), ("r-20260102-000000-b", True)]):
        target.write(f"runs/{run}/data.json", json.dumps({"digest": own[number].digest}).encode())
        if report:
            target.write(f"runs/{run}/report.json", b"{}")
    target.write("runs/r-20260103-000000-c/report.json", b"{}")
    target.write("resume/finetune-1/step-1/ab/model", b"x")
    target.write("resume/answers-1/ab.jsonl", b"x")
    age(ws, "", 10)
    target.write("resume/answers-2/ab.jsonl", b"x")
    age(ws, "runs/r-20260103-000000-c", 9)
    gone = collected(ws, last=1, days=0, now=NOW)
    assert "runs/r-20260102-000000-b" in gone and "runs/r-20260101-000000-a" not in gone
    assert store.find(own[0].uri) and {"resume/finetune-1", "resume/answers-1"} <= set(gone)
    assert list(target.list("resume/")) == ["resume/answers-2/ab.jsonl"], "this one is being asked"
    age(ws, "runs/r-20260101", 15)  # by now it was killed
    assert "runs/r-20260101-000000-a" in collected(ws, last=1, days=0, now=NOW)


def test_a_recipe_says_how_long_its_own_things_stay(ws: Workspace, tmp_path: Path) -> None:
    for recipe, days in (("short", 8), ("long", 300)):
        for number in range(2):
            (tmp_path / "f").mkdir(exist_ok=True)
            (tmp_path / "f" / "a").write_text(f"{recipe}{number}")
            made = {"recipe": {"name": recipe, "retention": {"last": 1, "days": days}}}
            store.publish(tmp_path / "f", ws.store, "data", {}, made)
    left = {item.recipe for item in gc.plan(ws, now=NOW + 100 * DAY).items if item.kind == "artifact"}
    assert left == {"short"}
    left = {item.recipe for item in gc.plan(ws, days=50, now=NOW + 100 * DAY).items if item.kind == "artifact"}
    assert left == {"short", "long"}


def test_the_mlflow_of_another_store_is_refused_before_anything_goes(
    ws: Workspace, put: Callable[..., Artifact]
) -> None:
    own = put(ws, "model", "champion")
    record = {"facts": {"name": "chest"}, "digest": own.digest}
    open_store(ws.store).write("runs/r-20260101-000000-a/register.json", json.dumps(record).encode())
    with pytest.raises(UserError, match="is not the one of the store") as error:
        gc.plan(ws, now=NOW + 100 * DAY)
    assert "knows none of the models" in error.value.reason and "chest" in error.value.reason
    assert error.value.exit_code == 2 and "--adopt" not in error.value.fix


def test_a_store_that_has_an_id_refuses_any_other_mlflow_though_no_decision_or_run_names_a_model(
    ws: Workspace, put: Callable[..., Artifact], tmp_path: Path
) -> None:
    """A registered model awaits its first promotion, and the run that registered it is long gone."""
    version(ws, "chest", put(ws, "model", "registered"))
    store_id.adopt(ws, ["chest"])
    age(ws, "", 300)
    empty = replace(ws, tracking=f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(UserError, match="is not the one of the store") as error:
        gc.plan(empty)
    assert "none is there" in error.value.reason and "--adopt" not in error.value.fix
    foreign = replace(empty, store=f"{ws.store}-another")
    version(foreign, "skin", put(foreign, "model", "elsewhere"))
    for adopted in (False, True):
        if adopted:
            store_id.adopt(foreign, ["skin"])
        with pytest.raises(UserError, match="is not the one of the store"):
            gc.plan(empty)
    assert not [item for item in gc.plan(ws).items if item.kind == "artifact"]


def test_who_deleted_all_models_on_purpose_is_told_the_way_out_and_it_is_one(
    ws: Workspace, put: Callable[..., Artifact], tmp_path: Path
) -> None:
    own = put(ws, "model", "registered")
    version(ws, "chest", own)
    store_id.adopt(ws, ["chest"])
    tracking.client(ws).delete_registered_model("chest")
    for decided in (False, True):
        if decided:
            decisions.append(ws, "chest", lambda _: Decision("promoted", "1", own.digest, own.uri))
        with pytest.raises(UserError, match="deleted there on purpose") as error:
            gc.plan(ws)
        assert f"with the tag {store_id.tag(store_id.read(ws))}" in error.value.fix
    tracking.client(ws).create_registered_model("none", tags={store_id.tag(store_id.read(ws)): ""})
    gc.plan(ws)


def version(ws: Workspace, model: str, artifact: Artifact, **tags: str) -> str:
    """Register an artifact; the number of its version."""
    api = tracking.client(ws)
    register.create_model(api, model)
    given = {lookup.URI: artifact.uri, lookup.DIGEST: artifact.digest, **tags}
    return str(api.create_model_version(model, source="file:///x", tags=given).version)


def test_an_mlflow_that_knows_the_names_of_another_store_is_refused_until_a_person_adopts_it(
    ws: Workspace, put: Callable[..., Artifact]
) -> None:
    own, awaiting = put(ws, "model", "champion"), put(ws, "model", "awaits approval")
    age(ws, "", 300)
    decisions.append(ws, "medmim", lambda _: Decision("promoted", "1", own.digest, own.uri))
    laptop = replace(ws, store=f"{ws.store}-of-a-laptop")
    version(laptop, "medmim", replace(own, uri=f"{laptop.store}/model/{own.digest}"))
    with pytest.raises(UserError, match="is not the one of the store") as error:
        gc.plan(ws)
    assert "no version there is of a model in it" in error.value.reason and "--adopt" in error.value.fix
    version(ws, "medmim-candidate", awaiting)
    assert name(awaiting) not in collected(ws), "of an earlier medmim: its versions are of models in this store"
    store_id.adopt(laptop, ["medmim"])
    with pytest.raises(UserError, match="is not the one of the store") as error:
        gc.plan(ws)
    assert "medmim.store.ID" in error.value.reason
    assert gc.adopt(ws) == ["medmim", "medmim-candidate"]
    assert name(awaiting) not in collected(ws)


def test_what_registers_records_whose_mlflow_it_is(ws: Workspace) -> None:
    assert store_id.read(ws) == ""
    api = tracking.client(ws)
    register.create_model(api, "chest")
    for _ in range(2):
        store_id.mark(api, ws, "chest")
    assert store_id.is_of(store_id.read(ws), tracking.registered(ws)["chest"].tags)
    open_store(ws.store).write(store_id.FILE, b'{"id": 3}')
    with pytest.raises(UserError, match="is not the id of a store"):
        store_id.read(ws)


LONG_AGO = {retired.RETIRED: "2020-01-01T00:00:00+00:00", retired.WHY: "-40.0 points"}


def test_the_model_of_a_refused_run_goes_and_what_only_it_was_made_of_but_not_what_judged_it(
    ws: Workspace, put: Callable[..., Artifact]
) -> None:
    data, base = put(ws, "data", "both"), put(ws, "model", "base of the refused one")
    good, bad = put(ws, "model", "good", (data.digest,)), put(ws, "model", "bad", (data.digest, base.digest))
    scores = put(ws, "bench", "scores", (bad.digest, data.digest))
    decision = put(ws, "decision", "refused", (scores.digest,))
    age(ws, "", 300)
    for kind in ("bench", "decision"):
        put(ws, kind, "of the last run")
    version(ws, "chest-candidate", good)
    number = version(ws, "chest-candidate", bad, **LONG_AGO, **{lookup.BENCH: scores.digest})
    version(ws, "chest", put(ws, "model", "champion"))
    store_id.adopt(ws, ["chest"])
    decisions.append(
        ws, "chest", lambda _: Decision("refused", number, bad.digest, bad.uri, decision.digest, bench=scores.digest)
    )
    decisions.append(ws, "chest", lambda _: Decision("kept", "1", good.digest, good.uri, evidence=decision.digest))
    planned = gc.plan(ws, last=1, days=0, now=NOW + 100 * DAY)
    assert {item.name: item.why for item in planned.items if item.kind == "artifact"}[name(bad)].endswith(
        "took every version of it out of use"
    )
    before = artifacts(ws)
    gc.collect(ws, planned)
    assert before - artifacts(ws) == {name(bad), name(base)}


@pytest.mark.parametrize(
    "why",
    ["champion", "rollback", "challenger", "alias", "not everywhere", "lately", "was champion", "the champion's base"],
)
def test_a_retired_model_stays_as_long_as_anything_needs_it(
    ws: Workspace, put: Callable[..., Artifact], why: str
) -> None:
    own = put(ws, "model", "own")
    other = put(ws, "model", "other", (own.digest,) if why == "the champion's base" else ())
    put(ws, "model", "of the last run")
    number = version(ws, "chest", own, **LONG_AGO)
    version(ws, "chest", other)
    store_id.adopt(ws, ["chest"])
    log = {"champion": [other, own], "rollback": [own, other], "was champion": [own, other, put(ws, "model", "third")]}
    for one in log.get(why, [other]):
        decisions.append(ws, "chest", lambda _, one=one: Decision("promoted", number, one.digest, one.uri))
    if why == "challenger":
        decisions.append(ws, "chest", lambda _: Decision("refused", number, own.digest, own.uri, evidence="e" * 64))
    if why == "alias":
        tracking.client(ws).set_registered_model_alias("chest", "trial", number)
    if why == "not everywhere":
        version(ws, "another", own)
    now = NOW + 100 * DAY if why != "lately" else NOW
    if why == "lately":
        tracking.client(ws).set_model_version_tag(
            "chest", number, retired.RETIRED, datetime.fromtimestamp(NOW - 3 * DAY, UTC).isoformat()
        )
        age(ws, "", 300)
    gc.collect(ws, gc.plan(ws, last=1, days=0, now=now))
    assert store.find(own.uri) is not None
    if why == "was champion":  # until a person says that it is out of use
        decisions.append(ws, "chest", lambda _: Decision("retired", number, own.digest, own.uri, why="replaced"))
        gc.collect(ws, gc.plan(ws, last=1, days=0, now=now))
        assert store.find(own.uri) is None


def _make(folder: Path) -> dict[str, Any]:
    (folder / "a").write_text("the same")
    return {}


def test_what_a_step_finds_again_counts_as_used_now(place: Workspace) -> None:
    cached_step(place, "data", 1, {}, {}, _make)
    begin = time.time()
    time.sleep(1.1)  # S3 gives whole seconds
    artifact, cached = cached_step(place, "data", 1, {}, {}, _make)
    assert cached
    used, _ = open_store(place.store).ages("used/")[f"used/{name(artifact)}"]
    assert used >= int(begin) + 1
    planned = replace(gc.plan(place, now=NOW), cutoff=used)
    item = gc.Item("artifact", name(artifact), "", 0, 0, "a plan made before it was found again")
    assert gc.collect(place, replace(planned, items=(item,))) == []
    assert store.find(artifact.uri)


def test_replies_of_models_that_were_not_asked_go_after_the_grace_period(ws: Workspace) -> None:
    server = ask.Server("http://127.0.0.1/v1", "m")
    for model in ("old", "used"):
        ask.replies(ws.home, model).keep(server, "Which?", ask.Said("What?"))
    os.utime(ask.replies(ws.home, "old").path, (NOW - 9 * DAY,) * 2)
    os.utime(ask.replies(ws.home, "used").path, (NOW,) * 2)
    (item,) = gc.plan(ws, now=NOW).items
    assert (item.kind, item.days) == ("words", 9)
    gc.collect(ws, gc.plan(ws, now=NOW))
    assert not ask.replies(ws.home, "old").known and ask.replies(ws.home, "used").known


def test_approved_wordings_stay_though_no_step_used_them_for_long(ws: Workspace) -> None:
    wordings = book.Wordings(questions=("Which image shows {value}?",))
    made = book.approve(ws, book.Book(families={"which_finding": wordings}), shown=True)
    planned = gc.plan(ws, last=1, days=0, now=time.time() + 400 * DAY)
    assert planned.kept == {"approved wordings": 1} and not [item for item in planned.items if item.kind == "artifact"]
    assert store.find(made.uri)


def test_pictures_that_no_build_used_go_after_the_grace_period(ws: Workspace) -> None:
    kept = kept_pixels.of(ws.home)
    assert kept is not None
    for name in ("old", "used"):
        kept.keep(name, 32, f"sha256:{name}", b"a picture")
    for path in (path for path in kept.folder.rglob("*") if path.is_file()):
        os.utime(path, (NOW - 9 * DAY,) * 2)
    assert kept.find("used", 32) == ("sha256:used", b"a picture")
    (item,) = gc.plan(ws, now=NOW).items
    assert (item.kind, item.days) == ("pixels", 9) and item.bytes > len(b"a picture")
    assert kept.find("old", 64) is None
    gc.collect(ws, gc.plan(ws, now=NOW))
    assert kept.find("old", 32) is None
    assert kept.find("used", 32) is not None
    assert gc.plan(ws, now=NOW).items == ()


def test_the_gallery_of_a_data_set_goes_with_it_and_not_before(ws: Workspace, tmp_path: Path) -> None:
    made = []
    for number, home in enumerate((ws, ws, replace(ws, store=str(tmp_path / "other")))):
        folder = tmp_path / str(number)
        shards.write(folder, samples()[number : number + 2], [])
        data = store.publish(folder, home.store, "data", {}, {"recipe": {"name": str(number)}})
        (page,) = gallery.write(home, data)
        made.append((data, page.parent))
    (old, of_old), (_, of_kept), (_, of_other) = made
    assert gc.plan(ws, now=NOW).items == ()
    age(ws, name(old), 99)
    age(ws, f"{USED}/{name(old)}", 99)
    items = gc.plan(ws, last=0, days=0, now=NOW).items
    assert [item.kind for item in items] == ["artifact", "gallery"] and items[1].bytes > 1000
    spared = replace(gc.plan(ws, last=0, days=0, now=NOW), items=(items[1],))
    assert gc.collect(ws, spared) == [] and of_old.is_dir()  # its data set is still there
    gc.collect(ws, gc.plan(ws, last=0, days=0, now=NOW))
    assert not of_old.exists() and of_kept.is_dir() and of_other.is_dir()
    shutil.rmtree(Path(ws.store) / "data")  # gone by other means
    (item,) = gc.plan(ws, now=NOW).items
    assert gc.collect(ws, gc.plan(ws, now=NOW)) == [item] and not of_kept.exists()
    assert of_other.is_dir()


def test_an_imported_base_stays_though_nothing_points_to_it(ws: Workspace, tmp_path: Path) -> None:
    """Recipes name it by its address, and no step makes it again."""
    there = []
    for step in ("import", "copy of a folder"):
        folder = tmp_path / step
        folder.mkdir()
        (folder / "config.json").write_text(step)
        there.append(store.publish(folder, ws.store, "model", {}, {"step": step}))
    age(ws, "model/", 400)
    assert collected(ws, last=0, days=0) == [name(there[1])]
    assert store.find(there[0].uri) is not None


def test_a_step_that_goes_on_after_the_plan_keeps_what_it_has_done(ws: Workspace) -> None:
    place = open_store(ws.store)
    for key in ("resume/data-a/1", "resume/data-b/1", "runs/demo-20260101-000000-a/data.json"):
        place.write(key, b"{}")
    age(ws, "", 300)
    planned = gc.plan(ws, last=0, days=0)
    assert {item.kind for item in planned.items} == {"resume", "run"}
    place.write("resume/data-a/2", b"{}")
    place.write("runs/demo-20260101-000000-a/audit.json", b"{}")
    assert [item.name for item in gc.collect(ws, planned)] == ["resume/data-b"]
    assert "resume/data-a/1" in place.ages("resume/") and len(place.ages("runs/")) == 2


def test_the_base_of_adapters_stays_as_long_as_they_do(
    place: Workspace, put: Callable[..., Artifact], tmp_path: Path
) -> None:
    """Their record names it: the copy of a folder has no provenance that does."""
    base, other = put(place, "model", "base"), put(place, "model", "another")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / adapters.BASE).write_text(json.dumps({"ref": name(base), "digest": "0" * 64}))
    tuned = store.publish(tmp_path / "a", place.store, "model", {}, {"step": "copy of a folder"})
    decisions.append(place, "chest", lambda _: Decision("promoted", "1", tuned.digest, tuned.uri))
    tracking.client(place).create_registered_model("chest")
    store_id.adopt(place, ["chest"])
    collected(place, last=0, days=0)
    assert artifacts(place) == {name(base), name(tuned)} and store.find(other.uri) is None


def test_the_ended_lock_of_a_step_goes_after_the_grace_period_and_that_of_a_running_one_stays(ws: Workspace) -> None:
    def make(folder: Path) -> dict[str, int]:
        (folder / "a").write_text("a")
        return {}

    cached_step(ws, "data", 1, {}, {}, make)
    age(ws, "", 8)
    with step_lock.step_lock(store.open_store(ws.store), "data-running"):
        assert "locks/data-running" not in collected(ws, now=NOW)
    locks = {key.split("/")[1] for key in open_store(ws.store).list("locks/")}
    assert locks == {"data-running"}


def test_two_collections_at_once_remove_one_after_the_other(
    ws: Workspace, put: Callable[..., Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two at once, one would take away the mark of an artifact that the other is still deleting."""
    own = put(ws, "model", "old")
    done: list[list[str]] = []
    second = threading.Thread(target=lambda: done.append(collected(ws, last=0, days=0)))
    with step_lock.step_lock(open_store(ws.store), LOCK):
        second.start()
        second.join(1.5)
        assert second.is_alive() and artifacts(ws) == {name(own)}
    second.join(20)
    assert name(own) in done[0] and artifacts(ws) == set()
    assert "is removing from the store" in capsys.readouterr().err
    age(ws, "", 300)
    assert gc.plan(ws).items == (), "the lock's turns stay: their numbers must grow"
