# ruff: noqa: F811  a fixture is imported and then used by its name
"""medmim bench run | show | compare and medmim ask, on a real tiny model."""

import json
import os
import socket
import threading

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from medmim import store
from medmim.cli import ask, bench
from medmim.data.sources.files import MAX_BYTES
from medmim.errors import UserError
from medmim.run.workspace import workspace
from tests.support.bench import picture, publish, samples, world  # noqa: F401
from tests.support.openai_server import Server


@pytest.fixture
def home(tmp_path, world, monkeypatch):
    monkeypatch.setenv("MEDMIM_HOME", str(tmp_path))
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    publish(world, workspace(tmp_path).store)
    return tmp_path


def call(app, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_run_show_and_compare_by_the_run_s_name(home, world):
    names = []
    for model in world.models:
        ended = call(bench.app, "run", "--model", model, "--task", "held_in", "--task", "held_out", "--json")
        first = json.loads(ended.stdout)
        assert first["comparable"] and first["items"] == len(samples())
        assert first["data"] in ended.stderr and first["models"]["model"]["digest"] in ended.stderr
        names.append(first["run"])
    shown = json.loads(call(bench.app, "show", names[0], "--json").stdout)
    again = json.loads(call(bench.app, "show", shown["uri"], "--json").stdout)
    assert shown == again
    wrong = json.loads(call(bench.app, "show", names[0], "--wrong", "--json").stdout)
    assert wrong and all("answers" in row and "gold" in row for row in wrong)
    listed = call(bench.app, "show", names[0], "--wrong").stdout
    assert f"{len(wrong)} of {len(samples())} questions wrong" in listed
    moved = [row for row in wrong if row["swapped"]]
    assert moved and listed.count("model, images moved on: ") == len(moved)
    assert listed.count("(right when the images move on)") == len(moved)
    assert "both ways" in call(bench.app, "show", names[0]).stdout
    failed = json.dumps({"uri": "", "message": "the memory is used up"}).encode()
    store.open_store(workspace(home).store).write("runs/bench-99990101-failed/bench.json", failed)
    with pytest.raises(UserError, match="no run 'absent'") as raised:
        call(bench.app, "show", "absent")
    assert raised.value.fix == f"runs: {', '.join(sorted(names, reverse=True))}"
    with pytest.raises(UserError, match="did not finish") as raised:
        call(bench.app, "show", "bench-99990101-failed")
    assert raised.value.reason == "the memory is used up"
    compared = json.loads(call(bench.app, "compare", *names, "--json").stdout)
    assert compared["comparable"]
    shown = call(bench.app, "compare", *names).stdout  # in a narrow terminal too
    assert all(f"{row['group']} " in shown and f"{row['metric']} " in shown for row in compared["differences"])
    assert "p (Holm)" in shown and "\u2026" not in shown


def test_several_models_are_benched_by_one_command_and_the_first_is_compared_with_the_others(home, world):
    models = [word for model in (*world.models, f"third={world.models[0]}") for word in ("--model", model)]
    asked = ["run", "--task", "temporal", "--json", *models]
    with pytest.raises(UserError, match="model0 and third are the same model"):
        call(bench.app, *asked)
    ended = call(bench.app, *asked[:-2])
    found = json.loads(ended.stdout)
    assert list(found["models"]) == ["model0", "model1"]
    assert all(f"model {role} {own['digest']}" in ended.stderr for role, own in found["models"].items())
    assert {row["opponent"] for row in found["differences"]} == {"model1"}
    page = (home / "reports" / f"{found['run']}.html").read_bytes()
    assert found["page"]["path"] == str(home / "reports" / f"{found['run']}.html") and b"model1" in page
    made = json.loads(call(bench.app, "page", found["uri"], "--out", home / "own.html", "--json").stdout)
    assert (home / "own.html").read_bytes() == page and made["uri"] == found["page"]["uri"]
    call(bench.app, "show", found["run"], "--csv", home / "new" / "rows.csv")
    assert (home / "new" / "rows.csv").read_text().count("\n") == len(found["leaderboard"]) + 1
    ours = json.loads(call(bench.app, "compare", found["run"], f"{found['run']}#model1", "--json").stdout)
    accuracy = [
        {row["group"]: row["value"] for row in rows if row["metric"] == "accuracy"}
        for rows in (ours["differences"], found["differences"])
    ]
    assert accuracy[0] == accuracy[1] and [row["what"] for row in ours["differs"]] == ["weights"]
    shown = call(bench.app, "compare", f"{found['uri']}#model1", found["run"]).stdout
    assert f"weights: {found['models']['model1']['digest'][:12]} and " in shown
    with pytest.raises(UserError, match="has no model 'model2'"):
        call(bench.app, "compare", found["run"], f"{found['run']}#model2")
    alone = json.loads(call(bench.app, *asked[:6]).stdout)
    assert list(alone["models"]) == ["model"] and "page" not in alone
    assert alone["answers"]["model"] == found["answers"]["model0"]


def test_a_limited_run_says_that_it_is_not_comparable(home, world):
    ended = call(bench.app, "run", "--model", world.models[0], "--task", "temporal", "--limit", 3)
    assert "not comparable: 3 test questions, not the whole test split" in ended.stdout


def test_likelihoods_are_shown_beside_answers_or_alone(home, world):
    asked = ["run", "--model", world.models[0], "--task", "temporal", "--limit", 4, "--protocol"]
    both = call(bench.app, *asked, "both").stdout
    assert "accuracy of" in both and " likelihood " in both
    ended = call(bench.app, *asked, "likelihood", "--json")
    alone = json.loads(ended.stdout)
    assert alone["protocol"] == "likelihood" and "likelihood" in {row["metric"] for row in alone["leaderboard"]}
    shown = call(bench.app, "show", alone["run"]).stdout
    assert " likelihood " in shown and "accuracy of" not in shown
    wrong = json.loads(call(bench.app, "show", alone["run"], "--wrong", "--json").stdout)
    assert all(row["answers"]["model"]["none"]["likelihood"]["letters"] for row in wrong)
    listed = call(bench.app, "show", alone["run"], "--wrong").stdout
    assert f"{len(wrong)} of 4 questions wrong" in listed and listed.count("model: likeliest ") == len(wrong)


def test_a_data_set_may_be_the_task(home, world, tmp_path):
    uri = publish(world, str(tmp_path / "another"))
    ended = call(bench.app, "run", "--model", world.models[0], "--task", uri, "--limit", 3, "--json")
    assert json.loads(ended.stdout)["data"] == store.get(uri).digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--model", "MODEL", "--task", "temproal"], "no such task: temproal"),
        (["run", "--model", "tiny-mantiss", "--task", "temporal"], "no model 'tiny-mantiss'"),
        (["run", "--model", "openai:http://127.0.0.1:1/v1", "--task", "temporal"], "does not name a model"),
        (["run", "--model", "MODEL", "--task", "./a/b", "--data", "./c/d"], "more than one data set"),
        (["show", "no-such-run"], "no run 'no-such-run'"),
        (["show", "x" * 300], "too long"),
        (["show", ""], "no run is named"),
        (["compare", "#one", "#two"], "no run is named"),
        (["run", "--model", "y" * 300, "--task", "temporal"], "no model 'yyy"),
        (["run", "--model", "openai:127.0.0.1:1/v1#m", "--task", "temporal"], "is not the address of a server"),
        (["run", "--model", "openai:http://h:99999/v1#m", "--task", "temporal"], "is not the address of a server"),
        (["run", "--model", "openai:http://u:p@h/v1#m", "--task", "temporal"], "a password"),
    ],
)
def test_what_cannot_be_is_refused_in_words(home, world, arguments, message):
    with pytest.raises(UserError) as raised:
        call(bench.app, *[str(world.models[0]) if a == "MODEL" else a for a in arguments])
    assert message in str(raised.value)


