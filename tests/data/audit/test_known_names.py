"""Names of a hospital's own list are found in texts where nothing marks them, and no report repeats one."""

from dataclasses import replace
from pathlib import Path

import pytest

from medmim import shards, store
from medmim.data.audit import known_names, page
from medmim.data.audit import run as audit
from medmim.errors import Refused, UserError
from medmim.recipe import loading
from medmim.recipe.schema import Audit
from medmim.run.workspace import workspace
from tests.support.bench import samples

LISTED = """# of the ward
Norris, Jane Amelia
STONE^RICHARD^^
Maria van der Berg
Okafor   # the family name alone
"""
WORDS = known_names.words_of(["a stone in the ureter", "the stone is gone, and the rest of it"])


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text(LISTED, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "Norris was seen in clinic.", "SEEN WITH NORRIS", "norris's mass, jane norris", "Norris's mass has grown.",
        "Under the care of Jane A. Norris", "Amelia Norris", "Norris Jane", "of Richard Stone", "richard stone",
        "STONE, RICHARD", "R. Stone reviewed it", "seen by Stone, R", "Berg is stable", "maria van der berg",
        "Copy to Okafor.", "(Okafor)",
    ],
)  # fmt: skip
def test_a_name_is_found_in_either_order_in_any_case_and_by_its_initial(listed: Path, text: str) -> None:
    assert known_names.find(text, known_names.read(str(listed)), WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "Stone in the ureter", "stone", "B: Stone in the left kidney", "B Stones", "Jane is stable", "norris",
        "van der Waals", "Okaforia", "STONE2@clinic.org", "Image 1", "T. Stone",
    ],
)  # fmt: skip
def test_words_other_people_and_parts_of_words_are_no_names(listed: Path, text: str) -> None:
    assert not known_names.find(text, known_names.read(str(listed)), WORDS)


def test_an_audit_refuses_a_listed_name_and_keeps_no_name_anywhere(listed: Path, tmp_path: Path) -> None:
    rows = [replace(samples()[0], question="What of Norris?"), samples()[1]]
    rows[1] = replace(rows[1], options=("seen by Okafor", "clear"), answer="clear", gold=(1,))
    shards.write(tmp_path / "data", rows, [])
    ws = workspace(tmp_path / "home")
    data = store.publish(tmp_path / "data", ws.store, "data", {}, {"recipe": {"name": "own"}})
    recipe = loading.load("demo", [f"audit.names={listed}"])
    with pytest.raises(Refused) as caught:
        audit.run(recipe, ws, data.uri)
    said = str(caught.value)
    assert "identifiers/known-name: 2 of 2 rows" in said
    assert f"{rows[1].id} (test/comparison): a name of the list in the options" in said
    found, cached = audit.audit_artifact(ws, data.uri, loading.load("demo"))
    assert cached, "the list is in no key"
    report = audit.read(found)
    audit.add_names(ws, data.uri, report, recipe.audit)
    shown = page.render(found, report, recipe.audit)
    assert "known-name" in shown
    kept = b"".join(path.read_bytes() for path in (Path(ws.store) / "audit").rglob("*") if path.is_file())
    for name in ("Norris", "Okafor", "Stone"):
        assert name not in said and name not in shown and name.encode() not in kept
    assert audit.read(found)["checks"] == report["checks"][:-1]


@pytest.mark.parametrize(("text", "said"), [(None, "there is no list of names"), ("# nobody\n\n", "has no name")])
def test_a_list_that_is_not_there_or_empty_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "names.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        known_names.read(str(path))
    assert caught.value.exit_code == 2
    assert Audit(names=str(path)).names


def test_a_dicom_header_s_name_is_repeated_by_its_initial(tmp_path: Path) -> None:
    from medmim.data.sources import dicom_tags

    name = ("STONE", "JANE")
    repeated = ("J. Stone has a mass.", "Stone, J: a mass", "STONE J. IS STABLE")
    assert all(dicom_tags._repeats(text, name) for text in repeated)
    others = ("B. Stone", "J. stone", "Stone in the ureter", "Stone, jagged")
    assert not any(dicom_tags._repeats(text, name) for text in others)
