"""The page of an audit shows what crossed its limit first, with the rows behind it, and escapes what rows say."""

from pathlib import Path

from medmim import shards, store
from medmim.data.audit import page
from medmim.data.audit import run as audit
from medmim.recipe.schema import Audit
from medmim.run.workspace import workspace
from medmim.sample import Sample
from medmim.terms import APACHE


def test_it_names_the_crossed_checks_and_their_rows_and_follows_the_limits(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    rows = [
        Sample(
            "single", "<b>", "own", split, False, (f"the patient {split}",), ("x",), ("x",), "What is it?", (), "That."
        )
        for split in ("train", "test")
    ]
    shards.write(tmp_path / "made", rows, ())
    data = store.publish(tmp_path / "made", ws.store, "data", {}, {"terms": APACHE.as_dict()})
    made, _ = audit.audit_artifact(ws, data.uri)
    report = audit.read(made)
    target = page.write(ws, made, report, Audit())
    html = target.read_text(encoding="utf-8")
    assert target.parent == ws.home / "reports" and "checks cross their limit: images." in " ".join(html.split())
    assert html.count(rows[1].id) >= 2 and "shares images with train" in html, "as a shared image, and asked again"
    assert "the patient" not in html
    assert "None of" in page.render(made, report, Audit(max_shared_images=1))