def test_all_models_that_cannot_be_asked_are_named_at_once(home, world):
    given = ["tiny-mantiss", world.models[0], "openai:http://127.0.0.1:1/v1", "mine=models:/nobody@champion"]
    with pytest.raises(UserError, match="3 of the 4 models of --model cannot be found") as raised:
        call(bench.app, "run", *(word for one in given for word in ("--model", one)), "--task", "temporal")
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["tiny-mantiss", "v1", "mine"]


def test_without_any_data_set_the_next_step_is_named(tmp_path, world, monkeypatch):
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    with pytest.raises(UserError, match="no data set"):
        call(bench.app, "run", "--model", world.models[0], "--task", "temporal", "--home", tmp_path)


def test_ask_answers_on_images(home, world, tmp_path):
    app = typer.Typer()
    app.command()(ask.ask)
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for i, file in enumerate(files):
        file.write_bytes(picture(i))
    arguments = [world.models[0], *files, "What changed in 0?", "--max-new-tokens", 3]
    found = json.loads(call(app, *arguments, "--json").stdout)
    assert found["images"] == [str(file) for file in files] and found["key"]
    assert call(app, *arguments).stdout.strip() == found["answer"].strip()
    (tmp_path / "bad.png").write_text("no image")
    for broken, message in (("bad.png", "cannot be used"), ("absent.png", "there is no image")):
        with pytest.raises(UserError, match=message):
            call(app, world.models[0], tmp_path / broken, "What?")
    with pytest.raises(UserError, match="question is missing"):
        call(app, world.models[0], *files)
    for folder in (tmp_path, tmp_path / "absent" / "x", "What is it? " * 30):
        with pytest.raises(UserError, match="is a folder|there is no image"):
            call(app, world.models[0], folder, "What?")


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "too large", "empty", "socket"])
def test_a_file_that_cannot_be_read_as_an_image_is_refused_before_it_is_opened(home, world, tmp_path, kind):
    app = typer.Typer()
    app.command()(ask.ask)
    path = tmp_path / "a.png"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "pipe":
            os.mkfifo(path)  # opening it would wait for a writer for ever
        elif kind == "device":
            path = "/dev/zero"
        elif kind == "link to a device":
            path.symlink_to("/dev/zero")
        elif kind == "socket":
            server.bind(os.path.relpath(path))
        else:
            path.touch()
            os.truncate(path, MAX_BYTES + 1 if kind == "too large" else 0)
        with pytest.raises(UserError, match="cannot be used: (not a regular file|the file)") as caught:
            call(app, world.models[0], path, "What?")
    assert str(path) in caught.value.fact


