"""A page is published whole or not at all; its templates escape values and share one style sheet."""

from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.page import page
from medmim.recipe import loading
from medmim.run.stage import stage
from medmim.run.workspace import workspace


def test_a_page_is_at_its_path_and_in_the_store(tmp_path: Path) -> None:
    ws = workspace(tmp_path, loading.load("demo", []), "demo-1")
    with stage(ws, "report") as outcome:
        page.publish(ws, "<p>ä</p>", ws.home / "reports" / "demo-1.html", {"step": "report"}, outcome)
    assert outcome.facts == {"path": str(ws.home / "reports" / "demo-1.html")}
    assert [path.name for path in (ws.home / "reports").iterdir()] == ["demo-1.html"]
    assert Path(outcome.facts["path"]).read_text() == (ws.fetch(outcome.uri) / page.FILE).read_text() == "<p>ä</p>"


def test_a_page_that_cannot_be_written_names_its_path(tmp_path: Path) -> None:
    ws = workspace(tmp_path, loading.load("demo", []), "demo-1")
    (ws.home / "reports").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"reports/demo-1\.html"), stage(ws, "report") as outcome:
        page.publish(ws, "", ws.home / "reports" / "demo-1.html", {}, outcome)


@pytest.mark.parametrize("package", ["medmim.bench.page", "medmim.nightly"])
def test_values_are_escaped_and_the_style_sheet_is_found(package: str) -> None:
    environment = page.templates(package)
    assert environment.get_template("page.css").render().startswith(":root")
    shown = environment.from_string(
        "{{ name }} {{ 0.125|percent }} {{ none|points }} {{ 'ability:coreference'|label }} {{ 'coreference'|label }} "
        "{{ 'token_f1'|metric }} {{ 'held_in: x; ability:coreference: held_in; by hand'|worded }}"
    )
    assert (
        shown.render(name="<b>")
        == "&lt;b&gt; 12.5 – co-reference co-reference token F1 held-in: x; co-reference: held_in; by hand"
    )
