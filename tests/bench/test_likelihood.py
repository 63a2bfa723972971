"""The protocol `likelihood`: its own answers, cached and resumed as generated ones are, scored beside them."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim import shards, store
from medmim.bench import answers, asking, compare, failures, likelihood, metrics, run, scoring
from medmim.bench.reader.reply import read
from medmim.errors import UserError
from medmim.lvlm.ask import Question, Reply
from medmim.run.workspace import workspace
from medmim.sample import Answer, Sample
from tests.bench.test_run import SETTINGS, bench
from tests.support.bench import World, picture, publish, samples
from tests.support.openai_server import Server

BOTH = SETTINGS.model_copy(update={"protocol": "both"})
ALONE = SETTINGS.model_copy(update={"protocol": "likelihood"})
CLOSED = [sample for sample in samples() if sample.options]


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory):
    return bench(world, tmp_path_factory.mktemp("done"), settings=BOTH)


def rows(scores: dict, metric: str, where: str = "leaderboard") -> dict:
    return {(row.get("model"), row["group"]): row for row in scores[where] if row["metric"] == metric}


def test_the_scores_hold_both_protocols_and_what_both_read(done) -> None:
    ws, artifact, _ = done
    scores = run.scores(ws, artifact.uri)
    held_in = [sample for sample in CLOSED if not sample.held_out]
    asked = [sample for sample in held_in if sample.swapped]
    for metric in ("accuracy", *likelihood.METRICS):
        row = rows(scores, metric)["tuned", "held_in"]
        assert row["n"] == len(held_in) and row["chance"] == pytest.approx(1 / 3)
        assert row["blind"] is not None and row["grey"] is not None and row["errors"] == 0
        assert row["swap_n"] == (len(asked) if metric in metrics.BOTH_WAYS else None)
    assert rows(scores, "likelihood")["tuned", "held_in"]["unparsed"] == 0
    assert rows(scores, "accuracy")["tuned", "held_in"]["unparsed"] > 0  # the models are not trained
    items = run.predictions(ws, artifact.uri)
    for role in ("tuned", "base"):
        right = [
            item["answers"][role]["none"]["likelihood"]["choice"] in item["gold"]
            for item in items
            if item["options"] and not item["held_out"]
        ]
        assert rows(scores, "likelihood")[role, "held_in"]["value"] == pytest.approx(sum(right) / len(right))
    gain = rows(scores, "likelihood", "differences")[None, "held_in"]["value"]
    both = [rows(scores, "likelihood")[role, "held_in"]["value"] for role in ("tuned", "base")]
    assert gain == pytest.approx(both[0] - both[1])
    for item in items:
        for by_probe in item["answers"].values():
            assert set(by_probe) == {"none", "blind", "grey", *(["swap"] if item["swapped"] else [])}
            assert all(("likelihood" in given) == bool(item["options"]) for given in by_probe.values())


def test_generated_answers_are_not_asked_again_for_the_other_protocol(done, world, tmp_path, monkeypatch) -> None:
    ws, artifact, _ = done
    monkeypatch.setattr(asking, "_replies", lambda *_: pytest.fail("asked again"))
    _, generated, cached = bench(world, ws.home)
    assert not cached  # other scores
    assert run.scores(ws, generated.uri)["answers"] == run.scores(ws, artifact.uri)["answers"]
    _, alone, _ = bench(world, ws.home, settings=ALONE)
    scores = run.scores(ws, alone.uri)
    assert scores["likelihoods"] == run.scores(ws, artifact.uri)["likelihoods"]
    assert {row["metric"] for row in scores["leaderboard"]} == set(likelihood.METRICS)
    assert rows(scores, "likelihood") == rows(run.scores(ws, artifact.uri), "likelihood")
    assert scores["reading"] == [] and {row["group"] for row in scores["text_only"]} >= {"held_in", "held_out"}
    assert all(row["unread"] is None and row["opponent_unread"] is None for row in scores["differences"])
    assert bench(world, ws.home, settings=ALONE)[1:] == (alone, True)


def test_another_batch_of_likelihoods_is_asked_anew(done, world) -> None:
    ws, artifact, _ = done
    other = bench(world, ws.home, roles="tuned", settings=BOTH.model_copy(update={"batch_size": 5}))[1]
    before, after = (run.scores(ws, found.uri) for found in (artifact, other))
    assert before["answers"]["tuned"] == after["answers"]["tuned"]
    assert not set(before["likelihoods"]["tuned"].values()) & set(after["likelihoods"]["tuned"].values())
    scored = [{key: row for key, row in rows(of, "likelihood").items() if key[0] == "tuned"} for of in (before, after)]
    assert scored[0] == scored[1]


def test_a_comparison_of_two_runs_has_likelihoods_and_unread_shares(done, world, tmp_path) -> None:
    ws, artifact, _ = done
    other = bench(world, ws.home, roles="base tuned", settings=BOTH)[1]
    found = compare.compare(ws, artifact.uri, other.uri)["differences"]
    row = next(r for r in found if (r["group"], r["metric"]) == ("held_in", "accuracy"))
    own = rows(run.scores(ws, artifact.uri), "accuracy")["tuned", "held_in"]
    assert row["unread"] == own["unparsed"] / own["n"] == row["opponent_unread"]
    assert any(r["metric"] == "likelihood" for r in found)


def engine(said: Sequence[Reply] | None = None, fail: Sequence[int] = (), log: list | None = None) -> answers.Engine:
    """One whose likelihoods tell in which batch a question was, and that fails after so many questions."""
    left = list(fail)

    def told(questions: Sequence[Question], batch_size: int) -> Iterator[Reply]:
        for start in range(0, len(questions), batch_size):
            part = questions[start : start + batch_size]
            if log is not None:
                log.append([question.prompt for question in part])
            mark = sum(map(len, (question.prompt for question in part))) / 1000
            for question in part:
                if left and left[0] == 0:
                    raise RuntimeError("killed")
                left[:1] = [left[0] - 1] if left else []
                yield Reply("", "k", letters=(mark, *range(-1, -len(question.options), -1)))

    return answers.Engine("ref", "digest", lambda *_: iter(()), compare=told, inference=lambda: {"dtype": "float32"})


@pytest.mark.parametrize("probe", ["none", "blind", "swap"])
@pytest.mark.parametrize("after", [1, 17, 23])
def test_a_batch_that_was_cut_is_asked_again_as_it_was(world, tmp_path, monkeypatch, probe, after) -> None:
    """Its numbers depend on the batch, and its bytes must not depend on when the process was killed."""
    settings = ALONE.model_copy(update={"batch_size": 2})

    def collect(home: Path, model: answers.Engine) -> list[Answer]:
        monkeypatch.setattr(run, "engine", lambda *_: model)
        ws = workspace(home)
        data = store.get(publish(world, ws.store))
        found = run.collect(ws, data, {"tuned": model}, [probe], settings, None)
        return answers.load(Path(found["tuned", "likelihood", probe].uri))

    whole, log = collect(tmp_path / "whole", engine()), []
    with pytest.raises(RuntimeError, match="killed"):
        collect(tmp_path / "cut", engine(fail=[after]))
    assert collect(tmp_path / "cut", engine(log=log)) == whole
    assert [answer.sample for answer in whole] == [s.id for s in CLOSED if probe != "swap" or s.swapped]
    if after >= 17:
        assert len(log) < (len(whole) + 1) // 2  # whole batches that were answered are kept


@given(
    st.lists(st.integers(-9, 9), min_size=2, max_size=8).flatmap(
        lambda letters: st.tuples(st.just(letters), st.sets(st.sampled_from(range(len(letters))), min_size=1))
    )
)
def test_a_guess_between_equal_letters_scores_its_chance_and_the_likeliest_wins(drawn) -> None:
    letters, gold = drawn
    options = tuple(f"option {i}" for i in range(len(letters)))
    sample = Sample("temporal", "f", "s", "test", False, ("p",), (), (), "q", options, "", tuple(sorted(gold)))
    found = likelihood.read(sample, "none", Reply("", "k", letters=tuple(map(float, letters))))
    assert letters[found.choice] == max(letters)
    value = likelihood.score(sample, found)["likelihood"]
    best = {i for i, letter in enumerate(letters) if letter == max(letters)}
    assert (value == 1) == (best <= gold) and (value == 0) == (not best & gold)
    assert value == pytest.approx(len(best & gold) / len(best))


def test_the_length_of_a_text_counts_in_one_metric_only() -> None:
    sample = Sample("temporal", "f", "s", "test", False, ("p",), (), (), "q", ("no", "a long one"), "no", (0,), (1,))
    reply = Reply("", "k", letters=(-1.0, -2.0), texts=(-4.0, -5.0), tokens=(2, 5))
    assert likelihood.score(sample, likelihood.read(sample, "none", reply)) == {
        "likelihood": 1,
        "likelihood_text": 1,
        "likelihood_norm": 0,
    }
    assert likelihood.score(sample, likelihood.read(sample, "swap", reply)) == {
        "likelihood": 0,
        "likelihood_text": 0,
        "likelihood_norm": 1,
    }
    letters = likelihood.read(sample, "none", replace(reply, texts=(), tokens=()))  # of a server
    assert likelihood.score(sample, letters) == {"likelihood": 1}


def test_accuracy_if_read_is_over_what_both_models_answered_readably() -> None:
    asked = [replace(sample, held_out=False, question=f"q{i}") for i, sample in enumerate(CLOSED)]
    said = {"tuned": lambda i: "A" if i % 2 else "no idea", "base": lambda i: "A" if i % 3 else ""}
    given = {
        role: {"none": [read(sample, "none", "k", text(i), None) for i, sample in enumerate(asked)]}
        for role, text in said.items()
    }
    found = scoring.Board(asked, given).differences("tuned")
    by_metric = {row["metric"]: row for row in found if row["group"] == "held_in"}
    n = len(asked)
    readable = [i for i in range(n) if i % 2 and i % 3]
    assert by_metric["accuracy_if_read"]["n"] == len(readable)
    assert by_metric["accuracy_if_read"]["value"] == 0  # the same answers
    assert by_metric["accuracy_if_read"]["unread"] == by_metric["accuracy_if_read"]["opponent_unread"] == 0
    assert by_metric["accuracy"]["n"] == n and by_metric["accuracy"]["value"] != 0
    assert by_metric["accuracy"]["unread"] == pytest.approx(len([i for i in range(n) if i % 2 == 0]) / n)
    assert by_metric["accuracy"]["opponent_unread"] == pytest.approx(len([i for i in range(n) if i % 3 == 0]) / n)


def test_errors_are_counted_and_in_no_score(world, tmp_path, monkeypatch) -> None:
    def told(questions: Sequence[Question], batch_size: int) -> Iterator[Reply]:
        for question in questions:
            down = "in 3?" in question.prompt
            yield Reply("", "k", "it hung up" if down else "", letters=() if down else (0.0, -1.0, -1.0))

    own = answers.Engine("ref", "d", lambda *_: iter(()), compare=told, inference=lambda: {"dtype": "float32"})
    monkeypatch.setattr(run, "engine", lambda *_: own)
    with pytest.raises(UserError, match="failed on 1 of 40") as caught:
        bench(world, tmp_path, roles="tuned", settings=ALONE.model_copy(update={"max_bad_fraction": 0.0}))
    assert "it hung up" in str(caught.value)
    settings = ALONE.model_copy(update={"max_bad_fraction": 0.1})
    ws, artifact, _ = bench(world, tmp_path, roles="tuned", settings=settings)
    scores = run.scores(ws, artifact.uri)
    row = rows(scores, "likelihood")["tuned", "held_in"]
    assert row["errors"] == 1 and row["n"] == sum(not s.held_out for s in CLOSED) - 1
    assert "it hung up" in failures.warnings(scores)[0]


def test_an_answer_of_likelihoods_is_read_back(tmp_path: Path) -> None:
    kept = [Answer("1", "none", "k", "", 1, "parsed", letters=(-2.5, -0.25), texts=(-3.0, -1e-06), tokens=(2, 7))]
    answers._replace(tmp_path / answers.FILE, "".join(map(answers._line, kept)).encode())
    assert answers.load(tmp_path) == kept


def test_a_server_without_likelihoods_names_the_key_to_change(world, tmp_path) -> None:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        ws = workspace(tmp_path)
        uri = publish(world, ws.store)
        with pytest.raises(UserError, match="does not tell how likely") as caught:
            run.bench(ws, uri, {"tuned": f"openai:{server.url}#tiny"}, ALONE)
        server.shutdown()
    assert "bench.protocol" in caught.value.fix


def open_ones(count: int) -> list[Sample]:
    return [replace(sample, options=(), gold=(), swapped=()) for sample in samples()[:count]]


def test_open_questions_alone_and_errors_alone_are_scored_too() -> None:
    """No answer then has letters that would tell by which protocol it was asked."""
    asked = [*open_ones(3), *CLOSED[:3]]
    failed = [Answer(sample.id, "none", "k", "", None, "error", "timeout") for sample in CLOSED[:3]]
    assert scoring.Board(asked, {}, {"tuned": {"none": failed}}).leaderboard() == []
    generated = {"tuned": {"none": [read(sample, "none", "k", "yes", None) for sample in asked[:3]]}}
    rows = scoring.Board(asked[:3], generated, {"tuned": {"none": []}}).leaderboard()
    assert {row["metric"] for row in rows} == set(metrics.OPEN)


def test_likelihoods_of_open_questions_alone_are_refused_with_the_key_to_change(world, tmp_path) -> None:
    asked = open_ones(4)
    shards.write(tmp_path / "data", asked, [(name, name, picture(0)) for one in asked for name in one.images])
    (tmp_path / "data" / "quarantine.jsonl").touch()
    ws = workspace(tmp_path / "home")
    uri = store.publish(tmp_path / "data", ws.store, "data", {}, {"time": "2026-01-01T00:00:00+00:00"}).uri
    with pytest.raises(UserError, match="no closed question") as caught:
        run.bench(ws, uri, {"tuned": str(world.models[0])}, ALONE.model_copy(update={"probes": ()}))
    assert "bench.protocol" in caught.value.fix


@pytest.mark.parametrize("probe", ["none", "blind"])
def test_whole_batches_in_any_order_and_share_get_the_same_answers(world: World, probe: str) -> None:
    """Also where the short last batch comes in between: the numbers tell which questions stood together."""
    settings = ALONE.model_copy(update={"batch_size": 7})
    planned = asking.batches(samples(), probe, "likelihood", settings)
    images = shards.Images(world.data)

    def said(share: Sequence[Sequence[Sample]]) -> dict[str, Answer]:
        asked = asking.ask(engine(), share, {}, images, probe, "likelihood", settings)
        return {one.answer.sample: one.answer for one in asked}

    whole = said(planned)
    assert len(planned[-1]) < 7 < len(whole)
    assert said(planned[::-1]) == whole == said(planned[::2]) | said(planned[1::2])
