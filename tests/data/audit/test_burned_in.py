"""Text that is burned into a picture is read: a marker is none, an identifier is refused, and nothing of it is kept."""

import sys
from pathlib import Path

import pytest
from PIL import ImageDraw, ImageFont

from medmim.data.audit import burned_in
from medmim.data.audit import run as audit
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Recipe
from tests.data.audit.test_pictures import drawn, place, published, saved


def asked(number: int, **limits: object) -> Recipe:
    return Recipe.model_validate(
        {"name": "audit", "data": {"source": "phantom"}, "audit": {"read_images": number, **limits}}
    )


def written(seed: int, *lines: str) -> bytes:
    picture = drawn(seed, (360, 300)).point(lambda value: value // 3)
    pen = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        pen.text((10, 10 + 26 * row), line, fill=255, font=ImageFont.load_default(20))
    return saved(picture, "PNG")


def test_a_name_and_a_date_in_a_picture_are_refused_and_not_repeated(tmp_path: Path) -> None:
    ws = place(tmp_path)
    files = {
        "train/a.png": written(1, "DOE^JANE", "14.03.1951"),
        "train/b.png": written(2, "L"),
        "test/c.png": written(3, "courtesy of radiology"),
    }
    data = published(ws, tmp_path, files)
    with pytest.raises(Refused) as caught:
        audit.run(asked(10), ws, data.uri)
    said = str(caught.value) + "\n".join(caught.value.problems)
    assert "burned-in/identifiers: 1 of 3 pictures" in said
    assert "99.99.9999" in said
    artifact, _ = audit.audit_artifact(ws, data.uri, asked(10))
    found = {check["name"]: check for check in audit.read(artifact)["checks"]}
    assert found["burned-in/text"]["value"] == 2
    kept = "".join(path.read_text("utf-8", "ignore") for path in Path(ws.store).rglob("*.json*"))
    assert "DOE" not in kept and "1951" not in kept
    assert audit.run(asked(10, max_identifiers=1), ws, data.uri).uri == artifact.uri  # another limit reads nothing anew


def test_without_the_key_no_picture_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    ws = place(tmp_path)
    data = published(ws, tmp_path, {"train/a.png": written(1, "DOE^JANE")})
    audit.run(asked(0), ws, data.uri)
    with pytest.raises(UserError) as caught:
        audit.run(asked(5), ws, data.uri)
    assert caught.value.fix == "pip install 'medmim[ocr]'"


@pytest.mark.parametrize("text", ["L", "PA", "AP SUPINE", "(C)", "PORTABLE 2", "R MLO", "2B"])
def test_a_marker_is_no_text(text: str) -> None:
    assert burned_in.judged("a", [text]) == burned_in.Reading("a", 0, ())


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["DOE^JANE"], ("name XXX^XXXX",)),
        (["Miller, John"], ("name Xxxxxx, Xxxx",)),
        (["ID: 48213377"], ("number 99999999",)),
        (["2021-03-14 10:42:07"], ("date 9999-99-99",)),
        (["NAME: DOE"], ("name XXX", "name XXXX: XXX")),
        (["PATIENT: JOHN"], ("name XXXX", "name XXXXXXX: XXXX")),
        (["SMITH JOHN"], ("name XXXXX XXXX",)),
        (["SMITH, J."], ("name XXXXX, X",)),
        (["14 MAR 2021"], ("date 99 XXX 9999",)),
    ],
)
def test_what_identifies_is_told_by_its_shape(texts: list[str], found: tuple[str, ...]) -> None:
    assert burned_in.judged("a", texts).found == found


@pytest.mark.parametrize("text", ["GENERAL HOSPITAL", "PORTABLE CHEST", "FOLLOW UP", "PA UPRIGHT", "MRI BRAIN"])
def test_a_line_in_capitals_that_has_a_word_of_radiology_is_no_name(text: str) -> None:
    assert burned_in.judged("a", [text]).found == ()


def test_a_long_line_of_digits_is_judged_at_once() -> None:
    assert burned_in.judged("a", ["1!" * 500 + "x"]).texts == 1
