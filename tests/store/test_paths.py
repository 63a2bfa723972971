"""A text is a path only where something exists under it; no text is an error."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.store.paths import existing


@given(st.text(st.characters(), max_size=3000))
def test_no_text_is_an_error(text):
    assert existing(text) is None or os.path.exists(os.path.expanduser(text))


@pytest.mark.parametrize(
    "text",
    [
        "x" * 256,
        "ü" * 128,  # 256 bytes
        "Which image shows it? " * 500,
        "line\nline " * 60,
        "a\0b",
        "\0",
        "\ud83d",
        "/".join(["x" * 200] * 40),
        "iVBORw0KGgo" * 100,
        "~nobody-of-that-name/x",
        "",
    ],
)
def test_what_cannot_be_a_path_names_nothing(text):
    assert existing(text) is None


def test_files_and_folders_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a file?").write_text("")
    assert existing(str(tmp_path / "a file?")) == tmp_path / "a file?"
    assert existing("~/a file?") == tmp_path / "a file?"
    assert existing(str(tmp_path)) == tmp_path
    assert existing(str(tmp_path / "a file?" / "below")) is None
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    open(odd, "w", encoding="utf-8").close()
    assert existing(odd) is not None
