"""The table in docs/terms.md says what the sources' own terms say."""

import importlib
from pathlib import Path

from medmim.recipe.sources import BUILT_IN
from medmim.terms import FLAGS

PAGE = Path(__file__).parents[3] / "docs" / "terms.md"


def test_the_page_and_the_sources_say_the_same() -> None:
    said = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if len(cells) == len(FLAGS) + 1 and set(cells[:-1]) <= {"yes", "no"}:
            said |= {name: tuple(cell == "yes" for cell in cells[:-1]) for name in names.split(", ")}
    written = ("studies", "questions")  # whose terms their owners write
    sources = {name: importlib.import_module(f"medmim.data.sources.{name}") for name in BUILT_IN if name not in written}
    assert said == {name: tuple(getattr(one.TERMS, flag) for flag in FLAGS) for name, one in sources.items()}
    assert all(line.count(":") for one in sources.values() for line in one.TERMS.text if one.TERMS.refused)
