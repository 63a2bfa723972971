"""The page of a benchmark shows all its models, their own words on what is hard, and loads nothing from anywhere."""

import csv
import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim import store, terms
from medmim.bench import answers, run
from medmim.bench.page import cost, hardest, leaderboard, siblings, tables
from medmim.lvlm.ask import Question, Reply
from medmim.lvlm.zoo import entry as zoo
from medmim.page.page import FILE
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from medmim.sample import LETTERS
from medmim.tiny.zoo import TERMS
from tests.support.bench import World, publish, samples
from tests.support.page import Page

LONG = "a-model-of-a-very-long-name-" + "x" * 32
SKILL = {  # role -> which questions it answers right
    "medgemma-4b": lambda i: i % 5 > 0,
    "gemma-3-4b": lambda i: i % 2 > 0,
    "mine": lambda i: i % 3 > 0,
    LONG: lambda i: i == 1,
}  # fmt: skip
BENCH = Bench(probes=("blind", "grey", "swap"))


def engine(role: str) -> answers.Engine:
    """A model that answers as `SKILL` says, wrongly with the option behind the right one, and escapes nothing."""
    known = {sample.prompt: (i, sample) for i, sample in enumerate(samples())}

    def ask(questions: list[Question], *_: int) -> Iterator[Reply]:
        for question in questions:
            i, sample = known[question.prompt]
            if not sample.options:
                yield Reply("<b>grew</b>", "k")
                continue
            choice = (sample.gold[0] + (not SKILL[role](i))) % len(sample.options)
            yield Reply(f"{LETTERS[choice]}: {sample.options[choice]}", f"{role} {i}")

    return answers.Engine(role, role, ask, lambda *_: iter(()))


def benched(home: Path, world: World, roles: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, str]:
    monkeypatch.setattr(run, "engine", lambda ref, *_: engine(ref))
    ws = workspace(home)
    return ws, run.bench(ws, publish(world, ws.store), {role: role for role in roles}, BENCH)[0].uri


