"""The report is written however a run ends, needs nothing else, and shows what the stages recorded."""

import base64
import io
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from components.report import report as component
from medmim import shards, store, tracking
from medmim.bench import run as bench
from medmim.bench.page import examples, leaderboard, report
from medmim.errors import UserError
from medmim.page.page import FILE
from medmim.recipe import loading
from medmim.recipe.schema import Bench, Recipe
from medmim.run.stage import stage
from medmim.run.workspace import Workspace, workspace
from medmim.tracking import training_run
from tests.support.bench import World, publish, samples
from tests.support.page import Page


@pytest.fixture
def run(tmp_path: Path) -> tuple[Recipe, Workspace]:
    parsed = loading.load("demo", [])
    return parsed, workspace(tmp_path, parsed, "demo-1")


def write(run: tuple[Recipe, Workspace]) -> Page:
    outcome = report.run(*run)
    text = Path(outcome.facts["path"]).read_text()
    assert (run[1].fetch(outcome.uri) / FILE).read_text() == text
    return Page(text)


def test_a_run_that_ended_in_data_has_a_report(run):
    parsed, ws = run
    with pytest.raises(UserError), stage(ws, "data"):
        raise UserError("12 of 100 rows are bad", fix="fix <them>")
    page = write(run)
    assert "Stopped at data" in page.text and "fix <them>" in page.text
    assert "not reached" in page.text and "Leaderboard" not in page.text


def test_a_run_without_any_record_has_a_report(run):
    assert "Undecided" in write(run).text


def test_a_whole_run_is_shown_on_a_page_that_loads_nothing(run, world: World):
    parsed, ws = run
    with stage(ws, "data") as data:
        data.of(store.get(publish(world, ws.store)), cached=False)
    asked = {"max_new_tokens": 2, "protocol": "both"}
    settings = {"bench": parsed.bench.model_copy(update=asked)}
    scored = bench.run(
        parsed.model_copy(update=settings), ws, data.uri, str(world.models[0]), {"base": str(world.models[1])}
    )
    with stage(ws, "gate") as gate:
        gate.facts = {"decision": "refused", "rules": [{"passed": False, "text": "held_in: <b>too few</b>"}]}
    with pytest.raises(UserError), stage(ws, "promote") as promote:
        promote.facts = {"decision": "refused"}
        raise UserError("the gate refused", exit_code=1)
    page = write(run)
    assert len(page.images) >= parsed.report.examples
    assert "held_in: <b>too few</b>" in page.text  # escaped, so it is text and no tag
    assert "Refused" in page.text and "Stopped" not in page.text
    held_in = next(r for r in scored.facts["leaderboard"] if (r["model"], r["group"]) == ("tuned", "held_in"))
    assert f"{100 * held_in['value']:.1f}" in page.text
    assert held_in["swap_n"] and f"{100 * held_in['swap']:.1f}" in page.text and "Both ways" in page.text
    assert "images moved one place on: " in page.text
    assert scored.digest in page.text
    assert page.figures == 1
    assert any(title.startswith(f"held-in, tuned: {held_in['value']:.1%}, ") for title in page.titles)
    assert f"held-in, chance: {held_in['chance']:.1%}" in page.titles
    assert f"held-in, tuned, images removed: {held_in['blind']:.1%}" in page.titles
    gains = {r["metric"]: r for r in scored.facts["differences"] if r["group"] == "held_in"}
    text = " ".join(page.text.split())
    unread = [f"{100 * gains['accuracy'][name]:.1f}" for name in ("unread", "opponent_unread")]
    assert f"{', '.join(unread)}% unread, tuned and base" in text
    assert f"{100 * gains['likelihood']['value']:+.1f}by likelihood" in text
    alone = parsed.bench.model_copy(update={"protocol": "likelihood"})
    bench.run(
        parsed.model_copy(update={"bench": alone}), ws, data.uri, str(world.models[0]), {"base": str(world.models[1])}
    )
    page = write(run)
    text = " ".join(page.text.split())
    assert "Held-in likelihood" in text and "Held-in accuracy" not in text and "is the likeliest" in text
    assert page.figures == 1


def test_no_patients_images_and_answers_go_to_mlflow_where_erasing_a_patient_would_leave_them(
    run, world: World, tmp_path: Path
):
    parsed, ws = run
    with stage(ws, "data") as data:
        data.of(store.get(publish(world, ws.store)), cached=False)
    with stage(ws, "finetune") as finetune:
        finetune.facts = {training_run.FACT: training_run.begin(ws, parsed)}
    page = write(run)
    (there,) = tracking.client(ws).list_artifacts(finetune.facts[training_run.FACT], "report")
    text = Path(tracking.client(ws).download_artifacts(finetune.facts[training_run.FACT], there.path, tmp_path))
    copy = Page(text.read_text())
    assert page.images and not copy.images
    assert "Questions and answers" in page.text and "Questions and answers" not in copy.text
    assert "Undecided" in copy.text


def test_the_loss_curve_is_on_the_page(run):
    with stage(run[1], "finetune") as finetune:
        finetune.facts = {"losses": [[step, 2 / (step + 1)] for step in range(10)]}
    page = write(run)
    assert page.figures == 1 and "running mean" in page.text and "From 2.000 to 0.211;" in page.text
    assert "dev items" not in page.text


def test_the_validation_is_on_the_page_and_says_which_step_the_model_is_of(run):
    with stage(run[1], "finetune") as finetune:
        finetune.facts = {
            "losses": [[step, 2 / (step + 1)] for step in range(10)],
            "validation": [[0, 3.0, 0.25], [5, 1.25, 0.5], [10, 1.5, 0.75]],
            "dev_items": 40,
            "kept_step": 5,
        }
    text = " ".join(write(run).text.split())
    assert "On 40 dev items, the loss goes from 3.000 to 1.500; the right option is the likeliest in 25.0%" in text
    assert "then in 75.0%. The model is that of step 5." in text


