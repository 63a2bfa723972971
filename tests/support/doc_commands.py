"""The commands of a page of docs/: its fenced blocks of the shell."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```sh(?P<run> run)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[bool, str]]:
    """(Whether a test runs it, the text) of each block, in the order of the page."""
    text = (DOCS / page).read_text("utf-8")
    return [(bool(one["run"]), one["text"]) for one in _BLOCK.finditer(text)]