@pytest.fixture(scope="module")
def four(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield benched(tmp_path_factory.mktemp("four"), world, list(SKILL), patch)


def page(found: tuple[Workspace, str], name: str = "page.html") -> tuple[Page, str]:
    target = found[0].home / "reports" / name
    made = leaderboard.write(*found, target)
    html = target.read_text("utf-8")
    assert (found[0].fetch(made.uri) / FILE).read_text("utf-8") == html
    return Page(html), " ".join(Page(html).text.split())


def test_open_questions_alone_have_a_leaderboard_clustered_as_their_task_says(world, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "engine", lambda ref, *_: engine(ref))
    task, ws = tmp_path / "open.yaml", workspace(tmp_path)
    task.write_text("description: d\nanswers: open\nclusters: image\n", encoding="utf-8")
    models = {role: role for role in ("mine", "gemma-3-4b")}
    settings = BENCH.model_copy(update={"tasks": (str(task),), "probes": ()})
    uri = run.bench(ws, publish(world, ws.store), models, settings)[0].uri
    _, text = page((ws, uri))
    assert "Best in held-in, token_f1" in text
    assert "Open questions, token_f1 in percent with 95% intervals clustered by image; none under 20 images." in text


def test_every_model_is_on_the_page_with_its_scores(four):
    shown, text = page(four)
    scores = run.scores(*four)
    drawn = {LONG: "a-model-of-…xxxxxxxxxxx"}  # beside a figure
    assert "4 models, 48 questions" in text and "<b>" not in text
    for row in scores["leaderboard"]:
        if row["metric"] == "accuracy" and row["group"] in ("held_in", "held_out"):
            label = row["group"].replace("_", "-")
            assert any(
                title.startswith(f"{drawn.get(row['model'], row['model'])}, {label}: {row['value']:.1%}")
                for title in shown.titles
            )
    held_in = {row["model"]: row["value"] for row in scores["leaderboard"] if row["group"] == "held_in"
               and row["metric"] == "accuracy"}  # fmt: skip
    best = max(held_in, key=held_in.get)
    assert f"Best in held-in, accuracy {best} {100 * held_in[best]:.1f}%" in text
    assert "too few patients" in text  # 18 of held-in, 2 of held-out
    assert text.index("Who generalises") < text.index("What the images add") < text.index("Hardest questions")
    assert shown.figures == 6  # models, differences, siblings, held-in beside held-out, probes of both
    assert "grey images" in text and "right both ways" in text


def test_a_medical_model_stands_beside_its_general_sibling_question_by_question(four):
    shown, text = page(four)
    assert "medical, beside gemma-3-4b" in text
    rows = [row for row in run.predictions(*four) if row["options"] and "held_in" in row["groups"]]
    right = [[row["answers"][role]["none"]["scores"]["accuracy"] for row in rows] for role in list(SKILL)[:2]]
    gain = (sum(right[0]) - sum(right[1])) / len(rows)
    assert any(title.startswith(f"medgemma-4b, held-in: {100 * gain:+.1f} points, ") for title in shown.titles)
    assert not any("mine minus" in text for text in text.split("Medical beside general")[1:])


def test_the_tables_on_the_page_are_the_scores(four):
    shown, _ = page(four)
    scores = run.scores(*four)
    for name, rows in (("leaderboard.csv", scores["leaderboard"]), ("differences.csv", scores["differences"])):
        read = list(csv.DictReader(io.StringIO(shown.files[name])))
        assert len(read) == len(rows)
        for line, row in zip(read, rows, strict=True):
            assert {key: line[key] for key in row} == {key: "" if v is None else str(v) for key, v in row.items()}
    assert list(read[0])[:2] == ["model", "opponent"] and {line["model"] for line in read} == {"medgemma-4b"}
    assert tables.leaderboard(scores) == shown.files["leaderboard.csv"]


def test_the_hardest_questions_are_shown_with_their_images_and_every_model_s_words(four):
    shown, text = page(four)
    known = {sample.id: (i, sample) for i, sample in enumerate(samples()) if sample.options}
    count = {name: sum(right(i) for right in SKILL.values()) for name, (i, _) in known.items()}
    expected = sorted(known, key=lambda name: (count[name], name))  # those who are wrong agree here
    assert [row["id"] for row in hardest.hardest(run.predictions(*four), 12)] == expected[:12]
    assert count[expected[0]] == 0
    first = text.index("Hardest questions")
    assert text.index(expected[0][:12], first) < text.index(expected[11][:12], first)
    _, sample = known[expected[0]]
    wrong = (sample.gold[0] + 1) % 3
    words = [f"{role}{LETTERS[wrong]}: {sample.options[wrong]}" for role in SKILL]
    card = text[text.index(expected[0][:12], first) : text.index(expected[1][:12], first)]
    assert all(word in card for word in words) and f"{LETTERS[sample.gold[0]]}: {sample.answer}" in card
    assert len(shown.images) >= 18 * 2


def test_one_model_alone_has_a_page_without_comparisons(world, tmp_path, monkeypatch):
    shown, text = page(benched(tmp_path, world, ["mine"], monkeypatch))
    assert "1 model, 48 questions" in text and "differences.csv" not in shown.files
    for absent in ("minus each other", "Medical beside general", "Hardest", "divide"):
        assert absent not in text


def test_a_page_is_made_once_and_needs_no_data_set_to_be_there(world, tmp_path, monkeypatch):
    found = benched(tmp_path, world, ["mine", "gemma-3-4b"], monkeypatch)
    shutil.rmtree(Path(found[0].store) / "data")
    shown, text = page(found)
    assert not shown.images and "image 1 is not at hand" in text
    monkeypatch.setattr(leaderboard, "render", lambda *_: pytest.fail("rendered again"))
    assert page(found, "again.html")[1] == text
    assert sorted(file.name for file in (tmp_path / "reports").iterdir()) == ["again.html", "page.html"]


def test_terms_that_forbid_to_pass_the_data_on_are_said(four):
    assert "do not allow passing on its images" in page(four)[1]  # of unknown terms


VERDICTS = st.lists(st.lists(st.sampled_from([True, False, None]), min_size=3, max_size=3), max_size=30)


def rows(verdicts: list[list[bool | None]]) -> list[Mapping[str, Any]]:
    """Items on which three models are right, wrong or failed."""

    def one(right: bool | None) -> dict[str, Any]:
        return {"none": {"scores": {} if right is None else {"accuracy": float(right)}, "choice": int(not right)}}

    return [
        {"id": f"{i:03}", "gold": [0], "answers": {name: one(own) for name, own in zip("abc", of, strict=True)}}
        for i, of in enumerate(verdicts)
    ]


@given(VERDICTS, st.randoms())
@settings(deadline=None)
def test_no_question_left_out_is_harder_and_the_order_of_the_items_does_not_matter(verdicts, random) -> None:
    items = rows(verdicts)
    found = hardest.hardest(items, 5)
    share = {row["id"]: sum(given) / len(given) for row in items if (given := list(hardest.verdicts(row).values()))}
    kept = [share[row["id"]] for row in found]
    assert kept == sorted(kept) and all(value < 1 for value in kept)
    left = [value for name, value in share.items() if name not in {row["id"] for row in found} and value < 1]
    assert len(found) == min(5, len(left) + len(found)) and all(value >= kept[-1] for value in left)
    divided = hardest.dividing(items, 5, found)
    assert not {row["id"] for row in divided} & {row["id"] for row in found}
    assert all(0 < share[row["id"]] < 1 for row in divided)
    random.shuffle(items)
    assert hardest.hardest(items, 5) == found and hardest.dividing(items, 5, found) == divided


def test_of_equally_hard_questions_those_with_one_wrong_answer_come_first() -> None:
    items = rows([[False] * 3, [False] * 3])
    for number, name in enumerate("abc"):
        items[0]["answers"][name]["none"]["choice"] = number + 1
    assert [row["id"] for row in hardest.hardest(items, 2)] == ["001", "000"]


def test_models_of_the_zoo_are_known_by_their_names_alone() -> None:
    hub = zoo.find("lingshu-7b").hub
    refs = {"MedGemma-4b": "", "x": f"/models/{hub.rpartition('/')[2]}", "y": "zoo:qwen2.5-vl-7b", "tuned": "/a/b"}
    known = siblings.entries(refs)
    assert {role: one.name for role, one in known.items()} == {
        "MedGemma-4b": "medgemma-4b", "x": "lingshu-7b", "y": "qwen2.5-vl-7b"
    }  # fmt: skip
    assert siblings.pairs(known) == [("x", "y")]
    assert siblings.pairs(siblings.entries({"gemma-3-4b": "", "medgemma-4b": ""})) == [("medgemma-4b", "gemma-3-4b")]


def test_cost_is_the_sum_over_all_that_a_model_was_asked_and_none_where_a_part_is_not_known(tmp_path) -> None:
    ws = workspace(tmp_path)

    def stored(name: str, seconds: float | None, tokens: int) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / answers.FILE).write_text(name)
        counts = {"answers": 10, "prompt_tokens": tokens, "new_tokens": 0}
        record = {"cost": {"seconds": seconds}} if seconds is not None else {}
        return store.publish(tmp_path / name, ws.store, "answers", counts, record).digest

    one, two, bare = stored("one", 2.0, 300), stored("two", 3.0, 100), stored("bare", None, 5)
    scores = {
        "models": {"a": {}, "b": {}, "c": {}},
        "answers": {"a": {"none": one, "blind": two}, "b": {"none": one, "blind": bare}, "c": {"none": "0" * 64}},
        "likelihoods": {"a": {}, "b": {}, "c": {}},
    }
    known = {"questions": 20, "prompt_tokens": 400, "new_tokens": 0, "seconds": 5.0, "questions_per_s": 4.0}
    assert cost.of(ws, scores) == {"a": known}


def test_stand_ins_stand_where_their_models_would_and_the_page_says_what_they_are(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = siblings.entries({"tiny-medgemma-4b": "", "tiny-gemma-3-4b": "", "tiny-mantis": ""})
    assert siblings.pairs(known) == [("tiny-medgemma-4b", "tiny-gemma-3-4b")] and len(known) == 2
    of_role = {"mine": terms.APACHE, "medgemma-4b": TERMS}
    monkeypatch.setattr(run, "engine", lambda ref, *_: replace(engine(ref), terms=of_role[ref]))
    ws, few = workspace(tmp_path), BENCH.model_copy(update={"probes": (), "limit": 4})
    for roles, said in ((["mine"], False), (["mine", "medgemma-4b"], True)):
        uri = run.bench(ws, publish(world, ws.store), {role: role for role in roles}, few)[0].uri
        assert ("random weights that medmim drew" in page((ws, uri))[1]) == said
