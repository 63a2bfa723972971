"""The stage `bench`: nothing is asked twice, digests depend on content only, kill -9 loses no answer."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medmim import shards, store
from medmim.bench import answers, asking, run, tasks
from medmim.bench.likelihood import GENERATE
from medmim.bench.reader import reply
from medmim.errors import Unavailable, UserError
from medmim.lvlm import checkpoint
from medmim.lvlm.ask import Reply
from medmim.lvlm.family import Segment
from medmim.lvlm.mantis import MANTIS
from medmim.recipe import loading
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Answer, to_json
from tests.support.bench import World, picture, publish, samples


def held_in():
    return [s for s in samples() if not s.held_out]


SETTINGS = Bench(max_new_tokens=4, probes=("blind", "grey", "swap"))


def writing(ask) -> answers.Engine:
    return answers.Engine("ref", "digest", ask, compare=lambda *_: pytest.fail("nothing is compared"))


def bench(world: World, home: Path, where: str = "", roles: str = "tuned base", settings: Bench = SETTINGS):
    ws = workspace(home)
    ws = Workspace(ws.home, where or ws.store, ws.tracking)
    models = dict(zip(roles.split(), map(str, world.models), strict=False))
    return ws, *run.bench(ws, publish(world, ws.store), models, settings)


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    return bench(world, tmp_path_factory.mktemp("done"))


def test_the_scores_hold_what_gate_terminal_and_report_read(done):
    ws, artifact, cached = done
    scores = run.scores(ws, artifact.uri)
    assert not cached and scores["comparable"] and list(scores["models"]) == ["tuned", "base"]
    groups = {row["group"] for row in scores["leaderboard"]}
    assert {"held_in", "held_out", "ability:temporal", "source:phantom-fundus"} <= groups
    for row in scores["leaderboard"]:
        assert row["blind"] is not None and row["grey"] is not None and row["errors"] == 0
        assert (row["low"] is None) == (min(row["patients"], row["n"]) < 20)
    held_in = [s for s in samples() if not s.held_out and s.options]
    row = next(r for r in scores["leaderboard"] if (r["group"], r["metric"]) == ("held_in", "accuracy"))
    assert (row["n"], row["patients"]) == (len(held_in), len({p for s in held_in for p in s.patients}))
    assert row["chance"] == pytest.approx(1 / 3)
    asked = [s for s in held_in if s.swapped]
    assert (row["swap_n"], row["swap_patients"]) == (len(asked), len({p for s in asked for p in s.patients}))
    assert 0 <= row["swap"] <= row["value"] * len(held_in) / len(asked)
    assert all(r["swap"] is None and r["swap_n"] is None for r in scores["leaderboard"] if r["metric"] != "accuracy")
    assert {r["metric"] for r in scores["leaderboard"]} == {"accuracy", "token_f1", "bleu", "rouge_l"}
    by_model = {
        r["model"]: r["value"] for r in scores["leaderboard"] if (r["group"], r["metric"]) == ("held_in", "token_f1")
    }
    gain = next(r for r in scores["differences"] if (r["group"], r["metric"]) == ("held_in", "token_f1"))
    assert gain["value"] == pytest.approx(by_model["tuned"] - by_model["base"])


def test_the_order_of_the_recipe_decides_which_model_is_compared_with_the_others(world, tmp_path):
    ws = replace(workspace(tmp_path), run="many")
    models = {"z": str(world.models[0]), "a": str(world.models[1])}
    settings = SETTINGS.model_copy(update={"models": models, "probes": ()})
    recipe = loading.load("demo").model_copy(update={"bench": settings})
    outcome = run.run(recipe, ws, publish(world, ws.store), "", dict(sorted(models.items())))
    scores = run.scores(ws, outcome.uri)
    assert list(scores["models"]) == ["z", "a"] and {row["opponent"] for row in scores["differences"]} == {"a"}
    exchanged = recipe.model_copy(
        update={"bench": settings.model_copy(update={"models": {"a": models["a"], "z": models["z"]}})}
    )
    scores = run.scores(ws, run.run(exchanged, ws, publish(world, ws.store), "", models).uri)
    assert {row["opponent"] for row in scores["differences"]} == {"z"}, "not those of the other order"


def test_models_of_a_users_own_order_are_compared_in_it(done, world):
    ws, _, _ = done
    models = {"base": str(world.models[1]), "tuned": str(world.models[0])}
    other, cached = run.bench(ws, publish(world, ws.store), models, SETTINGS)
    assert not cached and list(run.scores(ws, other.uri)["models"]) == ["base", "tuned"]
    assert {row["opponent"] for row in run.scores(ws, other.uri)["differences"]} == {"tuned"}


def test_names_of_models_are_no_part_of_the_key_twice(done, world):
    ws, artifact, _ = done
    settings = SETTINGS.model_copy(update={"models": {"any": "tiny-mantis"}})
    assert bench(world, ws.home, settings=settings)[1:] == (artifact, True)


def test_a_second_run_asks_nothing(done, world):
    ws, artifact, _ = done
    assert bench(world, ws.home)[1:] == (artifact, True)


def test_a_model_that_was_asked_before_is_not_asked_again(done, world, monkeypatch):
    ws, _, _ = done
    monkeypatch.setattr(asking, "ask", lambda *a: pytest.fail("asked again"))
    _, artifact, cached = bench(world, ws.home, roles="base tuned")  # the same two models in exchanged roles
    assert not cached
    assert run.scores(ws, artifact.uri)["models"]


def test_batch_size_changes_no_digest(done, world, tmp_path):
    _, artifact, _ = done
    other = bench(world, tmp_path, settings=SETTINGS.model_copy(update={"batch_size": 5}))[1]
    assert other.digest == artifact.digest


def test_a_bucket_gives_the_digest_of_a_folder(done, world, tmp_path, bucket):
    assert bench(world, tmp_path, bucket)[1].digest == done[1].digest


def test_every_question_is_asked_under_every_probe_with_another_key(done):
    ws, artifact, _ = done
    for row in run.predictions(ws, artifact.uri):
        assert set(row["answers"]["tuned"]) == {"none", "blind", "grey", *(["swap"] if row["swapped"] else [])}
    keys = {}
    for uri in (a for a in store.open_store(ws.store).list("answers/") if a.endswith("manifest.json")):
        for answer in answers.load(ws.fetch(f"{ws.store}/{uri.rpartition('/')[0]}")):
            keys.setdefault(answer.sample, {}).setdefault(answer.probe, set()).add(answer.key)
    for by_probe in keys.values():
        assert len(set.union(*by_probe.values())) == sum(len(own) for own in by_probe.values()) == 2 * len(by_probe)


KILLED = """
import sys
from pathlib import Path
from medmim.run.workspace import workspace
from medmim.bench import run
from medmim.recipe import loading
from medmim.recipe.schema import Bench
home, data, *models = sys.argv[1:]
run.bench(workspace(Path(home)), data, dict(zip(("tuned", "base"), models)), Bench(max_new_tokens=4, probes=("blind", "grey", "swap"), batch_size=1))
"""  # noqa: E501


@pytest.mark.parametrize("probe", [pytest.param("none", marks=pytest.mark.long), "swap"])
def test_kill_9_and_run_again_gives_the_same_digest(done, world, tmp_path, probe):
    ws = workspace(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), publish(world, ws.store), *map(str, world.models)]
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and child.poll() is None:
        left = [file.read_bytes() for file in ws.home.glob("work/answers-*/answers.jsonl")]
        if any(text.count(b"\n") >= 7 and b'"probe": "%b"' % probe.encode() in text for text in left):
            os.kill(child.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert child.wait() == -signal.SIGKILL
    for file in ws.home.glob("work/answers-*/answers.jsonl"):
        kept = file.read_bytes()
        with file.open("ab") as torn:
            torn.write(kept.split(b"\n")[0][: len(kept) // 20])
    _, artifact, cached = bench(world, tmp_path)
    assert not cached and artifact.digest == done[1].digest


def test_engine_errors_are_in_no_score_and_too_many_fail(world, tmp_path, monkeypatch):
    failing = {"on": True}

    def broken(ref, ws, stale_before, by):
        def ask(questions, batch_size, max_new_tokens):
            for question in questions:
                down = failing["on"] and "What changed in 3?" in question.prompt
                yield Reply("" if down else "B", "k", "the server hung up" if down else "")

        return replace(writing(ask), ref=ref)

    monkeypatch.setattr(run, "engine", broken)
    with pytest.raises(UserError, match="failed on 1 of 48") as raised:
        bench(world, tmp_path, settings=Bench(max_bad_fraction=0.0))
    assert "the server hung up" in str(raised.value)
    ws, artifact, _ = bench(world, tmp_path, settings=Bench(max_bad_fraction=0.1))
    rows = [r for r in run.scores(ws, artifact.uri)["leaderboard"] if r["metric"] == "accuracy"]
    own = next(r for r in rows if (r["model"], r["group"]) == ("tuned", "held_in"))
    assert own["errors"] == 1 and own["n"] == sum(bool(s.options) and not s.held_out for s in samples()) - 1
    failing["on"] = False
    ws, artifact, _ = bench(world, tmp_path, settings=Bench(max_bad_fraction=0.0))  # goes on, asks only what failed
    assert all(r["errors"] == 0 for r in run.scores(ws, artifact.uri)["leaderboard"])


def collected(home, engine, items, images, probe, settings, data="d"):
    sets = [(GENERATE, probe)]
    return answers.collect(workspace(home), "r", engine, items, images, data, sets, settings)[GENERATE, probe]


def test_what_another_process_published_meanwhile_is_not_asked_again(world, tmp_path, monkeypatch):
    items = tasks.Items(tuple(samples()), 0, False)
    images = shards.Images(world.data)
    engine = writing(lambda questions, *_: (Reply("text", "k") for _ in questions))
    first = collected(tmp_path, engine, items, images, "none", SETTINGS)
    late, real = [None], answers.find
    monkeypatch.setattr(answers, "find", lambda *given: late.pop() if late else real(*given))
    again = collected(tmp_path, writing(lambda *_: pytest.fail("asked")), items, images, "none", SETTINGS)
    assert again == first and not late


def test_without_images_equal_questions_are_put_once_and_answered_each(world, tmp_path):
    twins = list({t.id: t for t in (replace(sample, question="What changed?") for sample in samples())}.values())
    items = tasks.Items(tuple(twins), 0, False)
    put = []

    def ask(questions, batch_size, max_new_tokens):
        put.extend(questions)
        yield from (Reply(f"{len(question.images)} {question.prompt}", "k") for question in questions)

    engine = writing(ask)
    settings = SETTINGS.model_copy(update={"batch_size": 2})
    given = {}
    for probe in ("blind", "none"):
        images = shards.Images(world.data)
        given[probe] = answers.load(Path(collected(tmp_path, engine, items, images, probe, settings).uri))
        assert [answer.sample for answer in given[probe]] == [sample.id for sample in twins]
        assert len(put) == (2 if probe == "blind" else 2 + len(twins))  # with options, and without
    assert {answer.text[0] for answer in given["none"]} == {"2", "3"}
    assert all(answer.text == f"0 {sample.prompt}" for answer, sample in zip(given["blind"], twins, strict=True))


def test_an_engine_with_more_replies_than_questions_is_refused(world, tmp_path):
    engine = writing(lambda questions, *_: iter([Reply("A", "k")] * (len(questions) + 1)))
    items = tasks.Items(tuple(samples()[:3]), 0, False)
    with pytest.raises(ValueError, match="longer"):
        collected(tmp_path, engine, items, shards.Images(world.data), "none", SETTINGS)


def test_another_chat_format_finds_no_earlier_answers_and_no_earlier_scores(world, tmp_path, monkeypatch):
    settings = SETTINGS.model_copy(update={"limit": 3, "probes": ()})
    _, before, _ = bench(world, tmp_path, settings=settings)
    assert bench(world, tmp_path, settings=settings)[2]
    wordier = replace(MANTIS, write=lambda turns, images: [Segment("Be brief. "), *MANTIS.write(turns, images)])
    monkeypatch.setattr(checkpoint, "FAMILIES", (wordier,))
    ws = workspace(tmp_path)
    new = run.engine(str(world.models[0]), ws)
    assert answers.find(ws, new, store.get(publish(world, ws.store)).digest, "none", settings) is None
    assert not bench(world, tmp_path, settings=settings)[2]
    monkeypatch.undo()
    assert bench(world, tmp_path, settings=settings)[1:] == (before, True)


def test_a_limit_makes_the_result_not_comparable(world, tmp_path):
    ws, artifact, _ = bench(world, tmp_path, roles="tuned", settings=SETTINGS.model_copy(update={"limit": 6}))
    scores = run.scores(ws, artifact.uri)
    assert (scores["comparable"], scores["items"]) == (False, 6)


def test_answers_to_dev_questions_are_not_used_for_test_questions(world, tmp_path):
    ws = workspace(tmp_path)
    names = {name for sample in samples() for name in sample.images}
    halves = [replace(sample, split=("dev", "test")[i % 2]) for i, sample in enumerate(samples())]
    shards.write(tmp_path / "halves", halves, [(name, name, picture(1)) for name in sorted(names)])
    uri = store.publish(tmp_path / "halves", ws.store, "data", {}, {"time": ""}).uri
    for split in ("dev", "test"):
        settings = SETTINGS.model_copy(update={"split": split, "probes": ()})
        artifact, _ = run.bench(ws, uri, {"model": str(world.models[0])}, settings)
        assert [row["id"] for row in run.predictions(ws, artifact.uri)] == [s.id for s in halves if s.split == split]
        assert run.scores(ws, artifact.uri)["comparable"] == (split == "test")


def test_tasks_choose_questions_and_unknown_ones_are_refused(world):
    assert {s.ability for s in tasks.select(world.data, ["temporal"]).samples} == {"temporal"}
    assert all(s.held_out for s in tasks.select(world.data, ["held_out"]).samples)
    assert len(tasks.select(world.data, ["held_in", "held_out"]).samples) == 48
    with pytest.raises(UserError, match="temproal, nothing"):
        tasks.select(world.data, ["temproal", "nothing"])
    with pytest.raises(UserError, match="no test question"):
        tasks.select(world.data, ["composed"])


def test_answers_are_plain_lines(done):
    ws, artifact, _ = done
    digest = run.scores(ws, artifact.uri)["answers"]["tuned"]["none"]
    lines = (ws.fetch(f"{ws.store}/answers/{digest}") / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["sample"] for line in lines] == [s.id for s in samples()]


def test_an_answer_with_unusual_line_breaks_is_read_back(tmp_path):
    answer = Answer("1", "none", "k", "one\u2028two\u0085three\r\nfour\x0bfive", None, "unparsed")
    answers._replace(tmp_path / answers.FILE, answers._line(answer).encode())
    assert answers.load(tmp_path) == [answer]


def test_answers_that_an_earlier_version_stored_are_found_and_read_anew(world, tmp_path, monkeypatch):
    """A reader that reads more must not need the models again, nor compare two readers instead of two models."""
    ws = workspace(tmp_path)
    said = "The right one? **B**\n\nBoth scans were compared."
    engine = writing(lambda questions, *_: iter([Reply(said, "k") for _ in questions]))
    monkeypatch.setattr(run, "engine", lambda *_: engine)
    before = {"cut", "replaced"}  # what version 0.1.0 did not write
    monkeypatch.setattr(reply, "extract", lambda *_: None)
    monkeypatch.setattr(answers, "reader", lambda: "an earlier one")
    monkeypatch.setattr(
        answers, "_line", lambda a: json.dumps({k: v for k, v in to_json(a).items() if k not in before}) + "\n"
    )
    items, images = tasks.select(world.data, SETTINGS.tasks), shards.Images(world.data)
    data = store.get(publish(world, ws.store)).digest
    for probe in answers.probes_of(SETTINGS):
        stored = collected(tmp_path, engine, items, images, probe, SETTINGS, data)
        closed = {sample.id for sample in items.samples if sample.options}
        assert {a.status for a in answers.load(Path(stored.uri)) if a.sample in closed} == {"unparsed"}
    monkeypatch.undo()
    monkeypatch.setattr(run, "engine", lambda *_: replace(engine, ask=lambda *_: pytest.fail("asked again")))
    artifact, _ = run.bench(ws, publish(world, ws.store), {"tuned": "ref"}, SETTINGS)
    closed = [row["answers"]["tuned"]["none"] for row in run.predictions(ws, artifact.uri) if row["options"]]
    assert {(given["choice"], given["status"], given["cut"]) for given in closed} == {(1, "parsed", False)}


def test_answers_that_this_version_read_are_not_read_again_and_those_of_a_killed_one_are(world, tmp_path, monkeypatch):
    engine = writing(lambda questions, *_: iter([Reply("**B**", "k") for _ in questions]))
    monkeypatch.setattr(run, "engine", lambda *_: engine)
    ws = workspace(tmp_path)
    uri = publish(world, ws.store)
    settings = SETTINGS.model_copy(update={"probes": ()})
    monkeypatch.setattr(reply, "extract", lambda *_: None)  # another version, which is killed at the end
    monkeypatch.setattr(answers, "_finish", lambda *_: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception):
        run.bench(ws, uri, {"tuned": "ref"}, settings)
    monkeypatch.undo()
    monkeypatch.setattr(run, "engine", lambda *_: replace(engine, ask=lambda *_: pytest.fail("asked again")))
    items = tasks.select(world.data, settings.tasks)
    one = (GENERATE, "none")
    stored = answers.find_or_ask(ws, "r", run.engine("ref", ws), store.get(uri), [one], settings, None)[one]
    by_id = {sample.id: sample for sample in items.samples}
    assert {answer.choice for answer in answers.load(Path(stored.uri)) if by_id[answer.sample].options} == {1}
    monkeypatch.setattr(answers, "reread", lambda *_: pytest.fail("read again"))
    run.bench(ws, uri, {"tuned": "ref"}, settings)


@pytest.mark.parametrize("text", ["B: image 2 \ud83d", "\udcff", "B \ude00\ud83d", "\ud83d" * 50, "a\udfff\u2028b"])
def test_an_answer_that_utf_8_cannot_hold_ends_no_benchmark(world, tmp_path, monkeypatch, text):
    engine = writing(lambda questions, *_: iter([Reply(text, "k", cut=True) for _ in questions]))
    monkeypatch.setattr(run, "engine", lambda *_: engine)
    ws = workspace(tmp_path)
    artifact, _ = run.bench(ws, publish(world, ws.store), {"tuned": "ref"}, SETTINGS)
    (row,) = run.scores(ws, artifact.uri)["reading"]
    assert (row["replaced"], row["cut"], row["answers"]) == (48, 48, 48)
    board = [r for r in run.scores(ws, artifact.uri)["leaderboard"] if r["group"] == "held_in"]
    assert {r["cut"] for r in board if r["metric"] == "accuracy"} == {sum(bool(s.options) for s in held_in())}
    assert all(
        "\ufffd" in given["none"]["text"] for r in run.predictions(ws, artifact.uri) for given in r["answers"].values()
    )


def test_an_answer_that_ended_by_itself_keeps_the_bytes_of_earlier_versions():
    line = answers._line(Answer("1", "none", "k", "B", 1, "parsed"))
    assert json.loads(line).keys() == {"sample", "probe", "key", "text", "choice", "status", "error"}
    assert json.loads(answers._line(Answer("1", "none", "k", "B", 1, "parsed", cut=True)))["cut"] is True


@pytest.mark.parametrize(
    ("error", "server", "others"), [(UserError, False, True), (Unavailable, True, True), (Unavailable, False, False)]
)
def test_models_after_one_that_cannot_be_asked_are_asked_unless_the_store_is_away(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[UserError], server: bool, others: bool
) -> None:
    ws = workspace(tmp_path)
    uri = publish(world, ws.store)
    real, asked = run.engine, []

    def engine(ref: str, *given: object) -> answers.Engine:
        made = real(ref, *given)

        def ask(*words: object):
            asked.append(ref)
            if ref == str(world.models[0]):
                raise error("broken", fix="mend it")
            return made.ask(*words)

        return replace(made, ask=ask, is_server=server and ref == str(world.models[0]))

    monkeypatch.setattr(run, "engine", engine)
    models = {"first": str(world.models[0]), "second": str(world.models[1])}
    with pytest.raises(UserError, match="broken") as caught:
        run.bench(ws, uri, models, SETTINGS)
    assert (str(world.models[1]) in asked) == others == ("1 of 2 models" in str(caught.value))
    assert caught.value.exit_code == error("").exit_code
    asked.clear()
    monkeypatch.setattr(run, "engine", real)
    run.bench(ws, uri, models, SETTINGS)