def refused(*arguments):
    """The error of `medmim ask` with a model that is never looked for: the images are opened first."""
    app = typer.Typer()
    app.command()(ask.ask)
    with pytest.raises(UserError) as caught:
        call(app, "no-such-model", *arguments, "What changed?")
    assert caught.value.exit_code == 2 and caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("given", "fact", "fix"),
    [
        ("https://h/a/x.png?raw=1", "is a URL, not a file", "curl -fL -o x.png 'https://h/a/x.png?raw=1'"),
        ("https://h/", "is a URL, not a file", "curl -fL -o image.png https://h/"),
        ("S3://bucket/x.png", "is a URL, not a file", "then give x.png"),
        ("file:///tmp/my%20x.png", "is a URL, not a file", "give its path: '/tmp/my x.png'"),
        ("http://[", "is a URL, not a file", "curl"),
        ("data:image/png;base64,iVBORw0KGgo", "is a data URL", "write the image to a file"),
        ("~/none.png", "there is no image ~/none.png (HOME/none.png)", "the question last"),
        ("HOME/*.jpg", "no file matches HOME/*.jpg", "correct the pattern"),
        ("*.jpg", "no file matches *.jpg", "correct the pattern"),
        ("HOME/scan?[0-9].png", "no file matches", "correct the pattern"),
        ("HOME/*.png", "is a pattern, not a file", "without quotation marks"),
        ("~/*.png", "is a pattern, not a file", "without quotation marks"),
        ("Which?", "there is no image Which?", "the question last"),
        ("Is it larger [in 2]?", "there is no image Is it", "the question last"),
        ("HOME/circle.png", "leads back to itself", "the image file itself"),
        ("HOME/gone.png", "is a link to HOME/nowhere, which is missing", "image files first"),
        ("HOME/SCAN.PNG", "HOME/SCAN.PNG\nreason: there is scan.png, not SCAN.PNG", "image files first"),
    ],
)  # fmt: skip
def test_what_is_given_for_an_image_and_is_no_file_is_named(home, tmp_path, monkeypatch, given, fact, fix):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scan.png").write_bytes(picture(1))
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    error = refused(given.replace("HOME", str(tmp_path)))
    assert fact.replace("HOME", str(tmp_path)) in str(error) and fix in error.fix


