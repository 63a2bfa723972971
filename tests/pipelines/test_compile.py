"""The checked-in IR is what the sources compile to."""

from pipelines import compile as compiled


def test_the_checked_in_ir_is_fresh() -> None:
    assert compiled.stale() == []


def test_a_changed_file_is_named(tmp_path, monkeypatch) -> None:
    compiled.write(tmp_path)
    (tmp_path / "train.yaml").write_text("edited by hand\n")
    (tmp_path / "step-data.yaml").unlink()
    monkeypatch.setattr(compiled, "GOAL", tmp_path)
    assert compiled.stale() == ["step-data.yaml", "train.yaml"]
