"""Text is UTF-8 in every locale: no file, pipe or process is opened with the encoding of the shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("medmim", "services", "components", "pipelines", "benchmarks", "charts/medmim/files")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
OPENS = {"open": 0, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0, "SpooledTemporaryFile": 1}  # -> mode
BINARY_BY_DEFAULT = ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile")
TEXT = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1}  # -> position of the encoding


def without_encoding(source: str) -> Iterator[ast.Call]:
    """The calls that open text and leave its encoding to the locale."""
    tree = ast.parse(source)
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        of_module = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in modules
        if "encoding" in given:
            continue
        piped = any(getattr(given.get(key), "value", False) is True for key in ("text", "universal_newlines"))
        if piped or (name in TEXT and not of_module and len(call.args) <= TEXT[name]):
            yield call
        elif name in OPENS:
            if (
                name == "open"
                and of_module
                and getattr(getattr(call.func, "value", None), "id", "") not in ("io", "codecs")
            ):
                continue  # Image.open, os.open
            place = OPENS[name] + (name == "open" and (isinstance(call.func, ast.Name) or of_module))
            mode = given.get("mode", call.args[place] if len(call.args) > place else None)
            text = "b" not in str(mode.value) if isinstance(mode, ast.Constant) else mode is None
            if text and not (mode is None and name in BINARY_BY_DEFAULT):
                yield call


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_opened_as_utf8(path: Path) -> None:
    assert [call.lineno for call in without_encoding(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(path)", True),
        ("open(path, 'a')", True),
        ("open(path, mode='r')", True),
        ("open(path, 'rb')", False),
        ("open(path, 'w', encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('x')", True),
        ("path.open('ab', buffering=0)", False),
        ("(folder / 'a').read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("os.fdopen(3)", True),
        ("os.fdopen(3, 'wb')", False),
        ("tempfile.NamedTemporaryFile()", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
        ("subprocess.run(command, capture_output=True)", False),
        ("subprocess.Popen(command, universal_newlines=True)", True),
        ("io.TextIOWrapper(raw)", True),
        ("import io\nio.open(path)", True),
        ("from PIL import Image\nImage.open(path)", False),
        ("import os\nos.open(path, os.O_WRONLY)", False),
    ],
)
def test_the_lint_finds_what_it_must(code: str, found: bool) -> None:
    assert bool(list(without_encoding(code))) == found