def test_writing_again_shows_the_same_though_an_earlier_report_failed(run):
    parsed, ws = run
    with pytest.raises(UserError, match="a fault of medmim"), stage(ws, "report"):
        raise RuntimeError("the disk was full")
    assert "the disk was full" not in write(run).text


def test_examples_come_from_every_ability_with_gains_and_misses():
    def row(i, ability, tuned, base):
        given = {role: {"none": {"scores": {"accuracy": value}}} for role, value in (("tuned", tuned), ("base", base))}
        return {"id": i, "ability": ability, "held_out": False, "answers": given}

    rows = [
        row(i, ability, float(i % 3 > 0), float(i % 2)) for i in range(60) for ability in ("temporal", "comparison")
    ]
    chosen = examples.pick(rows, 8)
    assert [r["ability"] for r in chosen].count("temporal") == 4
    assert {examples._kind(r) for r in chosen} == {"gain", "miss"}
    assert len(examples.pick(rows, 500)) == len(rows)


def test_many_large_images_are_made_smaller_until_the_page_holds_them(tmp_path: Path):
    noise = random.Random(0)
    asked = samples()
    names = sorted({name for sample in asked for name in sample.images})

    def picture() -> bytes:
        out = io.BytesIO()
        Image.frombytes("RGB", (400, 400), noise.randbytes(480_000)).save(out, "PNG")
        return out.getvalue()

    shards.write(tmp_path, asked, [(name, name, picture()) for name in names])
    for count, side in ((2, 320), (12, 224), (40, 112)):
        cards = examples.cards(examples.unanswered(tmp_path, count), tmp_path)
        embedded = [uri for card in cards for uri in card["pictures"]]
        opened = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in embedded]
        assert {image.size for image in opened} == {(side, side)}
        assert sum(map(len, embedded)) < 1_400_000


def test_a_run_that_trains_nothing_shows_its_own_stages_and_models(tmp_path: Path, world: World):
    models = {"med-one": str(world.models[0]), "other": str(world.models[1])}
    asked = {"models": models, "probes": [], "max_new_tokens": 2, "limit": 4}
    parsed = loading.validate({"name": "c", "pipeline": "bench", "data": {"source": "phantom"}, "bench": asked}, "c")
    ws = workspace(tmp_path, parsed, "c-1")
    bench.run(parsed, ws, publish(world, ws.store), "", models)
    assert "answers are noise" not in write((parsed, ws)).text
    stand_in = parsed.bench.model_copy(update={"models": models | {"other": "zoo:tiny-lingshu-7b"}})
    page = write((parsed.model_copy(update={"bench": stand_in}), ws))
    assert "random weights, whose answers are noise: other" in page.text
    (beside,) = [file for file in (tmp_path / "reports").iterdir() if file.name == "c-1-models.html"]
    text = Page(beside.read_text("utf-8")).text
    assert "2 models, 4 questions" in text and "med-one minus each other model" in text
    shown = SimpleNamespace(path=str(tmp_path / "of_kfp.html"))
    component.python_func(parsed.dump(), str(ws.home), ws.run, shown)
    models = tmp_path / "reports/c-1-models.html"
    assert Path(shown.path).read_text() == models.read_text() != (tmp_path / "reports/c-1.html").read_text()
    assert page.figures == 1 and "c-1-models.html" in page.text
    assert "Compared: 2 models" in page.text and "med-one minus" in page.text
    assert "finetune" not in page.text.partition("Leaderboard")[0] and "Undecided" not in page.text


def test_the_page_of_the_models_is_left_out_where_the_benchmark_is_gone_and_not_where_it_cannot_be_written(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
):
    ws = workspace(tmp_path)
    models = dict(zip("ab", map(str, world.models), strict=False))
    settings = Bench(probes=(), max_new_tokens=2, limit=4)
    uri = bench.bench(ws, publish(world, ws.store), models, settings)[0].uri
    page = tmp_path / "reports" / "r.html"
    assert leaderboard.beside(ws, uri[:-1] + ("1" if uri[-1] == "0" else "0"), page) == {}
    assert set(leaderboard.beside(ws, uri, page)) == {"models"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(leaderboard, "write_atomically", full)
    with pytest.raises(UserError, match="disk is full"):
        leaderboard.beside(ws, uri, page)


def test_of_many_models_the_own_ones_are_drawn_and_the_rest_is_left_to_their_page(run):
    parsed, ws = run
    row = {"group": "held_in", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "patients": 30}
    row |= dict.fromkeys(("blind", "chance", "swap", "swap_low", "swap_high", "swap_n", "swap_patients"), 0.25)
    row |= {"unparsed": 0, "unparsed_cut": 0, "cut": 0, "errors": 0}
    for names, drawn in ((["tuned", "base", "a", "b"], {"tuned", "base"}), (list("abcd"), set())):
        with stage(ws, "bench") as bench:
            board = [{**row, "model": name} for name in names]
            bench.facts = {"models": {name: {} for name in names}, "leaderboard": board, "comparable": True}
            bench.facts |= {"text_only": [], "differences": [], "items": 40, "split": "test", "reading": []}
        page = write(run)
        assert {title.partition(": ")[0] for title in page.titles if "held-in, " in title} >= {
            f"held-in, {name}" for name in drawn
        }
        assert page.figures == bool(drawn) and not any("held-in, a" in title for title in page.titles)
