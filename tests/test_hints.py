"""A command that a message gives the reader can be typed: it exists, is quoted, and works where this process works."""

import ast
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from medmim import hints

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "medmim").rglob("*.py") if "shipped" not in path.parts)
GROUPS = "doctor|recipe|run|submit|runs|nightly|data|finetune|bench|ask|registry|gc|base|zoo"
COMMAND = re.compile(rf"\bmedmim ({GROUPS})\b")


def literal_commands(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of the strings that spell out a command, but for docstrings, options' help and descriptions."""
    tree = ast.parse(source)
    spared: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # a docstring
            spared.add(node.value)
        if isinstance(node, ast.keyword) and node.arg in ("help", "epilog", "description"):
            spared |= set(ast.walk(node.value))
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and node not in spared else None
        if isinstance(text, str) and COMMAND.search(text):
            yield node.lineno, text


MENTIONS = (  # a command's name in a sentence, not something to type next
    "`medmim data build` printed",
    "that `medmim data build` made",
    "Made by `medmim data build`",
    'medmim ask MODEL IMAGE... "QUESTION"',
    "`medmim data erase` wrote the recipe",
    "`medmim bench run --",
    "it was not started by `medmim submit`",
    "`medmim submit --dry-run` shows",
    "`medmim submit` writes it there",
    "than `medmim submit` wrote to",
    "`medmim run` or `medmim submit` starts one",
    "`medmim gc` or `medmim data erase` is running",
    "`medmim gc` or `medmim data erase` has removed it",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_to_type_next_is_made_by_the_one_function(path: Path) -> None:
    if path.name == "card.py":  # the model card of a shipped base, which knows no home
        return
    found = [one for one in literal_commands(path.read_text("utf-8")) if not any(text in one[1] for text in MENTIONS)]
    assert found == [], "use hints.command"


def test_every_mention_is_still_one() -> None:
    texts = [text for path in FILES for _, text in literal_commands(path.read_text("utf-8"))]
    assert [mention for mention in MENTIONS if not any(mention in text for text in texts)] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('fix = "`medmim registry list` shows them"', True),
        ('print(f"next: medmim run {file}")', True),
        ('def f():\n    """As `medmim run` prints it."""', False),
        ('typer.Option("--data", help="as `medmim data build` prints it")', False),
        ('raise UserError("medmim needs a database")', False),
        ('hints.command("registry", "list")', False),
    ],
)
def test_the_lint_finds_what_it_must(code: str, found: bool) -> None:
    assert bool(list(literal_commands(code))) == found


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@given(home=TEXT, run=TEXT)
def test_a_shell_reads_back_what_was_given(home: str, run: str) -> None:
    hints.remember("--home", home)
    typed = hints.command("bench", "show", run, "--wrong")
    assert shlex.split(typed) == ["medmim", "bench", "show", run, "--wrong", "--home", home]
    assert hints.home() == Path(os.path.expanduser(home)).absolute()
    hints.forget()
    assert shlex.split(hints.command("bench", "show", run)) == ["medmim", "bench", "show", run]


def commands() -> Iterator[tuple[list[str], set[str]]]:
    """Each command's words, and the options that it takes."""
    from medmim.cli.app import app

    def walk(group: object, words: list[str]) -> Iterator[tuple[list[str], set[str]]]:
        for name, one in getattr(group, "commands", {}).items():
            if hasattr(one, "commands"):
                yield from walk(one, [*words, name])
            else:
                yield [*words, name], {option for parameter in one.params for option in parameter.opts}

    yield from walk(typer.main.get_command(app), [])


def test_a_command_gets_the_options_that_it_takes() -> None:
    for option in ("--home", "--host", "--namespace"):
        hints.remember(option, "given")
    listed = [*commands(), (["doctor", "--cluster"], {"--namespace"})]
    assert len(listed) > 25
    for words, takes in listed:
        typed = shlex.split(hints.command(*words))[1 + len(words) :]
        on_cluster = words[0] in ("runs", "submit") or words[1:2] == ["pipeline"] or "--cluster" in words
        expected = {"--host", "--namespace"} & takes if on_cluster else {"--home"} & takes
        assert set(typed) - {"given"} == expected, words


def test_an_option_that_is_typed_is_not_added_again() -> None:
    hints.remember("--home", "here")
    assert hints.command("run", "demo", "--home", "there") == "medmim run demo --home there"


def test_what_a_command_prints_next_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from medmim.cli.app import app

    monkeypatch.chdir(tmp_path)
    home = tmp_path / 'it\'s "my" [bold] & more'
    built = CliRunner().invoke(app, ["data", "build", "demo", "--set", "data.patients=12", "--home", str(home)])
    assert built.exit_code == 0, built.output
    (typed,) = [line.removeprefix("next: ") for line in built.stderr.splitlines() if line.startswith("next: ")]
    name, *words = shlex.split(typed)
    assert (name, words[-1]) == ("medmim", str(home))
    audited = CliRunner().invoke(app, words)
    assert f"home {home}" in audited.stderr and audited.exit_code == 0, audited.output
    assert [path.name for path in tmp_path.iterdir()] == [home.name]


def test_a_store_that_a_recipe_names_is_in_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmim.run.workspace import Workspace, workspace

    for name in ("MEDMIM_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    plain = workspace(tmp_path)
    assert plain.command("registry", "list") == "medmim registry list"
    moved = Workspace(tmp_path, "s3://a bucket/x", "http://mlflow:5000")
    typed = "MEDMIM_STORE='s3://a bucket/x' MLFLOW_TRACKING_URI=http://mlflow:5000 medmim registry list"
    assert moved.command("registry", "list") == typed
    secret = Workspace(tmp_path, plain.store, "http://me:secret@mlflow:5000")
    assert secret.command("registry", "list") == "medmim registry list"