@pytest.mark.parametrize(
    ("content", "name", "fix"),
    [
        (b"patientid,filename\n1,a.png\n", "a table (CSV)", "give a PNG"),
        (b'{"a": 1}\n{"a": 2}\n', "JSON Lines (one row a line)", "give a PNG"),
        (b'{"a": 1}', "JSON", "give a PNG"),
        (b"%PDF-1.7\n", "a PDF", "give a PNG"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an Office file of the old formats", "give a PNG"),
        (b"PAR1\x15\4\x15", "a Parquet or Arrow file", "give a PNG"),
        (b"<!DOCTYPE html><html>", "a web page", "access"),
        (bytes(128) + b"DICM\2\0\0\0UL", "a DICOM file", "dcmj2pnm +on FILE FILE.png"),
        (b"\x1f\x8b\x08\0....", "a gzip file", "gunzip < FILE"),
        (b"data:image/png;base64,iVBORw0KGgo", "an image in base64 text", "FILE | base64 -d"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n....", "cannot be used: a PNG image that is broken", "give a PNG"),
        (b"some words", "cannot be used: not an image", "give a PNG"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_that_is_given_for_an_image_is_named(home, tmp_path, content, name, fix):
    path = tmp_path / "it is a.png"
    path.write_bytes(content)
    error = refused(path)
    assert str(path) in error.fact and name in error.fact
    assert fix.replace("FILE.png", f"'{path}'.png").replace("FILE", f"'{path}'") in error.fix


def test_an_image_behind_a_link_is_asked_about(home, world, tmp_path):
    app = typer.Typer()
    app.command()(ask.ask)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").write_bytes(picture(1))
    (tmp_path / "near.png").symlink_to(tmp_path / "far" / "a.png")
    assert call(app, world.models[0], tmp_path / "near.png", "What?", "--max-new-tokens", 1).exit_code == 0


@pytest.mark.parametrize(
    "question",
    [
        "Which image shows it? " * 20,
        "é" * 200,
        "One line.\nAnother line.\n" * 20,
        "a/b " * 80,
        "~nobody-x what is it?",
        "?" * 256,
    ],
)
def test_a_question_of_any_length_is_asked(home, world, question):
    app = typer.Typer()
    app.command()(ask.ask)
    found = json.loads(call(app, world.models[0], question, "--max-new-tokens", 2, "--json").stdout)
    assert found["question"] == question and found["key"]


def test_a_question_beyond_the_context_is_refused_with_its_length(home, world):
    app = typer.Typer()
    app.command()(ask.ask)
    with pytest.raises(UserError, match="gave no answer") as caught:
        call(app, world.models[0], "Which image shows it? " * 2000)
    assert "context of 2,048" in caught.value.reason


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def test_a_server_is_benched_with_the_longest_answer_that_is_given(home, server):
    server.say = lambda text: "perhaps it were A then"
    server.finish = "length"
    model = f"openai:{server.url}#tiny"
    ended = call(bench.app, "run", "--model", model, "--task", "held_in", "--max-new-tokens", 77, "--batch-size", 4)
    assert {request["max_tokens"] for request in server.requests} == {1, 77}  # 1: the tokens of prompts are counted
    assert "answers were cut at 77 new tokens" in ended.stdout
    assert "unread answers were cut before they named an option" in ended.stdout
    server.finish = "stop"
    ended = call(bench.app, "run", "--model", f"{model}1", "--task", "held_in", "--max-new-tokens", 77)
    assert "unread answers hold one option's letter" in ended.stdout and "the letter A" in ended.stdout
    server.say, server.finish = (lambda text: "A\n\nBoth were compared."), "stop"
    ended = call(bench.app, "run", "--model", f"{model}2", "--task", "held_in", "--json")
    assert {request["max_tokens"] for request in server.requests} == {1, 77, 32}
    found = json.loads(ended.stdout)
    (row,) = found["reading"]
    assert (row["unread"], row["cut"]) == (0, 0) and found["max_new_tokens"] == 32
    shown = call(bench.app, "show", found["run"], "--wrong").stdout
    assert "(unparsed" not in shown


def test_what_a_server_answers_on_one_question_ends_no_bench(home, server):
    shapes = ['{"choices": [{"message": null}]}', '{"error": {"message": "model overloaded"}}', '{"choices": []}']
    server.raw = lambda text: shapes[0] if "in 3?" in text else None
    more = ["--limit", 30, "--max-bad-fraction", 0.1, "--json"]
    ended = call(bench.app, "run", "--model", f"openai:{server.url}#a", "--task", "held_in", *more)
    assert sum(row["errors"] for row in json.loads(ended.stdout)["leaderboard"] if row["group"] == "held_in") == 1
    shown = " ".join(call(bench.app, "show", json.loads(ended.stdout)["run"]).stdout.split())
    (failed,) = json.loads(ended.stdout)["failures"]
    said = "questions (all probes) ended in an error and are in no score: 3 times: the server sent no text"
    assert f"model: 3 of {failed['asked']} {said}" in shown and failed["asked"] > 30
    server.raw = lambda text: shapes[1]
    with pytest.raises(UserError, match="failed on") as caught:
        call(bench.app, "run", "--model", f"openai:{server.url}#b", "--task", "held_in", "--limit", 5)
    assert "model overloaded" in str(caught.value)


def test_a_model_that_answers_nothing_is_asked_and_benched_with_a_warning(home, server, tmp_path):
    server.say = lambda text: " "
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    app = typer.Typer()
    app.command()(ask.ask)
    ended = call(app, f"openai:{server.url}#a", str(tmp_path / "a.png"), "What?")
    assert (ended.exit_code, ended.stdout) == (0, "\n") and "the answer is empty" in ended.stderr
    ended = call(bench.app, "run", "--model", f"openai:{server.url}#a", "--task", "held_in", "--limit", 3)
    assert ended.exit_code == 0 and "every answer is empty" in ended.stdout and "untrained" in ended.stdout
